"""docs/kprobes.md a.5: the single step and trap 1, and what stepping means for each kind of instruction."""

from __future__ import annotations

import pytest

from pykprobes import Kprobe, KprobeError, Machine, PtRegs, StopReason

from .kprobe_lab import (
    CODE,
    DATA,
    FIXED,
    HOLE,
    IF,
    KERNEL_CS,
    SEED,
    STEPPED,
    STEPPING,
    TF,
    USER_CS,
    USER_DS,
    Watch,
    both,
    code,
    free,
    machine,
    run_to,
    state,
    trapped,
    word,
)

pytestmark = both
OF = 0x800


def test_a5_1_what_the_post_handler_sees(mode: str) -> None:
    m = machine(mode, "b807000000")  # mov eax,7
    states = []
    w = Watch(m, CODE, post=lambda p, regs: states.append((regs.eax, state(m)["cpu"], state(m)["locked"])))
    run_to(m, CODE + 5)
    seen = w.last("post")
    assert (seen.eip, seen.byte) == (CODE + 5, 0xB8)
    assert seen.eflags & (TF | IF) == TF
    assert seen.status == (STEPPED if mode == FIXED else STEPPING)
    assert states == [(7, 0, 1)]


def test_a5_1_a_post_handler_is_optional(mode: str) -> None:
    m = machine(mode, "40")
    p = m.kprobe(CODE, pre_handler=lambda p, regs: None)
    run_to(m, CODE + 1)
    assert (p.hits, m.regs.eax, m.memory.u8(CODE)) == (1, 1, 0xCC)


def test_a5_1_the_post_handler_may_edit_registers_and_eip(mode: str) -> None:
    m = machine(mode, "40", "ebfe", "41")  # inc eax; jmp $; inc ecx

    def edit(probe: Kprobe, regs: PtRegs) -> None:
        regs.edx, regs.eip = 5, CODE + 3

    w = Watch(m, CODE, post=edit)
    run_to(m, CODE + 4)
    assert (m.regs.eax, m.regs.ecx, m.regs.edx) == (1, 1, 5)
    assert w.armed and free(m)


@pytest.mark.parametrize("eflags", [0, IF])
def test_a5_2_the_image_of_pushf(mode: str, eflags: int) -> None:
    m = machine(mode, "9c", eflags=eflags)
    w = Watch(m, CODE)
    run_to(m, CODE + 1)
    assert w.last("post").esp & (TF | IF) == TF  # uncorrected while the post_handler runs
    assert m.memory.u32(m.regs.esp) == eflags | 2
    assert m.regs.eflags == eflags | 2


def test_a5_3_rearmed(mode: str) -> None:
    m = machine(mode, "40", "ebfd")  # inc eax; jmp CODE
    w = Watch(m, CODE)
    m.run(max_instructions=20)
    assert w.probe.hits == m.regs.eax == 10
    assert w.armed and free(m) and not m.regs.eflags & TF


def popf(image: int) -> tuple[str, tuple[int, ...], int]:
    return "9d", (image,), CODE + 1


def iret(image: int) -> tuple[str, tuple[int, ...], int]:
    return "cf", (image, KERNEL_CS, CODE + 8), CODE + 8


FLAGS = {
    "ordinary, on": (("90", (), CODE + 1), IF, IF),
    "ordinary, off": (("90", (), CODE + 1), 0, 0),
    "cli": (("fa", (), CODE + 1), IF, 0),
    "sti": (("fb", (), CODE + 1), 0, IF),
    "sti, on already": (("fb", (), CODE + 1), IF, IF),
    "popf loads 0": (popf(0), IF, 0),
    "popf loads 1": (popf(IF), 0, IF),
    "iret loads 0": (iret(0), IF, 0),
    "iret loads 1": (iret(IF), 0, IF),
    "popf loads TF, which is lost": (popf(TF | IF), IF, IF),
    "iret loads TF, which is lost": (iret(TF), 0, 0),
}


@pytest.mark.parametrize(("program", "before", "after"), FLAGS.values(), ids=FLAGS.keys())
def test_a5_4_flags_after_the_step(
    mode: str, program: tuple[str, tuple[int, ...], int], before: int, after: int
) -> None:
    text, pushed, end = program
    m = machine(mode, text, eflags=before)
    m.push(*pushed)
    w = Watch(m, CODE)
    run_to(m, end)
    assert w.phases == ["pre", "post"]
    assert m.regs.eflags & (TF | IF) == after
    assert w.armed and free(m)


