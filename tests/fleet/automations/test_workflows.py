"""What is generated, judged by those who judge workflows: GitHub's schema and zizmor; actionlint is in conformance."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tenantry.errors import Conflict, InvalidInput
from tenantry.fleet.automations.configured import choices_of
from tenantry.fleet.automations.customers import Customer, customers_of, variable_of
from tenantry.fleet.automations.files import plan_files, write_files
from tenantry.fleet.automations.workflows import Choices, Jobs, PullRequests, spread, workflows
from tenantry.fleet.settings import Settings

from .variants import CUSTOMERS, VARIANTS

PROGRAMS = Path(sys.executable).parent


@pytest.fixture(params=VARIANTS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write_files(tmp_path, plan_files(tmp_path, workflows(VARIANTS[request.param], CUSTOMERS)))
    return tmp_path / ".github" / "workflows"


def test_githubs_schema_and_zizmor_find_nothing(folder: Path) -> None:
    schema = [PROGRAMS / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *folder.glob("*.yml")]
    judged = subprocess.run(schema, capture_output=True, text=True, check=False, timeout=100)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    zizmor = [PROGRAMS / "zizmor", "--offline", "--persona=pedantic", "--no-progress", folder]
    judged = subprocess.run(zizmor, capture_output=True, text=True, check=False, timeout=100)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert "No findings to report" in judged.stdout


def test_a_secret_is_given_to_no_step_but_those_that_ask_the_fleet(folder: Path) -> None:
    for path in folder.glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        assert "env" not in workflow
        assert workflow["permissions"] == {}
        for job in workflow["jobs"].values():
            assert "env" not in job
            for step in job["steps"]:
                if "secrets." in str(step):
                    assert "uses" not in step
                    assert step["run"].startswith(("tenantry ", "DATABASE_URL=", 'failed=""')), step


def test_a_backup_of_the_fleet_is_shared_and_goes_on_below_six_hours() -> None:
    wanted = {each.path.name: each.text for each in workflows(VARIANTS["shards"], ())}
    jobs = yaml.safe_load(wanted["tenantry-backup.yml"])["jobs"]
    assert jobs["backup"]["strategy"]["matrix"]["part"] == ["1/4", "2/4", "3/4", "4/4"]
    for name in ("backup", "rest"):
        assert jobs[name]["timeout-minutes"] < 6 * 60
        assert (
            jobs[name]["steps"][-1]["run"] == 'tenantry backup run --all --shard "$PART" --older-than 12h --minutes 120'
        )
    assert jobs["rest"]["needs"] == "backup"
    assert jobs["prove"]["needs"] == "rest"


def test_a_file_for_each_customer_as_in_the_guide() -> None:
    wanted = {each.path.name: yaml.safe_load(each.text) for each in workflows(VARIANTS["guide"], CUSTOMERS)}
    names = [f"tenantry-backup-{customer.slug}.yml" for customer in CUSTOMERS]
    assert set(wanted) == {*names, "tenantry-migrate.yml", "tenantry-pull-request.yml"}
    step = wanted["tenantry-migrate.yml"]["jobs"]["migrate"]["steps"][-1]
    assert step["env"]["ACME_CORP_DATABASE_URL"] == "${{ secrets.ACME_CORP_DATABASE_URL }}"


def test_customers_come_in_the_hour_that_was_said_and_not_all_at_once() -> None:
    minutes = {int(spread("17 2 * * *", f"customer-{number}").partition(" ")[0]) for number in range(200)}
    assert len(minutes) > 40 and minutes <= set(range(60))
    assert spread("17 2 * * *", "acme").endswith(" 2 * * *")
    assert spread("17 2 * * *", "acme") == spread("17 2 * * *", "acme")
    assert spread("*/5 * * * *", "acme") == "*/5 * * * *"


@pytest.mark.parametrize(
    ("slug", "variable"),
    [
        ("acme-corp", "ACME_CORP_DATABASE_URL"),
        ("1st-choice", "CUSTOMER_1ST_CHOICE_DATABASE_URL"),
        ("github-fans", "CUSTOMER_GITHUB_FANS_DATABASE_URL"),
    ],
)
def test_variables_are_names_that_github_takes(slug: str, variable: str) -> None:
    assert variable_of(slug) == variable


def test_two_customers_of_one_variable_are_refused() -> None:
    tenants: Any = [SimpleNamespace(slug=slug, state="ready") for slug in ("customer-1st", "1st")]
    with pytest.raises(Conflict, match="would both have the variable CUSTOMER_1ST_DATABASE_URL"):
        customers_of(tenants)


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"backup_cron": "sometimes"}, "is not like 17 2"),
        ({"backup_cron": "17 2 * *"}, "is not like 17 2"),
        ({"migrate_with": "drizzle-kit"}, "a connection string for each customer"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(said: dict[str, object], says: str) -> None:
    settings = Settings.model_validate({"github": said, "backups": {"vault": "s3://acme-backups"}})
    with pytest.raises(InvalidInput, match=says):
        choices_of(settings, "https://db.example.com/api/v2")


def test_backups_are_written_where_there_is_a_vault_that_runners_reach() -> None:
    cell = "https://db.example.com/api/v2"
    assert choices_of(Settings.model_validate({}), cell).backup == "off"
    directory: dict[str, object] = {"backups": {"vault": "file:///var/backups"}}
    with pytest.raises(InvalidInput, match="is gone with GitHub's runner"):
        choices_of(Settings.model_validate(directory), cell)
    own = choices_of(Settings.model_validate(directory | {"github": {"runs_on": "self-hosted"}}), cell)
    assert own.backup == "fleet" and own.jobs.aws_role is None
    said = {"backups": {"vault": "s3://acme-backups/x", "key_from": "file:/k"}, "aws": {"account_id": "123456789012"}}
    bucket = choices_of(Settings.model_validate(said), cell)
    assert bucket.jobs.aws_role == "arn:aws:iam::123456789012:role/tenantry-backups"
    (text,) = [each.text for each in workflows(bucket, ()) if each.path.name == "tenantry-backup.yml"]
    (step,) = [
        step for step in yaml.safe_load(text)["jobs"]["backup"]["steps"] if step["name"] == "Back up"
    ]  # fmt: skip
    assert step["env"]["TENANTRY_BACKUPS__KEY_FROM"] == "env:TENANTRY_BACKUP_KEY"
    assert step["env"]["TENANTRY_BACKUP_KEY"] == "${{ secrets.TENANTRY_BACKUP_KEY }}"
    assert all("TENANTRY_BACKUP_KEY" not in each.text for each in workflows(bucket, ()) if each.text != text)


def test_what_people_say_is_quoted_where_yaml_would_read_it_otherwise() -> None:
    jobs = Jobs(cell_url="https://db.example.com/api/v2", install='tenantry[x] @ "y: #z"', branch="release: #1")
    pull = PullRequests(parent="a: b #c", tenant="acme-corp", expires="1d")
    for wanted in workflows(Choices(jobs=jobs, pull_requests=pull), ()):
        workflow = yaml.safe_load(wanted.text)
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                if step["name"] == "Install Tenantry":
                    assert step["env"]["PACKAGE"] == 'tenantry[x] @ "y: #z"'
                if step["name"] == "Create the branch":
                    assert "--from 'a: b #c'" in step["run"]
    assert replace(pull, anonymized=True).renew.startswith("tenantry branch delete")


def test_more_workflows_than_a_repository_can_use_are_refused() -> None:
    many = [Customer(f"c{number}", f"C{number}") for number in range(1001)]
    with pytest.raises(InvalidInput, match='backup = "fleet"'):
        workflows(VARIANTS["guide"], many)
