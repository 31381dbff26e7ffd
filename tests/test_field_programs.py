"""Field programs as bytes: what the check lets through runs to its end, whatever it is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykprobes import Machine
from pykprobes.binding_actions import program
from pykprobes.programs import Code, Op, op

AT = 0x2000
VALUE = [op(Code.IMM, imm=5)]
ADD = [op(Code.ADD)]


@pytest.mark.parametrize(
    ("ops", "why"),
    [
        ([], "no value"),
        (ADD, "nothing to add"),
        (VALUE + ADD, "one operand"),
        (VALUE * 2, "two values left"),
        (VALUE * 33 + ADD * 32, "deeper than the stack"),
        ([op(Code.WORD, 15)], "no such word"),
        ([op(Code.KEPT, 32)], "no such slot"),
        ([op(Code.STACK, 3)], "no such size"),
        ([*VALUE, op(Code.LOAD, 16)], "no such size"),
        ([*VALUE, op(Code.BITS, 60, 8)], "beyond 64 bits"),
        ([*VALUE, op(Code.BITS, 0, 0)], "no bits"),
        ([*VALUE, op(Code.SIGN, 0)], "no bits"),
        ([*VALUE, op(Code.SIGN, 65)], "beyond 64 bits"),
        ([*VALUE, op(Code.AND_ELSE, to=1), *VALUE], "a jump to itself"),
        ([*VALUE, op(Code.AND_ELSE, to=0), *VALUE], "a jump backwards"),
        ([*VALUE, op(Code.AND_ELSE, to=9), *VALUE], "a jump beyond the end"),
        ([*VALUE, op(Code.AND_ELSE, to=4), *VALUE, *VALUE, *ADD], "depths that disagree"),
        ([(36, 0, 0, 0), *VALUE], "no such instruction"),
        ([(255, 0, 0, 0)], "no such instruction"),
        ([*VALUE, op(Code.END), op(Code.NOT)], "code behind the end"),
        (VALUE + [op(Code.NOT)] * 4096, "too long"),
    ],
)
def test_programs_that_are_refused(ops: list[Op], why: str) -> None:
    with pytest.raises(ValueError, match="too complex"):
        program(ops)


def test_the_deepest_and_the_longest() -> None:
    program(VALUE * 32 + ADD * 31)
    program(VALUE + [op(Code.NOT)] * 4094)


instruction = st.tuples(st.integers(0, 36), st.integers(0, 66), st.integers(0, 30), st.integers(0, (1 << 32) - 1))
likely = st.sampled_from([
    *VALUE, *ADD, op(Code.WORD, 6), op(Code.SP), op(Code.STACK, 4), op(Code.LOAD, 4), op(Code.LOAD, 8, imm=0x2000),
    op(Code.DIVS), op(Code.MODU), op(Code.SHL), op(Code.NOT), op(Code.HIGH, imm=0x80000000), op(Code.AND_ELSE, to=6),
    op(Code.OR_ELSE, to=9), op(Code.BITS, 63, 1), op(Code.SIGN, 1), op(Code.LATENCY), op(Code.KEPT, 31),
])  # fmt: skip


def test_whatever_passes_the_check_runs_to_its_end() -> None:
    with Machine(memory=1 << 20) as m:
        m.load(b"\x90", at=AT)
        passed = 0

        @given(st.lists(likely | instruction, max_size=24))
        def check(ops: list[Op]) -> None:
            nonlocal passed
            try:
                program(ops)
            except ValueError:
                return
            values: list[int | None] = []
            probe = m.kprobe(AT, pre_handler=lambda p, regs: values.append(m._core.fetch(ops)))
            m.regs.eip = AT
            m.run(until=AT + 1)
            m.unregister_kprobe(probe)
            assert values[0] is None or 0 <= values[0] < 1 << 64
            passed += 1

        check()
        random_ = random.Random(1)
        for _ in range(3000):  # programs of stack depth 1 or more all the way, which the check lets through more often
            ops, depth = [*VALUE], 1
            for _ in range(random_.randrange(12)):
                grows = random_.random() < 0.5
                ops.append(random_.choice([*VALUE, op(Code.WORD, 6), op(Code.STACK, 2)]) if grows else (
                    op(Code(random_.randrange(15, 34))) if depth > 1 else op(Code(random_.randrange(11, 15)))
                ))  # fmt: skip
                depth += 1 if grows else -1 if depth > 1 else 0
            check.hypothesis.inner_test(ops + ADD * (depth - 1))
        assert passed > 3000