def test_a5_6_somebody_else_is_stepping(mode: str) -> None:
    m = machine(mode, "40", "41", eflags=TF | IF)
    w = Watch(m, CODE)
    flags = []
    m.on_trap(1, lambda m, regs: flags.append((m.regs.eflags & IF, regs.eip)))
    stop = trapped(m, 1)
    assert w.phases == ["pre", "post"]
    assert (stop.eip, m.regs.eax) == (CODE + 1, 1)
    assert m.regs.eflags & (TF | IF) == TF | IF
    assert flags == [(IF, CODE + 1)]
    assert w.armed and free(m)


# The table: what single-stepping means per instruction


def test_a5_table_rep_fires_once_per_iteration(mode: str) -> None:
    m = machine(mode, "f3aa")  # rep stosb
    m.regs.ecx, m.regs.edi, m.regs.eax = 5, DATA, 0x41
    w = Watch(m, CODE)
    run_to(m, CODE + 2)
    assert w.phases == ["pre", "post"] * 5
    assert [seen.eip for seen in w.events if seen.phase == "post"] == [CODE] * 4 + [CODE + 2]
    assert m.memory.read(DATA, 6) == b"AAAAA\0"
    assert w.probe.hits == 5


@pytest.mark.parametrize("text", ["8ed0", "17"], ids=["mov ss", "pop ss"])
def test_a5_table_a_stack_segment_load_takes_the_next_instruction_along(mode: str, text: str) -> None:
    m = machine(mode, text, "41", "42")  # inc ecx; inc edx
    m.regs.eax = m.regs.ss
    m.push(m.regs.ss)
    end = CODE + len(code(text)) + 2
    w = Watch(m, CODE)
    run_to(m, end)
    assert w.phases == ["pre", "post"]
    assert w.last("post").eip == end - 1
    assert (m.regs.ecx, m.regs.edx) == (1, 1)


def serve(m: Machine, vector: int) -> list[tuple[int, int, bool]]:
    """Serve a vector, noting eip and the flags' image and whether a hit is in progress."""
    served: list[tuple[int, int, bool]] = []
    m.on_trap(vector, lambda m, regs: served.append((regs.eip, regs.eflags & (TF | IF), free(m))) or True)
    return served


@pytest.mark.parametrize(("text", "vector"), [("cd80", 0x80), ("f1", 1)], ids=["int n", "int1"])
def test_a5_table_int_n_is_stepped_when_its_handler_returns(mode: str, text: str, vector: int) -> None:
    m = machine(mode, text, "41", "42")
    behind = CODE + len(code(text))
    served = serve(m, vector)
    w = Watch(m, CODE)
    run_to(m, behind + 2)
    assert w.phases == ["pre", "post"]
    if mode == SEED:  # the image has the step's flags, the lock stays held, one more instruction runs
        assert served == [(behind, TF, False)]
        assert w.last("post").eip == behind + 1
    else:  # a.9 item 18: the step ends as the gate is passed
        assert served == [(behind, IF, True)]
        assert w.last("post").eip == behind
    assert m.regs.eflags & (TF | IF) == IF
    assert (m.regs.ecx, m.regs.edx) == (1, 1)
    assert w.armed and free(m)


@pytest.mark.parametrize(("text", "vector"), [("ce", 4), ("cd03", 3)], ids=["into", "int 3 in two bytes"])
def test_a5_table_int_through_do_trap_meets_the_fault_hook(mode: str, text: str, vector: int) -> None:
    m = machine(mode, text, "41", eflags=OF | IF)
    behind = CODE + len(code(text))
    served = serve(m, vector)
    w = Watch(m, CODE)
    run_to(m, behind + 1)
    # The patch takes the trap of the completed instruction for a fault of the step: post never runs.
    assert w.phases == (["pre", "fault"] if mode == SEED else ["pre", "post"])
    assert served == [(behind, IF, True)]
    assert m.regs.eflags & (TF | IF) == IF
    assert w.armed and free(m)


def test_a5_table_into_without_overflow_is_ordinary(mode: str) -> None:
    m = machine(mode, "ce")
    w = Watch(m, CODE)
    run_to(m, CODE + 1)
    assert w.phases == ["pre", "post"]


def test_a5_table_probing_a_breakpoint_would_loop_for_ever(mode: str) -> None:
    m = machine(mode, "cc", "40")
    if mode == FIXED:
        with pytest.raises(KprobeError, match="breakpoint"):
            Watch(m, CODE)
        assert trapped(m, 3).eip == CODE + 1
        return
    w = Watch(m, CODE)
    stop = m.run(max_instructions=1000)
    assert (stop.reason, stop.eip) == (StopReason.LOOP, CODE + 1)
    assert w.phases == ["pre"]


