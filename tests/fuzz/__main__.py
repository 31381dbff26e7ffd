"""python -m tests.fuzz --minutes N: random programs and operands until the time is up or too many cases fail."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator

from tests.oracle import float_sequences, native, simd
from tests.oracle.case import Case, Result
from tests.oracle.checks import COMPARISONS
from tests.oracle.encode import FORMS
from tests.oracle.generate import form_cases
from tests.oracle.ours import Ours
from tests.oracle.sequences import sequence
from tests.oracle.shrink import describe, shrink

BATCH = 500
FLOAT_BATCH = 100
SIMD_CASES = 1_000_000
FORMS_A_BATCH = 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="start of the seeds (default: the time)")
    parser.add_argument("--failures", type=int, default=5, help="stop after so many")
    return parser.parse_args()


def _batch(seed: str) -> Iterator[tuple[str, Case]]:
    """Programs, and a few forms with operands drawn anew."""
    for i in range(BATCH):
        yield f"program {seed} {i}", sequence(f"{seed} {i}")
    for form in random.Random(seed).sample(FORMS, FORMS_A_BATCH):
        for case in form_cases(form, 1.0, seed):
            yield f"{form} {seed}", case


def _float_batch(seed: str) -> Iterator[tuple[str, Case]]:
    """Programs of x87 and SSE instructions."""
    for i in range(FLOAT_BATCH):
        yield f"floating-point program {seed} {i}", float_sequences.sequence(f"{seed} {i}")


def _float_failure(name: str, case: Case, result: Result, engine: Ours) -> str:
    text = float_sequences.failure(case, result, engine)
    return f"{name}: {text}" if text else ""


def _failure(name: str, case: Case, result: Result, engine: Ours) -> str:
    """What is wrong with a case, made small; empty if nothing is."""
    for comparison in COMPARISONS:
        if comparison(case, result, engine):
            small, difference = shrink(case, engine, comparison)
            return f"{comparison.__name__}, {name}: {describe(small, difference)}"
    return ""


def main() -> int:
    args = _arguments()
    reason = native.why_not()
    if reason:
        print(f"fuzz: {reason}", file=sys.stderr)
        return 2
    engine = Ours()
    end = time.monotonic() + 60 * args.minutes
    done = failures = batch = 0
    while time.monotonic() < end and failures < args.failures:
        for make, judge in ((_batch, _failure), (_float_batch, _float_failure)):
            named = list(make(f"{args.seed} {batch}"))
            results = native.run([case for _, case in named])
            for (name, case), result in zip(named, results, strict=True):
                text = judge(name, case, result, engine)
                if text:
                    failures += 1
                    print(f"\n{text}", flush=True)
            done += len(named)
        operations = simd.declared()
        text = simd.differences(operations[batch % len(operations)], args.seed + batch, SIMD_CASES)
        if text:
            failures += 1
            print(f"\n{text}", flush=True)
        batch += 1
        print(f"\r{done:,} cases, {failures} failures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
