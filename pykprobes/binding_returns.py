"""Return probes of a machine as the compiled module takes them: a part of binding.Core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._core import ffi, lib
from .binding_actions import program
from .dispatch import Dispatch
from .records import ReturnStats

if TYPE_CHECKING:
    from ._core import KretprobeInstance
    from .binding_actions import CoreChain
    from .programs import Op
    from .retprobes import Kretprobe


class ReturnCore(Dispatch):
    """The C side of return probes."""

    def kept_slot(self, name: str) -> int:
        """Where all return probes of this machine keep what goes by a name."""
        if name not in self.kept_slots and len(self.kept_slots) == lib.FIELD_KEPT_MAX:
            raise ValueError(f"{name}: return probes of one machine keep at most {lib.FIELD_KEPT_MAX} different values")
        return self.kept_slots.setdefault(name, len(self.kept_slots))

    def create_return(self, probe: Kretprobe, chain: CoreChain | None, kept: dict[int, list[Op]]) -> int:
        """The C side of a return probe, which keeps at entry the values of programs by slot; its id."""
        programs = {slot: program(ops) for slot, ops in kept.items()}
        fields = ffi.new("struct kept_field[]", [(made, slot) for slot, made in programs.items()])
        actions = ffi.NULL if chain is None else chain.c
        wanted = probe.handler is not None or probe.entry_handler is not None
        number = lib.kretprobe_create(self.handle, probe.maxactive, actions, fields, len(fields), wanted)
        if number < 0:
            raise MemoryError(f"the host has no memory for {probe!r}")
        self.returns[number] = probe
        self.kept[number] = programs, fields
        return number

    def bind_return(self, number: int, kprobe: int) -> None:
        lib.kretprobe_bind(self.handle, number, kprobe)

    def destroy_return(self, number: int) -> None:
        lib.kretprobe_destroy(self.handle, number)
        del self.returns[number], self.kept[number]

    def return_stats(self, number: int) -> ReturnStats:
        stats = lib.kretprobe_stats(self.handle, number)
        return ReturnStats(stats.hits, stats.nmissed, stats.abandoned, stats.active)

    def return_ready(self, number: int) -> bool:
        return lib.kretprobe_ready(self.handle, number) != 0

    def follow(self, number: int, probe: int) -> int:
        """Follow the call at whose entry a handler runs; the instance's number, or -1."""
        return lib.kretprobe_enter(self.handle, number, probe)

    def returning(self) -> KretprobeInstance:
        """What C knows of the call whose return handler runs."""
        found = lib.kretprobe_returning(self.handle)
        if found == ffi.NULL:
            raise RuntimeError("this is known while the return handler runs: keep the values, not the object")
        return found
