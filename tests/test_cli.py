"""The command line, called as a function and as a process."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pykprobes.cli import main, shipped_images
from tests.elf_builder import DYN, ElfBuilder, Symbol

LENGTH = "p:crc crc32 length=+12(%sp):u32"
COMMAND = [sys.executable, "-m", "pykprobes"]
# Not the sanitizers' preloaded library: programs that know nothing of it would fail.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "PYTHONPATH")}
FOREVER = ElfBuilder(text=b"\x40\xeb\xfd").build()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        status = main(arguments)
    except SystemExit as error:
        status = int(error.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def test_run(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(
        capsys, "run", "checksum", "--probe", LENGTH, "--probe", "p:adler adler32", "--hist", "length"
    )
    assert (status, err) == (0, "")
    assert "checksum: the machine halted" in out
    lines = out.splitlines()
    assert any(line.split() == ["crc", "0x08048100", "256", "0"] for line in lines)
    assert any(line.split()[:1] == ["adler"] for line in lines)
    assert any(line.startswith("[4K, 8K)") and "█" in line for line in lines)


def test_run_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "checksum", "--probe", LENGTH, "--hist", "length:0:8192:8", "--occupancy", "--json"]
    status, out, _ = run(capsys, *arguments)
    data = json.loads(out)
    assert status == 0
    assert data["stop"]["reason"] == "HALT"
    assert data["icount"] == data["stop"]["icount"]
    (probe,) = data["probes"]
    assert (probe["name"], probe["hits"], probe["nmissed"]) == ("crc", 256, 0)
    hist = probe["histograms"]["length"]
    assert hist["edges"] == list(range(0, 9216, 1024))
    assert sum(hist["counts"]) + hist["under"] + hist["over"] == 256
    assert sum(data["occupancy"]) == 1


def test_call(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "run", "checksum", "--call", "adler32", "1", "str:abc", "3", "--json")
    assert status == 0
    assert json.loads(out)["result"] == 0x024D0127
    status, out, _ = run(capsys, "run", "checksum", "--call", "adler32", "0x1", "crc32", "0")
    assert "returned 1 (0x1)" in out


def test_limits_and_until(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "run", "checksum", "--max-instructions", "1000", "--json")
    assert json.loads(out)["stop"] == {
        **json.loads(out)["stop"], "reason": "LIMIT", "icount": 1000,
    }  # fmt: skip
    _, out, _ = run(capsys, "run", "checksum", "--until", "crc32", "--json")
    assert json.loads(out)["stop"]["reason"] == "UNTIL"


def test_timer(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "run", "kernel", "--timer", "0x20:5000", "--max-instructions", "50000000")
    assert status == 0
    assert "halted" in out


def test_kprobes_of_2_5_26(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "run", "checksum", "--kprobes", "2.5.26", "--probe", LENGTH, "--json")
    assert status == 0
    assert json.loads(out)["probes"][0]["hits"] == 256


def test_guest_that_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "ud2"
    path.write_bytes(ElfBuilder(text=b"\x0f\x0b").build())
    status, out, _ = run(capsys, "run", str(path))
    assert status == 1
    assert "invalid opcode at 0x8049000 (ud2)" in out
    path.write_bytes(b"\x0f\x0b")
    status, out, _ = run(capsys, "run", str(path), "--at", "0x2000")
    assert status == 1
    assert "invalid opcode at 0x2000" in out


def test_import_that_nothing_provides(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    b = ElfBuilder(
        DYN, 0x60000000, b"\xff\x25\0\x20\0\x60", symbols=[Symbol("go", 0x60001000), Symbol("puts", section=0)]
    )
    b.words, b.relocations = [0], [(b.word_at(0), 7, 2)]
    path = tmp_path / "lib.so"
    path.write_bytes(b.build())
    status, _, err = run(capsys, "run", str(path), "--at", "0x60001000", "--call", "go")
    assert status == 1
    assert "puts" in err


def test_disasm(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "disasm", "checksum")
    assert status == 0
    assert out.startswith("_start:")
    assert "call guest_main" in out
    status, out, _ = run(capsys, "disasm", "checksum", "crc32+1", "-n", "3")
    assert len(out.splitlines()) == 3


def test_symbols(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "symbols", "checksum", "*32")
    assert status == 0
    assert [line.split()[1] for line in out.splitlines()] == ["crc32", "adler32", "fletcher32"]
    _, out, _ = run(capsys, "symbols", "checksum", "--json")
    assert json.loads(out)["crc32"] == 0x08048100


def test_return_probes(capsys: pytest.CaptureFixture[str]) -> None:
    probes = ["--probe", "r:crc crc32 ret=$retval dt=$latency", "--probe", "p:adler adler32%return"]
    status, out, err = run(capsys, "run", "checksum", *probes, "--hist", "dt")
    assert (status, err) == (0, "")
    assert "crc: dt = $latency, 256 values" in out
    assert any(line.split()[0::2] == ["adler", "256"] for line in out.splitlines() if line.startswith("adler"))


def test_stat(capsys: pytest.CaptureFixture[str]) -> None:
    probes = ("crc32", "adler32%return", "p:long fletcher32 n=$arg3")
    status, out, err = run(capsys, "stat", "checksum", *(word for probe in probes for word in ("--probe", probe)))
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[3] == ["hits", "per", "1,000", "instructions", "missed", "probe", "place"]
    assert [(line[0], *line[2:5]) for line in lines[4:]] == [
        ("256", "0", "p_crc32_0", "crc32"), ("256", "0", "r_adler32_0", "adler32"), ("256", "0", "long", "fletcher32")
    ]  # fmt: skip


def test_stat_with_a_filter_counts_all_hits(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "stat", "checksum", "--probe", "crc32", "--filter", "$arg3 > 100")
    assert status == 0
    assert out.splitlines()[4].split()[0] == "101"


def test_record_and_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = str(tmp_path / "here")
    fields = "len=$arg3:u32 first=+0($arg2):x8[2] text=+0($arg2):string bad=+0(\\0x70000000)"
    probes = ["--probe", f"p:crc crc32 {fields}", "--probe", "r:back crc32 ret=$retval n=$arg3:u32"]
    status, out, err = run(capsys, "record", "checksum", *probes, "-o", file)
    assert (status, err) == (0, "")
    assert f"512 records of 2 probes in {file}" in out
    status, out, err = run(capsys, "report", file)
    assert (status, err) == (0, "")
    for text in ("crc: len = $arg3:u32", "[4K, 8K)", "unreadable: 256", "back: ret = $retval", "hits over time", "█"):
        assert text in out
    status, out, _ = run(capsys, "report", file, "--probe", "back", "--field", "n")
    assert "back: n = $arg3:u32" in out and "crc: " not in out and "ret =" not in out
    for arguments, says in ((["--probe", "x"], "there are: crc, back"), (["--field", "x"], "there are: bad, first")):
        status, _, err = run(capsys, "report", file, *arguments)
        assert status == 2 and says in err


def test_what_is_dropped_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = str(tmp_path / "x.npz")
    arguments = ["--probe", "p:crc crc32 n=$arg3:u32", "-o", file, "--capacity", "10", "--full", "drop-newest"]
    _, out, _ = run(capsys, "record", "checksum", *arguments)
    assert "10 records of 1 probes" in out and "246 were dropped" in out
    _, out, _ = run(capsys, "report", file)
    assert ["crc", "crc32", "(0x8048100)", "10", "256", "0", "246"] in [line.split() for line in out.splitlines()]


def test_a_filter_that_is_wrong_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "stat", "checksum", "--probe", "crc32", "--filter", "$arg3 >> > 4")
    assert status == 2
    first, text, caret = err.splitlines()
    assert first.startswith("pykprobes: bad filter, column 10")
    assert (text, caret) == ("    $arg3 >> > 4", "    " + " " * 9 + "^")


def test_a_run_that_a_full_ring_stops(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = str(tmp_path / "x.npz")
    _, out, _ = run(
        capsys, "record", "checksum", "--probe", "crc32", "-o", file, "--capacity", "5", "--full", "stop"
    )
    assert "5 records of 1 probes" in out and "stopped" in out


def test_demo(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "demo")
    assert status == 0
    for text in ("hits", "missed", "crc32: length", "[4K, 8K)", "table of 64 buckets", "█"):
        assert text in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required"),
        (["run"], "IMAGE"),
        (["fly"], "invalid choice"),
        (["run", "nothing"], "shipped images are: checksum"),
        (["run", "/"], "directory"),
        (["run", "/etc/passwd"], "not an ELF file"),
        (["run", sys.executable], "64-bit"),
        (["run", "checksum", "--probe", "crc32"], "begins with p"),
        (["run", "checksum", "--probe", "p:x"], "symbol or an address"),
        (["run", "checksum", "--probe", "p:x crd32"], "did you mean crc32"),
        (["run", "checksum", "--probe", "p:x crc32+0x21"], "inside an instruction"),
        (["run", "checksum", "--probe", "p:x crc32 %zz"], "column 2"),
        (["run", "checksum", "--probe", "p:x crc32 a=%ax a=%bx"], "two fields"),
        (["run", "checksum", "--probe", "r:x crc32+4"], "first instruction"),
        (["run", "checksum", "--probe", "r99999999:x crc32"], "maxactive"),
        (["run", "checksum", "--probe", "p:x crc32", "--probe", "p:y crc32", "--kprobes", "2.5.26"], "probe already"),
        (["run", "checksum", "--probe", "p:x crc32 a=$retval", "--hist", "a"], "return probes only"),
        (["stat", "checksum"], "no probe"),
        (["stat", "checksum", "--probe", "crd32"], "did you mean crc32"),
        (["stat", "checksum", "--probe", "r:x crc32", "--kprobes", "2.5.26"], "no return probes"),
        (["record", "checksum", "--probe", "crc32", "--capacity", "0"], "one record at least"),
        (["record", "checksum", "--probe", "crc32", "--capacity", str(1 << 40)], "GiB"),
        (["record", "checksum", "--probe", "crc32", "-o", "/no/such/folder/file"], "No such file"),
        (["report", "/no/such/file"], "record' makes one"),
        (["report", "/etc/passwd"], "no recording"),
        (["report", "/"], "directory"),
        (["run", "checksum", "--probe", LENGTH, "--hist", "size"], "fields are: length"),
        (["run", "checksum", "--probe", LENGTH, "--hist", "length:1"], "LOW:HIGH:BINS"),
        (["run", "checksum", "--probe", LENGTH, "--hist", "length:5:1:4"], "low < high"),
        (["run", "checksum", "--hist", "length"], "fields are: none"),
        (["run", "checksum", "--call", "nothing"], "no symbol"),
        (["run", "checksum", "--call", "crc32", "x y"], "no place"),
        (["run", "checksum", "--call", "crc32", "0x123456789"], "32 bits"),
        (["run", "checksum", "--timer", "5"], "VEC:PERIOD"),
        (["run", "checksum", "--timer", "300:5"], "VEC:PERIOD"),
        (["run", "checksum", "--until", "nowhere"], "no symbol"),
        (["run", "checksum", "--max-instructions", "few"], "invalid"),
        (["run", "checksum", "--max-instructions", "-5"], "negative"),
        (["run", "checksum", "--at", "0x1000"], "linked for"),
        (["disasm", "checksum", "nowhere"], "no symbol"),
        (["symbols", "checksum", "zzz*"], "matches"),
    ],
)
def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("pykprobes: ")
    assert err.count("\n") == 1
    assert says in err


def test_process_and_broken_pipe() -> None:
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout.startswith("pykprobes 0.")
    shell = f"{sys.executable} -m pykprobes disasm checksum guest_main | head -n 1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout == "guest_main:\n"
    assert done.stderr == ""


def heed_interrupts() -> None:
    """Programs that a shell starts in the background, and so all that they start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_interrupt_prints_what_there_is(tmp_path: Path, arguments: list[str]) -> None:
    path = tmp_path / "forever"
    path.write_bytes(FOREVER)
    command = [*COMMAND, "run", str(path), "--probe", "p:inc 0x08049000", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, preexec_fn=heed_interrupts
    )
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
    if arguments:
        assert json.loads(out)["interrupted"]
        assert json.loads(out)["probes"][0]["hits"] > 1000
    else:
        assert "interrupted" in out
        assert "inc" in out


