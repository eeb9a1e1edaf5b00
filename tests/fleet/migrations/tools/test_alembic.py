"""Alembic projects as `alembic init` makes them: rolled out by us, then by Alembic, and the other way round."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations.formats.alembic import AlembicProject
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.lint.verdict import lint_verdict
from tenantry.fleet.migrations.plan import make_plan

if TYPE_CHECKING:
    from conftest import AlembicHome


pytestmark = pytest.mark.timeout(400)  # a dozen starts of a process, on machines with other things to do


def test_all_tenants_are_migrated_and_alembic_itself_finds_nothing_to_do(
    new_alembic: Callable[..., AlembicHome],
    new_fleet: Callable[[int], Any],
    roll_out: Callable[..., Any],
    run_tool: Callable[..., str],
) -> None:
    project, fleet = new_alembic(), new_fleet(3)
    result = roll_out(fleet, project.directory)
    assert [(each.outcome, each.applied) for each in result.results] == [("applied", ("r1", "r2"))] * 3, result
    assert {state.version for state in fleet.known.values()} == {"r2"}
    for slug in fleet.dsns:
        assert fleet.sql(slug, "select version_num from alembic_version") == [("r2",)]
        fleet.sql(slug, "select note from users")
    fleet.asked.clear()
    assert list(roll_out(fleet, project.directory).outcomes.values()) == ["skipped"] * 3
    assert fleet.asked == []
    ini = project.directory / "alembic.ini"
    mine = fleet.dsns["t1"].replace("postgresql://", "postgresql+psycopg://").replace("%", "%%")
    ini.write_text(ini.read_text().replace("driver://user:pass@localhost/dbname", mine))
    assert "Running upgrade" not in run_tool(["alembic", "upgrade", "head"], project.directory)


def test_we_find_nothing_after_alembic_and_only_the_rest_where_it_stopped(
    new_alembic: Callable[..., AlembicHome],
    new_fleet: Callable[[int], Any],
    roll_out: Callable[..., Any],
    run_tool: Callable[..., str],
) -> None:
    project, fleet = new_alembic(by_environment=True), new_fleet(2)
    run_tool(["alembic", "upgrade", "head"], project.directory, fleet.dsns["t0"])
    run_tool(["alembic", "upgrade", "r1"], project.directory, fleet.dsns["t1"])
    whole, half = roll_out(fleet, project.directory).results
    assert (whole.outcome, whole.applied) == ("current", ())
    assert (half.outcome, half.applied) == ("applied", ("r2",))
    assert fleet.known["t0"] == fleet.known["t1"]


@pytest.mark.parametrize("template", ["async", "pyproject", "pyproject_async"])
def test_every_template_of_alembic(
    template: str,
    new_alembic: Callable[..., AlembicHome],
    new_fleet: Callable[[int], Any],
    roll_out: Callable[..., Any],
) -> None:
    project, fleet = new_alembic(template), new_fleet(1)
    if "async" in template:
        for name in ("alembic.ini", "pyproject.toml"):
            path = project.directory / name
            if path.exists():
                path.write_text(path.read_text().replace("driver://user", "postgresql+asyncpg://user"))
    (only,) = roll_out(fleet, project.directory, lock_seconds=3.0).results
    assert only.outcome == "applied", only


def test_a_failure_names_revision_file_line_sqlstate_and_statement_and_nothing_of_it_is_kept(
    new_alembic: Callable[..., AlembicHome], new_fleet: Callable[[int], Any], roll_out: Callable[..., Any]
) -> None:
    project, fleet = new_alembic(), new_fleet(2)
    roll_out(fleet, project.directory)
    fleet.sql("t0", "insert into users values (1, 'x'), (2, 'x')")
    project.revise("r3", 'op.add_column("users", sa.Column("age", sa.Integer))', after="r2")
    r4 = project.revise("r4", 'op.create_unique_constraint("once", "users", ["email"])', after="r3")
    folder = open_folder(project.directory)
    assert [each.pending for each in make_plan(folder, fleet.select()).tenants] == [("r3", "r4")] * 2
    failed, done = roll_out(fleet, project.directory).results
    assert done.applied == ("r3", "r4")
    assert failed.outcome == "failed"
    failure = failed.failure
    assert (failure.kind, failure.sqlstate, failure.migration) == ("sql", "23505", "r4")
    assert failure.file == "migrations/versions/r4_r4.py"
    assert "create_unique_constraint" in r4.read_text().splitlines()[failure.line - 1]
    assert failure.sql == "ALTER TABLE users ADD CONSTRAINT once UNIQUE (email)"
    assert "duplicated" in failure.detail
    assert failed.applied == ()
    assert fleet.known["t0"].version == "r2"
    fleet.sql("t0", "delete from users where id = 2")
    resumed = roll_out(fleet, project.directory)
    assert [(each.outcome, each.applied) for each in resumed.results] == [("applied", ("r3", "r4")), ("skipped", ())]


def test_several_heads_are_named_and_merged_ones_are_one_history(
    new_alembic: Callable[..., AlembicHome], new_fleet: Callable[[int], Any], roll_out: Callable[..., Any]
) -> None:
    project, fleet = new_alembic(), new_fleet(2)
    project.revise("left", 'op.add_column("users", sa.Column("l", sa.Text))', after="r2")
    (only, _) = roll_out(fleet, project.directory).results
    assert only.applied == ("r1", "r2", "left")
    project.revise("right", 'op.add_column("users", sa.Column("r", sa.Text))', after="r2")
    with pytest.raises(InvalidInput, match="2 heads: left, right"):
        open_folder(project.directory)
    project.revise("both", "pass", after=("left", "right"))
    result = roll_out(fleet, project.directory)
    assert [each.applied for each in result.results] == [("right", "both")] * 2, result
    assert fleet.sql("t0", "select version_num from alembic_version") == [("both",)]
    assert list(roll_out(fleet, project.directory).outcomes.values()) == ["skipped"] * 2


def test_an_older_folder_does_not_touch_a_newer_tenant_and_an_edited_file_is_looked_up(
    new_alembic: Callable[..., AlembicHome], new_fleet: Callable[[int], Any], roll_out: Callable[..., Any]
) -> None:
    project, fleet = new_alembic(), new_fleet(1)
    r3 = project.revise("r3", 'op.add_column("users", sa.Column("age", sa.Integer))', after="r2")
    assert roll_out(fleet, project.directory, through="r2").results[0].applied == ("r1", "r2")
    roll_out(fleet, project.directory)
    r3.write_text(r3.read_text() + "\n# a remark\n")
    folder = open_folder(project.directory)
    assert [each.standing for each in make_plan(folder, fleet.select()).tenants] == ["unknown"]
    assert list(roll_out(fleet, project.directory).outcomes.values()) == ["current"]
    assert list(roll_out(fleet, project.directory).outcomes.values()) == ["skipped"] * 1
    r3.unlink()
    (only,) = roll_out(fleet, project.directory).results
    assert only.failure.kind == "ahead"
    assert "r3" in only.failure.message


def test_an_env_that_goes_elsewhere_changes_nothing_there(
    new_alembic: Callable[..., AlembicHome],
    new_fleet: Callable[[int], Any],
    new_database: Callable[[], str],
    roll_out: Callable[..., Any],
) -> None:
    project, fleet = new_alembic(), new_fleet(1)
    elsewhere = new_database()
    env = project.directory / "migrations/env.py"
    kept = env.read_text()
    forced = f"config = context.config\nconfig.set_main_option('sqlalchemy.url', {elsewhere!r}.replace('%', '%%'))\n"
    env.write_text(kept.replace("config = context.config\n", forced))
    (only,) = roll_out(fleet, project.directory).results
    assert (only.outcome, only.failure.kind) == ("failed", "tool")
    assert "another database" in only.failure.message
    fleet.dsns["elsewhere"] = elsewhere
    assert fleet.sql("elsewhere", "select count(*) from pg_class where relname = 'alembic_version'") == [(0,)]
    # Or that keeps its ledger where we do not look for it, until we are told.
    fleet.sql("t0", "create schema own")
    del fleet.dsns["elsewhere"]
    given = "target_metadata=target_metadata\n"
    assert given in kept
    env.write_text(kept.replace(given, "target_metadata=target_metadata, version_table_schema='own'\n"))
    (only,) = roll_out(fleet, project.directory).results
    assert only.failure.message == "env.py keeps the versions in own.alembic_version, not in alembic_version"
    assert fleet.sql("t0", "select count(*) from pg_class where relname in ('alembic_version', 'users')") == [(0,)]
    (project.directory / "tenantry.toml").write_text("[migrations]\nversion_table = 'own.alembic_version'\n")
    assert roll_out(fleet, project.directory).results[0].applied == ("r1", "r2")


def test_the_sql_of_a_revision_is_told_for_the_lint(new_alembic: Callable[..., AlembicHome]) -> None:
    project = new_alembic()
    project.revise("r3", 'op.create_index("by_email", "users", ["email"])', after="r2")
    folder = open_folder(project.directory)
    assert isinstance(folder, AlembicProject)
    assert [" ".join((folder.sql_of(each) or "").split()) for each in folder.migrations] == [
        "CREATE TABLE users ( id SERIAL NOT NULL, email TEXT, PRIMARY KEY (id) );",
        "ALTER TABLE users ADD COLUMN note TEXT;",
        "CREATE INDEX by_email ON users (email);",
    ]
    found = {(each.rule, each.version) for each in lint_verdict(folder, {}, without_squawk=True).findings}
    assert any(version == "r3" for _, version in found), found
