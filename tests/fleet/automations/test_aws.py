"""Who may use the bucket: the policies are evaluated as AWS would, for those who should get in and for others."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from tenantry.fleet.automations.aws import Access, aws_files, bucket_policy, trust_policy
from tenantry.fleet.automations.files import plan_files, write_files

ACCESS = Access(
    repository="acme/app", account_id="123456789012", bucket="acme-backups", role="tenantry-backups",
    region="eu-central-1", session_seconds=19_500,
)  # fmt: skip
IN_PRODUCTION = Access(
    repository="acme/app", account_id="123456789012", bucket="acme-backups", role="tenantry-backups",
    region="eu-central-1", environment="production",
)  # fmt: skip
ISSUER = "token.actions.githubusercontent.com"


def takes_the_role(access: Access, *, subject: str, audience: str = "sts.amazonaws.com") -> bool:
    claims = {f"{ISSUER}:sub": subject, f"{ISSUER}:aud": audience}
    allowed = False
    document: Any = trust_policy(access)
    for statement in document["Statement"]:
        assert statement["Effect"] == "Allow" and set(statement["Condition"]) == {"StringEquals"}
        allowed |= all(claims.get(key) == value for key, value in statement["Condition"]["StringEquals"].items())
    return allowed


@pytest.mark.parametrize(
    ("subject", "may"),
    [
        ("repo:acme/app:ref:refs/heads/main", True),
        ("repo:acme/app:ref:refs/heads/mains", False),
        ("repo:acme/app:ref:refs/heads/feature", False),
        ("repo:acme/app:pull_request", False),
        ("repo:acme/app:environment:production", False),
        ("repo:acme/app2:ref:refs/heads/main", False),
        ("repo:evil/app:ref:refs/heads/main", False),
    ],
)
def test_only_the_main_branch_of_this_repository_takes_the_role(subject: str, may: bool) -> None:
    assert takes_the_role(ACCESS, subject=subject) is may
    assert not takes_the_role(ACCESS, subject=subject, audience="another")


def test_jobs_of_an_environment_are_known_by_it() -> None:
    assert takes_the_role(IN_PRODUCTION, subject="repo:acme/app:environment:production")
    assert not takes_the_role(IN_PRODUCTION, subject="repo:acme/app:ref:refs/heads/main")


def may(action: str, resource: str, *, role: str = "arn:aws:iam::123456789012:role/tenantry-backups") -> bool:
    document: Any = bucket_policy(ACCESS)
    return any(
        statement["Effect"] == "Allow"
        and statement["Principal"] == {"AWS": role}
        and action in statement["Action"]
        and any(fnmatchcase(resource, pattern) for pattern in statement["Resource"])
        for statement in document["Statement"]
    )


def test_the_role_lists_reads_writes_and_deletes_in_this_bucket_and_no_more() -> None:
    here, there = "arn:aws:s3:::acme-backups", "arn:aws:s3:::acme-backups-of-others"
    assert may("s3:ListBucket", here)
    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
        assert may(action, f"{here}/acme-corp/2026-01-01/manifest.json")
        assert not may(action, f"{there}/x")
        assert not may(action, f"{here}/x", role="arn:aws:iam::123456789012:role/another")
    assert not may("s3:ListBucket", there)
    document: Any = bucket_policy(ACCESS)
    actions = {action for statement in document["Statement"] for action in statement["Action"]}
    assert actions == {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"}


def test_three_forms_say_the_same(tmp_path: Path) -> None:
    folder = PurePosixPath("infra/tenantry")
    write_files(tmp_path, plan_files(tmp_path, aws_files(ACCESS, folder)))
    written = {path.name: path.read_text() for path in (tmp_path / folder).iterdir()}
    stack = json.loads(written["cloudformation.json"])["Resources"]
    assert stack["Role"]["Properties"]["AssumeRolePolicyDocument"] == json.loads(written["trust-policy.json"])
    assert stack["BucketPolicy"]["Properties"]["PolicyDocument"] == json.loads(written["bucket-policy.json"])
    terraform = written["main.tf"]
    assert 'file("${path.module}/trust-policy.json")' in terraform
    assert 'file("${path.module}/bucket-policy.json")' in terraform
    assert 'bucket = "acme-backups"' in terraform
    assert stack["Role"]["Properties"]["MaxSessionDuration"] == 19_500
    assert "max_session_duration = 19500" in terraform
    assert all(change.state == "same" for change in plan_files(tmp_path, aws_files(ACCESS, folder)))


def test_a_policy_that_somebody_made_their_own_is_left_alone(tmp_path: Path) -> None:
    folder = PurePosixPath("infra")
    write_files(tmp_path, plan_files(tmp_path, aws_files(ACCESS, folder)))
    policy = tmp_path / "infra" / "bucket-policy.json"
    policy.write_text(policy.read_text().replace('"Sid": "Tenantry', '"Sid": "Our'))
    states = {change.path.name: change.state for change in plan_files(tmp_path, aws_files(IN_PRODUCTION, folder))}
    assert states == {
        "bucket-policy.json": "theirs", "cloudformation.json": "changed", "main.tf": "changed",
        "trust-policy.json": "changed",
    }  # fmt: skip
