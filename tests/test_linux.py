"""Debian's i386 kernel boots to a shell, and is probed."""

import hashlib

import pytest

from pykprobes import Count, Machine, MachineFault, Record, StopReason
from pykprobes.linux import kallsyms
from pykprobes.linux.console import PROMPT
from pykprobes.linux.initramfs import executable
from pykprobes.linux.kernelimage import KernelImage
from pykprobes.pc import QUICK

from .linux_guest import guest_files, shell_files

MEMORY = 96 << 20


@pytest.fixture(scope="module")
def kernel():
    return guest_files()[0]


@pytest.fixture(scope="module")
def booted(kernel):
    with Machine(board="pc", memory=MEMORY) as m:
        m.boot(kernel, initrd=shell_files())
        yield m


def test_a_shell_answers(booted):
    assert "Linux" in booted.console.run("uname -a")
    assert booted.console.run("echo $((6 * 7))").strip() == "42"


def test_a_program_computes_what_it_does_on_the_host(booted):
    expected = hashlib.sha256(guest_files()[1].read_bytes()).hexdigest()
    assert booted.console.run("sha256sum /bin/busybox").split()[0] == expected


def test_time_passes_while_the_guest_sleeps(booted):
    before = booted.icount
    text = booted.console.run("cat /proc/uptime; sleep 100; cat /proc/uptime")
    first, second = (float(line.split()[0]) for line in text.splitlines() if line[:1].isdigit())
    assert 100 <= second - first < 101
    assert booted.icount - before < 100 * booted.pc.clock / 10


def test_the_guests_clock_is_the_boards(booted):
    assert "Mon Jul 29 12:" in booted.console.run("date")


def test_symbols_of_the_kernels_own_table(booted):
    assert booted.symbols.nearest(booted.symbols["vfs_read"] + 5) == ("vfs_read", 5)
    listed = booted.console.run("grep -w -e vfs_read -e do_sys_openat2 /proc/kallsyms")
    for symbol in kallsyms.from_text(listed):
        assert booted.symbols[symbol.name] == symbol.address


def test_probes_see_what_is_opened(booted):
    opened = []

    @booted.kprobe("do_sys_openat2")
    def on_open(probe, regs):
        opened.append(booted.memory.read(regs.edx, 64).split(b"\0")[0])

    reads = booted.kprobe("vfs_read", action=Count())
    booted.console.run("cat /init > /tmp/copy")
    booted.unregister_kprobes([on_open, reads])
    assert b"/init" in opened and b"/tmp/copy" in opened
    assert reads.hits >= 2


def test_two_boots_are_the_same(kernel):
    def boot():
        with Machine(board="pc", memory=MEMORY) as m:
            m.load_linux(kernel, initrd=shell_files(), cmdline=QUICK)
            m.run(max_instructions=150_000_000)
            return m.icount, m.console.read(), m.regs.eip, hashlib.sha256(m.memory.read(0xC1000000, 16 << 20)).digest()

    assert boot() == boot()


def test_the_guest_unpacks_itself(kernel):
    with Machine(board="pc", memory=MEMORY) as m:
        m.load_linux(kernel, cmdline=QUICK + " earlyprintk=ttyS0", unpack="guest")
        m.console.expect(rb"Linux version .*\n", 8_000_000_000)
        assert m.symbols["start_kernel"] == m.symbols.lookup("start_kernel").address


def test_a_panic_is_a_reset_with_the_last_lines(kernel):
    with Machine(board="pc", memory=MEMORY) as m:
        m.load_linux(kernel, initrd={"init": executable("#!/none\n")}, cmdline=QUICK)
        with pytest.raises(MachineFault, match="Kernel panic") as fault:
            m.console.expect(b"no such text")
        assert fault.value.stop.reason in (StopReason.RESET, StopReason.SHUTDOWN)


# What cannot be loaded


