"""Debian's libcrypto: its hashes and ciphers, in assembly for the i386, as Python's hashlib and the CPU have them."""

from __future__ import annotations

import hashlib
import hmac
import random
import struct
from collections.abc import Iterator

import pytest

from .libraries.sides import GLIBC, Arena, Guest, Native, Side, need_native

DATA = random.Random(386).randbytes(100_000)
HASHES = {
    "MD5": 16, "SHA1": 20, "SHA224": 28, "SHA256": 32, "SHA384": 48, "SHA512": 64, "MD4": 16, "RIPEMD160": 20,
    "WHIRLPOOL": 64,
}  # fmt: skip
DIGESTS_OF_HASHLIB = {"sha3-256": "sha3_256", "blake2s256": "blake2s", "blake2b512": "blake2b"}
EVP = (*DIGESTS_OF_HASHLIB, "sha512-256", "md5-sha1", "sm3")
CIPHERS = ("aes-128-cbc", "aes-256-cbc", "aes-192-ctr", "aes-128-gcm", "des-ede3-cbc", "camellia-256-cbc", "chacha20")
ENCRYPT, DECRYPT = 1, 0


@pytest.fixture(scope="module", params=["ppro", "p4"])
def guest(request: pytest.FixtureRequest) -> Guest:
    """The library asks CPUID which of its assembly to use: without and with SSE2."""
    return Guest(*GLIBC, "libcrypto.so.3", cpu=request.param)


@pytest.fixture(scope="module")
def native() -> Iterator[Native]:
    need_native()
    side = Native("libcrypto.so.3")
    yield side
    side.close()


def _hash(side: Side, name: str, data: bytes) -> bytes:
    arena = Arena(side)
    source, target = arena.put(data), arena.room(64)
    assert side.call(name, source, len(data), target) == target
    return side.read(target, HASHES[name])


@pytest.mark.parametrize("size", [0, 1, 55, 64, 119, 1000, len(DATA)])
@pytest.mark.parametrize("name", ["MD5", "SHA1", "SHA224", "SHA256", "SHA384", "SHA512"])
def test_hashes_are_hashlibs(guest: Guest, name: str, size: int) -> None:
    assert _hash(guest, name, DATA[:size]) == hashlib.new(name.lower(), DATA[:size]).digest()


@pytest.mark.parametrize("name", HASHES)
def test_hashes_are_the_cpus(guest: Guest, native: Native, name: str) -> None:
    assert _hash(guest, name, DATA) == _hash(native, name, DATA)


def test_hmac(guest: Guest) -> None:
    arena = Arena(guest)
    key, data, target = arena.put(b"key of some length"), arena.put(DATA[:5000]), arena.room(64)
    sha256 = guest.call("EVP_sha256")
    assert guest.call("HMAC", sha256, key, 18, data, 5000, target, 0) == target
    assert guest.read(target, 32) == hmac.digest(b"key of some length", DATA[:5000], "sha256")


def _crypt(side: Side, arena: Arena, name: str, data: bytes, direction: int) -> bytes:
    """Data encrypted or decrypted by the high-level interface, in one piece."""
    source, target, length = arena.put(data), arena.room(len(data) + 32), arena.room(4)
    key, iv = arena.put(bytes(range(32))), arena.put(bytes(range(100, 116)))
    kind, context = side.call("EVP_get_cipherbyname", arena.text(name)), side.call("EVP_CIPHER_CTX_new")
    assert side.call("EVP_CipherInit_ex", context, kind, 0, key, iv, direction) == 1
    assert side.call("EVP_CipherUpdate", context, target, length, source, len(data)) == 1
    done = struct.unpack("<I", side.read(length, 4))[0]
    if "gcm" not in name or direction == ENCRYPT:
        assert side.call("EVP_CipherFinal_ex", context, target + done, length) == 1
        done += struct.unpack("<I", side.read(length, 4))[0]
    side.call("EVP_CIPHER_CTX_free", context)
    return side.read(target, done)


@pytest.mark.parametrize("name", CIPHERS)
def test_ciphers(guest: Guest, native: Native, name: str) -> None:
    data = DATA[:4001]
    ours, theirs = (_crypt(side, Arena(side), name, data, ENCRYPT) for side in (guest, native))
    assert ours == theirs != data
    assert _crypt(guest, Arena(guest), name, ours, DECRYPT) == data


def _digest(side: Side, name: str) -> bytes:
    arena = Arena(side)
    source, target, length = arena.put(DATA), arena.room(64), arena.room(4)
    kind = side.call("EVP_get_digestbyname", arena.text(name))
    assert side.call("EVP_Digest", source, len(DATA), target, length, kind, 0) == 1
    return side.read(target, struct.unpack("<I", side.read(length, 4))[0])


@pytest.mark.parametrize("name", EVP)
def test_digests(guest: Guest, native: Native, name: str) -> None:
    ours = _digest(guest, name)
    assert ours == _digest(native, name)
    if name in DIGESTS_OF_HASHLIB:
        assert ours == hashlib.new(DIGESTS_OF_HASHLIB[name], DATA).digest()


def test_bignums(guest: Guest) -> None:
    """A modular power, through the library's multiplication in assembly."""
    arena = Arena(guest)
    base, exponent, modulus = (int.from_bytes(DATA[i : i + 64], "big") | 1 for i in (0, 64, 128))
    numbers = []
    for value in (base, exponent, modulus, 0):
        numbers.append(guest.call("BN_bin2bn", arena.put(value.to_bytes(64, "big")), 64, 0))
    context, target = guest.call("BN_CTX_new"), arena.room(64)
    assert guest.call("BN_mod_exp", numbers[3], *numbers[:3], context) == 1
    assert guest.call("BN_bn2binpad", numbers[3], target, 64) == 64
    assert guest.read(target, 64) == pow(base, exponent, modulus).to_bytes(64, "big")


def test_sse2_is_used_where_it_is(guest: Guest) -> None:
    """SHA-512 in 64-bit registers takes far fewer instructions than in pairs of 32-bit ones."""
    _hash(guest, "SHA512", DATA)
    before = guest.m.icount
    _hash(guest, "SHA512", DATA)
    assert (guest.m.icount - before < 70 * len(DATA)) == (guest.m.cpu_model == "p4")
