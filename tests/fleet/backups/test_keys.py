"""The fleet's key opens the keys of tenants, in their place alone; without it, or once destroyed, nobody does."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from tenantry.errors import DamagedBackup, InvalidInput, OperatorError, WrongKey
from tenantry.fleet.backups.container import seal, unseal
from tenantry.fleet.backups.keys import (
    FleetKeys,
    WrappedKey,
    add_fleet_key,
    destroy_in_vault,
    from_vault,
    keep_in_vault,
    new_data_key,
    read_fleet_keys,
    write_fleet_key,
)
from tenantry.fleet.backups.vault import Vault


@pytest.fixture
def fleet_keys(tmp_path: Path) -> FleetKeys:
    write_fleet_key(tmp_path / "fleet.key")
    return read_fleet_keys(f"file:{tmp_path / 'fleet.key'}")


def test_a_new_key_is_for_its_owner_and_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "fleet.key"
    made = write_fleet_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_fleet_keys(f"file:{path}").id == made
    assert path.read_text().strip().removeprefix("tenantry_backup_") not in made
    with pytest.raises(InvalidInput, match="there already"):
        write_fleet_key(path)


def test_a_key_comes_from_the_environment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_fleet_key(tmp_path / "fleet.key")
    monkeypatch.setenv("SOME_KEY", (tmp_path / "fleet.key").read_text())
    assert read_fleet_keys("env:SOME_KEY").id == made


@pytest.mark.parametrize("text", ["", "# only a remark", "hunter2", "tenantry_backup_short"])
def test_what_is_no_key_is_said_without_being_repeated(text: str) -> None:
    with pytest.raises(OperatorError) as refused:
        FleetKeys(text, whence="env:X")
    assert "hunter2" not in str(refused.value)
    assert "vault key" in str(refused.value)


def test_a_wrapped_key_opens_in_its_place_only(fleet_keys: FleetKeys) -> None:
    one, other = new_data_key(), new_data_key()
    wrapped = fleet_keys.wrap(one)
    assert fleet_keys.unwrap(WrappedKey.from_json(wrapped.to_json())) == one
    moved = WrappedKey(id=other.id, fleet_key=wrapped.fleet_key, wrapped=wrapped.wrapped)
    flipped = WrappedKey(id=one.id, fleet_key=wrapped.fleet_key, wrapped=wrapped.wrapped[:-1] + b"\0")
    for spoiled in (moved, flipped):
        with pytest.raises(DamagedBackup):
            fleet_keys.unwrap(spoiled)


def test_another_fleets_key_is_named(fleet_keys: FleetKeys, tmp_path: Path) -> None:
    write_fleet_key(tmp_path / "other.key")
    other = read_fleet_keys(f"file:{tmp_path / 'other.key'}")
    wrapped = other.wrap(new_data_key())
    with pytest.raises(WrongKey, match=f"{other.id}.*{fleet_keys.id}"):
        fleet_keys.unwrap(wrapped)


def test_a_new_fleets_key_goes_first_and_the_old_one_still_opens(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write_fleet_key(old)
    write_fleet_key(new)
    before = read_fleet_keys(f"file:{old}")
    key = new_data_key()
    wrapped = before.wrap(key)
    both = FleetKeys(new.read_text() + "# until 2026\n" + old.read_text(), whence="both")
    assert both.unwrap(wrapped) == key
    assert both.needs_rewrap(wrapped)
    assert not both.needs_rewrap(both.wrap(key))


def test_a_new_key_leaves_the_file_to_whom_it_was(tmp_path: Path) -> None:
    real = tmp_path / "real"
    write_fleet_key(real)
    (tmp_path / "link").symlink_to(real)
    real.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(real, 65_534, 65_534)
    before = real.stat()
    old = read_fleet_keys(f"file:{real}").id
    made = add_fleet_key(tmp_path / "link")
    assert read_fleet_keys(f"file:{tmp_path / 'link'}").ids == (made, old)
    after = real.stat()
    assert (tmp_path / "link").is_symlink()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.parametrize(
    "spoil",
    [{"version": 2}, {"id": "../x"}, {"wrapped": "!"}, {"fleet_key": None}],
    ids=str,
)
def test_a_spoiled_wrapped_key_is_damage(fleet_keys: FleetKeys, spoil: dict[str, object]) -> None:
    content = json.loads(fleet_keys.wrap(new_data_key()).to_json())
    with pytest.raises(DamagedBackup):
        WrappedKey.from_json(json.dumps(content | spoil).encode())
    for rubbish in (b"", b"[]", b"\xff", base64.b64encode(b"x")):
        with pytest.raises(DamagedBackup):
            WrappedKey.from_json(rubbish)


def test_a_vault_is_enough_until_the_key_is_destroyed(vault: Vault, fleet_keys: FleetKeys) -> None:
    key = new_data_key()
    keep_in_vault(vault, fleet_keys.wrap(key))
    vault.write("acme/data", seal([b"rows"], key, compress=True))
    assert key.secret not in b"".join(vault.read(f".keys/{key.id}.json"))
    again = fleet_keys.unwrap(from_vault(vault, key.id))
    assert b"".join(unseal(vault.read("acme/data"), again)) == b"rows"
    destroy_in_vault(vault, key.id)
    with pytest.raises(WrongKey, match="destroyed"):
        from_vault(vault, key.id)
