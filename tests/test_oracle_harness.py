"""The harness itself: encodings, the CPU's answers, and that a wrong result is found and shrunk."""

import pytest

from .oracle import native
from .oracle.case import CF, DATA, FAULT, IF, LIMIT, STACK_TOP, UNTIL, ZF, Case
from .oracle.checks import failures, need_native
from .oracle.compare import compare_run, compare_steps, plan
from .oracle.encode import FORMS, PRIVILEGED
from .oracle.generate import form_cases, undefined_opcode_cases
from .oracle.sequences import sequence
from .oracle.shrink import describe, shrink
from .oracle.undefined import (
    CONDITION,
    EFFECTS,
    FAULTS,
    HALF_DONE,
    UNDEFINED,
    UNFINISHED,
    effect,
    fault_differs,
    identify,
)

REGS = [0, 1, 2, 3, STACK_TOP, 5, DATA, DATA + 0x100]
CAPSTONE = {
    "shl": {"sal"}, "xchg": {"nop"}, "push_seg": {"push"}, "pop_seg": {"pop"}, "pusha": {"pushal", "pushaw"},
    "popa": {"popal", "popaw"}, "pushf": {"pushfd"}, "popf": {"popfd"}, "mov_from_seg": {"mov"}, "mov_to_seg": {"mov"},
    "jcxz": {"jecxz"}, "jmpf": {"ljmp", "jmp"}, "callf": {"lcall", "call"}, "iret": {"iretd"}, "cbw": {"cwde"},
    "cwd": {"cdq"}, "xlat": {"xlatb"}, "mov_cr": {"mov"}, "mov_dr": {"mov"}, "ud": {"ud0", "ud1", "ud2"},
}  # fmt: skip


@pytest.mark.parametrize("form", [f for f in FORMS if f.name != "ud"], ids=str)
def test_encoder_agrees_with_capstone(form):
    capstone = pytest.importorskip("capstone")
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
    names = {form.name, form.name[:-1] + "b", form.name[:-1] + "w", form.name[:-1] + "d", *CAPSTONE.get(form.name, ())}
    for case in form_cases(form, 0.3):
        for insn in case.notes:
            code = insn.encode()
            if insn.form is not form or 0xF0 in insn.prefixes:
                continue
            line = next(disassembler.disasm(code + b"\x90" * 15, 0))
            assert line.size == len(code) and line.mnemonic.split()[-1] in names, (code.hex(), line.mnemonic)
            assert identify(code + bytes(4)).form.name == form.name


def test_undefined_table_rows_name_instructions_and_reasons():
    names = {form.name for form in FORMS}
    for row_names, condition, flags, reason in UNDEFINED:
        assert set(row_names.split()) <= names and condition in CONDITION and flags and reason.startswith("SDM")
    assert set(EFFECTS) <= names
    for row_names, vendor, flags, reason in UNFINISHED:
        assert set(row_names.split()) <= names and vendor and flags and reason
    for row_names, vendor, reason in HALF_DONE:
        assert set(row_names.split()) <= names and vendor and reason
    for row in FAULTS:
        assert set(row.names.split()) <= names and row.ours != row.theirs and row.reason
        assert row.vendor or row.lowest, "without a processor or an address a row excuses too much"


def test_faults_differ_only_as_a_row_says(monkeypatch):
    bound, other = identify(bytes.fromhex("624500") + bytes(8)), identify(bytes.fromhex("8b4500") + bytes(8))
    monkeypatch.setattr("tests.oracle.undefined.VENDOR", "AuthenticAMD")
    assert fault_differs(bound, 5, 0, 14) and not fault_differs(other, 5, 0, 14) and not fault_differs(bound, 14, 0, 5)
    assert fault_differs(other, 14, 0xFFFFFFFF, 13) and not fault_differs(other, 14, 0x1000, 13)
    monkeypatch.setattr("tests.oracle.undefined.VENDOR", "GenuineIntel")
    assert not fault_differs(bound, 5, 0, 14)


@pytest.mark.parametrize(
    ("code", "regs", "undefined"),
    [("d3e0", {1: 1}, {"af"}), ("d3e0", {1: 0}, set()), ("d2e0", {1: 8}, {"af", "of", "cf"}), ("660fa4d011", {}, None),
     ("c1e803", {}, {"af", "of"}), ("f7e1", {}, {"sf", "zf", "af", "pf"}), ("01c8", {}, set())],
)  # fmt: skip
def test_undefined_flags_of_an_instruction(code, regs, undefined):
    names = {"cf": 1, "pf": 4, "af": 0x10, "zf": 0x40, "sf": 0x80, "of": 0x800}
    found = effect(bytes.fromhex(code) + bytes(8), [regs.get(i, 0) for i in range(8)])
    assert found is not None
    mask = found.undefined
    assert mask >> 31 == (undefined is None)
    if undefined is not None:
        assert mask == sum(names[n] for n in undefined)


@pytest.mark.parametrize(
    ("code", "vector", "error", "address", "behind"),
    [("f7f0", 0, 0, 0, 0), ("8b00", 14, 4, 0, 0), ("890500400020", 14, 7, DATA + 0x4000, 0), ("fa", 13, 0, 0, 0),
     ("cc", 3, 0, 0, 1), ("cd03", 3, 0, 0, 2), ("0f0b", 6, 0, 0, 0), ("658b06", 13, 0, 0, 0), ("f090", 6, 0, 0, 0)],
)  # fmt: skip
def test_native_faults(code, vector, error, address, behind):
    need_native()
    case = Case(bytes.fromhex(code), list(REGS), patches=[(DATA, bytes(16))])
    result = native.run([case])[0]
    assert (result.outcome, result.icount, result.eip) == (FAULT, 0, case.eip + behind)
    assert (result.vector, result.error, result.address) == (vector, error, address)