def test_images_that_are_none(kernel):
    data = kernel.read_bytes()
    for bad, why in (
        (b"", "no Linux kernel"),
        (b"\x7fELF\x02" + bytes(100), "64-bit"),
        (data[:0x400], "truncated"),
        (data[: len(data) // 2], "truncated"),
        (data[:0x100000] + bytes(0x1000) + data[0x101000:], "damaged"),
        (b"MZ" + bytes(4000), "no Linux kernel"),
    ):
        with Machine(board="pc", memory=MEMORY) as m:
            with pytest.raises(ValueError, match=why):
                m.load_linux(bad)
            assert m.regs.eip == 0xFFF0 and len(m.symbols) == 0


def test_what_does_not_fit(kernel):
    with Machine(board="pc", memory=MEMORY) as m:
        with pytest.raises(ValueError, match="command line has"):
            m.load_linux(kernel, cmdline="x" * 3000)
        with pytest.raises(ValueError, match="initrd of"):
            m.load_linux(kernel, initrd=bytes(90 << 20))
        with pytest.raises(ValueError, match="unpack="):
            m.load_linux(kernel, unpack="never")
        with pytest.raises(ValueError, match="regular expression"):
            m.console.expect(b"(")
        with pytest.raises(TypeError, match="bytes"):
            m.console.expect("text")
    with Machine(board="pc", memory=8 << 20) as m, pytest.raises(ValueError, match="MiB of memory"):
        m.load_linux(kernel)
    with Machine() as m, pytest.raises(RuntimeError, match="board="):
        m.load_linux(kernel)


def test_a_booted_machine_is_not_loaded_again(booted, kernel):
    with pytest.raises(ValueError, match="booted already"):
        booted.load_linux(kernel)


def test_an_idle_guest_is_not_waited_for_forever(booted):
    with pytest.raises(TimeoutError, match="no b'never'"):
        booted.console.expect(b"never", 2_000_000)


@pytest.mark.parametrize("method", ["gzip", "bzip2", "lzma", "xz"])
def test_other_ways_of_packing(kernel, method):
    import bz2
    import gzip
    import lzma

    pack = {
        "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress,
        "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    }  # fmt: skip
    image = KernelImage("vmlinuz", kernel.read_bytes())
    small = image.vmlinux[: 1 << 16]
    payload = pack[method](small) + len(small).to_bytes(4, "little")
    head = bytearray(image.data[: image.kernel_at])
    head[0x248:0x250] = (16).to_bytes(4, "little") + len(payload).to_bytes(4, "little")
    assert KernelImage(method, bytes(head) + bytes(16) + payload).vmlinux == small


# Probes that the guest cannot see


def test_probes_wait_for_a_kernel_that_is_not_mapped_yet(kernel):
    with Machine(board="pc", memory=MEMORY) as m:
        m.load_linux(kernel, initrd=shell_files(), cmdline=QUICK)
        start = m.kprobe("start_kernel", action=Count())
        opened = Record("name=+0(%dx):ustring")
        m.kprobe("do_sys_openat2", action=opened)
        assert start.waiting and "waits for its memory" in repr(start)
        m.console.expect(PROMPT)
        assert start.hits == 1 and not start.waiting
        assert b"/dev/ttyS0" in set(opened.drain()["name"])


def test_no_byte_of_the_guest_changes(booted):
    at = booted.symbols["vfs_read"]
    before = booted.memory.read(at, 64)
    probe = booted.kprobe("vfs_read", action=Count())
    assert booted.memory.read(at, 64) == before
    booted.console.run("cat /init")
    assert probe.hits >= 1
    booted.unregister_kprobe(probe)


def test_the_guests_own_kprobes_at_the_same_places_count_the_same(booted):
    """On instructions of vfs_read: its int3 and single steps meet our probes, which are in front of them."""
    symbol = booted.symbols.lookup("vfs_read")
    offsets = [line.address - symbol.address for line in booted.disasm("vfs_read", 12)][1:]
    run = booted.console.run
    run("mount -t tracefs t /sys/kernel/tracing; cd /sys/kernel/tracing")
    for offset in offsets:
        run(f"echo 'p:at{offset} vfs_read+{offset}' >> kprobe_events")
    ours = {offset: booted.kprobe("vfs_read", offset, action=Count()) for offset in offsets}
    stepped = []
    late = booted.kprobe("vfs_read", offsets[3], post_handler=lambda p, regs, flags: stepped.append(regs.eip))
    start = {offset: probe.hits for offset, probe in ours.items()}
    run("echo 1 > events/kprobes/enable")
    between = {offset: probe.hits for offset, probe in ours.items()}
    run("cat /init > /tmp/copy; sha256sum /bin/busybox > /tmp/sum")
    after = {offset: probe.hits for offset, probe in ours.items()}
    run("echo 0 > events/kprobes/enable")
    end = {offset: probe.hits for offset, probe in ours.items()}
    profile = run("cat kprobe_profile")
    theirs = {int(line.split()[0][2:]): int(line.split()[1]) for line in profile.splitlines() if line.strip()}
    booted.unregister_kprobes([*ours.values(), late])
    run("echo > kprobe_events; cd /")
    assert late.hits == len(stepped) > 0
    assert not any(probe.nmissed for probe in ours.values())
    for offset in offsets:
        # Between the commands the shell reads as well, with theirs on or off.
        assert after[offset] - between[offset] <= theirs[offset] <= end[offset] - start[offset]
