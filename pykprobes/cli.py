"""The command line: run an image under probes, disassemble it, list its symbols."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from . import __version__, cli_record
from .actions import Action, Count
from .cli_boot import add_boot
from .cli_record import add_commands
from .demo import demo
from .errors import ImportUnbound, MachineFault
from .fetchargs import FetchArg
from .hist import Hist
from .machine import Machine
from .probespec import ProbeSpec, number, parse_place, parse_probe
from .recording import Recording
from .report import Report
from .stop import StopReason

FAILED = (StopReason.TRAP, StopReason.SHUTDOWN, StopReason.UNIMPLEMENTED)
OK, GUEST_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """Errors are one line that ends with what to do."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"pykprobes: {message}; {self.prog} --help tells how\n")


def parser() -> argparse.ArgumentParser:
    """The arguments of all commands."""
    top = Parser(prog="pykprobes", description="An i386 machine with the kernel probes of Linux 2.5.26.")
    top.add_argument("--version", action="version", version=f"pykprobes {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run an image, or call one of its functions, under probes")
    add_run(run)
    run.add_argument("--hist", action="append", default=[], metavar="FIELD", help="a field, or FIELD:LOW:HIGH:BINS")
    run.add_argument("--json", action="store_true", help="print one JSON object")
    run.add_argument("--occupancy", action="store_true", help="show the patch's hash table")
    run.set_defaults(execute=command_run)

    add_commands(commands, add_run, {"stat": command_stat, "record": command_record, "report": command_report})

    disasm = commands.add_parser("disasm", help="disassemble an image")
    add_image(disasm)
    disasm.add_argument("place", nargs="?", metavar="PLACE", help="symbol, symbol+offset or address (default: entry)")
    disasm.add_argument("-n", "--count", type=number, metavar="N", help="instructions (default: all of the symbol)")
    disasm.set_defaults(execute=command_disasm)

    symbols = commands.add_parser("symbols", help="list an image's symbols")
    add_image(symbols)
    symbols.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="shell pattern, such as 'inflate*'")
    symbols.add_argument("--json", action="store_true", help="print one JSON object")
    symbols.set_defaults(execute=command_symbols)

    add_boot(commands)

    shown = commands.add_parser("demo", help="run an image that ships with pykprobes under probes")
    shown.set_defaults(execute=command_demo)
    return top


