"""``tenantry generate`` into a repository, and what it wrote carried out: real workflows' steps against a real cell."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tenantry.errors import Unauthorized
from tenantry.fleet.backups.keys import write_fleet_key
from tenantry.neon.client import NeonClient

from ..fleet.automations.runner import Runner
from ..fleet.automations.stand_ins import GithubStandIn, VercelStandIn
from ..forks import Installed, Nurseries

if TYPE_CHECKING:
    from conftest import Operator, Query

WORKFLOWS = Path(".github/workflows")
pytestmark = pytest.mark.timeout(300)
"""A workflow is many processes."""


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[GithubStandIn]:
    with GithubStandIn() as stand_in:
        monkeypatch.setenv("GITHUB_TOKEN", stand_in.TOKEN)
        monkeypatch.setenv("GITHUB_API_URL", stand_in.url)
        yield stand_in
        assert stand_in.surprises == []


@pytest.fixture
def vercel(monkeypatch: pytest.MonkeyPatch) -> Iterator[VercelStandIn]:
    with VercelStandIn() as stand_in:
        monkeypatch.setenv("VERCEL_TOKEN", stand_in.TOKEN)
        yield stand_in
        assert stand_in.surprises == []


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout, in which the operator works."""
    root = tmp_path / "app"
    (root / ".git").mkdir(parents=True)
    (root / "migrations").mkdir()
    (root / "migrations" / "0001_one.sql").write_text("create table one (i int)")
    write_fleet_key(root / "backup.key")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def said(repository: Path) -> Callable[..., None]:
    """Writes the repository's tenantry.toml: for runners of one's own, since the cell is on this machine."""

    def write(text: str = "") -> None:
        vault = f'[backups]\nvault = "file://{repository.parent}/vault"\nkey_from = "file:backup.key"\n'
        start = '[migrations]\ndir = "migrations"\n[github]\nrepository = "acme/app"\nruns_on = "self-hosted"\n'
        (repository / "tenantry.toml").write_text(vault + start + text)

    return write


@pytest.fixture
def acme(operator: Operator, name: str) -> str:
    return str(operator.json("create", name)["tenant"]["slug"])


@pytest.fixture(scope="session")
def installed(nurseries: Nurseries, new_workdir: Callable[[str], Path]) -> Iterator[Installed]:
    with Installed(nurseries, new_workdir("bin")) as installed:
        yield installed


@pytest.fixture
def runner(repository: Path, github: GithubStandIn, installed: Installed) -> Callable[[], Runner]:
    def make() -> Runner:
        return Runner(
            repository,
            programs=Path(sys.executable).parent,
            secrets=github.secrets[None],
            environment={
                "PATH": f"{installed.programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
                "GITHUB_REPOSITORY": "acme/app",
                "GITHUB_API_URL": github.url,
                "GITHUB_TOKEN_OF_JOB": github.TOKEN,
            },
        )

    return make


