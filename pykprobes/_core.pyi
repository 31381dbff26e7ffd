"""The compiled module: csrc/cdef.h as Python sees it through cffi. Only binding.py uses it.

Pointers to C structures appear as their classes below; char and void pointers take anything with a buffer.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., object])

class Machine:
    """Opaque: struct machine."""

class Snapshot:
    """Opaque: struct snapshot."""

class Golden:
    """Opaque: struct golden."""

class MachineConfig:
    """struct machine_config."""

class PtRegs:
    ebx: int
    ecx: int
    edx: int
    esi: int
    edi: int
    ebp: int
    eax: int
    ds: int
    es: int
    orig_eax: int
    eip: int
    cs: int
    eflags: int
    esp: int
    ss: int

class Frame:
    regs: PtRegs
    address: int
    sp: int

class FpuState:
    st: Sequence[int]
    control: int
    status: int
    tag: int
    opcode: int
    cs: int
    ds: int
    ip: int
    dp: int

class StopInfo:
    reason: int
    vector: int
    error_code: int
    address: int
    eip: int
    icount: int
    bytes: Sequence[int]
    nbytes: int
    cpu: int

class CpuInfo:
    icount: int
    spins: int
    halted: int
    parked: int
    waits_for: int

class ScheduleTurn:
    cpu: int
    steps: int

class ScheduleStep:
    address: int
    runnable: int
    cpu: int
    steps: int
    fresh: int

class DeviceAccess:
    kind: int
    address: int
    size: int
    value: int
    write: int
    done: int

class WatchEvent:
    id: int
    kind: int
    address: int
    size: int
    value: int
    eip: int

class SseState:
    xmm: Sequence[int]
    mxcsr: int

class KernelLayout:
    gdt: int
    idt: int
    tss: int
    entry: int
    entry_size: int
    imports: int
    import_stride: int
    import_max: int
    call_return: int
    trampoline: int
    park_return: int
    stack_top: int
    stack_bottom: int
    stack_stride: int
    window: int
    window_end: int

class KprobeStats:
    number: int
    hits: int
    nmissed: int
    misses: Sequence[int]

class KprobeState:
    cpu: int
    running: int
    status: int
    locked: int

class FieldOp:
    """Opaque: struct field_op."""

class Ring:
    data: Any
    capacity: int
    stride: int
    full: int
    begun: int
    written: int
    drained: int
    dropped: int

class Action:
    kind: int
    count: int
    passed: int
    faults: int
    used: int
    others: int
    state: int
    ring: Ring
    program: Any
    fields: Any
    nfields: int

class KretprobeStats:
    hits: int
    nmissed: int
    abandoned: int
    active: int

class KretprobeInstance:
    number: int
    ret_addr: int
    slot: int
    entered: int
    kept_faults: int
    kept: Sequence[int]

class _FFI:
    NULL: Any
    def new(self, cdecl: str, init: object = ...) -> Any: ...
    def gc(self, cdata: Any, destructor: Callable[[Any], object], size: int = ...) -> Any: ...
    def release(self, cdata: Any) -> None: ...
    def from_buffer(self, cdecl: str, buffer: object, require_writable: bool = ...) -> Any: ...
    def buffer(self, cdata: Any, size: int = ...) -> Any: ...
    def typeof(self, cdecl: str) -> Any: ...
    def sizeof(self, cdecl: Any) -> int: ...
    def string(self, cdata: Any, maxlen: int = ...) -> bytes: ...
    def def_extern(
        self, name: str = ..., error: object = ..., onerror: Callable[..., object] | None = ...
    ) -> Callable[[_Function], _Function]: ...

class _Lib:
    ACTION_COUNT: int
    ACTION_STOP: int
    ACTION_WHEN: int
    ACTION_EVERY: int
    ACTION_RANDOM: int
    ACTION_HIST_LOG2: int
    ACTION_HIST_LINEAR: int
    ACTION_HIST_EDGES: int
    ACTION_HIST_KEYS: int
    ACTION_RECORD: int
    ACTION_RETURN: int
    CALLBACK_RETURN: int
    FIELD_KEPT_MAX: int
    RECORD_VALUE: int
    RECORD_ARRAY: int
    RECORD_STRING: int
    RING_DROP_OLDEST: int
    RING_DROP_NEWEST: int
    RING_STOP: int
    FIELD_END: int
    FIELD_DEPTH: int
    STOP_NONE: int
    STOP_UNTIL: int
    STOP_LIMIT: int
    STOP_PYTHON: int
    STOP_MEMORY: int
    CPUS_MAX: int
    REG_COUNT: int
    TARGET_ST: int
    TARGET_END: int
    TRACE_READ: int
    TRACE_WRITE: int
    TRACE_EXECUTE: int
    TRACE_EXCEPTION: int
    EARLY_OVERWRITTEN: int
    EARLY_GOLDEN: int
    EARLY_LOOP: int
    EARLY_AUDITED: int
    EARLY_WRONG: int
    SNAPSHOT_ROM: int
    SNAPSHOT_NONZERO: int
    CALLBACK_PRE: int
    CALLBACK_POST: int
    CALLBACK_FAULT: int
    CALLBACK_TRAP: int
    CALLBACK_IMPORT: int
    CALLBACK_DEVICE: int
    CALLBACK_INTR: int
    CALLBACK_SPIN: int
    CALLBACK_WATCH: int
    CALLBACK_RAISED: int
    KPROBES_OFF: int
    KPROBES_2_5_26: int
    KPROBES_FIXED: int
    PATH_TRAP: int
    PATH_BOOSTED: int
    PATH_OPTIMIZED: int
    KERNEL_NONE: int
    SCHEDULE_QUANTUM: int
    SCHEDULE_SEED: int
    SCHEDULE_LIST: int
    KERNEL_BUILTIN: int
    CPU_386: int
    CPU_486: int
    CPU_PENTIUM: int
    CPU_PPRO: int
    CPU_P3: int
    CPU_P4: int
    MAP_WRITE: int
    MAP_USER: int
    PROBE_PRE: int
    PROBE_POST: int
    PROBE_FAULT: int
    pykprobes_callback: Any
    pykprobes_pre: Any

    def machine_create(self, config: Any) -> Machine: ...
    def machine_destroy(self, m: Machine) -> None: ...
    def machine_run(self, m: Machine, slice: int) -> int: ...
    def machine_stop_info(self, m: Machine) -> StopInfo: ...
    def machine_set_until(self, m: Machine, set: int, eip: int) -> None: ...
    def machine_focus(self, m: Machine, cpu: int) -> int: ...
    def machine_current(self, m: Machine) -> int: ...
    def machine_cpu_info(self, m: Machine, cpu: int, ret: CpuInfo) -> None: ...
    def machine_park(self, m: Machine, cpu: int) -> None: ...
    def machine_set_schedule(self, m: Machine, kind: int, value: int, turns: Any, count: int) -> int: ...
    def machine_trace_schedule(self, m: Machine, steps: Any, room: int) -> None: ...
    def machine_schedule_traced(self, m: Machine) -> int: ...
    def machine_icount(self, m: Machine) -> int: ...
    def machine_interrupt(self, m: Machine, cpu: int, vector: int) -> int: ...
    def machine_set_intr(self, m: Machine, level: int, served: int) -> None: ...
    def machine_nmi(self, m: Machine, cpu: int) -> None: ...
    def machine_set_timer(self, m: Machine, vector: int, period: int) -> None: ...
    def machine_nest_begin(self, m: Machine) -> int: ...
    def machine_nest_end(self, m: Machine) -> None: ...
    def machine_ask_stop(self, m: Machine) -> None: ...
    def machine_take_stop(self, m: Machine) -> int: ...
    def machine_snapshot(self, m: Machine) -> Snapshot: ...
    def snapshot_destroy(self, s: Snapshot) -> None: ...
    def machine_restore(self, m: Machine, s: Snapshot, hits: int) -> int: ...
    def machine_clone(self, s: Snapshot, config: MachineConfig) -> Machine: ...
    def machine_withdraw_probes(self, m: Machine, s: Snapshot) -> None: ...
    def snapshot_probe(self, s: Snapshot, i: int, ret: Any) -> int: ...
    def snapshot_hit(self, s: Snapshot, i: int, ret: Any) -> int: ...
    def snapshot_pages(self, s: Snapshot, frames: Any, flags: Any, room: int) -> int: ...
    def snapshot_bytes(self, s: Snapshot, frames: Any, count: int, ret: Any) -> None: ...
    def snapshot_cpu(self, s: Snapshot, cpu: int, ret: Any) -> None: ...
    def snapshot_board(self, s: Snapshot, ret: Any, pool: Any, room: int) -> None: ...
    def snapshot_pc(self, s: Snapshot, ret: Any, typed: Any, room: int) -> None: ...
    def pc_state_valid(self, state: Any) -> int: ...
    def golden_create(self, s: Snapshot, setup: Any, limit: int, error: Any, stop: Any) -> Golden: ...
    def golden_destroy(self, g: Golden) -> None: ...
    def golden_length(self, g: Golden) -> int: ...
    def golden_checkpoints(self, g: Golden) -> int: ...
    def golden_output(self, g: Golden, ret: Any, room: int) -> int: ...
    def golden_trace(self, g: Golden, events: Any, room: int) -> int: ...
    def injector_create(self, g: Golden) -> Any: ...
    def injector_destroy(self, injector: Any) -> None: ...
    def injector_run(self, injector: Any, limits: Any, faults: Any, starts: Any, count: int, results: Any) -> int: ...
    def injector_replay(self, injector: Any, limits: Any, faults: Any, count: int, result: Any) -> Snapshot: ...
    def snapshot_load(
        self,
        config: MachineConfig,
        frames: Any,
        flags: Any,
        count: int,
        bytes: Any,
        cpus: Any,
        board: Any,
        pool: Any,
        pc: Any,
        typed: Any,
    ) -> Snapshot: ...
    def machine_get_reg(self, m: Machine, id: int) -> int: ...
    def machine_set_reg(self, m: Machine, id: int, value: int) -> int: ...
    def machine_get_segment(self, m: Machine, id: int, ret: Any) -> None: ...
    def machine_set_segment(self, m: Machine, id: int, state: Any) -> int: ...
    def machine_load_rom(self, m: Machine, data: object, size: int) -> int: ...
    def machine_get_fpu(self, m: Machine, ret: FpuState) -> None: ...
    def machine_set_fpu(self, m: Machine, state: FpuState) -> None: ...
    def machine_get_sse(self, m: Machine, ret: SseState) -> int: ...
    def machine_set_sse(self, m: Machine, state: SseState) -> int: ...
    def machine_peek(self, m: Machine, lin: int, buf: object, size: int) -> int: ...
    def machine_poke(self, m: Machine, lin: int, buf: object, size: int) -> int: ...
    def machine_map(self, m: Machine, lin: int, size: int, rights: int) -> int: ...
    def machine_unmap(self, m: Machine, lin: int, size: int) -> int: ...
    def machine_mapping(self, m: Machine, lin: int) -> int: ...
    def machine_kernel_layout(self, m: Machine) -> KernelLayout: ...
    def machine_claim_trap(self, m: Machine, vector: int, on: int) -> None: ...
    def machine_frame(self, m: Machine) -> Frame: ...
    def machine_fetch(self, m: Machine, program: FieldOp, ret: Any) -> int: ...
    def machine_fetch_string(self, m: Machine, lin: int, buf: Any, max: int) -> int: ...
    def field_check(self, program: FieldOp, n: int) -> int: ...
    def ring_copy(self, r: Ring, first: int, end: int, out: Any) -> int: ...
    def ring_give(self, r: Ring, data: Any) -> None: ...
    def action_prepare(self, a: Action) -> None: ...
    def machine_claim(self, m: Machine, kind: int, first: int, last: int, id: int) -> int: ...
    def machine_release(self, m: Machine, kind: int, id: int) -> None: ...
    def machine_access(self, m: Machine) -> DeviceAccess: ...
    def machine_watch(
        self, m: Machine, first: int, last: int, kinds: int, id: int, python: int, actions: Any
    ) -> int: ...
    def machine_watch_hits(self, m: Machine, id: int) -> int: ...
    def machine_unwatch(self, m: Machine, id: int) -> None: ...
    def machine_watch_event(self, m: Machine) -> WatchEvent: ...
    def machine_console_feed(self, m: Machine, data: Any, size: int) -> int: ...
    def machine_console_fetch(self, m: Machine, data: Any, size: int) -> int: ...
    def machine_board_time(self, m: Machine) -> int: ...
    def machine_unclaimed(self, m: Machine, write: int) -> Any: ...
    def machine_build(self) -> Any: ...
    def kprobe_register(self, m: Machine, addr: int, handlers: int, actions: Any) -> int: ...
    def kprobe_unregister(self, m: Machine, id: int) -> int: ...
    def kretprobe_create(
        self, m: Machine, maxactive: int, actions: Any, kept: Any, kept_count: int, python: int
    ) -> int: ...
    def kretprobe_bind(self, m: Machine, id: int, kprobe: int) -> None: ...
    def kretprobe_destroy(self, m: Machine, id: int) -> None: ...
    def kretprobe_stats(self, m: Machine, id: int) -> KretprobeStats: ...
    def kretprobe_ready(self, m: Machine, id: int) -> int: ...
    def kretprobe_enter(self, m: Machine, id: int, probe: int) -> int: ...
    def kretprobe_returning(self, m: Machine) -> KretprobeInstance: ...
    def kprobe_enable(self, m: Machine, id: int, on: int) -> int: ...
    def kprobe_stats(self, m: Machine, id: int) -> KprobeStats: ...
    def kprobe_saved_opcode(self, m: Machine, id: int) -> int: ...
    def kprobe_path(self, m: Machine, id: int) -> int: ...
    def kprobe_hash(self, addr: int) -> int: ...
    def kprobe_occupancy(self, m: Machine, counts: Any) -> None: ...
    def kprobe_get_state(self, m: Machine, ret: Any) -> None: ...

ffi: _FFI
lib: _Lib
