"""The board of a PC: each device as its data sheet says, seen from the guest's IN and OUT."""

import itertools
from datetime import UTC, datetime

import pytest

from pykprobes import Machine, StopReason
from pykprobes.pc import Pc

CODE = 0x500
OUT, IN = 0x500, 0x510
HANDLERS = 0x600
PIT_HZ = 1193182


class Board:
    """A machine with the board, whose ports a test uses as the guest would."""

    def __init__(self, **settings):
        self.m = Machine(board=Pc(**settings) if settings else "pc", memory=4 << 20)
        self.m.memory.write(OUT, b"\xee")  # out dx, al
        self.m.memory.write(IN, b"\xec")  # in al, dx
        self.m.regs.cs = 0

    def access(self, port, code, value=0):
        """One instruction, with interrupts off."""
        regs = self.m.regs
        flags, regs.eflags = regs.eflags, regs.eflags & ~0x200
        regs.eax, regs.edx, regs.eip = value, port, code
        assert self.m.step().reason is StopReason.LIMIT
        regs.eflags = flags
        return regs.al

    def out(self, port, *values):
        for value in values:
            self.access(port, OUT, value)

    def inb(self, port):
        return self.access(port, IN)

    def pass_time(self, instructions):
        """Run a loop that does nothing."""
        self.m.memory.write(CODE + 0x20, b"\xeb\xfe")
        self.m.regs.eip = CODE + 0x20
        self.m.run(max_instructions=instructions)

    def init_pics(self, mask1=0, mask2=0, **icw):
        for base, vector, third in ((0x20, 0x20, 4), (0xA0, 0x28, 2)):
            self.out(base, icw.get("icw1", 0x11))
            self.out(base + 1, vector, third, icw.get("icw4", 1))
        self.out(0x21, mask1)
        self.out(0xA1, mask2)

    def count_vectors(self, *vectors, end=b"\xb0\x20\xe6\xa0\xe6\x20"):
        """Handlers that count their vector at 800h + vector * 4, then end the interrupt; interrupts on."""
        for i, vector in enumerate(vectors):
            at = HANDLERS + 32 * i
            counter = (0x800 + 4 * vector).to_bytes(2, "little")
            code = b"\x50\x66\xff\x06" + counter + end + b"\x58\xcf"  # push ax; inc dword; eoi; pop ax; iret
            self.m.memory.write(at, code)
            self.m.memory.write(4 * vector, at.to_bytes(4, "little"))
        self.m.regs.ss, self.m.regs.esp = 0, 0x7000
        self.m.regs.eflags |= 0x200

    def counted(self, vector):
        return self.m.memory.u32(0x800 + 4 * vector)

    def request(self, irq=4):
        """Let the serial port ask: its transmitter is empty."""
        assert irq == 4
        self.out(0x3FC, 0x08)
        self.out(0x3F9, 0x00, 0x02)


@pytest.fixture
def board():
    made = Board()
    yield made
    made.m.close()


# The 8259As


def test_masks_read_back_and_registers_are_chosen(board):
    board.init_pics(0xA5, 0x5A)
    assert (board.inb(0x21), board.inb(0xA1)) == (0xA5, 0x5A)
    board.request()
    board.out(0x20, 0x0A)
    assert board.inb(0x20) == 0x10 | board.inb(0x20) & 0x01  # IRR: the serial port's input 4
    board.out(0x20, 0x0B)
    assert board.inb(0x20) == 0  # ISR: nothing is in service


def test_an_interrupt_in_service_holds_back_lower_ones(board):
    board.init_pics(0xEF, 0xFF)
    board.count_vectors(0x24, end=b"")  # no end of interrupt
    board.request()
    board.pass_time(100)
    assert board.counted(0x24) == 1
    board.out(0x20, 0x0B)
    assert board.inb(0x20) == 0x10
    board.request()
    board.pass_time(100)
    assert board.counted(0x24) == 1
    board.out(0x20, 0x64)  # specific end of interrupt 4
    board.request()
    board.pass_time(100)
    assert board.counted(0x24) == 2


def test_automatic_end_of_interrupt(board):
    board.init_pics(0xEF, 0xFF, icw4=3)
    board.count_vectors(0x24, end=b"")
    for times in (1, 2, 3):
        board.request()
        board.pass_time(100)
        assert board.counted(0x24) == times


