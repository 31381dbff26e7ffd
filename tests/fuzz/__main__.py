"""python -m tests.fuzz --minutes N: random instruction sequences until the time is up or too many fail."""

from __future__ import annotations

import argparse
import sys
import time

from tests.oracle import native
from tests.oracle.compare import compare_run, compare_steps
from tests.oracle.ours import Ours
from tests.oracle.sequences import sequence
from tests.oracle.shrink import describe, shrink

BATCH = 500


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="start of the seeds (default: the time)")
    parser.add_argument("--failures", type=int, default=5, help="stop after so many")
    return parser.parse_args()


def main() -> int:
    args = _arguments()
    reason = native.why_not()
    if reason:
        print(f"fuzz: {reason}", file=sys.stderr)
        return 2
    engine = Ours()
    end = time.monotonic() + 60 * args.minutes
    done = failures = 0
    while time.monotonic() < end and failures < args.failures:
        cases = [sequence(f"{args.seed} {done + i}") for i in range(BATCH)]
        for number, (case, result) in enumerate(native.run_batches(cases, BATCH)):
            for comparison in (compare_steps, compare_run):
                if comparison(case, result, engine) is None:
                    continue
                failures += 1
                small, difference = shrink(case, engine, comparison)
                print(
                    f"\n{comparison.__name__}, seed {args.seed} {done + number}: {describe(small, difference)}",
                    flush=True,
                )
                break
            if failures >= args.failures:
                break
        done += BATCH
        print(f"\r{done:,} sequences, {failures} failures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
