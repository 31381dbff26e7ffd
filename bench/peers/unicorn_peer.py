"""Unicorn, set up as its own samples and most programs set it up: mem_map, mem_write, emu_start."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import unicorn
from elftools.elf.elffile import ELFFile
from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import uclib

PAGE = 4096
PF_X = 1
STACK_TOP = 0x7FFF_0000
STACK_SIZE = 1 << 20
RETURN_TO = 0x7FFF_8000  # calls return here; emulation ends before it is executed


def bare(memory: int = 64 << 20) -> unicorn.Uc:
    """An instance with RAM: without a first mem_map Unicorn has not built its machine yet."""
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    uc.mem_map(0, memory)
    return uc


class UnicornGuest:
    """One i386 program in one Unicorn instance, its functions callable by name."""

    def __init__(self, path: Path, best: bool = False) -> None:
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        if best:
            self.uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
            self.uc.hook_add(unicorn.UC_HOOK_TLB_FILL, self._fill)
        with path.open("rb") as file:
            elf = ELFFile(file)
            loads = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
            low = min(s["p_vaddr"] for s in loads) & -PAGE
            high = max(s["p_vaddr"] + s["p_memsz"] for s in loads)
            self.uc.mem_map(low, (high - low + PAGE - 1) & -PAGE)
            code = [s for s in loads if s["p_flags"] & PF_X]
            self.code = [(s["p_vaddr"] & -PAGE, s["p_vaddr"] + s["p_memsz"]) for s in code] + [
                (RETURN_TO, RETURN_TO + PAGE)
            ]
            for segment in loads:
                self.uc.mem_write(segment["p_vaddr"], segment.data())
            symbols = elf.get_section_by_name(".symtab").iter_symbols()
            self.symbols = {s.name: int(s["st_value"]) for s in symbols}
        self.uc.mem_map(STACK_TOP - STACK_SIZE, STACK_SIZE)
        self.uc.mem_map(RETURN_TO, PAGE)

    def _fill(self, uc: Any, address: int, access: int, entry: Any, data: Any) -> bool:
        """A virtual TLB's miss. Stores to pages that may be executed are slow, so that data must not be such a page."""
        page = address & -PAGE
        executable = any(start <= page < end for start, end in self.code)
        entry.paddr = page
        entry.perms = unicorn.UC_PROT_READ | (unicorn.UC_PROT_EXEC if executable else unicorn.UC_PROT_WRITE)
        return True

    def call(self, name: str, *args: int) -> int:
        """Call a cdecl function and return eax."""
        words = (RETURN_TO, *args)
        esp = STACK_TOP - 64
        self.uc.mem_write(esp, b"".join(w.to_bytes(4, "little") for w in words))
        self.uc.reg_write(x86.UC_X86_REG_ESP, esp)
        try:
            self.uc.emu_start(self.symbols[name], RETURN_TO)
        except unicorn.UcError:
            # with the virtual TLB the end address is executed, and what is there faults
            if self.uc.reg_read(x86.UC_X86_REG_EIP) != RETURN_TO:
                raise
        return int(self.uc.reg_read(x86.UC_X86_REG_EAX))

    def hook_in_c(self, name: str, library: Path) -> Callable[[], int]:
        """Count in a C callback, of a library made from hook.c; returns what reads the count."""
        hook = ctypes.CDLL(str(library))
        hook.hits.restype = ctypes.c_uint64
        handle, address = ctypes.c_size_t(), self.symbols[name]
        status = uclib.uc_hook_add(
            self.uc._uch, ctypes.byref(handle), unicorn.UC_HOOK_CODE, ctypes.cast(hook.count, ctypes.c_void_p), None,
            ctypes.c_uint64(address), ctypes.c_uint64(address),
        )  # fmt: skip
        if status:
            raise RuntimeError(f"uc_hook_add: error {status}")
        return lambda: int(hook.hits())

    def hook(self, name: str, handler: Callable[..., None]) -> Any:
        """Call handler(uc, address, size, user_data) before the first instruction of a function."""
        address = self.symbols[name]
        return self.uc.hook_add(unicorn.UC_HOOK_CODE, handler, begin=address, end=address)
