"""Linux kernel images: the bzImage's header (Documentation/arch/x86/boot.rst of the kernel) and what it packs."""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ..elf import MAGIC, Elf

HEADER_AT, HEADER_MAGIC, BOOT_FLAG = 0x1F1, b"HdrS", 0xAA55
JUMP_AT = 0x201  # the offset byte of the jump over the header: where it ends
SECTOR, SETUP_SECTORS = 512, 4
PAYLOAD_VERSION = 0x0208  # of the protocol: from here on the header says where the packed kernel is
LOADED_HIGH = 0x01
UNPACKED_MAX = 1 << 28
CLASS_64 = 2
COMMAND_LINE_MAX = 2047


def _zstd(data: bytes) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise ValueError(
            "the kernel is packed with zstd: pip install zstandard, or load it with unpack='guest'"
        ) from None
    return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(data))


def _lz4(data: bytes) -> bytes:
    """The legacy frame: blocks of at most 8 MiB, each behind its size."""
    try:
        from lz4 import block
    except ImportError:
        raise ValueError("the kernel is packed with lz4: pip install lz4, or load it with unpack='guest'") from None
    unpacked, at = bytearray(), 4
    while at + 8 <= len(data):  # the last word is the kernel's size
        size = int.from_bytes(data[at : at + 4], "little")
        unpacked += block.decompress(data[at + 4 : at + 4 + size], uncompressed_size=8 << 20)
        at += 4 + size
    return bytes(unpacked)


UNPACKERS: dict[bytes, tuple[str, Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": ("gzip", lambda data: zlib.decompressobj(31).decompress(data, UNPACKED_MAX)),
    b"BZh": ("bzip2", lambda data: bz2.BZ2Decompressor().decompress(data, UNPACKED_MAX)),
    b"\xfd7zXZ\0": ("xz", lambda data: lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data, UNPACKED_MAX)),
    b"\x5d\0\0": ("lzma", lambda data: lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(data, UNPACKED_MAX)),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
    b"\x02\x21\x4c\x18": ("lz4", _lz4),
}
ERRORS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class KernelImage:
    """A kernel as a boot loader sees it: a bzImage, or an unpacked vmlinux, which has no header of its own."""

    name: str
    data: bytes

    def __post_init__(self) -> None:
        if self.data[:4] == MAGIC:
            if self.data[4:5] == bytes([CLASS_64]):
                raise ValueError(f"{self.name} is a 64-bit kernel: the machine has an i386")
            return
        if len(self.data) < 0x260 or self.data[0x202:0x206] != HEADER_MAGIC or self._u16(0x1FE) != BOOT_FLAG:
            raise ValueError(
                f"{self.name} is no Linux kernel: it has neither a bzImage's header nor that of an ELF file"
            )
        if not self.data[0x211] & LOADED_HIGH:
            raise ValueError(f"{self.name} is a zImage: only bzImages are loaded")
        if self.kernel_at >= len(self.data):
            raise ValueError(f"{self.name} is truncated: its protected-mode part is missing")

    def _u16(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 2], "little")

    def _u32(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 4], "little")

    @property
    def packed(self) -> bool:
        """Is it a bzImage?"""
        return self.data[:4] != MAGIC

    @property
    def protocol(self) -> int:
        """The boot protocol's version, as 0x020F for 2.15."""
        return self._u16(0x206) if self.packed else 0x020C

    @property
    def kernel_at(self) -> int:
        """Where the protected-mode part begins in the file."""
        return ((self.data[HEADER_AT] or SETUP_SECTORS) + 1) * SECTOR

    @property
    def header(self) -> bytes:
        """The setup header, from 1F1h on; what an unpacked kernel looks at, for one that has none."""
        if self.packed:
            return self.data[HEADER_AT : 0x202 + self.data[JUMP_AT]]
        header = bytearray(0x268 - HEADER_AT)
        struct.pack_into("<H", header, 0x1FE - HEADER_AT, BOOT_FLAG)
        header[0x202 - HEADER_AT : 0x206 - HEADER_AT] = HEADER_MAGIC
        struct.pack_into("<H", header, 0x206 - HEADER_AT, self.protocol)
        header[0x211 - HEADER_AT] = LOADED_HIGH
        return bytes(header)

    @property
    def version(self) -> str:
        """What the kernel says of itself, as "6.1.0-50-686 (...) #1 SMP ..."; empty where it says nothing."""
        if not self.packed:
            found = self.vmlinux.find(b"Linux version ")
            return self.vmlinux[found + 14 : found + 300].split(b"\n")[0].decode("latin-1") if found >= 0 else ""
        at = self._u16(0x20E) + SECTOR
        return self.data[at : at + 200].split(b"\0")[0].decode("latin-1") if self._u16(0x20E) else ""

    @property
    def command_line_max(self) -> int:
        """Bytes that a command line may have."""
        return (self._u32(0x238) if self.packed and self.protocol >= 0x0206 else 0) or COMMAND_LINE_MAX

    @property
    def initrd_max(self) -> int:
        """The highest address that an initrd may fill."""
        return (self._u32(0x22C) if self.packed and self.protocol >= 0x0203 else 0) or 0x37FFFFFF

    @cached_property
    def vmlinux(self) -> bytes:
        """The unpacked kernel, an ELF file. ValueError when it cannot be unpacked here."""
        if not self.packed:
            return self.data
        if self.protocol < PAYLOAD_VERSION:
            raise ValueError(f"{self.name} does not say where its packed kernel is: load it with unpack='guest'")
        start = self.kernel_at + self._u32(0x248)
        payload = self.data[start : start + self._u32(0x24C)]
        if not payload or len(payload) < self._u32(0x24C):
            raise ValueError(f"{self.name} is truncated: its packed kernel is missing or cut off")
        for magic, (method, unpack) in UNPACKERS.items():
            if payload.startswith(magic):
                return self._unpack(method, unpack, payload)
        raise ValueError(f"{self.name} is packed in a way not known here ({payload[:4].hex(' ')}): use unpack='guest'")

    def _unpack(self, method: str, unpack: Callable[[bytes], bytes], payload: bytes) -> bytes:
        try:
            unpacked = unpack(payload)
        except ERRORS as error:
            raise ValueError(f"{self.name}: its kernel, packed with {method}, is damaged: {error}") from error
        if unpacked[:4] != MAGIC:
            raise ValueError(f"{self.name}: what is packed in it is no ELF file")
        if unpacked[4:5] == bytes([CLASS_64]):
            raise ValueError(f"{self.name} is a 64-bit kernel: the machine has an i386")
        return unpacked

    @cached_property
    def elf(self) -> Elf:
        """The unpacked kernel's segments and symbols."""
        return Elf(self.vmlinux, self.name)
