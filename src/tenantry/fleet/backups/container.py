"""What an object of a backup is in the vault: compressed where that helps, and sealed in pieces.

    magic | version | flags | id of the data key | salt | tag        the header
    piece 0 | piece 1 | ... | last piece                             AES-256-GCM, each with a tag of its own

The key of an object is derived from the data key and the salt, so that counting gives each piece a nonce that is never
used twice. The last piece is marked in its nonce, and may be empty: an object that was cut, extended, changed or whose
pieces were moved does not open to its end. What was given out before that is to be thrown away: whoever reads uses the
content only after the iterator has ended well. That an object is the right one of several, and no older one, is for the
manifest to say, by its checksum.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Final, cast

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tenantry.errors import DamagedBackup, OperatorError, WrongKey
from tenantry.fleet.backups.keys import DataKey
from tenantry.runtime.sealing import KEY_BYTES

PIECE_BYTES: Final = 256 * 1024
PIECES_MAX: Final = 2**32
"""A PiB. Far below what one key may seal."""
WINDOW_BYTES_MAX: Final = 8 * 2**20
LEVEL: Final = 3
_MAGIC: Final = b"TNTRYBAK"
_VERSION: Final = 1
_COMPRESSED: Final = 1
_ID_BYTES: Final = 18
_SALT_BYTES: Final = 32
_TAG_BYTES: Final = 16
_FIXED: Final = struct.Struct(f"!8sBB{_ID_BYTES}s{_SALT_BYTES}s")
HEADER_BYTES: Final = _FIXED.size + _TAG_BYTES


@dataclass(frozen=True, slots=True)
class Header:
    """What can be known of an object without a key. It is believed only once the key has confirmed it."""

    key_id: str
    compressed: bool
    content: bytes

    @property
    def salt(self) -> bytes:
        return self.content[_FIXED.size - _SALT_BYTES : _FIXED.size]


def seal(chunks: Iterable[bytes], key: DataKey, *, compress: bool) -> Iterator[bytes]:
    """The object, piece by piece. ``compress`` where the content is not compressed already."""
    fixed = _FIXED.pack(_MAGIC, _VERSION, _COMPRESSED if compress else 0, key.id.encode(), os.urandom(_SALT_BYTES))
    sealing, confirming = _keys(key, fixed)
    header = fixed + _tag(confirming, fixed)
    yield header
    for number, (piece, is_last) in enumerate(_pieces(_compressed(chunks) if compress else chunks, PIECE_BYTES)):
        yield sealing.encrypt(_nonce(number, last=is_last), piece, header)


def unseal(chunks: Iterable[bytes], key: DataKey) -> Iterator[bytes]:
    """What was sealed. Raises WrongKey, or DamagedBackup, also after a part of it was given out."""
    clear, header = _opened(iter(chunks), key)
    return _decompressed(clear) if header.compressed else clear


def read_header(start: bytes) -> Header:
    """What the first HEADER_BYTES of an object say. Raises DamagedBackup, OperatorError for a later version."""
    if len(start) < HEADER_BYTES or not start.startswith(_MAGIC):
        raise DamagedBackup(
            "an object of a backup does not begin as one does", next_step="restore from another backup, or vault"
        )
    _, version, flags, key_id, _ = _FIXED.unpack_from(start)
    if version != _VERSION or flags & ~_COMPRESSED:
        raise OperatorError(
            f"an object of a backup is of version {version}.{flags}, which is not known here",
            next_step="use the Tenantry that has written it, or a later one",
        )
    return Header(
        key_id=key_id.decode("ascii", "replace"), compressed=bool(flags & _COMPRESSED), content=start[:HEADER_BYTES]
    )


# ---------------------------------------------------------------------------------------------------- sealing


def _keys(key: DataKey, fixed: bytes) -> tuple[AESGCM, bytes]:
    salt = fixed[-_SALT_BYTES:]
    derived = HKDF(hashes.SHA256(), 2 * KEY_BYTES, salt, b"tenantry backup object v1").derive(key.secret)
    return AESGCM(derived[:KEY_BYTES]), derived[KEY_BYTES:]


def _tag(confirming: bytes, fixed: bytes) -> bytes:
    return hmac.digest(confirming, fixed, hashlib.sha256)[:_TAG_BYTES]


def _nonce(number: int, *, last: bool) -> bytes:
    assert number < PIECES_MAX
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


def _opened(chunks: Iterator[bytes], key: DataKey) -> tuple[Iterator[bytes], Header]:
    start = bytearray()
    for chunk in chunks:
        start += chunk
        if len(start) >= HEADER_BYTES:
            break
    header = read_header(bytes(start))
    if header.key_id != key.id:
        raise WrongKey(
            f"an object of a backup is sealed with the data key {header.key_id}, and this is {key.id}",
            next_step="open it with the key that its manifest names",
        )
    fixed = header.content[: _FIXED.size]
    sealing, confirming = _keys(key, fixed)
    if not hmac.compare_digest(_tag(confirming, fixed), header.content[_FIXED.size :]):
        raise _damaged("its header was changed")
    return _pieces_opened(_after(bytes(start[HEADER_BYTES:]), chunks), sealing, header.content), header


def _pieces_opened(chunks: Iterator[bytes], sealing: AESGCM, header: bytes) -> Iterator[bytes]:
    for number, (piece, is_last) in enumerate(_pieces(chunks, PIECE_BYTES + _TAG_BYTES)):
        try:
            clear = sealing.decrypt(_nonce(number, last=is_last), piece, header)
        except InvalidTag:
            raise _damaged(_what_happened(sealing, number, piece, header, is_last=is_last)) from None
        if clear:
            yield clear


def _what_happened(sealing: AESGCM, number: int, piece: bytes, header: bytes, *, is_last: bool) -> str:
    """For whoever looks for the cause: a whole piece that only stands in the wrong place was not changed."""
    try:
        sealing.decrypt(_nonce(number, last=not is_last), piece, header)
    except InvalidTag:
        return f"its piece {number} was changed, cut or moved"
    return f"it was cut behind piece {number}" if is_last else f"something follows its last piece {number}"


def _after(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _damaged(how: str) -> DamagedBackup:
    return DamagedBackup(
        f"an object of a backup is not what was written: {how}", next_step="restore from another backup, or vault"
    )


def _pieces(chunks: Iterable[bytes], size: int) -> Iterator[tuple[bytes, bool]]:
    """Pieces of ``size``, then one that is last: shorter, or as long, or the only one and empty."""
    held = bytearray()
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            if len(held) == size:  # something follows, so it is not the last
                yield bytes(held), False
                held.clear()
            room = size - len(held)
            held += rest[:room]
            rest = rest[room:]
    yield bytes(held), True


# ------------------------------------------------------------------------------------------------ compressing


def _compressed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    writer = zstandard.ZstdCompressor(level=LEVEL).compressobj()
    for chunk in chunks:
        if made := writer.compress(chunk):
            yield made
    yield writer.flush()


class _Source:
    """The pieces as a file, of which the decompressor reads as much as it needs."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = b""

    def read(self, size: int) -> bytes:
        if not self._held:
            self._held = next(self._chunks, b"")
        given, self._held = self._held[:size], self._held[size:]
        return given


def _decompressed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """A highly compressed piece is no danger to the memory: the output is read in pieces, too."""
    source = _Source(chunks)
    opened = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
    try:
        with opened.stream_reader(cast(IO[bytes], source)) as reader:
            while made := reader.read(PIECE_BYTES):
                yield made
    except zstandard.ZstdError as error:
        raise _damaged("its content cannot be decompressed") from error
    # The last piece may lie behind the end of the content, and is what says that nothing was cut.
    if source.read(1):
        raise _damaged("something follows its content")
