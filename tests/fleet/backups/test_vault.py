"""What every vault does, whatever it is: one suite over a directory and a real S3."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tenantry.errors import InvalidInput, NotFound, VaultError
from tenantry.fleet.backups.open import open_vault
from tenantry.fleet.backups.vault import READ_BYTES_MAX, Vault, check_key, check_url

SEVERAL_PARTS = 17 * 2**20 + 5


def in_chunks(content: bytes, size: int = 300_000) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def keys(vault: Vault, prefix: str = "") -> list[str]:
    return sorted(stored.key for stored in vault.list(prefix))


@pytest.mark.parametrize("size", [0, 1, READ_BYTES_MAX, SEVERAL_PARTS])
def test_an_object_of_any_size_comes_back(vault: Vault, size: int) -> None:
    content = random.Random(size).randbytes(size)
    stored = vault.write("acme/one/data", in_chunks(content))
    assert (stored.key, stored.size) == ("acme/one/data", size)
    pieces = list(vault.read("acme/one/data"))
    assert b"".join(pieces) == content
    assert max((len(piece) for piece in pieces), default=0) <= READ_BYTES_MAX
    assert vault.look("acme/one/data") == stored
    assert list(vault.list("acme")) == [stored]


def test_the_time_of_an_object_is_when_it_was_written(vault: Vault) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)  # S3 tells whole seconds
    assert before <= vault.write("a/b", [b"x"]).modified <= datetime.now(UTC)


def test_a_second_object_replaces_the_first(vault: Vault) -> None:
    first = vault.write("a/b", [b"one"])
    second = vault.write("a/b", [b"other"])
    assert vault.read_small("a/b", bytes_max=10) == b"other"
    assert first.etag != second.etag
    assert keys(vault) == ["a/b"]


def test_what_is_not_there_is_not_there(vault: Vault) -> None:
    vault.write("a/b", [b"x"])
    assert vault.look("a/c") is None
    assert vault.look("a") is None
    for read in (lambda: list(vault.read("a/c")), lambda: [vault.read_small("a/c", bytes_max=1)]):
        with pytest.raises(NotFound, match="a/c"):
            read()
    assert keys(vault, "nobody") == []


def test_a_small_read_is_bounded(vault: Vault) -> None:
    vault.write("a/b", [b"12345"])
    assert vault.read_small("a/b", bytes_max=5) == b"12345"
    with pytest.raises(VaultError, match="more than 4 bytes"):
        vault.read_small("a/b", bytes_max=4)


def test_a_folder_is_listed_with_all_below_it_and_nothing_beside_it(vault: Vault) -> None:
    for key in ("acme/1/x", "acme/1/y/z", "acme/2", "acme-corp/1", "acm"):
        vault.write(key, [b"x"])
    assert keys(vault, "acme") == ["acme/1/x", "acme/1/y/z", "acme/2"]
    assert keys(vault, "acme/1") == ["acme/1/x", "acme/1/y/z"]
    assert keys(vault) == ["acm", "acme-corp/1", "acme/1/x", "acme/1/y/z", "acme/2"]


def test_deleting_is_done_when_nothing_is_there(vault: Vault) -> None:
    for key in ("a/1", "a/2", "b/1"):
        vault.write(key, [b"x"])
    vault.delete(["a/1", "a/2", "a/never-there"])
    assert keys(vault) == ["b/1"]
    vault.delete(["a/1"])
    vault.delete([])


def test_what_breaks_while_it_is_written_leaves_nothing(vault: Vault) -> None:
    def broken() -> Iterator[bytes]:
        yield from in_chunks(bytes(SEVERAL_PARTS))
        raise ConnectionResetError("the dump ended")

    with pytest.raises(ConnectionResetError, match="the dump ended"):
        vault.write("a/b", broken())
    assert vault.look("a/b") is None
    assert keys(vault) == []


def test_nothing_is_seen_before_all_is_there(vault: Vault) -> None:
    seen: list[object] = []

    def watched() -> Iterator[bytes]:
        for chunk in in_chunks(bytes(SEVERAL_PARTS), 2**20):
            yield chunk
            seen.extend((vault.look("a/b"), *keys(vault)))

    vault.write("a/b", watched())
    assert set(seen) == {None}
    assert keys(vault) == ["a/b"]


def test_many_threads_write_and_delete_beside_each_other(vault: Vault) -> None:
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for turn in range(8):
                vault.write(f"acme/{turn}/{name}", [name.encode()])
                assert vault.read_small(f"acme/{turn}/{name}", bytes_max=9) == name.encode()
                vault.delete([f"acme/{turn}/{name}"])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert keys(vault) == []


@pytest.mark.parametrize("key", ["", "/", "a/", "/a", "../a", "a/..", "a/./b", "a//b", "a b", "ä", "a\n", "b" * 600])
def test_a_key_that_would_lead_elsewhere_is_refused(vault: Vault, key: str) -> None:
    for use in (lambda: vault.write(key, [b"x"]), lambda: vault.look(key), lambda: vault.delete([key])):
        with pytest.raises(InvalidInput):
            use()
    with pytest.raises(InvalidInput):
        check_key(key)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "backups",
            "/var/backups",
            "http://x/y",
            "s3://",
            "s3:///x",
            "file://host/x",
            "file:relative",
            "file:///a/../b",
        ),
        *("s3://bucket/../x", "s3://key:secret@bucket/x", "s3://bucket/x?token=secret", "s3://bucket/a b"),
    ],
)
def test_a_url_that_is_none_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_url(url)
    assert "secret" not in str(refused.value)


def test_options_that_are_secrets_or_unknown_are_refused() -> None:
    with pytest.raises(InvalidInput, match="aws_secret_access_key"):
        open_vault("s3://bucket", {"aws_secret_access_key": "hunter2"})
    with pytest.raises(InvalidInput) as refused:
        open_vault("s3://bucket", {"colour": "blue"}, credentials={"aws_secret_access_key": "hunter2"})
    assert "colour" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(InvalidInput, match="takes no options"):
        open_vault("file:///tmp/x", {"region": "eu"})