def test_poll_command_acknowledges(board):
    board.init_pics(0xEF, 0xFF)
    board.request()
    board.out(0x20, 0x0C)
    assert board.inb(0x20) == 0x84
    board.out(0x20, 0x0C)
    assert board.inb(0x20) == 0
    board.out(0x20, 0x0B)
    assert board.inb(0x20) == 0x10


def test_rotation_moves_the_lowest_priority(board):
    """With input 4 lowest, input 0 comes before it; the timer's request is taken while 4 is in service."""
    board.init_pics(0xEE, 0xFF)
    board.count_vectors(0x20, 0x24, end=b"")
    board.out(0x20, 0xC0)  # input 0 is the lowest now
    board.out(0x43, 0x30)
    board.out(0x40, 1, 0)  # a count of 1: the timer asks soon
    board.pass_time(2000)
    assert board.counted(0x20) == 1
    board.request()
    board.pass_time(100)
    assert board.counted(0x24) == 1


def test_a_masked_request_waits(board):
    board.init_pics(0xFF, 0xFF)
    board.count_vectors(0x24)
    board.request()
    board.pass_time(1000)
    assert board.counted(0x24) == 0
    board.out(0x21, 0xEF)
    board.pass_time(100)
    assert board.counted(0x24) == 1


# The 8254


@pytest.mark.parametrize("clock", [1_193_182, 100_000_000, 300_000_000])
def test_the_timer_interrupts_at_its_rate(clock):
    board = Board(clock=clock)
    board.out(0x43, 0x34)
    count = 1000
    board.out(0x40, count & 0xFF, count >> 8)
    board.init_pics(0xFE, 0xFF)
    board.count_vectors(0x20)
    instructions = 20 * count * clock // PIT_HZ
    board.pass_time(instructions)
    assert board.counted(0x20) in (19, 20)


def test_halt_passes_time_at_once(board):
    board.init_pics(0xFE, 0xFF)
    board.count_vectors(0x20)
    board.out(0x43, 0x34)
    board.out(0x40, 0, 0)  # 65,536: 18.2 a second
    board.m.memory.write(CODE + 0x40, b"\xf4\xeb\xfd")  # hlt; jmp
    board.m.regs.eip = CODE + 0x40
    board.m.run(max_instructions=2000)
    assert board.counted(0x20) > 100


def test_halt_without_an_event_ends_the_run(board):
    board.init_pics(0xFF, 0xFF)
    board.m.memory.write(CODE + 0x40, b"\xf4")
    board.m.regs.eip = CODE + 0x40
    board.m.regs.eflags |= 0x200
    assert board.m.run(max_instructions=1000).reason is StopReason.HALT


@pytest.mark.parametrize("mode", [0, 2, 3, 4])
def test_a_counter_goes_down_with_time(board, mode):
    board.out(0x61, 1)
    board.out(0x43, 0xB0 | mode << 1)
    board.out(0x42, 0xFF, 0xFF)
    seen = []
    for _ in range(3):
        board.out(0x43, 0x80)
        seen.append(board.inb(0x42) | board.inb(0x42) << 8)
        board.pass_time(10_000)
    step = 10_000 * PIT_HZ // 100_000_000 * (2 if mode == 3 else 1)
    assert seen[0] > seen[1] > seen[2]
    assert all(abs(a - b - step) <= 4 for a, b in itertools.pairwise(seen))


