"""Debian's libpng (with libz below it) and libturbojpeg: pictures packed and unpacked, the bytes as on the CPU."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

import pytest

from .libraries.sides import GLIBC, Arena, Guest, Native, Side, need_native

WIDTH, HEIGHT = 97, 64
GRAY, RGB, RGBA = 0, 2, 3
CHANNELS = {GRAY: 1, RGB: 3, RGBA: 4}
PNG_IMAGE = struct.Struct("<8I64s")
"""png_image: opaque, version, width, height, format, flags, colormap_entries, warning_or_error, message."""
PNG_SOURCES = ("libz.so.1", "libpng16.so.16")
ROOM = 1 << 16
SAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2, "gray": 3, "4:4:0": 4}
FAST_DCT, ACCURATE_DCT, PROGRESSIVE, FAST_UPSAMPLE = 2048, 4096, 16384, 256


def picture(channels: int) -> bytes:
    """Slopes with noise on them."""
    rng = random.Random(channels)
    slopes = [(3, 5), (1, 2), (7, 1), (0, 4)][:channels]
    places = [(x, y) for y in range(HEIGHT) for x in range(WIDTH)]
    return bytes(a * x + b * y + rng.randrange(20) & 255 for x, y in places for a, b in slopes)


# libpng, by its simplified interface


@pytest.fixture(scope="module")
def png_guest() -> Guest:
    return Guest(*GLIBC, "libm.so.6", *PNG_SOURCES)


@pytest.fixture(scope="module")
def png_native() -> Iterator[Native]:
    need_native()
    side = Native(*PNG_SOURCES)
    yield side
    side.close()


def _image(width: int = 0, height: int = 0, form: int = 0) -> bytes:
    return PNG_IMAGE.pack(0, 1, width, height, form, 0, 0, 0, b"")


def write_png(side: Side, form: int, pixels: bytes) -> bytes:
    arena = Arena(side)
    image, source, target = arena.put(_image(WIDTH, HEIGHT, form)), arena.put(pixels), arena.room(ROOM)
    size = arena.put(struct.pack("<I", ROOM))
    assert side.call("png_image_write_to_memory", image, target, size, 0, source, 0, 0) == 1, side.read(image, 96)
    return side.read(target, struct.unpack("<I", side.read(size, 4))[0])


def read_png(side: Side, form: int, data: bytes) -> bytes:
    arena = Arena(side)
    image, source, target = arena.put(_image()), arena.put(data), arena.room(ROOM)
    assert side.call("png_image_begin_read_from_memory", image, source, len(data)) == 1
    fields = list(PNG_IMAGE.unpack(side.read(image, PNG_IMAGE.size)))
    assert fields[2:4] == [WIDTH, HEIGHT]
    fields[4] = form
    side.write(image, PNG_IMAGE.pack(*fields))
    background = arena.put(b"\x20\x40\x60")
    assert side.call("png_image_finish_read", image, background, target, 0, 0) == 1
    return side.read(target, WIDTH * HEIGHT * CHANNELS[form])


@pytest.mark.parametrize("form", CHANNELS)
def test_png(png_guest: Guest, png_native: Native, form: int) -> None:
    pixels = picture(CHANNELS[form])
    data = write_png(png_guest, form, pixels)
    assert data == write_png(png_native, form, pixels)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    for other in CHANNELS:
        # gamma and alpha are computed where the forms differ
        read = read_png(png_guest, other, data)
        assert read == read_png(png_native, other, data)
        assert read == pixels or other != form


def test_a_damaged_png_is_an_error_by_long_jump(png_guest: Guest, png_native: Native) -> None:
    """libpng reports errors by longjmp, through frames of three libraries."""
    data = bytearray(write_png(png_guest, RGB, picture(3)))
    data[100] ^= 0x55
    messages = []
    for side in (png_guest, png_native):
        arena = Arena(side)
        image, source, target = arena.put(_image()), arena.put(bytes(data)), arena.room(ROOM)
        assert side.call("png_image_begin_read_from_memory", image, source, len(data)) == 1
        assert side.call("png_image_finish_read", image, 0, target, 0, 0) == 0
        messages.append(PNG_IMAGE.unpack(side.read(image, PNG_IMAGE.size))[7:])
    assert messages[0] == messages[1] and messages[0][1].strip(b"\0")


def test_png_rows_unpack_with_pythons_zlib(png_guest: Guest) -> None:
    data, at, rows = write_png(png_guest, GRAY, picture(1)), 8, b""
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        assert struct.unpack_from(">I", data, at + 8 + size)[0] == zlib.crc32(data[at + 4 : at + 8 + size])
        rows += data[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += 12 + size
    assert len(zlib.decompress(rows)) == HEIGHT * (WIDTH + 1)


# libturbojpeg


@pytest.fixture(scope="module", params=["ppro", "p3", "p4"])
def jpeg_guest(request: pytest.FixtureRequest) -> Guest:
    """The library has code of its own for MMX, SSE and SSE2, and asks CPUID which there is."""
    return Guest(*GLIBC, "libturbojpeg.so.0", cpu=request.param)


@pytest.fixture(scope="module")
def jpeg_native() -> Iterator[Native]:
    need_native()
    side = Native("libturbojpeg.so.0")
    yield side
    side.close()


def write_jpeg(side: Side, pixels: bytes, sampling: int, quality: int, flags: int) -> bytes:
    arena = Arena(side)
    source, target, size = arena.put(pixels), arena.put(bytes(4)), arena.put(bytes(4))
    handle = side.call("tjInitCompress")
    shape = (WIDTH, 0, HEIGHT, 0)
    assert side.call("tjCompress2", handle, source, *shape, target, size, sampling, quality, flags) == 0
    address, length = (struct.unpack("<I", side.read(word, 4))[0] for word in (target, size))
    data = side.read(address, length)
    side.call("tjFree", address)
    side.call("tjDestroy", handle)
    return data


def read_jpeg(side: Side, data: bytes, flags: int) -> bytes:
    arena = Arena(side)
    source, target = arena.put(data), arena.room(3 * WIDTH * HEIGHT)
    handle = side.call("tjInitDecompress")
    assert side.call("tjDecompress2", handle, source, len(data), target, WIDTH, 0, HEIGHT, 0, flags) == 0
    side.call("tjDestroy", handle)
    return side.read(target, 3 * WIDTH * HEIGHT)


@pytest.mark.parametrize("flags", [0, FAST_DCT, ACCURATE_DCT, PROGRESSIVE | FAST_UPSAMPLE])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_jpeg(jpeg_guest: Guest, jpeg_native: Native, sampling: str, flags: int) -> None:
    pixels = picture(3)
    for quality in (15, 90):
        data = write_jpeg(jpeg_guest, pixels, SAMPLINGS[sampling], quality, flags)
        assert data == write_jpeg(jpeg_native, pixels, SAMPLINGS[sampling], quality, flags)
        assert data[:3] == b"\xff\xd8\xff"
        unpacked = read_jpeg(jpeg_guest, data, flags)
        assert unpacked == read_jpeg(jpeg_native, data, flags)
    if sampling == "4:4:4":
        assert sum(abs(a - b) for a, b in zip(unpacked, pixels, strict=True)) < 6 * len(pixels)
