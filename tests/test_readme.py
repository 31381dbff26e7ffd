"""The README's example runs, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pykprobes.cli import main

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_example(capsys: pytest.CaptureFixture[str]) -> None:
    examples = blocks("python")
    assert examples
    for example in examples:
        exec(compile(example, str(README), "exec"), {"__name__": "readme"})
    out = capsys.readouterr().out
    assert "256 calls of adler32, the longest over 8093 bytes" in out
    assert "█" in out
    assert "ENOENT no symbol 'crc33'; did you mean crc32?" in out
    assert "EILSEQ crc32+0x21" in out


def test_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those on shipped images, and on files that they make; the others need a library that may not be here."""
    import shlex

    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^    pykprobes (.*)$", README.read_text(), re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        arguments = shlex.split(command)
        if arguments[1] in ("checksum", "crc.npz"):
            assert main(arguments) == 0
            assert capsys.readouterr().out
