"""Unicorn as a second oracle. Code runs in ring 0 there: cases that depend on the privilege level differ."""

from __future__ import annotations

import unicorn
from unicorn import x86_const as x

from .case import BASE, FAULT, LIMIT, REGIONS, UNTIL, Case, region_of
from .compare import Fault

_GPRS = [getattr(x, f"UC_X86_REG_{n}") for n in ("EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI")]


class Unicorn:
    """An Engine over unicorn.Uc."""

    def __init__(self) -> None:
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        for address, size, prot in REGIONS:
            self.uc.mem_map(address, size, prot)
        self.fault: Fault | None = None
        self.count = 0
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        self.uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._invalid)
        self.uc.hook_add(unicorn.UC_HOOK_CODE, self._code)

    def _interrupt(self, uc: unicorn.Uc, number: int, _data: object) -> None:
        self.fault = Fault(number)
        uc.emu_stop()

    def _invalid(self, uc: unicorn.Uc, access: int, address: int, size: int, _v: int, _data: object) -> bool:
        write = access in (unicorn.UC_MEM_WRITE_UNMAPPED, unicorn.UC_MEM_WRITE_PROT)
        present = access in (unicorn.UC_MEM_WRITE_PROT, unicorn.UC_MEM_FETCH_PROT)
        self.fault = Fault(14, 4 | write << 1 | present, address)
        return False

    def _code(self, uc: unicorn.Uc, address: int, size: int, _data: object) -> None:
        self.count += 1

    def load(self, case: Case) -> None:
        for address, data in BASE.items():
            self.uc.mem_write(address, data)
        for address, data in case.all_patches():
            region_of(address)
            self.uc.mem_write(address, data)
        for number, value in zip(_GPRS, case.regs, strict=True):
            self.uc.reg_write(number, value)
        self.uc.reg_write(x.UC_X86_REG_EFLAGS, case.eflags)
        self.uc.reg_write(x.UC_X86_REG_EIP, case.eip)
        self.uc.ctl_flush_tb()
        self.count = 0

    def _start(self, until: int, count: int) -> Fault | None:
        self.fault = None
        try:
            self.uc.emu_start(self.uc.reg_read(x.UC_X86_REG_EIP), until, count=count)
        except unicorn.UcError as error:
            if self.fault is None:
                vector = {unicorn.UC_ERR_INSN_INVALID: 6}.get(error.errno, 13)
                self.fault = Fault(vector, text=str(error))
        return self.fault

    def step(self) -> Fault | None:
        return self._start(0, 1)

    def run(self, case: Case, limit: int | None = None) -> tuple[int, Fault | None]:
        fault = self._start(case.until, case.max_steps if limit is None else limit)
        end = self.uc.reg_read(x.UC_X86_REG_EIP) == case.until
        return FAULT if fault else UNTIL if end else LIMIT, fault

    def state(self) -> tuple[tuple[int, ...], int, int]:
        regs = tuple(self.uc.reg_read(n) for n in _GPRS)
        return regs, self.uc.reg_read(x.UC_X86_REG_EIP), self.uc.reg_read(x.UC_X86_REG_EFLAGS) | 0x200

    def set_eflags(self, eflags: int) -> None:
        self.uc.reg_write(x.UC_X86_REG_EFLAGS, eflags)

    def icount(self) -> int:
        return self.count

    def sregs(self) -> tuple[int, ...]:
        return (0x2B, 0x23, 0x2B, 0x2B, 0x2B, 0)

    def foreign(self, address: int) -> bool:
        return False

    def memory(self, address: int, size: int) -> bytes:
        return bytes(self.uc.mem_read(address, size))
