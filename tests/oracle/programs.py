"""tests/programs/*.S as cases: linked into the oracle's regions, run from _start to done."""

from __future__ import annotations

import io
from pathlib import Path

from elftools.elf.elffile import ELFFile

from .case import CODE, DATA, IF, STACK_TOP, Case
from .native import build

PROGRAMS = sorted((Path(__file__).parent.parent / "programs").glob("*.S"))
_GCC = ["gcc", "-m32", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none,-N"]


def link(source: Path) -> Path:
    """The linked program: text and data where the oracle has memory."""
    command = [*_GCC, f"-Wl,-Ttext={CODE:#x},-Tdata={DATA:#x}", str(source)]
    return build(f"program-{source.stem}", command, [source])


def program_case(source: Path) -> Case:
    """A program with zeroed registers and its bss cleared."""
    elf = ELFFile(io.BytesIO(link(source).read_bytes()))
    symbols = {symbol.name: symbol["st_value"] for symbol in elf.get_section_by_name(".symtab").iter_symbols()}
    text = elf.get_section_by_name(".text").data()
    patches = [
        (section["sh_addr"], section.data() if section["sh_type"] == "SHT_PROGBITS" else bytes(section["sh_size"]))
        for section in elf.iter_sections()
        if section["sh_flags"] & 2 and section["sh_size"] and section.name in (".data", ".bss")
    ]
    regs = [0, 0, 0, 0, STACK_TOP, 0, 0, 0]
    return Case(text, regs, IF | 2, CODE, symbols["done"], patches, max_steps=20000)
