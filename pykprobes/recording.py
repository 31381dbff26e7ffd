"""What a run recorded, as a file: an .npz archive that is read without pickle.

It holds the array ``meta``, JSON as text, and for probe number i of its list the structured array ``rows_i``.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy

from .fetchargs import FetchArg, parse_fetch

if TYPE_CHECKING:
    from numpy.typing import NDArray

# 1: meta with version, image, outcome, icount, seconds and probes (see RecordedProbe).
FORMAT = 1
HEAD = ("icount", "cpu", "probe", "faults")


@dataclass(slots=True)
class RecordedProbe:
    """One probe of a recording."""

    name: str
    place: str
    address: int
    number: int
    returns: bool
    hits: int
    nmissed: int
    dropped: int
    misses: dict[str, int]
    fields: dict[str, str]  # fetch arguments by column

    def parsed(self) -> dict[str, FetchArg]:
        """The fields by column."""
        return {name: parse_fetch(text, name) for name, text in self.fields.items()}


@dataclass(slots=True)
class Recording:
    """Probes and their records, in the order of the probes."""

    image: str
    outcome: str
    icount: int
    seconds: float
    probes: list[RecordedProbe] = field(default_factory=list)
    rows: list[NDArray[Any]] = field(default_factory=list)

    def save(self, file: str | Path | BinaryIO) -> None:
        """Write an .npz archive to a path, as it is given, or a file."""
        meta = {
            "version": FORMAT,
            "image": self.image,
            "outcome": self.outcome,
            "icount": self.icount,
            "seconds": self.seconds,
            "probes": [asdict(probe) for probe in self.probes],
        }
        arrays: dict[str, Any] = {f"rows_{i}": rows for i, rows in enumerate(self.rows)}
        if isinstance(file, (str, Path)):
            with open(file, "wb") as opened:
                numpy.savez_compressed(opened, meta=numpy.array(json.dumps(meta)), **arrays)
        else:
            numpy.savez_compressed(file, meta=numpy.array(json.dumps(meta)), **arrays)

    @classmethod
    def load(cls, file: str | Path | BinaryIO) -> Recording:
        """Read an archive; ValueError when it is not one of ours."""
        try:
            with numpy.load(file, allow_pickle=False) as archive:
                meta = json.loads(str(archive["meta"]))
                if not isinstance(meta, dict) or meta.get("version") != FORMAT:
                    raise ValueError(f"its format is not version {FORMAT}")
                probes = [RecordedProbe(**probe) for probe in meta["probes"]]
                rows = [archive[f"rows_{i}"] for i in range(len(probes))]
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{file} is no recording of pykprobes: {error}") from error
        for probe, part in zip(probes, rows, strict=True):
            names = part.dtype.names or ()
            if part.ndim != 1 or any(name not in names for name in (*HEAD, *probe.fields)):
                raise ValueError(f"{file} is no recording of pykprobes: columns of {probe.name} are missing")
        return cls(str(meta["image"]), str(meta["outcome"]), int(meta["icount"]), float(meta["seconds"]), probes, rows)