def test_native_iterations_are_steps():
    need_native()
    regs = [*REGS[:1], 5, *REGS[2:]]
    result = native.run([Case(b"\xf3\xa4", regs)])[0]
    assert (result.outcome, result.icount) == (UNTIL, 5)
    assert [step.regs[1] for step in result.steps] == [4, 3, 2, 1, 0]
    assert native.run([Case(b"\xeb\xfe", regs, max_steps=7)])[0].outcome == LIMIT


def test_native_pushf_does_not_show_the_stepping():
    need_native()
    results = native.run(
        [Case(b"\x9c\x58", list(REGS), IF | CF | 2), Case(b"\x9c\x9d\x90\x9c\x58", list(REGS), IF | ZF | 2)]
    )
    assert [result.regs[0] for result in results] == [IF | CF | 2, IF | ZF | 2]
    assert not any(step.eflags & 0x100 for result in results for step in result.steps)


def test_native_system_calls_kill_the_case_only():
    need_native()
    results = native.run([Case(b"\xcd\x80", list(REGS)), Case(b"\x40", list(REGS))])
    assert [result.outcome for result in results] == [3, UNTIL]
    assert results[1].regs[0] == 1


def test_native_cases_do_not_leak_into_each_other():
    need_native()
    cases = [sequence(f"leak {i}") for i in range(100)]
    forwards = native.run(cases)
    backwards = native.run(cases[::-1])[::-1]
    assert forwards == backwards


def test_undefined_encodings_and_privileged_instructions_fault_natively():
    need_native()
    cases = [c for c in undefined_opcode_cases() if len(c.code) < 8]
    assert {result.vector for result in native.run(cases)} == {6}
    forms = [form for form in FORMS if form.name in PRIVILEGED]
    cases = [case for form in forms for case in form_cases(form) if not any(0xF0 in i.prefixes for i in case.notes)]
    assert {result.vector for result in native.run(cases)} == {13}


def test_few_sequences_end_early():
    need_native()
    done = [
        (plan(case, result), result) for case, result in native.run_batches(sequence(f"early {i}") for i in range(500))
    ]
    assert sum(p.complete for p, _ in done) > 0.98 * len(done), "undefined flags are read too often"
    assert sum(r.outcome == UNTIL for _, r in done) > 0.6 * len(done), "faults end too many"
    assert sum(r.icount for _, r in done) > 10 * len(done)


class Corrupted:
    """An engine whose results are wrong in one place."""

    def __init__(self, engine, what):
        self.engine, self.what = engine, what

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def state(self):
        regs, eip, eflags = self.engine.state()
        if self.what == "register":
            regs = (*regs[:3], regs[3] ^ 0x10000, *regs[4:])
        if self.what == "carry after sub" and regs[2] != self.before:
            eflags ^= CF
        return regs, eip, eflags

    def load(self, case):
        self.before = case.regs[2]
        self.engine.load(case)

    def memory(self, address, size):
        data = self.engine.memory(address, size)
        return data[:-1] + bytes([data[-1] ^ 1]) if self.what == "memory" and address == DATA else data

    def icount(self):
        return self.engine.icount() + (self.what == "icount")


@pytest.fixture(scope="module")
def ours():
    need_native()
    from .oracle.ours import Ours

    return Ours()


@pytest.mark.parametrize("what", ["register", "memory", "icount", "carry after sub"])
def test_an_injected_error_is_found(ours, what):
    code = b"\x01\xc8\x29\xda\x89\x06"
    case = Case(code, list(REGS))
    result = native.run([case])[0]
    for comparison in (compare_steps, compare_run):
        assert comparison(case, result, ours) is None
        assert comparison(case, result, Corrupted(ours, what)) is not None


def test_an_injected_error_is_shrunk_and_printed(ours):
    engine = Corrupted(ours, "carry after sub")
    case = next(
        c for c, r in native.run_batches(sequence(f"shrink {i}") for i in range(50)) if compare_steps(c, r, engine)
    )
    small, difference = shrink(case, engine, compare_steps)
    assert len(small.notes) <= 2 and "cf" in difference.what
    text = describe(small, difference)
    assert "edx = " in text and f"{small.eip:#x}:" in text


def test_an_undefined_flag_is_not_an_error_but_a_defined_one_is(ours):
    case = Case(b"\xf7\xe1", list(REGS))
    result = native.run([case])[0]
    for flag, differs in ((ZF, False), (CF, True)):
        wrong = native.run([case])[0]
        wrong.eflags ^= flag
        wrong.steps[-1].eflags ^= flag
        assert (compare_run(case, wrong, ours) is not None) == differs
    assert compare_run(case, result, ours) is None


def test_unicorn_agrees_where_it_can():
    need_native()
    pytest.importorskip("unicorn")
    from .oracle.emulated import Unicorn

    names = "add or adc sbb and sub xor cmp inc dec not rol ror rcl rcr shl shr sar shld shrd mul imul".split()
    cases = (
        c for f in FORMS if f.name in names for c in form_cases(f, 0.2) if not any(0xF0 in i.prefixes for i in c.notes)
    )
    assert not failures(cases, Unicorn(), lambda case, result: result.outcome == UNTIL)
