"""What of Vercel's REST API is used: environment variables of previews, and deploying a preview once more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self, cast
from urllib.parse import quote

from tenantry.errors import Defect, Unavailable
from tenantry.fleet.automations.rest import Rest

GIT_BRANCH_MAX: Final = 250
PAGES_MAX: Final = 100
_PREVIEW: Final = "preview"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the previews of one branch of git. Its value is told to nobody."""

    id: str
    key: str
    git_branch: str
    comment: str


@dataclass(frozen=True, slots=True)
class Deployment:
    id: str
    name: str


class Vercel:
    """One project. Close it, or use ``with``."""

    def __init__(
        self, project: str, token: str, *, team: str | None = None, api_url: str = "https://api.vercel.com"
    ) -> None:
        self.project = project
        self._path = f"/projects/{quote(project, safe='')}"
        self._team: Mapping[str, str] = {} if team is None else {"teamId": team}
        self._rest = Rest("Vercel", api_url, token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._rest.close()

    def project_id(self) -> str:
        """Raises NotFound where the token sees no such project."""
        return str(_mapping(self._rest.ask("GET", f"/v9{self._path}", query=self._team).document).get("id", ""))

    def variables(self) -> Iterator[Variable]:
        """Those of previews that belong to one branch of git."""
        query: dict[str, str | int] = dict(self._team)
        for _ in range(PAGES_MAX):
            said = _mapping(self._rest.ask("GET", f"/v10{self._path}/env", query=query).document)
            for each in _list(said.get("envs")):
                if each.get("gitBranch") and _PREVIEW in _words(each.get("target")):
                    branch, comment = str(each["gitBranch"]), str(each.get("comment") or "")
                    yield Variable(str(each["id"]), str(each["key"]), branch, comment)
            pagination = said.get("pagination")
            following = cast("dict[str, object]", pagination).get("next") if isinstance(pagination, dict) else None
            if not isinstance(following, int):
                return
            query["until"] = following
        raise Defect(f"the variables of {self.project} have more than {PAGES_MAX} pages")

    def set_variable(self, key: str, value: str, git_branch: str, comment: str) -> None:
        """For previews of this branch of git alone; one that is there gets the value. Vercel shows it to nobody."""
        body = {
            "key": key,
            "value": value,
            "type": "sensitive",
            "target": [_PREVIEW],
            "gitBranch": git_branch,
            "comment": comment,
        }
        query = {**self._team, "upsert": "true"}
        self._rest.ask("POST", f"/v10{self._path}/env", query=query, body=body, repeatable=True)

    def delete_variable(self, variable_id: str) -> None:
        self._rest.ask("DELETE", f"/v9{self._path}/env/{quote(variable_id, safe='')}", query=self._team)

    def last_preview(self, git_branch: str) -> Deployment | None:
        """The newest deployment of this branch of git, if it has one."""
        query = {**self._team, "projectId": self.project_id(), "branch": git_branch, "limit": 1}
        for each in _list(_mapping(self._rest.ask("GET", "/v6/deployments", query=query).document).get("deployments")):
            if each.get("target") != "production":
                return Deployment(str(each["uid"]), str(each["name"]))
        return None

    def deploy_again(self, deployment: Deployment) -> None:
        body = {"name": deployment.name, "deploymentId": deployment.id, "project": self.project}
        self._rest.ask("POST", "/v13/deployments", query={**self._team, "forceNew": "1"}, body=body)


def _mapping(document: object) -> Mapping[str, object]:
    if not isinstance(document, dict):
        raise Unavailable("Vercel's answer is not what its contract says", next_step="is the address of the API right?")
    return cast("dict[str, object]", document)


def _list(items: object) -> list[Mapping[str, object]]:
    if not isinstance(items, list):
        raise Unavailable("Vercel's answer is not a list of its items", next_step="is the address of the API right?")
    return [_mapping(each) for each in cast("list[object]", items)]


def _words(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else [value]
