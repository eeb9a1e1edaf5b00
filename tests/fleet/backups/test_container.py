"""What is sealed opens to the same bytes; whatever was cut, changed, moved or sealed by another key does not."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import DamagedBackup, OperatorError, WrongKey
from tenantry.fleet.backups.container import HEADER_BYTES, PIECE_BYTES, read_header, seal, unseal
from tenantry.fleet.backups.keys import DataKey, new_data_key

KEY = new_data_key()
SEALED_PIECE = PIECE_BYTES + 16


def sealed(content: bytes, *, compress: bool = False) -> bytes:
    return b"".join(seal([content], KEY, compress=compress))


def opened(content: bytes, key: DataKey = KEY) -> bytes:
    return b"".join(unseal([content], key))


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_content_of_any_size_comes_back(size: int, compress: bool) -> None:
    content = random.Random(size).randbytes(size)
    assert opened(sealed(content, compress=compress)) == content


@given(st.lists(st.binary(max_size=300_000), max_size=8), st.booleans(), st.integers(1, 400_000))
def test_how_it_is_cut_into_chunks_does_not_matter(chunks: list[bytes], compress: bool, size: int) -> None:
    whole = b"".join(seal(chunks, KEY, compress=compress))
    again = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert b"".join(unseal(again, KEY)) == b"".join(chunks)


@pytest.mark.parametrize("compress", [True, False])
def test_the_same_content_is_never_sealed_alike(compress: bool) -> None:
    first, second = sealed(b"secret" * 9, compress=compress), sealed(b"secret" * 9, compress=compress)
    assert first[HEADER_BYTES:] != second[HEADER_BYTES:]
    assert b"secret" not in first


@pytest.mark.parametrize("compress", [True, False])
def test_every_cut_is_found(compress: bool) -> None:
    whole = sealed(random.Random(1).randbytes(2 * PIECE_BYTES), compress=compress)
    cuts = {0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1, HEADER_BYTES + SEALED_PIECE, len(whole) - 1}
    for cut in cuts:
        with pytest.raises(DamagedBackup):
            opened(whole[:cut])


@given(st.integers(0, 10**9), st.integers(0, 7), st.booleans())
def test_every_flip_is_found(place: int, bit: int, compress: bool) -> None:
    whole = bytearray(sealed(b"a tenant's data" * 40, compress=compress))
    whole[place % len(whole)] ^= 1 << bit
    with pytest.raises((DamagedBackup, WrongKey, OperatorError)):  # a flip in the id names another key
        opened(bytes(whole))


def test_pieces_cannot_be_moved_repeated_or_left_out() -> None:
    whole = sealed(random.Random(2).randbytes(4 * PIECE_BYTES))
    header, rest = whole[:HEADER_BYTES], whole[HEADER_BYTES:]
    pieces = [rest[start : start + SEALED_PIECE] for start in range(0, len(rest), SEALED_PIECE)]
    assert len(pieces) == 4
    a, b, c, d = pieces
    assert len(opened(header + a + b + c + d)) == 4 * PIECE_BYTES
    for order in ([b, a, c, d], [a, b, c], [a, c, d], [a, b, c, d, d], [a, a, b, c, d], [d], []):
        with pytest.raises(DamagedBackup):
            opened(header + b"".join(order))


def test_a_piece_of_another_object_does_not_fit() -> None:
    first, second = sealed(b"one" * 100), sealed(b"two" * 100)
    with pytest.raises(DamagedBackup):
        opened(first[:HEADER_BYTES] + second[HEADER_BYTES:])


def test_another_key_is_named() -> None:
    other = new_data_key()
    with pytest.raises(WrongKey, match=f"{KEY.id}.*{other.id}"):
        opened(sealed(b"x"), other)
    assert KEY.secret.hex() not in repr(KEY)


def test_what_is_no_backup_is_said_to_be_none() -> None:
    with pytest.raises(DamagedBackup, match="does not begin as one"):
        read_header(b"PGDMP" + bytes(200))
    with pytest.raises(OperatorError, match="version 9"):
        read_header(b"TNTRYBAK\x09" + bytes(200))


def test_what_the_source_raises_comes_through() -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(PIECE_BYTES + 5)
        raise ConnectionResetError("the dump ended")

    with pytest.raises(ConnectionResetError):
        b"".join(seal(broken(), KEY, compress=True))


def test_a_content_that_grows_a_thousandfold_is_given_out_in_pieces() -> None:
    whole = sealed(bytes(30_000_000), compress=True)
    assert len(whole) < 30_000
    pieces = [len(piece) for piece in unseal([whole], KEY)]
    assert sum(pieces) == 30_000_000
    assert max(pieces) <= PIECE_BYTES
