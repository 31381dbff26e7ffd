"""Snapshots in files: .npz without pickle, and ELF cores that gdb opens."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from pykprobes import Count, Machine, Snapshot, StopReason
from pykprobes.cli import shipped_images

from .snapshot_lab import CODE, DATA, make, paged_machine, steps


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Machine, Path]:
    m = make()
    m.load(b"\x90\xc3", at=0x30000, name="function")
    m.map(0x40000000, 0x3000)
    m.unmap(0x40000000, 0x3000)
    m.map(0x40000000, 0x1000, "r")
    m.timer(0x40, 1000)
    m.interrupt(0x41)
    m.regs.eflags = 0x2
    steps(m, 500)
    m.snapshot().save(tmp_path / "state.npz")
    return m, tmp_path / "state.npz"


def test_there_and_back(saved: tuple[Machine, Path]) -> None:
    m, file = saved
    loaded = Snapshot.load(file)
    assert loaded.hash() == m.hash()
    assert loaded.cpu == m.snapshot().cpu
    other = loaded.machine()
    assert [image.name for image in other.images] == ["image", "function"]
    assert [str(region.kind) for region in other.regions] == [str(region.kind) for region in m.regions]
    assert (other.memory_size, other.kprobes_mode, other.kernel) == (1 << 20, "fixed", "builtin")
    for machine in (m, other):
        machine.on_trap(0x40, lambda machine, regs: True)
        machine.on_trap(0x41, lambda machine, regs: True)
        machine.regs.eflags |= 0x200
        steps(machine, 5000)
        machine.map(0x50000000, 0x4000)
    assert other.hash() == m.hash()
    third = make()
    third.restore(loaded)
    assert third.hash() == loaded.hash()


def test_a_real_program_goes_on_in_another_machine(tmp_path: Path) -> None:
    m = Machine()
    m.load(shipped_images()["checksum"])
    m.run(max_instructions=200_000)
    m.snapshot().save(tmp_path / "half")
    assert not (tmp_path / "half.npz").exists()
    other = Snapshot.load(tmp_path / "half").machine()
    assert other.symbols["crc32"] == m.symbols["crc32"]
    assert m.run().reason is other.run().reason is StopReason.HALT
    assert m.hash() == other.hash()


def test_bare_machines_with_page_tables_and_rom() -> None:
    m = paged_machine()
    m.load_rom(b"\xf4" * 4096)
    m.memory.write(0x2000, b"\xa1\0\x70\0\0\xf4")
    m.regs.eip = 0x2000
    file = io.BytesIO()
    m.snapshot().save(file)
    file.seek(0)
    other = Snapshot.load(file).machine()
    assert other.hash() == m.hash()
    assert other.run().reason is m.run().reason is StopReason.HALT
    assert other.hash() == m.hash()


def test_probes_stay_out() -> None:
    m = make()
    clean = m.snapshot()
    m.kprobe(CODE, action=Count())
    file = io.BytesIO()
    m.snapshot().save(file)
    loaded = Snapshot.load(io.BytesIO(file.getvalue()))
    assert loaded.hash() == clean.hash()
    assert loaded.machine().kprobes == []
    assert m.memory.read(CODE, 1) == b"\xcc"


def test_numpy_reads_it(saved: tuple[Machine, Path]) -> None:
    with numpy.load(saved[1], allow_pickle=False) as archive:
        assert int(archive["version"]) == 1
        assert archive["pages"].shape[1] == 4096
        cpu = json.loads(bytes(archive["cpus"]))
    assert cpu[0]["icount"] == 500


# Bad files

Parts = dict[str, Any]


def spoiled(file: Path, spoil: Callable[[Parts, Parts, Parts], object]) -> io.BytesIO:
    """The file with something else in it; spoil gets the arrays, and the two JSON objects."""
    with numpy.load(file) as archive:
        parts = {name: archive[name].copy() for name in archive.files}
    about, cpu = json.loads(bytes(parts["about"])), json.loads(bytes(parts["cpus"]))[0]
    spoil(parts, about, cpu)
    parts["about"] = numpy.frombuffer(json.dumps(about).encode(), numpy.uint8)
    parts["cpus"] = numpy.frombuffer(json.dumps([cpu]).encode(), numpy.uint8)
    made = io.BytesIO()
    numpy.savez(made, **{name: part for name, part in parts.items() if part is not None})
    made.seek(0)
    return made


SPOILERS: dict[str, tuple[Callable[[Parts, Parts, Parts], object], str]] = {
    "version": (lambda parts, about, cpu: parts.update(version=numpy.array(2)), "its version is 2"),
    "no pages": (lambda parts, about, cpu: parts.update(pages=None), "no pages"),
    "pages of another type": (
        lambda parts, about, cpu: parts.update(pages=parts["pages"].astype(numpy.uint16)), "other types"),
    "a page too few": (lambda parts, about, cpu: parts.update(pages=parts["pages"][1:]), "do not fit"),
    "frames in disorder": (lambda parts, about, cpu: parts.update(frames=parts["frames"][::-1].copy()), "order"),
    "a changed byte": (lambda parts, about, cpu: parts["pages"].__ixor__(numpy.uint8(4)), "digest"),
    "a register too large": (lambda parts, about, cpu: cpu["gpr"].__setitem__(0, 1 << 32), "not a number below"),
    "a register too few": (lambda parts, about, cpu: cpu["gpr"].pop(), "8 numbers"),
    "no eip": (lambda parts, about, cpu: cpu.pop("eip"), "other fields"),
    "a register more": (lambda parts, about, cpu: cpu.update(r8=0), "other fields"),
    "paging without protection": (lambda parts, about, cpu: cpu.update(cr0=1 << 31), "cr0"),
    "a privilege level of 7": (lambda parts, about, cpu: cpu.update(cpl=7), "cpl"),
    "an interrupt twice": (
        lambda parts, about, cpu: cpu.update(irq_count=2, irqs=[5, 5] + [0] * 254), "pending twice"),
    "too many interrupts": (lambda parts, about, cpu: cpu.update(irq_count=300), "irq_count"),
    "a setup that is none": (lambda parts, about, cpu: about["setup"].update(kernel="linux"), "no machine"),
    "a setup with more": (lambda parts, about, cpu: about["setup"].update(cores=2), "no snapshot"),
    "RAM beyond all": (lambda parts, about, cpu: about["setup"].update(memory=1 << 40), "not a number below"),
    "a free frame in use": (
        lambda parts, about, cpu: about.update(pool=[16], board={**about["board"], "pool": 1}), "not free"),
    "regions in disorder": (lambda parts, about, cpu: about["regions"][0].reverse(), "regions"),
    "no digest": (lambda parts, about, cpu: about.pop("digest"), "digest"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILERS)
def test_spoiled_files(saved: tuple[Machine, Path], name: str) -> None:
    spoil, message = SPOILERS[name]
    with pytest.raises(ValueError, match=message):
        Snapshot.load(spoiled(saved[1], spoil))


def test_files_that_are_something_else(tmp_path: Path, saved: tuple[Machine, Path]) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("no archive")
    numpy.save(tmp_path / "single.npy", numpy.zeros(3))
    numpy.savez(tmp_path / "other.npz", a=numpy.zeros(3))
    numpy.savez(tmp_path / "pickled.npz", version=numpy.array({1: 2}, dtype=object))
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("version.npy", b"nonsense")
    (tmp_path / "cut").write_bytes(saved[1].read_bytes()[:-1000])
    for name in ("empty", "text", "single.npy", "other.npz", "pickled.npz", "zip", "cut"):
        with pytest.raises(ValueError, match="no snapshot can be read from"):
            Snapshot.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Snapshot.load(tmp_path / "absent")


def test_damage_anywhere(saved: tuple[Machine, Path]) -> None:
    good = saved[1].read_bytes()
    digest = saved[0].hash()
    chance = random.Random(3)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            loaded = Snapshot.load(io.BytesIO(bytes(data)))
        except ValueError:
            continue
        assert loaded.hash() == digest


# Cores


def gdb(core: Path, *commands: str) -> list[str]:
    if not shutil.which("gdb"):
        pytest.skip("gdb is not installed")
    args = [part for command in commands for part in ("-ex", command)]
    run = subprocess.run(
        ["gdb", "-nx", "-batch", "-ex", f"core-file {core}", *args], capture_output=True, text=True, check=False
    )
    return (run.stdout + run.stderr).splitlines()


def test_gdb_opens_a_core(tmp_path: Path) -> None:
    m = make()
    m.regs.fs = 0x18
    m.memory.write(m.regs.esp - 8, b"on stack")
    m.map(0x40000000, 0x1000, "r")
    m.memory.write(0x40000800, b"far away\0")
    steps(m, 401)
    m.snapshot().core(tmp_path / "core")
    shown = gdb(
        tmp_path / "core", "info registers", "x/8xb 0x10000", f"x/1xw {DATA + 400}", "x/s 0x40000800", "x/s $esp-8",
        "x/1xb 0x60000000",
    )  # fmt: skip
    registers = {line.split()[0]: line.split()[1] for line in shown if len(line.split()) >= 3}
    for name in ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip", "cs", "ss", "ds", "es", "fs", "gs"):
        assert int(registers[name], 0) == getattr(m.regs, name), name
    assert int(registers["eflags"], 0) == m.regs.eflags
    text = "\n".join(shown)
    assert "0x40\t0x89\t0x04\t0x85" in text
    assert f"{DATA + 400:#x}:\t0x00000064" in text
    assert '"far away"' in text
    assert '"on stack"' in text
    assert "Cannot access memory at address 0x60000000" in text


def test_gdb_sees_the_x87(tmp_path: Path) -> None:
    m = make(b"\xd9\xeb\xd9\xe8\xf4")  # fldpi; fld1; hlt
    m.run()
    m.snapshot().core(tmp_path / "core")
    text = "\n".join(gdb(tmp_path / "core", "info float"))
    assert "=>R6: Valid   0x3fff8000000000000000" in text
    assert "R7: Valid   0x4000c90fdaa22168c235" in text


def test_a_core_of_page_tables_of_the_guest(tmp_path: Path) -> None:
    m = paged_machine()
    m.memory.write_u32(0x501C, 0x8003)
    m.memory.write_u32(0x4004, 0x83)  # linear 4 MiB: frame 0 on, one large page
    m.regs.cr4 |= 0x10
    m.memory.write(0x7000, b"through the tables\0")
    m.snapshot().core(tmp_path / "core")
    text = "\n".join(gdb(tmp_path / "core", "x/s 0x7000", "x/s 0x408000"))
    assert text.count('"through the tables"') == 2


BOARDS: dict[str, tuple[Callable[[Parts, Parts, Parts], object], str]] = {
    "a counter's mode": (lambda parts, about, cpu: about["pc"].update(pit_mode=[0, 6, 0]), "cannot be in"),
    "the FIFO's bounds": (lambda parts, about, cpu: about["pc"].update(uart_fifo_first=16), "cannot be in"),
    "bytes that are not there": (lambda parts, about, cpu: about["pc"].update(typed=1), "cannot be in"),
    "an initialisation word": (lambda parts, about, cpu: about["pc"].update(pic_next_icw=[5, 0]), "cannot be in"),
    "a clock too slow": (lambda parts, about, cpu: about["setup"].update(board=[1, "2002-07-29"]), "clock="),
    "another date": (lambda parts, about, cpu: about["setup"].update(board=[10**8, "never"]), "isoformat"),
    "two CPUs": (lambda parts, about, cpu: about["setup"].update(cpus=2), "one CPU"),
    "a board's field more": (lambda parts, about, cpu: about["pc"].update(apic=0), "other fields"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOARDS)
def test_spoiled_boards(tmp_path: Path, name: str) -> None:
    with Machine(board="pc", memory=1 << 20) as m:
        m.snapshot().save(tmp_path / "board.npz")
    spoil, message = BOARDS[name]
    with pytest.raises(ValueError, match=message):
        Snapshot.load(spoiled(tmp_path / "board.npz", spoil))
