"""A tenant's life as the operator types it, on a real cell."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from conftest import Operator
    from tenantry.testing.throwaway import ThrowawayCell


def test_a_life_from_create_to_delete(operator: Operator, name: str) -> None:
    slug = name.lower().replace(" ", "-")
    created = operator.json("create", name, "--email", "ops@example.com", "--region", "aws-us-east-1")
    assert created["created"] is True
    assert created["tenant"].items() >= {
        "slug": slug, "name": name, "state": "ready", "plan": "launch", "region": "aws-us-east-1", "pg_version": 18,
    }.items()  # fmt: skip
    assert operator.json("create", name)["created"] is False
    assert f"{slug} was there already" in operator.do("create", name).stdout
    assert len(operator.projects(name)) == 1

    assert slug in [tenant["slug"] for tenant in operator.json("list")["tenants"]]
    assert slug in operator.do("list").stdout
    assert "(asleep)" in operator.do("show", name).stdout

    url = operator.do("url", slug).stdout.strip()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("neondb_owner",)
    assert operator.run("psql", slug, "-X", "-At", "-c", "SELECT 6 * 7").stdout == "42\n"
    assert "(awake)" in operator.do("show", slug).stdout
    assert operator.json("suspend", slug) == {"tenant": slug, "state": "asleep"}
    assert operator.json("show", slug)["endpoints"][0]["state"] == "idle"
    assert operator.do("resume", slug).stdout == f"{slug} is awake\n"
    assert operator.json("show", slug)["endpoints"][0]["state"] == "active"

    refused = operator.do("delete", slug, code=2)
    assert "nothing was deleted" in refused.stderr
    assert "--yes" in refused.stderr
    assert operator.json("delete", slug, "--dry-run")["deleted"] is False
    assert len(operator.projects(name)) == 1
    assert f"deleted tenant {slug}" in operator.do("delete", slug, "--now", "--yes").stdout
    assert operator.projects(name) == []
    assert f"there is no tenant {slug}" in operator.do("show", slug, code=1).stderr
    gone = operator.json("list", "--deleted")["deletions"][0]
    assert (gone["slug"], gone["name"], gone["projects"]) == (slug, name, [created["tenant"]["project_id"]])


def test_a_deleted_tenant_turns_clients_away_and_comes_back_with_everything(operator: Operator, name: str) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    url = operator.do("url", slug).stdout.strip()
    connection = psycopg.connect(url, autocommit=True)
    connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")

    assert "on " in operator.do("delete", slug, "--dry-run").stdout
    leaving = operator.json("delete", slug, "--yes", "--grace", "30d")
    assert (leaving["gone"], leaving["tenant"]["state"], leaving["note"]) == (False, "leaving", None)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
    with pytest.raises(psycopg.OperationalError, match="disabled"):
        psycopg.connect(url)
    assert "its name is kept until" in operator.do("create", name, code=1).stderr
    assert f"tenantry undelete {slug}" in operator.do("url", slug, code=1).stderr
    assert "leaving on " in operator.do("list").stdout
    assert "purged on" in operator.do("show", slug).stdout

    assert "is back" in operator.do("undelete", slug).stdout
    with psycopg.connect(url) as again:
        assert again.execute("SELECT answer FROM kept").fetchone() == (42,)
    assert "was not deleted" in operator.do("undelete", slug).stdout
    assert "give --now or --grace" in operator.do("delete", slug, "--now", "--grace", "7d", code=2).stderr
    operator.do("delete", slug, "--now", "--yes")


def test_a_renamed_tenant_keeps_its_connection_string(operator: Operator, name: str) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    url = operator.do("url", slug).stdout
    renamed = operator.json("rename", slug, f"{name} Ltd", "--slug", f"{slug}-ltd")
    assert (renamed["renamed"], renamed["tenant"]["slug"], renamed["note"]) == (True, f"{slug}-ltd", None)
    (project,) = operator.projects(name)
    assert project.name == f"{name} Ltd [{renamed['tenant']['id']}]"
    assert operator.do("url", f"{slug}-ltd").stdout == url
    # Typed once more, as somebody does who saw no answer.
    assert "is called so already" in operator.do("rename", slug, f"{name} Ltd", "--slug", f"{slug}-ltd").stdout
    assert f"there is no tenant {slug}" in operator.do("rename", slug, "Something Else", code=1).stderr


def test_many_are_created_from_a_file_and_bad_rows_are_named(operator: Operator, workdir: Path, name: str) -> None:
    file = workdir / "sign-ups.csv"
    file.write_text(f"name,email,plan\n{name} A,a@x.example,scale\n{name} B,nobody,\n{name} C,,\n")
    done = operator.do("create", "--csv", str(file), "--jobs", "2", code=3)
    assert "2 created, 0 were there already, 1 failed" in done.stdout
    assert "line 3, email: 'nobody' is not an email address" in done.stderr
    assert len(operator.projects(name)) == 2
    file.write_text(file.read_text().replace("nobody", "b@x.example"))
    again = operator.json("create", "--csv", str(file))
    assert (again["created"], again["there"], again["failed"]) == (1, 2, 0)
    assert [row["line"] for row in again["rows"]] == [2, 3, 4]
    file.write_text("name,colour\nx,y\n")
    assert "line 1, column 6: there is no column 'colour'" in operator.do("create", "--csv", str(file), code=2).stderr
    assert "--csv says what to create" in operator.do("create", "x", "--csv", str(file), code=2).stderr
    assert "needs a name" in operator.do("create", code=2).stderr
    assert "cannot be read" in operator.do("create", "--csv", str(workdir / "nothing"), code=2).stderr


def test_what_tenantry_toml_says_of_tenants_counts(
    operator: Operator, workdir: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "tenantry.toml").write_text('[tenants]\nplan = "scale"\ngrace = "2d"\n')
    monkeypatch.chdir(workdir)
    assert operator.json("create", name)["tenant"]["plan"] == "scale"
    left = operator.json("delete", name, "--yes")["tenant"]
    grace = datetime.fromisoformat(left["purge_at"]) - datetime.fromisoformat(left["leaving_at"])
    assert grace == timedelta(days=2)
    operator.do("delete", name, "--now", "--yes")


def test_conflicts_and_wrong_wishes_are_explained(operator: Operator, name: str) -> None:
    operator.do("create", name)
    conflict = operator.do("create", f"{name}!", code=1)
    assert f"belongs to '{name}'" in conflict.stderr
    assert "--slug" in conflict.stderr
    assert "no plan 'gold'" in operator.do("create", f"{name} x", "--plan", "gold", code=2).stderr
    # Refused by the cell, not by us; and nothing stays behind.
    assert "no Postgres 14 here" in operator.do("create", f"{name} x", "--pg", "14", code=2).stderr
    assert operator.json("create", f"{name} x")["created"] is True


def test_psql_shows_no_password_to_its_neighbours(operator: Operator, name: str) -> None:
    operator.do("create", name)
    password = psycopg.conninfo.conninfo_to_dict(operator.do("url", name).stdout.strip())["password"]
    shown = operator.run("psql", name, "-X", "-At", "-c", r"\! tr '\0' '\n' < /proc/$PPID/cmdline; env").stdout
    assert "psql" in shown
    assert "PGUSER=neondb_owner" in shown
    assert str(password) not in shown


def test_what_lies_in_the_data_directory_is_for_its_owner_alone(cell: ThrowawayCell) -> None:
    for path in (cell.data / "ready.json", cell.data / "fleet.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_uid == os.geteuid()


def test_a_cell_can_be_named_by_the_environment_alone(operator: Operator, workdir: Path, name: str) -> None:
    """The catalog is found among the projects of the API."""
    operator.do("create", name)
    target = operator.cell.target
    by_name = {"TENANTRY_API_URL": target.api_url, "TENANTRY_API_KEY": target.api_key, "TENANTRY_DATA": str(workdir)}
    assert name in operator.do("list", **by_name).stdout
    assert "TENANTRY_API_KEY is not" in operator.do("list", code=2, TENANTRY_API_URL=target.api_url).stderr
    wrong = operator.do("list", code=1, **by_name | {"TENANTRY_API_KEY": "wrong"})
    assert "401" not in wrong.stdout
    assert wrong.stderr.startswith("tenantry: ")


def test_a_second_up_on_one_directory_refuses_and_leaves_the_first_alone(
    cell: ThrowawayCell, program: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    before = (cell.data / "ready.json").read_text()
    second = program("up", "--data", str(cell.data), "--http", "127.0.0.1:0", "--postgres", "127.0.0.1:0")
    assert second.returncode == 1
    assert "another cell" in second.stderr
    assert "Traceback" not in second.stderr
    assert (cell.data / "ready.json").read_text() == before