def tree(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def test_written_twice_is_written_once_and_a_check_shows_what_differs(
    operator: Operator, repository: Path, said: Callable[..., None]
) -> None:
    said()
    missing = operator.do("generate", "github", "--check", code=1).stdout
    assert "+++ b/.github/workflows/tenantry-migrate.yml" in missing
    assert not (repository / WORKFLOWS).exists()
    would = operator.do("generate", "github", "--dry-run").stdout
    assert "would write .github/workflows/tenantry-backup.yml" in would
    assert not (repository / WORKFLOWS).exists()

    done = operator.do("generate", "github")
    assert "wrote .github/workflows/tenantry-pull-request.yml" in done.stdout
    assert "TENANTRY_API_KEY" in done.stderr
    before = tree(repository)
    assert "nothing to write" in operator.do("generate", "github").stdout
    assert tree(repository) == before
    assert operator.json("generate", "github", "--check")["diff"] == ""

    migrate = repository / WORKFLOWS / "tenantry-migrate.yml"
    migrate.write_text(migrate.read_text().replace("timeout-minutes: 350", "timeout-minutes: 5"))
    differs = operator.json("generate", "github", "--check", code=1)
    assert "-    timeout-minutes: 5" in differs["diff"] and "+    timeout-minutes: 350" in differs["diff"]
    assert [each["state"] for each in differs["files"]].count("changed") == 1
    assert "changed .github/workflows/tenantry-migrate.yml" in operator.do("generate", "github").stdout
    assert tree(repository) == before


def test_what_is_wanted_no_more_goes_and_what_was_made_ones_own_stays(
    operator: Operator, repository: Path, said: Callable[..., None]
) -> None:
    said()
    operator.do("generate", "github")
    mine = repository / WORKFLOWS / "tenantry-migrate.yml"
    mine.write_text(mine.read_text().partition("\n")[2] + "# mine\n")
    foreign = repository / WORKFLOWS / "tenantry-of-somebody.yml"
    foreign.write_text("name: Another\n")
    said("pull_requests = false\n")
    done = operator.do("generate", "github")
    assert done.stdout == "removed .github/workflows/tenantry-pull-request.yml\n"
    assert "left alone: .github/workflows/tenantry-migrate.yml" in done.stderr
    assert mine.read_text().endswith("# mine\n") and foreign.read_text() == "name: Another\n"
    operator.do("generate", "github", "--check")


def test_a_loopback_cell_is_no_place_that_githubs_runners_reach(operator: Operator, repository: Path) -> None:
    (repository / "tenantry.toml").write_text('[github]\nrepository = "acme/app"\n')
    assert "cannot reach a cell at 127.0.0.1" in operator.do("generate", "github", code=2).stderr
    assert not (repository / WORKFLOWS).exists()


def test_the_fleets_key_is_sealed_for_github_and_renewed_on_demand(
    operator: Operator, said: Callable[..., None], github: GithubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    said('secrets = ["NEON_API_KEY"]\n')
    missing = operator.do("generate", "github", "--secrets", code=1).stderr
    assert "NEON_API_KEY is to be passed on, and not set here" in missing
    assert github.secrets[None] == {}
    monkeypatch.setenv("NEON_API_KEY", "napi_of_mine")
    would = operator.do("generate", "github", "--secrets", "--dry-run").stdout
    assert "would set TENANTRY_API_KEY" in would and github.secrets[None] == {}

    done = operator.do("generate", "github", "--secrets")
    first = github.secrets[None]["TENANTRY_API_KEY"]
    assert github.secrets[None]["NEON_API_KEY"] == "napi_of_mine"
    assert github.secrets[None]["TENANTRY_BACKUP_KEY"].startswith("tenantry_backup_")
    assert not any(secret in done.stdout + done.stderr for secret in (first, "napi_of_mine", github.TOKEN))
    assert opens(operator, first)
    operator.do("generate", "github", "--secrets")
    assert github.secrets[None]["TENANTRY_API_KEY"] == first

    operator.do("generate", "github", "--secrets", "--rotate")
    second = github.secrets[None]["TENANTRY_API_KEY"]
    assert second != first
    assert opens(operator, second) and not opens(operator, first)


@pytest.mark.parametrize("point", ["github_key.made", "github_key.set"])
def test_whoever_is_killed_while_a_key_is_renewed_leaves_one_at_github_that_opens(
    operator: Operator, said: Callable[..., None], github: GithubStandIn, point: str
) -> None:
    said()
    operator.do("generate", "github", "--secrets")

    def keys() -> int:
        target = operator.cell.target
        with NeonClient(target.api_url, target.api_key) as client:
            return len([key for key in client.list_api_keys() if key.name == "github acme/app"])

    killed = {"TENANTRY_FAILPOINTS": f"{point}=kill"}
    operator.run("generate", "github", "--secrets", "--rotate", code=-signal.SIGKILL, **killed)
    assert opens(operator, github.secrets[None]["TENANTRY_API_KEY"])
    assert keys() == 2
    operator.do("generate", "github", "--secrets", "--rotate")
    assert opens(operator, github.secrets[None]["TENANTRY_API_KEY"])
    assert keys() == 1


def opens(operator: Operator, key: str) -> bool:
    """Whether somebody gets in who has this key alone."""
    with NeonClient(operator.cell.target.api_url, key) as client:
        try:
            client.list_projects(limit=1)
        except Unauthorized:
            return False
    return True


def test_a_merge_migrates_everybody(
    operator: Operator, query: Query, repository: Path, said: Callable[..., None], github: GithubStandIn,
    runner: Callable[[], Runner], acme: str, name: str,
) -> None:  # fmt: skip
    said()
    # Everybody is only this test's tenant: the cell has those of other tests too.
    marker = f"t{re.sub(r'[^a-z0-9]', '', name.lower())}"
    (repository / "migrations" / "0001_one.sql").write_text(f"create table if not exists {marker} (i int)")
    operator.do("generate", "github", "--secrets")
    workflow = repository / WORKFLOWS / "tenantry-migrate.yml"
    text = workflow.read_text()
    assert "run: tenantry migrate run\n" in text
    workflow.write_text(text.replace("run: tenantry migrate run\n", f"run: tenantry migrate run --tenants {acme}\n"))
    job = runner().run("tenantry-migrate.yml", "migrate", {})
    assert job is not None and not job.failed, job
    assert job.ran() == ["Install Tenantry", "Migrate every customer"]
    assert query(operator.do("url", acme).stdout, f"select count(*) from {marker}") == [0]
    again = runner().run("tenantry-migrate.yml", "migrate", {})
    assert again is not None and not again.failed, again

    (repository / "migrations" / "0002_two.sql").write_text("select 1/0")
    broken = runner().run("tenantry-migrate.yml", "migrate", {})
    assert broken is not None and broken.of("Migrate every customer").status == "failed"
    assert "22012" in broken.of("Migrate every customer").output


def pull_request(action: str, *, repository: str = "acme/app", user: str = "ann") -> dict[str, Any]:
    head = {"repo": {"full_name": repository}, "ref": "feature/x"}
    return {"action": action, "pull_request": {"number": 12, "head": head, "user": {"login": user}}}


def test_a_pull_request_and_its_preview_have_a_branch_from_open_to_close(
    operator: Operator, query: Query, said: Callable[..., None], github: GithubStandIn, vercel: VercelStandIn,
    runner: Callable[[], Runner], acme: str,
) -> None:  # fmt: skip
    command = 'python -c "import os, psycopg; print(psycopg.connect(os.environ[\\"DATABASE_URL\\"]).info.dbname)"; env'
    said(
        f"pull_request_tenant = {json.dumps(acme)}\npull_request_command = {json.dumps(command)}\n"
        f'[vercel]\nproject = "shop"\nteam = "{vercel.TEAM}"\napi_url = "{vercel.url}"\n'
    )
    assert "wrote .github/workflows/tenantry-pull-request.yml" in operator.do("generate", "vercel").stdout
    assert "wrote .github/workflows/tenantry-migrate.yml" in operator.do("generate", "github", "--secrets").stdout
    assert github.secrets[None]["VERCEL_TOKEN"] == vercel.TOKEN
    operator.do("generate", "vercel", "--check")
    vercel.deployed("feature/x")
    file, machine = "tenantry-pull-request.yml", runner()
    query(operator.do("url", acme).stdout, "create table t (n int); insert into t values (1)")

    opened = machine.run(file, "branch", pull_request("opened"))
    assert opened is not None and not opened.failed, opened
    assert opened.of("Make it anew after a push").status == "skipped"
    used = opened.of("Use the branch").output
    assert "neondb" in used and github.secrets[None]["TENANTRY_API_KEY"] not in used
    url = operator.do("branch", "url", "pr-12", "--tenant", acme).stdout
    query(url, "insert into t values (2)")
    assert vercel.of("feature/x") == {"DATABASE_URL": url.strip()}
    assert len(vercel.deployments) == 2
    comment = github.comments[12][0]["body"]
    assert f"tenantry branch psql pr-12 --tenant {acme}" in comment
    assert url.strip() not in comment and "postgresql://" not in comment

    query(operator.do("url", acme).stdout, "insert into t values (3)")
    pushed = machine.run(file, "branch", pull_request("synchronize"))
    assert pushed is not None and not pushed.failed, pushed
    assert sorted(query(url, "select n from t")) == [1, 3]
    assert len(github.comments[12]) == 1
    assert len(vercel.deployments) == 2

    closed = machine.run(file, "gone", pull_request("closed"))
    assert closed is not None and not closed.failed, closed
    assert "no branch 'pr-12'" in operator.do("branch", "url", "pr-12", "--tenant", acme, code=1).stderr
    assert [each["body"].partition("\n")[2] for each in github.comments[12]] == [
        "The database of this pull request, branch `pr-12`, is gone with all that was in it."
    ]
    assert vercel.variables == []
    # Closed again, after it had expired for instance, is no failure.
    again = machine.run(file, "gone", pull_request("closed"))
    assert again is not None and not again.failed, again


def test_a_night_backs_up_what_is_due_and_proves_it(
    operator: Operator, query: Query, repository: Path, said: Callable[..., None], github: GithubStandIn,
    runner: Callable[[], Runner], acme: str,
) -> None:  # fmt: skip
    said("backup_shards = 2\nbackup_minutes = 5\n")
    operator.do("generate", "github", "--secrets")
    query(operator.do("url", acme).stdout, "create table t (n int); insert into t values (1), (2)")
    file = repository / WORKFLOWS / "tenantry-backup.yml"
    # The fleet of this test is one customer: the cell has those of other tests too.
    file.write_text(file.read_text().replace(" --all ", f" {acme} ").replace("verify", f"verify {acme}"))
    taken = [runner().run(file.name, "backup", {}, matrix={"part": part}) for part in ("1/2", "2/2")]
    assert not any(job is None or job.failed for job in taken), taken
    rest = [runner().run(file.name, "rest", {}, matrix={"part": part}) for part in ("1/2", "2/2")]
    assert not any(job is None or job.failed for job in rest), rest
    (backup,) = [each for each in operator.json("backup", "list")["backups"] if each["tenant"] == acme]
    manifest = repository.parent / "vault" / acme / backup["id"] / "manifest.json"
    assert json.loads(manifest.read_text())["rows"] == 2

    said('backup = "customer"\nmigrate_with = "off"\npull_requests = false\n')
    wrote = operator.json("generate", "github")["files"]
    assert {"path": f".github/workflows/tenantry-backup-{acme}.yml", "state": "new"} in wrote
    assert {"path": ".github/workflows/tenantry-backup.yml", "state": "gone"} in wrote
    again = runner().run(f"tenantry-backup-{acme}.yml", "backup", {})
    assert again is not None and not again.failed, again
    prove = runner().run(f"tenantry-backup-{acme}.yml", "prove", {})
    assert prove is not None and not prove.failed, prove
    assert f"{acme}: verified: 2 rows in 1 tables" in prove.of("Verify").output
    # Without the key for backups, which no other job is given, nothing is taken.
    del github.secrets[None]["TENANTRY_BACKUP_KEY"]
    without = runner().run(f"tenantry-backup-{acme}.yml", "backup", {})
    assert without is not None and without.of("Back up").status == "failed"
    assert "TENANTRY_BACKUP_KEY" in without.of("Back up").output


@pytest.mark.parametrize(
    ("event", "job"),
    [
        (pull_request("opened", repository="somebody/app"), "branch"),
        (pull_request("opened", user="dependabot[bot]"), "branch"),
        (pull_request("closed"), "branch"),
        (pull_request("closed", repository="somebody/app"), "gone"),
        (pull_request("synchronize"), "gone"),
    ],
)
def test_who_is_given_no_secrets_has_no_branch(
    operator: Operator, said: Callable[..., None], runner: Callable[[], Runner], event: dict[str, Any], job: str
) -> None:
    said()
    operator.do("generate", "github")
    assert runner().run("tenantry-pull-request.yml", job, event) is None


def test_drizzles_tree_follows_the_customers(
    operator: Operator, repository: Path, acme: str, github: GithubStandIn
) -> None:
    done = operator.json("generate", "drizzle")
    config = repository / "configs" / acme / "drizzle.config.ts"
    variable = f"{acme.replace('-', '_').upper()}_DATABASE_URL"
    text = config.read_text()
    assert f'out: "./drizzle/{acme}",' in text and f"process.env.{variable}!" in text
    assert {"path": f"configs/{acme}/drizzle.config.ts", "state": "new"} in done["files"]
    operator.do("delete", acme, "--yes")
    operator.do("generate", "drizzle")
    assert not config.parent.exists()