def test_progress_in_a_pipe_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(1000))
    monkeypatch.setattr("pykprobes.cli.time.perf_counter", lambda: float(next(seconds)))
    _, _, err = run(capsys, "run", "checksum", "--until", "crc32")
    assert err == ""
    _, _, err = run(capsys, "run", "checksum")
    assert err == "5 million instructions, 1 million a second\n"


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "forever"
    path.write_bytes(FOREVER)
    command = [*COMMAND, "run", str(path), "--max-instructions", "400000000"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=ENVIRONMENT)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:
        pass
    process.wait()
    os.close(ours)
    assert b"million a second" in seen
    assert seen.endswith(b"\r\033[K")


def test_shipped_images_are_there() -> None:
    assert {"checksum", "sorting", "hashtable", "kernel"} <= set(shipped_images())


@pytest.mark.parametrize("place", ["0x90000000", "0xffffffff"])
def test_disasm_of_nothing(capsys: pytest.CaptureFixture[str], place: str) -> None:
    status, out, err = run(capsys, "disasm", "checksum", place)
    assert (status, out) == (2, "")
    assert "no memory is mapped there" in err and err.count("\n") == 1


def test_unknown_symbols_say_where_the_known_ones_are(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--call", "nosuch"], ["--probe", "p:x nosuch"], ["--until", "nosuch"]):
        status, _, err = run(capsys, "run", "checksum", *arguments)
        assert status == 2
        assert err == "pykprobes: no symbol 'nosuch': 'pykprobes symbols checksum' lists what there is\n"
