"""Where QEMU does otherwise than the manual: what test_against_qemu.py leaves out, and our test that shows it."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One difference."""

    section: str  # of the SDM
    manual: str
    qemu: str
    test: str  # file::function


ROWS = (
    Row(
        "vol. 3, 17.3.1.1",
        "a fault's frame has RF set",
        "RF is clear",
        "test_nested_faults.py::test_contributory_twice",
    ),
    Row(
        "vol. 3, 6.13",
        "EXT is set in error codes of faults in a delivery that no instruction asked for",
        "EXT is mostly clear",
        "test_task_switch.py::test_the_gate_of_an_int_and_the_ext_bit",
    ),
    Row(
        "vol. 3, 5.3",
        "data and stack limits are checked",
        "they are not, virtual-8086 mode included",
        "test_v86.py::test_limits",
    ),
    Row(
        "vol. 2, JMP",
        "a near branch beyond the code segment is #GP(0)",
        "it is taken",
        "test_v86.py::test_branches_beyond_64_kib",
    ),
    Row(
        "vol. 2, STI; vol. 3, 6.8.3",
        "STI and LSS do not hold the single step back",
        "they do",
        "test_v86.py::test_single_step_behind_sti_and_lss",
    ),
    Row(
        "vol. 3, 7.3",
        "a fault behind the commit point comes at the CPL that the new CS asks for",
        "at CPL 0, on the new task's own stack",
        "test_task_switch.py::test_late_checks_in_ring_3",
    ),
    Row(
        "vol. 3, 7.3",
        "and shows the new task's first instruction",
        "behind a far JMP or CALL the low bits of EIP are those of the old task",
        "test_task_switch.py::test_late_checks",
    ),
    Row(
        "vol. 3, table 6-6",
        "a conforming code segment of a new task may be more privileged than its selector's RPL",
        "#TS",
        "test_task_switch.py::test_a_conforming_code_segment",
    ),
    Row(
        "vol. 3, 7.6",
        "the upper halves of registers are undefined behind a switch to a 16-bit TSS",
        "they are zero, and ESP's stays; here they are ones",
        "test_task_switch.py::test_both_states_and_table_7_2",
    ),
    Row(
        "vol. 2, INT n",
        "a 16-bit TSS gives all of ESP",
        "on a 16-bit stack the upper half of ESP stays",
        "test_stack_switch.py::test_a_16_bit_tss",
    ),
    Row(
        "vol. 2, far CALL",
        "the RPL of CS becomes CPL in a conforming segment behind a gate",
        "it becomes the segment's DPL",
        "test_far_transfers.py::test_gate_privilege",
    ),
    Row(
        "vol. 3, tables 12-1 and 13-1",
        "CR0.EM makes MMX, SSE and FXSAVE #UD, whatever CR0.TS is",
        "#NM if TS is set, and for FXSAVE always",
        "test_sse.py::test_emulation",
    ),
    Row("vol. 2, EMMS", "CR0.EM and TS are looked at", "they are not", "test_sse.py::test_task_switched"),
    Row("vol. 2, LOCK", "#UD before an MMX instruction with CR0.TS set", "#NM", "test_sse.py::test_lock"),
    Row(
        "vol. 3, 12.5",
        "MMX instructions report pending x87 exceptions",
        "they do not",
        "test_sse.py::test_pending_x87_exceptions",
    ),
)