def test_a5_table_popf_that_clears_tf_still_traps(mode: str) -> None:
    m = machine(mode, "9d", "40")
    m.push(0)
    w = Watch(m, CODE)
    run_to(m, CODE + 2)
    seen = w.last("post")
    assert (seen.eip, seen.eflags & TF) == (CODE + 1, 0)


def test_a5_table_iret_that_clears_tf_still_traps(mode: str) -> None:
    m = machine(mode, "cf")
    m.push(IF, KERNEL_CS, CODE + 8)
    w = Watch(m, CODE)
    run_to(m, CODE + 9)
    seen = w.last("post")
    assert (seen.eip, seen.eflags & TF) == (CODE + 8, 0)


def test_a5_table_iret_to_user_mode(mode: str) -> None:
    m = machine(mode, "cf")
    m.push(USER_DS, DATA + 0x100, IF, USER_CS, CODE + 8)
    frames = []
    w = Watch(m, CODE, post=lambda p, regs: frames.append((regs.user_mode, regs.esp, regs.sp, regs.ss, regs.cs)))
    run_to(m, CODE + 9)
    assert w.phases == ["pre", "post"]
    assert frames == [(True, DATA + 0x100, DATA + 0x100, USER_DS, USER_CS)]  # no alias: the CPU pushed esp
    assert (m.regs.cpl, m.regs.esp) == (3, DATA + 0x100)
    assert w.armed and free(m)


@pytest.mark.parametrize("probed", [False, True])
def test_a5_table_sti_loses_its_shadow(mode: str, probed: bool) -> None:
    m = machine(mode, "fb", "40", "41", eflags=0)  # sti; inc eax; inc ecx
    taken = []
    m.on_trap(0x40, lambda m, regs: taken.append(regs.eip) or True)
    if probed:
        Watch(m, CODE)
    m.interrupt(0x40)
    run_to(m, CODE + 3)
    assert taken == [CODE + 1 if probed else CODE + 2]


def test_a5_table_hlt_ends_with_the_step(mode: str) -> None:
    m = machine(mode, "f4", "40")
    w = Watch(m, CODE)
    run_to(m, CODE + 2)
    assert w.phases == ["pre", "post"]
    assert w.last("post").eip == CODE + 1
    assert m.regs.eax == 1


TRANSFERS = {
    "jmp": ("eb06", 0, CODE + 8),
    "jmp near": ("e903000000", 0, CODE + 8),
    "jnz": ("7506", 0, CODE + 8),
    "call": ("e803000000", -4, CODE + 8),
    "ret": ("c3", 4, CODE + 8),
    "loop": ("e206", 0, CODE + 8),
    "jmp [eax]": ("ff20", 0, CODE + 8),
}


@pytest.mark.parametrize(("text", "moved", "target"), TRANSFERS.values(), ids=TRANSFERS.keys())
def test_a5_table_transfers_need_no_fix_up(mode: str, text: str, moved: int, target: int) -> None:
    m = machine(mode, text)
    m.memory.write_u32(DATA, CODE + 8)
    m.regs.eax, m.regs.ecx = DATA, 9
    m.push(CODE + 8)
    esp = m.regs.esp
    w = Watch(m, CODE)
    run_to(m, target)
    assert w.phases == ["pre", "post"]
    assert w.last("post").eip == target
    assert m.regs.esp == esp + moved
    if text.startswith("e8"):
        assert m.memory.u32(m.regs.esp) == CODE + 5


def test_a5_table_a_faulting_instruction_has_no_step_trap(mode: str) -> None:
    m = machine(mode, "a1" + word(HOLE))
    w = Watch(m, CODE)
    stop = trapped(m, 14)
    assert w.phases == ["pre", "fault"]
    assert w.last("fault").eflags & TF  # the frame of the fault carries the step's flag
    assert (stop.eip, stop.address) == (CODE, HOLE)


def test_a5_table_interrupts_wait_for_the_step(mode: str) -> None:
    m = machine(mode, "40", "41")
    taken = []
    m.on_trap(0x40, lambda m, regs: taken.append((regs.eip, w.phases[:])) or True)
    w = Watch(m, CODE, pre=lambda p, regs: m.interrupt(0x40))
    run_to(m, CODE + 2)
    assert taken == [(CODE + 1, ["pre", "post"])]
