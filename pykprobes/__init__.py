"""pykprobes: an i386 machine in a library, with the kernel probes of Linux 2.5.26 built into its trap gates."""

from .actions import Action, Count, Sample, When
from .actions import Stop as StopRun
from .calls import double
from .cpus import Cpu
from .devices import Device
from .errors import ImportUnbound, KprobeError, MachineFault, MemoryFault
from .explore import Exploration, Finding, Outcome, explore
from .fetchargs import FetchArg, parse_fetch
from .hist import Hist
from .image import Image
from .machine import Machine
from .probes import Kprobe
from .probespec import ProbeSpec, parse_probe
from .record import Record
from .registers import PtRegs
from .retprobes import Kretprobe, KretprobeInstance
from .schedules import Seed
from .segments import Segment
from .snapshot import Snapshot
from .stop import Stop, StopReason
from .symbols import AmbiguousSymbol, Symbol, SymbolTable, UnknownSymbol
from .watches import Access, Watch

__version__ = "0.1.0"
__all__ = [
    "Access",
    "Action",
    "AmbiguousSymbol",
    "Count",
    "Cpu",
    "Device",
    "Exploration",
    "FetchArg",
    "Finding",
    "Hist",
    "Image",
    "ImportUnbound",
    "Kprobe",
    "KprobeError",
    "Kretprobe",
    "KretprobeInstance",
    "Machine",
    "MachineFault",
    "MemoryFault",
    "Outcome",
    "ProbeSpec",
    "PtRegs",
    "Record",
    "Sample",
    "Seed",
    "Segment",
    "Snapshot",
    "Stop",
    "StopReason",
    "StopRun",
    "Symbol",
    "SymbolTable",
    "UnknownSymbol",
    "Watch",
    "When",
    "double",
    "explore",
    "parse_fetch",
    "parse_probe",
]
