from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.config import find_settings
from tenantry.fleet.settings import Settings, load_settings, read_settings
from tenantry.fleet.settings_file import commented_file, json_schema


def written(directory: Path, text: str) -> Path:
    path = directory / "tenantry.toml"
    path.write_text(text)
    return path


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert load_settings(tmp_path) == Settings()
    assert Settings().tenants.grace == "7d"


def test_the_nearest_file_up_to_the_repositorys_root_counts(tmp_path: Path) -> None:
    written(tmp_path, "")
    repository = tmp_path / "repository"
    deep = repository / "a" / "b"
    deep.mkdir(parents=True)
    assert find_settings(deep, {}) == tmp_path / "tenantry.toml"
    (repository / ".git").mkdir()
    assert find_settings(deep, {}) is None
    assert find_settings(deep, {"TENANTRY_CONFIG": "/x/y.toml"}) == Path("/x/y.toml")
    path = written(repository, "")
    assert find_settings(deep, {}) == path


def test_the_environment_outranks_the_file_and_the_file_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "[migrations]\njobs = 3\nlock_timeout = 1.5\n")
    monkeypatch.setenv("TENANTRY_MIGRATIONS__JOBS", "5")
    settings = read_settings(path).migrations
    assert (settings.jobs, settings.lock_timeout, settings.statement_timeout) == (5, 1.5, 0.0)


def test_paths_of_the_file_are_meant_from_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, '[migrations]\ndir = "drizzle"\n[cell]\ndata = "/var/cell"\napi_key_file = "key"\n')
    settings = read_settings(path)
    assert settings.migrations.dir == tmp_path / "drizzle"
    assert (settings.cell.data, settings.cell.api_key_file) == (Path("/var/cell"), tmp_path / "key")
    monkeypatch.setenv("TENANTRY_MIGRATIONS__DIR", "elsewhere")
    assert read_settings(path).migrations.dir == Path("elsewhere")
    assert read_settings(written(tmp_path, "")).migrations.dir == Path("elsewhere")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[migrations]\njobs = 0\n", "tenantry.toml, line 2: migrations.jobs: Input should be greater"),
        ("\n[tenants]\n# no\n\nready = 'many'\n", "line 5: tenants.ready: Input should be a valid integer"),
        ("[tenants]\ngrace = 'soon'\n", "line 2: tenants.grace: 'soon' is not a span of time"),
        ("[migration]\njobs = 3\n", r"line 1: there is no setting migration"),
        ("[migrations]\njob = 3\n", r"line 2: there is no setting migrations.job"),
        ("migrations.jobs = 'x'\n", "line 1: migrations.jobs: "),
        ("[anonymize.columns]\n'public.a.b' = 3\n", "line 2: anonymize.columns.public.a.b: "),
        ("[migrations\njobs = 3\n", "line 1"),
    ],
)
def test_an_error_names_the_key_and_the_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read_settings(written(tmp_path, text))


def test_a_slip_of_the_finger_is_understood(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as raised:
        read_settings(written(tmp_path, "[migrations]\njob = 3\n"))
    assert raised.value.next_step == "did you mean jobs?"


def test_an_error_of_the_environment_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTRY_MIGRATIONS__JOBS", "many")
    with pytest.raises(InvalidInput, match=r"^\$TENANTRY_MIGRATIONS__JOBS: migrations\.jobs: "):
        read_settings(written(tmp_path, "[migrations]\njobs = 3\n"))


def test_tables_and_lists_of_the_environment_are_json_and_go_over_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "[migrations]\njobs = 3\n[migrations.lint]\nban-drop-column = 'block'\n")
    monkeypatch.setenv("TENANTRY_MIGRATIONS", '{"lint": {"prefer-text-field": "warn"}}')
    monkeypatch.setenv("tenantry_worker__queues", '["migrate"]')
    settings = read_settings(path)
    assert settings.migrations.lint == {"ban-drop-column": "block", "prefer-text-field": "warn"}
    assert (settings.migrations.jobs, settings.worker.queues) == (3, ["migrate"])
    monkeypatch.setenv("TENANTRY_WORKER__QUEUES", "migrate")
    with pytest.raises(InvalidInput, match=r"\"worker\"") as raised:
        read_settings(path)
    assert raised.value.next_step is not None


@pytest.mark.parametrize(("text", "says"), [("migrations = 3\n", "line 1: migrations: Input"), ("job = 3\n", "line 1")])
def test_what_is_in_no_section_says_so(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read_settings(written(tmp_path, text))


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        read_settings(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="not UTF-8"):
        read_settings(tmp_path / "binary.toml")


def test_the_commented_file_changes_nothing_and_names_everything(tmp_path: Path) -> None:
    text = commented_file()
    assert read_settings(written(tmp_path, text)) == Settings()
    for section, field in Settings.model_fields.items():
        assert f"\n[{section}]\n" in text
        for key in field.annotation.model_fields:  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
            assert f"\n# {key} =" in text


def test_every_line_of_the_commented_file_can_be_used(tmp_path: Path) -> None:
    said = [
        line.removeprefix("# ") if line.startswith("# ") and " = " in line and '"' not in line.split(" = ")[0] else line
        for line in commented_file().splitlines()
    ]
    settings = read_settings(written(tmp_path, "\n".join(said)))
    assert settings.migrations.jobs == Settings().migrations.jobs
    assert settings.anonymize.columns == {"public.users.email": "'user' || id || '@example.com'"}


def test_the_schema_for_editors_knows_every_setting() -> None:
    schema = json.loads(json_schema())
    assert set(schema["properties"]) == set(tomllib.loads(commented_file()))
    assert schema["additionalProperties"] is False
