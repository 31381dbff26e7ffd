"""docs/kprobes.md a.8: prefixes. The patch looks at the first byte only."""

from __future__ import annotations

import errno

import pytest

from pykprobes import Kprobe, KprobeError, Symbol

from .kprobe_lab import CODE, FIXED, IF, KERNEL_CS, SEED, TF, Watch, both, code, free, machine, run_to

pytestmark = both


@pytest.mark.parametrize("text", ["669c", "2e9c", "f39c", "26679c"])
def test_a8_a_prefixed_pushf_keeps_the_steps_flags(mode: str, text: str) -> None:
    m = machine(mode, text)
    end = CODE + len(code(text))
    Watch(m, CODE)
    run_to(m, end)
    image = m.memory.u16(m.regs.esp)
    assert image & (TF | IF) == (TF if mode == SEED else IF)
    assert m.regs.eflags & (TF | IF) == IF


@pytest.mark.parametrize("text", ["2efa", "66fa", "f3fa", "f2fa"])
def test_a8_a_prefixed_cli_is_undone(mode: str, text: str) -> None:
    m = machine(mode, text)
    Watch(m, CODE)
    run_to(m, CODE + 2)
    assert m.regs.eflags & IF == (IF if mode == SEED else 0)


@pytest.mark.parametrize("text", ["2efb", "66fb"])
def test_a8_a_prefixed_sti_works_either_way(mode: str, text: str) -> None:
    m = machine(mode, text, eflags=0)
    Watch(m, CODE)
    run_to(m, CODE + 2)
    assert m.regs.eflags & IF


@pytest.mark.parametrize("text", ["669d", "2e9d", "f39d"])
@pytest.mark.parametrize("image", [0, IF])
def test_a8_a_prefixed_popf_cannot_clear_if(mode: str, text: str, image: int) -> None:
    m = machine(mode, text)
    m.push(image)
    Watch(m, CODE)
    run_to(m, CODE + 2)
    assert m.regs.eflags & IF == (IF if mode == SEED else image)
    assert m.regs.esp & 3 == (2 if text.startswith("66") else 0)


def test_a8_a_16_bit_iret_cannot_clear_if(mode: str) -> None:
    m = machine(mode, "66cf")
    m.memory.fill(0x8000, 16, 0x90)
    m.push(b"\x00\x80" + KERNEL_CS.to_bytes(2, "little") + bytes(4))  # ip, cs, flags
    Watch(m, CODE)
    run_to(m, 0x8001)
    assert m.regs.eflags & IF == (IF if mode == SEED else 0)


@pytest.mark.parametrize(("text", "eax"), [("66b83412", 0x1234), ("2e66b83412", 0x1234), ("3eb801000000", 1)])
def test_a8_a_prefixed_instruction_is_stepped_in_place(mode: str, text: str, eax: int) -> None:
    m = machine(mode, text)
    w = Watch(m, CODE)
    end = CODE + len(code(text))
    run_to(m, end)
    assert m.regs.eax == eax
    assert (w.phases, w.last("post").eip) == (["pre", "post"], end)


def test_a8_a_probe_behind_a_prefix_loses_the_prefix(mode: str) -> None:
    m = machine(mode, "66b83412", "0000", "40")  # mov ax,0x1234; add [eax],al: without prefix mov eax,0x1234
    w = Watch(m, CODE + 1)
    run_to(m, CODE + 7)
    assert w.events[0].eip == CODE + 2  # the trap's address is still that of the probe
    assert m.regs.eax == 0x1234 + 1
    assert w.last("post").eip == CODE + 6
    assert free(m)


def test_a8_a_symbol_shows_that_it_is_no_boundary(mode: str) -> None:
    m = machine(mode, "66b83412", "c3")
    m.symbols.add([Symbol("f", CODE, 5)])
    p = Kprobe("f", 1, lambda p, regs: None)
    if mode == FIXED:
        with pytest.raises(KprobeError) as caught:
            m.register_kprobe(p)
        assert caught.value.errno == errno.EILSEQ
        assert not p.registered
    else:
        m.register_kprobe(p)
    assert (m.memory.u8(CODE + 1) == 0xCC) == (mode == SEED)