def add_image(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE", help="an i386 ELF file, flat code with --at, or a shipped image")
    command.add_argument("--at", type=number, metavar="ADDRESS", help="where to put flat code or a library")


def add_run(command: argparse.ArgumentParser) -> None:
    add_image(command)
    command.add_argument(
        "--call", nargs="+", metavar=("FN", "ARG"), help="call a function: numbers, symbols or str:TEXT"
    )
    command.add_argument("--probe", action="append", default=[], metavar="SPEC", help="'p:name sym+off f=+4(%%sp):u32'")
    command.add_argument("--max-instructions", type=number, metavar="N", help="stop after N instructions")
    command.add_argument("--until", metavar="PLACE", help="stop before the instruction at a symbol or address")
    command.add_argument("--timer", metavar="VEC:PERIOD", help="interrupt VEC every PERIOD instructions")
    command.add_argument(
        "--kprobes", default="fixed", choices=["fixed", "2.5.26"], help="which probes (default: fixed)"
    )


def shipped_images() -> dict[str, Path]:
    """The images of the package by name."""
    folder = Path(str(files("pykprobes") / "images"))
    return {path.stem: path for path in sorted(folder.glob("*.elf"))}


def load(machine: Machine, args: argparse.Namespace) -> None:
    """Load the image that was asked for: a file, or the name of a shipped one."""
    path = Path(args.image)
    shipped = shipped_images()
    if not path.exists() and args.image in shipped:
        path = shipped[args.image]
    if not path.exists():
        raise ValueError(f"no file {args.image}; shipped images are: {', '.join(shipped) or 'none'}")
    if path.is_dir():
        raise ValueError(f"{args.image} is a directory: give an image file")
    image = machine.load(path, at=args.at)
    if args.at is not None and image.entry is not None:
        machine.regs.eip = image.entry


def hist_of(field: FetchArg, options: str) -> Hist:
    """A histogram for a field: log2, or LOW:HIGH:BINS."""
    if not options:
        return Hist(field.name, field)
    try:
        low, high, bins = (number(part) for part in options.split(":"))
    except ValueError:
        raise ValueError(f"--hist {field.name}:{options}: linear bins are FIELD:LOW:HIGH:BINS") from None
    return Hist(field.name, field, bins=bins, range=(low, high))


def actions_of(spec: ProbeSpec, hists: Sequence[str], used: set[str]) -> list[Action]:
    """The actions of a probe: histograms of the fields that were asked for, else a counter."""
    actions: list[Action] = []
    for wanted in hists:
        name, _, options = wanted.partition(":")
        probe, _, field = name.rpartition(".")
        if (not probe or probe == spec.name) and any(f.name == field for f in spec.fields):
            actions.append(hist_of(spec.field(field), options))
            used.add(wanted)
    return actions or [Count()]


def implant(machine: Machine, spec: ProbeSpec, actions: Sequence[Action], filter: str | None = None) -> Any:
    """Register a parsed probe."""
    if spec.returns:
        return machine.kretprobe(spec.place, maxactive=spec.maxactive, action=actions, filter=filter)
    return machine.kprobe(spec.place, spec.offset, action=actions, filter=filter)


def add_probes(machine: Machine, specs: Sequence[str], hists: Sequence[str], report: Report) -> None:
    """Register the probes of a command line, all or none."""
    parsed = [parse_probe(text) for text in specs]
    used: set[str] = set()
    for spec in parsed:
        report.probes.append((spec.name, implant(machine, spec, actions_of(spec, hists, used))))
    for wanted in hists:
        if wanted not in used:
            known = ", ".join(field.name for spec in parsed for field in spec.fields) or "none"
            raise ValueError(f"--hist {wanted}: no probe has that field; fields are: {known}")


def call_arguments(machine: Machine, texts: Sequence[str]) -> list[int]:
    """Arguments of --call as words."""
    words = []
    for text in texts:
        if text.startswith("str:"):
            data = text[4:].encode() + b"\0"
            words.append(machine.alloc(len(data)))
            machine.memory.write(words[-1], data)
            continue
        try:
            words.append(number(text))
        except ValueError:
            place, offset = parse_place(text)
            words.append(machine.address(place) + offset)
    return words


@contextmanager
def progress(machine: Machine, shown: bool) -> Iterator[Callable[[int], object] | None]:
    """The instruction count and rate on stderr: a line that moves on a terminal, else now and then a further one."""
    if not shown:
        yield None
        return
    moves = sys.stderr.isatty()
    before, behind, every = ("\r\033[K", "", 0.1) if moves else ("", "\n", 5.0)
    begin, start, last = time.perf_counter(), machine.icount, 0.0

    def show(icount: int) -> None:
        nonlocal last
        now = time.perf_counter() - begin
        if now - last >= every:
            last = now
            done = icount - start
            text = f"{done / 1e6:,.0f} million instructions, {done / now / 1e6:,.0f} million a second"
            sys.stderr.write(f"{before}{text}{behind}")
            sys.stderr.flush()

    try:
        yield show
    finally:
        if last and moves:
            sys.stderr.write(before)
            sys.stderr.flush()


def set_timer(machine: Machine, text: str) -> None:
    vector, _, period = text.partition(":")
    try:
        machine.timer(number(vector), number(period))
    except ValueError as error:
        raise ValueError(f"--timer {text}: give VEC:PERIOD, such as 0x20:10000 ({error})") from None


def execute(machine: Machine, args: argparse.Namespace, report: Report, shows: bool = True) -> None:
    """Run or call, keeping in the report what comes out of it."""
    if args.timer:
        set_timer(machine, args.timer)
    begin, start = time.perf_counter(), machine.icount
    try:
        with progress(machine, shows) as shown:
            if args.call:
                words = call_arguments(machine, args.call[1:])
                report.result = machine.call(
                    args.call[0], *words, max_instructions=args.max_instructions, progress=shown
                )
            else:
                report.stop = machine.run(args.until, args.max_instructions, shown)
    except MachineFault as error:
        report.stop = error.stop
    except KeyboardInterrupt:
        report.interrupted = True
    report.seconds, report.icount = time.perf_counter() - begin, machine.icount - start


def command_run(args: argparse.Namespace) -> int:
    """pykprobes run"""
    with Machine(kprobes=args.kprobes) as machine:
        load(machine, args)
        report = Report(Path(args.image).name)
        add_probes(machine, args.probe, args.hist, report)
        execute(machine, args, report, not args.json)
        if args.occupancy:
            report.occupancy = machine.occupancy()
        print(json.dumps(report.data()) if args.json else "\n".join(report.lines()))
    return status_of(report)


def status_of(report: Report) -> int:
    """The exit status for how a run ended."""
    if report.interrupted:
        return INTERRUPTED
    return GUEST_FAILED if report.stop is not None and report.stop.reason in FAILED else OK


def command_stat(args: argparse.Namespace) -> int:
    """pykprobes stat"""
    with Machine(kprobes=args.kprobes) as machine:
        load(machine, args)
        report = cli_record.stat(machine, args, implant)
        execute(machine, args, report)
        print("\n".join(cli_record.stat_lines(report)))
    return status_of(report)


def command_record(args: argparse.Namespace) -> int:
    """pykprobes record"""
    with Machine(kprobes=args.kprobes) as machine:
        load(machine, args)
        report, rings = cli_record.record(machine, args, implant)
        with open(args.output, "wb") as file:
            execute(machine, args, report)
            recording = cli_record.recording(report, rings)
            recording.save(file)
        print(report.outcome())
        dropped = sum(probe.dropped for probe in recording.probes)
        lost = f"; {dropped:,} were dropped: raise --capacity, or use --filter" if dropped else ""
        print(f"{sum(map(len, recording.rows)):,} records of {len(rings)} probes in {args.output}{lost}")
    return status_of(report)


def command_report(args: argparse.Namespace) -> int:
    """pykprobes report"""
    if not Path(args.file).exists():
        raise ValueError(f"no file {args.file}: 'pykprobes record' makes one")
    print("\n".join(cli_record.report_lines(Recording.load(args.file), args.probe, args.field)))
    return OK


def command_disasm(args: argparse.Namespace) -> int:
    """pykprobes disasm"""
    with Machine() as machine:
        load(machine, args)
        entry = machine.images[0].entry
        if args.place is None and entry is None:
            raise ValueError(f"{args.image} has no entry: give a symbol or an address behind it")
        start = machine.address(args.place) if args.place is not None else entry
        assert start is not None
        covering = machine.symbols.covering(start)
        size = covering[2] - start if covering else 0
        for line in machine.disasm(start, args.count if args.count is not None else size or 16):
            if args.count is None and size and line.address >= start + size:
                break
            name = machine.symbols.describe(line.address)
            if name == (covering[0].name if covering else None):
                print(f"{name}:")
            print(f"{line.address:8x}  {line.code.hex(' '):<30} {line.text}")
    return OK


def command_symbols(args: argparse.Namespace) -> int:
    """pykprobes symbols"""
    with Machine() as machine:
        load(machine, args)
        found = machine.symbols.find(args.pattern)
        if args.json:
            print(json.dumps(found))
        elif not found:
            raise ValueError(f"no symbol of {args.image} matches {args.pattern!r}")
        else:
            for name, address in sorted(found.items(), key=lambda item: item[1]):
                print(f"{address:08x} {name}")
    return OK


def command_demo(args: argparse.Namespace) -> int:
    """pykprobes demo"""
    shipped = shipped_images()
    if "checksum" not in shipped:
        raise ValueError("the image checksum.elf is missing from pykprobes/images: reinstall the package")
    with Machine() as machine, progress(machine, True) as shown:
        lines = demo(machine, shipped["checksum"], shown)
    print("\n".join(lines))
    return OK


def message(error: BaseException) -> str:
    """An exception in one line, but for a filter's, which show the place."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if text.endswith("^") and text.count("\n") == 2:
        return text
    return " ".join(text.split()) or type(error).__name__


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 0, 1 when the guest failed, 2 for a mistake in what was asked."""
    args: Any = parser().parse_args(argv)
    try:
        return int(args.execute(args))
    except BrokenPipeError:
        sys.stderr.close()
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except ImportUnbound as error:
        print(f"pykprobes: the guest called {error.name}, which only Python can provide: use m.bind", file=sys.stderr)
        return GUEST_FAILED
    except (ValueError, TypeError, LookupError, OSError, MemoryError, RuntimeError) as error:
        text = message(error)
        if text.startswith("no symbol") and text.endswith("'"):
            text += f": 'pykprobes symbols {args.image}' lists what there is"
        print(f"pykprobes: {text}", file=sys.stderr)
        return USAGE
