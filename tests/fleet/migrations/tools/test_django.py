"""Django projects as `django-admin` makes them: rolled out by us, then by Django, and the other way round."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations.formats.base import LedgerRow
from tenantry.fleet.migrations.formats.django import DjangoProject, in_a_line
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.plan import make_plan

if TYPE_CHECKING:
    from conftest import DjangoHome

pytestmark = pytest.mark.timeout(400)  # a dozen starts of a process, on machines with other things to do

AGE = "migrations.AddField('user', 'age', models.IntegerField(null=True))"


def test_all_tenants_are_migrated_and_django_itself_finds_nothing_to_do(
    django: DjangoHome, new_fleet: Callable[[int], Any], roll_out: Callable[..., Any], run_tool: Callable[..., str]
) -> None:
    fleet = new_fleet(3)
    result = roll_out(fleet, django.directory)
    assert [each.outcome for each in result.results] == ["applied"] * 3, result
    assert {each.version for each in fleet.known.values()} == {"tasks.0002_user_note"}
    for slug in fleet.dsns:
        assert fleet.sql(slug, "select count(*) from tasks_user") == [(0,)]
        # What Django does after its migrations is done too.
        assert fleet.sql(slug, "select count(*) from auth_permission where codename = 'add_user'") == [(2,)]
    fleet.asked.clear()
    assert list(roll_out(fleet, django.directory).outcomes.values()) == ["skipped"] * 3
    assert fleet.asked == []
    django.of_environment(fleet.dsns["t2"])
    run_tool(["manage", "migrate", "--check"], django.directory)
    assert "[ ]" not in run_tool(["manage", "showmigrations"], django.directory)


def test_we_find_nothing_after_django_and_only_the_rest_where_it_stopped(
    django: DjangoHome, new_fleet: Callable[[int], Any], roll_out: Callable[..., Any], run_tool: Callable[..., str]
) -> None:
    fleet = new_fleet(2)
    kept = (django.directory / "site_of_ours/settings.py").read_text()
    django.of_environment(fleet.dsns["t0"])
    run_tool(["manage", "migrate"], django.directory)
    django.of_environment(fleet.dsns["t1"])
    run_tool(["manage", "migrate", "tasks", "0001"], django.directory)
    run_tool(["manage", "migrate", "auth"], django.directory)
    (django.directory / "site_of_ours/settings.py").write_text(kept)
    whole, half = roll_out(fleet, django.directory).results
    assert (whole.outcome, whole.applied) == ("current", ())
    assert half.outcome == "applied", half
    assert "tasks.0002_user_note" in half.applied
    assert "tasks.0001_initial" not in half.applied
    assert fleet.known["t0"] == fleet.known["t1"]


def test_a_failure_names_migration_and_statement_and_what_was_kept_before_it(
    django: DjangoHome, new_fleet: Callable[[int], Any], roll_out: Callable[..., Any]
) -> None:
    fleet = new_fleet(2)
    roll_out(fleet, django.directory)
    fleet.sql("t0", "insert into tasks_user (email, note) values ('x', ''), ('x', '')")
    django.add("0003_age", AGE, after="0002_user_note")
    django.add("0004_once", "migrations.AlterField('user', 'email', models.TextField(unique=True))", after="0003_age")
    folder = open_folder(django.directory)
    assert [each.pending for each in make_plan(folder, fleet.select()).tenants] == [
        ("tasks.0003_age", "tasks.0004_once")
    ] * 2
    failed, done = roll_out(fleet, django.directory).results
    assert done.applied == ("tasks.0003_age", "tasks.0004_once")
    failure = failed.failure
    assert (failure.kind, failure.sqlstate, failure.migration) == ("sql", "23505", "tasks.0004_once")
    assert failure.file == "tasks/migrations/0004_once.py"
    assert failure.sql.startswith("ALTER TABLE")
    assert "Applying tasks.0004_once" in failure.output
    # Each migration of Django is a transaction: what was before the failing one stays, and is told.
    assert failed.applied == ("tasks.0003_age",)
    assert fleet.known["t0"].version == "tasks.0003_age"
    fleet.sql("t0", "delete from tasks_user where id = 2")
    first, second = roll_out(fleet, django.directory).results
    assert (first.applied, second.outcome) == (("tasks.0004_once",), "skipped")


def test_python_in_a_migration_fails_with_its_line_and_runs_in_the_tenant(
    django: DjangoHome, new_fleet: Callable[[int], Any], roll_out: Callable[..., Any]
) -> None:
    fleet = new_fleet(1)
    path = django.add("0003_data", "migrations.RunPython(fill)", after="0002_user_note")
    text = path.read_text()
    fill = "def fill(apps, schema_editor):\n    apps.get_model('tasks', 'User').objects.create(email='made')\n"
    path.write_text(text.replace("class Migration", f"{fill}    raise RuntimeError('on purpose')\n\n\nclass Migration"))
    (only,) = roll_out(fleet, django.directory).results
    assert only.failure.message == "RuntimeError: on purpose"
    assert only.failure.file == "tasks/migrations/0003_data.py"
    assert "on purpose" in path.read_text().splitlines()[only.failure.line - 1]
    assert "Traceback" in only.failure.output
    path.write_text(text.replace("class Migration", f"{fill}\n\nclass Migration"))
    assert roll_out(fleet, django.directory).results[0].applied == ("tasks.0003_data",)
    assert fleet.sql("t0", "select email from tasks_user") == [("made",)]


def test_stopping_at_a_version_and_an_older_checkout(
    django: DjangoHome, new_fleet: Callable[[int], Any], roll_out: Callable[..., Any]
) -> None:
    fleet = new_fleet(1)
    added = django.add("0003_age", AGE, after="0002_user_note")
    (only,) = roll_out(fleet, django.directory, through="tasks.0002_user_note").results
    assert only.applied[-1] == "tasks.0002_user_note", only
    assert fleet.sql("t0", "select name from django_migrations where app = 'tasks' order by id desc limit 1") == [
        ("0002_user_note",)
    ]
    assert roll_out(fleet, django.directory).results[0].applied == ("tasks.0003_age",)
    (only,) = roll_out(fleet, django.directory, through="tasks.0002_user_note").results
    assert only.failure.kind == "ahead"
    added.unlink()
    (only,) = roll_out(fleet, django.directory).results
    assert only.failure.kind == "ahead"
    assert "tasks.0003_age" in only.failure.message


def test_squashed_migrations_are_what_django_says_they_are(
    django: DjangoHome, new_fleet: Callable[[int], Any], roll_out: Callable[..., Any], run_tool: Callable[..., str]
) -> None:
    fleet = new_fleet(3)
    roll_out(fleet, django.directory, through="tasks.0002_user_note")
    fleet.sql("t1", "drop schema public cascade; create schema public")
    fleet.sql("t2", "delete from django_migrations where app = 'tasks' and name = '0002_user_note'")
    fleet.sql("t2", "alter table tasks_user drop column note")
    fleet.forget()
    run_tool(["manage", "squashmigrations", "--no-input", "tasks", "0002"], django.directory)
    squashed = "tasks.0001_squashed_0002_user_note"
    whole, empty, half = roll_out(fleet, django.directory).results
    assert (whole.outcome, whole.applied) == ("current", ())
    assert (empty.outcome, empty.applied[-1]) == ("applied", squashed)
    assert (half.outcome, half.applied) == ("applied", (squashed,))
    assert fleet.known["t0"] == fleet.known["t1"] == fleet.known["t2"]
    assert list(roll_out(fleet, django.directory).outcomes.values()) == ["skipped"] * 3
    assert fleet.sql("t2", "select note from tasks_user") == []


def test_conflicting_leaves_are_named(django: DjangoHome) -> None:
    django.add("0003_left", AGE, after="0002_user_note")
    django.add("0003_right", AGE.replace("age", "year"), after="0002_user_note")
    with pytest.raises(InvalidInput, match="0003_left, 0003_right in tasks"):
        open_folder(django.directory)


def test_a_project_that_cannot_be_loaded_says_why(django: DjangoHome) -> None:
    (django.directory / "tasks/models.py").write_text("import a_module_that_is_not_there\n")
    with pytest.raises(InvalidInput, match=r"ModuleNotFoundError.*a_module_that_is_not_there.*tasks/models.py, line 1"):
        open_folder(django.directory)


def test_settings_that_want_a_url_and_options_of_their_own(
    django: DjangoHome, new_fleet: Callable[[int], Any], roll_out: Callable[..., Any]
) -> None:
    fleet = new_fleet(1)
    settings = django.directory / "site_of_ours/settings.py"
    settings.write_text(
        settings.read_text()
        + "\nimport os\nassert os.environ['DATABASE_URL'].startswith('postgresql://')\n"
        + "DATABASES = {'default': {'ENGINE': 'django.db.backends.postgresql', 'NAME': 'elsewhere',"
        + " 'HOST': '192.0.2.1', 'OPTIONS': {'pool': True, 'options': '-c default_statistics_target=77'}}}\n"
    )
    django.add(
        "0003_settings",
        "migrations.RunSQL('create table said as select name, setting from pg_settings')",
        after="0002_user_note",
    )
    (only,) = roll_out(fleet, django.directory, lock_seconds=3.0, statement_seconds=60.0).results
    assert only.outcome == "applied", only
    names = ("default_statistics_target", "lock_timeout", "statement_timeout", "application_name")
    said = dict(fleet.sql("t0", f"select name, setting from said where name in {names}"))
    assert said == dict(zip(names, ("77", "3000", "60000", "tenantry migrate tool"), strict=True))


def test_the_sql_of_a_migration_is_told_for_the_lint(django: DjangoHome) -> None:
    django.add("0003_age", AGE, after="0002_user_note")
    django.add("0004_python", "migrations.RunPython(print)", after="0003_age")
    folder = open_folder(django.directory)
    assert isinstance(folder, DjangoProject)
    told = {each.version: folder.sql_of(each) for each in folder.migrations}
    assert 'ALTER TABLE "tasks_user" ADD COLUMN "age" integer NULL;' in (told["tasks.0003_age"] or "")
    assert 'CREATE TABLE "tasks_user"' in (told["tasks.0001_initial"] or "")
    assert told["tasks.0004_python"] is None


# ------------------------------------------------------------------------------------------------- without a process


def test_the_line_is_as_django_needs_it_and_new_migrations_join_at_its_end() -> None:
    after = {"a.1": [], "b.1": ["a.1"], "a.2": ["a.1"], "c.1": []}
    written = {"a.1": "2026-01-01", "b.1": "2026-01-03", "a.2": "2026-01-02"}
    assert in_a_line(after, written) == ["c.1", "a.1", "a.2", "b.1"]
    later = {**after, "a.3": ["a.2"]}
    assert in_a_line(later, {**written, "a.3": "2026-01-04"}) == ["c.1", "a.1", "a.2", "b.1", "a.3"]
    # Written earlier, merged later: it stands behind what it needs all the same.
    assert in_a_line(later, {**written, "a.3": "2026-01-01"}) == ["c.1", "a.1", "a.2", "a.3", "b.1"]


def test_rows_of_the_past_are_no_news_and_rows_of_the_future_are(django: DjangoHome) -> None:
    folder = open_folder(django.directory)
    assert isinstance(folder, DjangoProject)
    everything = [LedgerRow(each.version, "") for each in folder.migrations]
    assert folder.judge(everything).pending == ()
    gone = [LedgerRow("tasks.0000_gone", ""), LedgerRow("an_app_that_was_removed.0001_initial", "")]
    assert folder.judge([*gone, *everything]).objections == ()
    assert folder.judge([*gone, *everything]).state == folder.judge(everything).state
    (objection,) = folder.judge([*everything, LedgerRow("tasks.0099_newer", "")]).objections
    assert (objection.kind, objection.version) == ("ahead", "tasks.0099_newer")
