"""Probes of a machine as the compiled module takes them: a part of binding.Core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._core import ffi, lib
from .binding_actions import program
from .dispatch import Dispatch
from .records import Stats

if TYPE_CHECKING:
    from .binding_actions import CoreChain
    from .programs import Op


class ProbeCore(Dispatch):
    """The C side of kernel probes."""

    def register(self, address: int, probe: Any, chain: CoreChain | None) -> int:
        """Register a probe; its id, or -errno. The handlers are called as f(probe, regs, ...)."""
        pre, post, fault = probe.pre_handler, probe.post_handler, probe.fault_handler
        wanted = (lib.PROBE_PRE if pre else 0) | (lib.PROBE_POST if post else 0) | (lib.PROBE_FAULT if fault else 0)
        number = lib.kprobe_register(self.handle, address, wanted, ffi.NULL if chain is None else chain.c)
        if number >= 0:
            self.enrol(number, probe)
        return number

    def unregister(self, number: int) -> int:
        """Unregister by id: 0 or -errno."""
        error = lib.kprobe_unregister(self.handle, number)
        if not error:
            self.drop(number)
        return error

    def enable(self, number: int, on: bool) -> int:
        """Enable or disable by id: 0 or -errno."""
        return lib.kprobe_enable(self.handle, number, on)

    def stats(self, number: int) -> Stats:
        stats = lib.kprobe_stats(self.handle, number)
        return Stats(stats.hits, stats.nmissed, tuple(stats.misses), stats.number)

    def saved_opcode(self, number: int) -> int:
        return lib.kprobe_saved_opcode(self.handle, number)

    def path(self, number: int) -> int:
        return lib.kprobe_path(self.handle, number)

    def occupancy(self) -> list[int]:
        counts = ffi.new("uint32_t[64]")
        lib.kprobe_occupancy(self.handle, counts)
        return list(counts)

    def kprobe_state(self) -> dict[str, int]:
        state = ffi.new("struct kprobe_state *")
        lib.kprobe_get_state(self.handle, state)
        return {"cpu": state.cpu, "running": state.running, "status": state.status, "locked": state.locked}

    def fetch(self, ops: list[Op]) -> int | None:
        """The unsigned value of a field program for the running handler, None when it has none."""
        value = ffi.new("uint64_t *")
        return None if lib.machine_fetch(self.handle, program(ops), value) else int(value[0])

    def string(self, address: int, size: int) -> bytes | None:
        """The string at an address, cut at `size` bytes; None where no memory is."""
        text = ffi.new("char[]", size)
        length = lib.machine_fetch_string(self.handle, address, text, size)
        return None if length < 0 else bytes(ffi.buffer(text, length))