def test_mode_0_output_rises_at_the_end(board):
    board.out(0x61, 1)
    board.out(0x43, 0xB0)
    board.out(0x42, 200, 0)
    assert not board.inb(0x61) & 0x20
    board.pass_time(200 * 100_000_000 // PIT_HZ + 200)
    assert board.inb(0x61) & 0x20


def test_the_gate_stops_counter_2(board):
    board.out(0x61, 1)
    board.out(0x43, 0xB0)
    board.out(0x42, 0, 0x80)
    board.out(0x61, 0)
    board.out(0x43, 0x80)
    stopped = board.inb(0x42) | board.inb(0x42) << 8
    board.pass_time(50_000)
    board.out(0x43, 0x80)
    assert board.inb(0x42) | board.inb(0x42) << 8 == stopped
    board.out(0x61, 1)
    board.pass_time(50_000)
    board.out(0x43, 0x80)
    assert board.inb(0x42) | board.inb(0x42) << 8 < stopped


def test_read_back_gives_status_then_count(board):
    board.out(0x61, 1)
    board.out(0x43, 0xB4)
    board.out(0x43, 0xE8)  # status of counter 2, which has no count yet
    assert board.inb(0x42) == 0x80 | 0x40 | 0x30 | 2 << 1
    board.out(0x42, 0x34, 0x12)
    board.out(0x43, 0xC8)
    assert board.inb(0x42) == 0x80 | 0x30 | 2 << 1
    low, high = board.inb(0x42), board.inb(0x42)
    assert 0x1234 - 20 < low | high << 8 <= 0x1234


def test_bcd_counts(board):
    board.out(0x61, 1)
    board.out(0x43, 0xB1)
    board.out(0x42, 0x00, 0x10)  # 1,000
    board.pass_time(10 * 100_000_000 // PIT_HZ)
    board.out(0x43, 0x80)
    low, high = board.inb(0x42), board.inb(0x42)
    assert (high == 0x09 and low >> 4 == 8) or (high, low >> 4) == (0x09, 9)


# The serial port


def test_the_console_gets_what_is_sent(board):
    board.out(0x3F8, *b"hello\n")
    assert board.m.console.read() == b"hello\n"
    assert board.m.console.read() == b""


def test_typed_bytes_come_in_order_through_the_fifo(board):
    text = bytes(range(100))
    board.out(0x3FA, 0x01)
    board.m.console.write(text)
    assert board.inb(0x3FD) & 1
    assert bytes(board.inb(0x3F8) for _ in text) == text
    assert not board.inb(0x3FD) & 1


def test_interrupt_identification_has_priorities(board):
    board.out(0x3FA, 0x01)
    board.out(0x3F9, 0x03)
    board.m.console.write(b"x")
    assert board.inb(0x3FA) == 0xC4
    assert board.inb(0x3F8) == ord("x")
    assert board.inb(0x3FA) == 0xC2
    assert board.inb(0x3FA) == 0xC1  # reading it took the transmitter's interrupt away


def test_loopback_and_modem_status(board):
    board.out(0x3FC, 0x10)
    board.inb(0x3FE)
    board.out(0x3FC, 0x1A)
    assert board.inb(0x3FE) == 0x90 | 0x09  # RTS is CTS, OUT2 is DCD; both changed
    assert board.inb(0x3FE) == 0x90
    board.out(0x3F8, 0x41)
    assert board.inb(0x3F8) == 0x41
    assert board.m.console.read() == b""


def test_divisor_and_scratch(board):
    board.out(0x3FB, 0x83)
    board.out(0x3F8, 0x34)
    board.out(0x3F9, 0x12)
    assert (board.inb(0x3F8), board.inb(0x3F9)) == (0x34, 0x12)
    board.out(0x3FB, 0x03)
    board.out(0x3FF, 0xA7)
    assert board.inb(0x3FF) == 0xA7


def test_overrun_in_loopback_is_reported(board):
    board.out(0x3FC, 0x10)
    board.out(0x3F8, 1, 2)  # without FIFO there is room for one
    assert board.inb(0x3FD) & 3 == 3
    assert board.inb(0x3FD) & 2 == 0
    assert board.inb(0x3F8) == 1


# The clock


def cmos(board, index, value=None):
    board.out(0x70, index)
    if value is None:
        return board.inb(0x71)
    board.out(0x71, value)
    return None


def read_time(board):
    return [cmos(board, index) for index in (0x32, 9, 8, 7, 4, 2, 0)]


def test_the_clock_says_the_date():
    board = Board(clock=1_000_000, date=datetime(2002, 7, 29, 23, 59, 58, tzinfo=UTC))
    assert read_time(board) == [0x20, 0x02, 0x07, 0x29, 0x23, 0x59, 0x58]
    assert cmos(board, 6) == 2  # a Monday
    board.pass_time(2_000_000)
    assert read_time(board) == [0x20, 0x02, 0x07, 0x30, 0x00, 0x00, 0x00]


DATES = [datetime(2000, 2, 29), datetime(1999, 12, 31), datetime(2100, 3, 1), datetime(2024, 2, 28)]


@pytest.mark.parametrize("date", DATES)
def test_dates_round_trip(date):
    board = Board(date=date)
    seen = [(value >> 4) * 10 + (value & 15) for value in read_time(board)[:4]]
    assert seen == [date.year // 100, date.year % 100, date.month, date.day]


def test_setting_the_clock():
    board = Board(clock=1_000_000)
    cmos(board, 0x0B, 0x82)
    for index, value in ((0x32, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x59)):
        cmos(board, index, value)
    cmos(board, 0x0B, 0x02)
    board.pass_time(1_000_001)
    assert read_time(board) == [0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00]


def test_twelve_hours_and_binary(board):
    assert cmos(board, 4) == 0x12
    cmos(board, 0x0B, 0x04)
    assert cmos(board, 4) == 12 | 0x80  # noon, p.m.


@pytest.mark.parametrize(("enable", "flag", "after"), [(0x10, 0x10, 1.0), (0x20, 0x20, 3.0), (0x40, 0x40, 1 / 1024)])
def test_interrupts_of_the_clock(enable, flag, after):
    board = Board(clock=1_000_000)
    board.init_pics(0xFB, 0xFE)
    board.count_vectors(0x28)
    for index, value in ((1, 0x03), (3, 0x00), (5, 0x12)):
        cmos(board, index, value)
    cmos(board, 0x0C)
    cmos(board, 0x0B, 0x02 | enable)
    board.pass_time(int(after * 1_000_000) + 500)
    assert board.counted(0x28) == 1
    board.m.regs.eflags &= ~0x200
    assert cmos(board, 0x0C) & (0x80 | flag) == 0x80 | flag
    assert cmos(board, 0x0C) == 0


def test_cmos_memory_is_kept(board):
    cmos(board, 0x40, 0x5A)
    assert cmos(board, 0x40) == 0x5A


# A20, reset, what is not there


def test_system_control_port_shows_the_a20_gate():
    b = Board()
    for way, on in ((lambda: b.out(0x92, 0), 0), (lambda: (b.out(0x64, 0xD1), b.out(0x60, 0xDF)), 2)) * 2:
        way()
        assert b.inb(0x92) == on


@pytest.mark.parametrize("off", [lambda b: b.out(0x92, 0), lambda b: (b.out(0x64, 0xD1), b.out(0x60, 0xDD))])
def test_a20_wraps_addresses(board, off):
    m = board.m
    m.memory.write_u32(0x100600, 0x11111111)
    m.memory.write_u32(0x000600, 0x22222222)
    m.memory.write(CODE + 0x40, b"\x66\x26\xa1\x10\x06")  # mov eax, es:[0x610], es = FFFFh: 100600h
    m.regs.es = 0xFFFF

    def read():
        m.regs.eip = CODE + 0x40
        m.step()
        return m.regs.eax

    assert read() == 0x11111111
    off(board)
    assert read() == 0x22222222
    board.out(0x92, 2)
    assert read() == 0x11111111


@pytest.mark.parametrize("writes", [[(0x64, 0xFE)], [(0x92, 0x03)], [(0x64, 0xD1), (0x60, 0xDE)]])
def test_reset_is_a_stop(board, writes):
    m = board.m
    for port, value in writes[:-1]:
        board.out(port, value)
    m.regs.edx, m.regs.eax, m.regs.eip = *writes[-1], OUT
    assert m.step().reason is StopReason.RESET
    assert m.regs.eip == OUT


def test_absent_ports_read_ones_and_are_counted(board):
    assert board.inb(0x2E) == 0xFF
    board.out(0xCF8, 0x80)
    board.out(0xCF8, 0x80)
    assert board.m.unclaimed_ports() == {("read", 0x2E): 1, ("write", 0xCF8): 2}


def test_a_device_of_the_users_hides_the_boards(board):
    seen = []
    device = board.m.on_port(range(0x3F8, 0x400), read=lambda port, size: 0x77, write=lambda *args: seen.append(args))
    board.out(0x3F8, 0x41)
    assert board.inb(0x3FD) == 0x77 and seen == [(0x3F8, 1, 0x41)]
    assert board.m.console.read() == b""
    device.remove()
    board.out(0x3F8, 0x42)
    assert board.m.console.read() == b"B"


def test_bad_boards():
    for bad in ("isa", 1):
        with pytest.raises(ValueError, match="board="):
            Machine(board=bad, memory=1 << 20)
    with pytest.raises(ValueError, match="clock="):
        Pc(clock=10)
    with pytest.raises(TypeError, match="datetime"):
        Pc(date="today")
    with Machine(memory=1 << 20) as m, pytest.raises(RuntimeError, match='board="pc"'):
        m.console.read()
