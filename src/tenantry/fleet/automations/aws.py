"""Who may use the bucket of backups: GitHub's jobs of one repository, by a role, with no key that could be lost.

The same three things in three forms: GitHub as an identity provider, a role that only this repository's jobs can take,
and a bucket policy that lets the role list, read, write and delete there. Nothing is changed at AWS from here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from tenantry.fleet.automations.files import MARK, Wanted, heading
from tenantry.fleet.automations.render import render

ISSUER: Final = "token.actions.githubusercontent.com"
AUDIENCE: Final = "sts.amazonaws.com"
SESSION_SECONDS_MIN: Final = 3600
SESSION_SECONDS_MAX: Final = 12 * 3600
TRUST_POLICY: Final = "trust-policy.json"
BUCKET_POLICY: Final = "bucket-policy.json"
CLOUDFORMATION: Final = "cloudformation.json"
TERRAFORM: Final = "main.tf"
_SID: Final = '"Sid": "Tenantry'
"""A policy has no room for a sentence; its statements' names say whose it is."""

Document = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    repository: str
    """OWNER/NAME at GitHub."""
    account_id: str
    bucket: str
    role: str
    region: str
    branch: str = "main"
    environment: str | None = None
    """The environment at GitHub that the jobs name; then it, and not the branch, is what GitHub vouches for."""
    partition: str = "aws"
    session_seconds: int = SESSION_SECONDS_MIN

    @property
    def subject(self) -> str:
        """What GitHub's token must say of the job: this repository, and nothing but its branch or its environment."""
        place = f"environment:{self.environment}" if self.environment else f"ref:refs/heads/{self.branch}"
        return f"repo:{self.repository}:{place}"

    @property
    def provider_arn(self) -> str:
        return f"arn:{self.partition}:iam::{self.account_id}:oidc-provider/{ISSUER}"

    @property
    def role_arn(self) -> str:
        return f"arn:{self.partition}:iam::{self.account_id}:role/{self.role}"

    @property
    def bucket_arn(self) -> str:
        return f"arn:{self.partition}:s3:::{self.bucket}"

    @property
    def role_seconds(self) -> int:
        """As long as a job may have the role."""
        return max(SESSION_SECONDS_MIN, min(self.session_seconds, SESSION_SECONDS_MAX))


def trust_policy(access: Access) -> Document:
    """Who may take the role. Pure."""
    claims = {f"{ISSUER}:aud": AUDIENCE, f"{ISSUER}:sub": access.subject}
    return _policy(
        {
            "Sid": "TenantryMayTakeTheRole",
            "Effect": "Allow",
            "Principal": {"Federated": access.provider_arn},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {"StringEquals": claims},
        }
    )


def bucket_policy(access: Access) -> Document:
    """What the role may do: this bucket, and no more than backups need. Pure."""
    role = {"AWS": access.role_arn}
    return _policy(
        {
            "Sid": "TenantryMayList",
            "Effect": "Allow",
            "Principal": role,
            "Action": ["s3:ListBucket"],
            "Resource": [access.bucket_arn],
        },
        {
            "Sid": "TenantryMayReadWriteAndDelete",
            "Effect": "Allow",
            "Principal": role,
            "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
            "Resource": [f"{access.bucket_arn}/*"],
        },
    )


def cloudformation(access: Access) -> Document:
    """All of it as one stack. Pure."""
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"{MARK} aws`: GitHub's jobs of {access.repository} keep backups in {access.bucket}",
        "Parameters": {
            "CreateProvider": {
                "Type": "String",
                "AllowedValues": ["true", "false"],
                "Default": "true",
                "Description": "false where the account has GitHub as an identity provider already: it can have one",
            }
        },
        "Conditions": {"ProviderIsNew": {"Fn::Equals": [{"Ref": "CreateProvider"}, "true"]}},
        "Resources": {
            "Provider": {
                "Type": "AWS::IAM::OIDCProvider",
                "Condition": "ProviderIsNew",
                "DeletionPolicy": "Retain",
                "UpdateReplacePolicy": "Retain",
                "Properties": {"Url": f"https://{ISSUER}", "ClientIdList": [AUDIENCE]},
            },
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "RoleName": access.role,
                    "Description": f"Backups by GitHub's jobs of {access.repository}",
                    "MaxSessionDuration": access.role_seconds,
                    "AssumeRolePolicyDocument": trust_policy(access),
                },
            },
            "BucketPolicy": {
                "Type": "AWS::S3::BucketPolicy",
                "DependsOn": ["Role"],
                "Properties": {"Bucket": access.bucket, "PolicyDocument": bucket_policy(access)},
            },
        },
        "Outputs": {"RoleArn": {"Value": {"Fn::GetAtt": ["Role", "Arn"]}}},
    }


def aws_files(access: Access, directory: PurePosixPath) -> list[Wanted]:
    """Pure."""
    terraform = render(
        "main.tf.j2",
        heading=heading("aws", comment="#"),
        access=access,
        issuer=ISSUER,
        audience=AUDIENCE,
        trust_policy=TRUST_POLICY,
        bucket_policy=BUCKET_POLICY,
    )
    return [
        Wanted(directory / TRUST_POLICY, _text(trust_policy(access)), mark=_SID),
        Wanted(directory / BUCKET_POLICY, _text(bucket_policy(access)), mark=_SID),
        Wanted(directory / CLOUDFORMATION, _text(cloudformation(access))),
        Wanted(directory / TERRAFORM, terraform),
    ]


def next_commands(access: Access, directory: PurePosixPath) -> Sequence[str]:
    """What the operator types next, by one of the three ways."""
    return [
        f"aws cloudformation deploy --stack-name {access.role} --capabilities CAPABILITY_NAMED_IAM "
        f"--region {access.region} --template-file {directory / CLOUDFORMATION}",
        f"terraform -chdir={directory} init && terraform -chdir={directory} apply",
        f"aws iam create-open-id-connect-provider --url https://{ISSUER} --client-id-list {AUDIENCE} && "
        f"aws iam create-role --role-name {access.role} --max-session-duration {access.role_seconds} "
        f"--assume-role-policy-document file://{directory / TRUST_POLICY} && "
        f"aws s3api put-bucket-policy --bucket {access.bucket} --policy file://{directory / BUCKET_POLICY}",
    ]


def _policy(*statements: Document) -> Document:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _text(document: Document) -> str:
    return json.dumps(document, indent=2) + "\n"
