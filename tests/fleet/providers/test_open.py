"""Secrets, and what a process that lives long does when they or the catalog change."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tenantry.errors import NotFound, OperatorError, Unauthorized
from tenantry.fleet.catalog import providers
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.records import ProviderId, ProviderRecord
from tenantry.fleet.providers import open as module
from tenantry.fleet.providers.secrets import SECRET_BYTES_MAX, read_secret, secret_place

if TYPE_CHECKING:
    from tenantry.fleet.main import Fleet
    from tenantry.testing.throwaway import ThrowawayCell


def test_a_secret_comes_from_a_variable_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("  the key\n")
    file.chmod(0o600)
    assert read_secret(secret_place(env=None, file=file), "of x") == "the key"
    assert read_secret(secret_place(env="X_KEY", file=None), "of x", {"X_KEY": "the key\n"}) == "the key"


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"hunter2", 0o604, "every user of this machine may read.*chmod 600"),
        (b"", 0o600, "empty, too long or no file"),
        (b" \n", 0o600, "empty, too long or no file"),
        (b"x" * (SECRET_BYTES_MAX + 1), 0o600, "empty, too long or no file"),
        (b"\xff\xfe", 0o600, "is not text"),
    ],
)
def test_a_file_that_holds_none_is_refused(tmp_path: Path, content: bytes, mode: int, words: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(OperatorError, match=words) as refused:
        read_secret(f"file:{file}", "of provider x")
    assert "hunter2" not in str(refused.value)


def test_where_it_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=f"of provider x is in {tmp_path}/no, which cannot be read: No such file"):
        read_secret(f"file:{tmp_path}/no", "of provider x")
    with pytest.raises(OperatorError, match="in the variable X_KEY, which is not set here; set X_KEY for every"):
        read_secret("env:X_KEY", "of provider x", {"X_KEY": " "})
    with pytest.raises(OperatorError, match="cannot be read: Is a directory"):
        read_secret(f"file:{tmp_path}", "of provider x")


@pytest.fixture
def record(fleet: Fleet, cell: ThrowawayCell, tmp_path: Path) -> ProviderRecord:
    (tmp_path / "key").write_text(cell.target.api_key)
    (tmp_path / "key").chmod(0o600)
    with fleet.catalog.transaction() as connection:
        return providers.add_provider(
            connection,
            name="there",
            kind="cell",
            api_url=cell.target.api_url,
            api_ca=None,
            secret_from=f"file:{tmp_path / 'key'}",
        )[0]


def test_a_provider_is_opened_once(fleet: Fleet, record: ProviderRecord) -> None:
    assert fleet.providers.by_id(ProviderId(HOME_PROVIDER)) is fleet.providers.home
    assert fleet.providers.opened(replace(record, id=ProviderId(HOME_PROVIDER))) is fleet.providers.home
    first = fleet.providers.by_id(record.id)
    assert first.check().version
    assert fleet.providers.by_id(record.id) is first
    assert fleet.providers.opened(record) is first
    with pytest.raises(NotFound, match="there is no provider"):
        fleet.providers.by_id(ProviderId(uuid.uuid4()))


def test_a_new_key_in_the_file_is_taken_up_at_once(
    fleet: Fleet, cell: ThrowawayCell, record: ProviderRecord, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("tenantry_revoked")
    with pytest.raises(Unauthorized):
        fleet.providers.by_id(record.id).check()
    (tmp_path / "key").write_text(cell.target.api_key)
    assert fleet.providers.by_id(record.id).check()


def test_what_the_catalog_says_is_looked_at_again(
    fleet: Fleet, record: ProviderRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fleet.providers.by_id(record.id)
    with fleet.catalog.transaction() as connection:
        providers.change_reach(
            connection, record.id, api_url="http://127.0.0.1:1/api/v2", api_ca=None, secret_from=record.secret_from
        )
    assert fleet.providers.by_id(record.id) is first
    monkeypatch.setattr(module, "RECORD_SECONDS_MAX", -1.0)
    assert fleet.providers.by_id(record.id) is not first


def test_a_closed_fleet_closes_what_it_opened_twice_if_need_be(fleet: Fleet, record: ProviderRecord) -> None:
    fleet.providers.by_id(record.id)
    for _ in range(2):
        fleet.close()
