"""A vault is checked by using it; what its credentials may not do is named as the storage names it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tenantry.fleet.backups.check import CLOCK_SECONDS_MAX, CheckedVault, check_vault, clock_skew
from tenantry.fleet.backups.open import open_vault
from tenantry.fleet.backups.vault import Vault

from ...seaweed import BUCKET, Seaweed

NOW = datetime(2026, 11, 30, 3, 15, tzinfo=UTC)


def came_of(checked: CheckedVault) -> dict[str, tuple[bool | None, str | None]]:
    return {proof.verb: (proof.ok, proof.missing) for proof in checked.proofs}


def test_a_good_vault_is_good_and_is_left_empty(vault: Vault) -> None:
    checked = check_vault(vault)
    assert came_of(checked) == dict.fromkeys(["write", "read", "list", "delete", "clock"], (True, None))
    assert checked.ok
    assert list(vault.list("")) == []


@pytest.mark.parametrize(
    ("who", "missing"),
    [
        ("reader", {"write": "s3:PutObject", "list": None, "delete": "s3:DeleteObject"}),
        ("writer", {"write": "s3:GetObject", "list": "s3:ListBucket", "delete": None}),
        ("nobody", {"write": "s3:PutObject", "list": "s3:ListBucket", "delete": "s3:DeleteObject"}),
    ],
)
def test_a_missing_permission_is_named(s3: Seaweed, who: str, missing: dict[str, str | None]) -> None:
    vault = open_vault(f"s3://{BUCKET}/checked", s3.options, credentials=s3.credentials(who))
    checked = check_vault(vault)
    assert not checked.ok
    found = came_of(checked)
    for verb, right in missing.items():
        ok, said = found[verb]
        assert ok is (right is None), verb
        assert (said or "").startswith(right or ""), verb


def test_wrong_credentials_are_said_to_be_wrong_and_not_shown(s3: Seaweed) -> None:
    secret = "not-the-secret-of-anybody"
    credentials = {"aws_access_key_id": "all", "aws_secret_access_key": secret}
    checked = check_vault(open_vault(f"s3://{BUCKET}/x", s3.options, credentials=credentials))
    assert {proof.missing for proof in checked.proofs if proof.wrong} == {"credentials"}
    assert secret not in repr(checked)
    assert "<" not in repr(checked), "the storage's own text is not repeated whole"


def test_a_clock_that_is_far_off_is_wrong(vault: Vault) -> None:
    late = timedelta(seconds=CLOCK_SECONDS_MAX) + timedelta(hours=1)  # however long the storage takes meanwhile
    for ahead, word in ((late, "behind"), (-late, "ahead")):
        checked = check_vault(vault, now=lambda ahead=ahead: datetime.now(UTC) + ahead)
        clock = checked.proofs[-1]
        assert (clock.verb, clock.ok) == ("clock", False)
        assert word in str(clock.wrong)


@pytest.mark.parametrize(
    ("modified", "skew"), [(0.0, 0.0), (-0.9, 0.0), (1.5, 0.0), (2.0, 0.0), (5.0, 3.0), (-11.0, -10.0)]
)
def test_whole_seconds_are_no_skew(modified: float, skew: float) -> None:
    found = clock_skew(NOW + timedelta(seconds=modified), NOW, NOW + timedelta(seconds=2))
    assert found == pytest.approx(skew)


def test_the_command_checks_what_is_configured(tmp_path: Path, s3: Seaweed) -> None:
    secrets = tmp_path / "credentials"
    secrets.write_text("".join(f"export {name.upper()}='{value}'\n" for name, value in s3.credentials().items()))
    secrets.chmod(0o600)
    (tmp_path / "tenantry.toml").write_text(
        f'[backups]\nvault = "s3://{BUCKET}/acme"\ncredentials_file = "credentials"\n'
        f'[backups.options]\nendpoint = "{s3.options["endpoint"]}"\nregion = "us-east-1"\n'
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tenantry", "vault", "check", "--json"],
            check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    done = run()
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True), done.stderr
    secrets.chmod(0o644)
    done = run()
    assert done.returncode == 1
    assert "chmod 600" in done.stderr
