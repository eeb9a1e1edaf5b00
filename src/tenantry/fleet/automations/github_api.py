"""What of GitHub's REST API is used: secrets of a repository or an environment, and comments of a pull request."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self, cast
from urllib.parse import quote

from tenantry.errors import Defect, InvalidInput, Unavailable
from tenantry.fleet.automations.rest import Rest

API_VERSION: Final = "2022-11-28"
PAGE: Final = 100
PAGES_MAX: Final = 50
SECRETS_MAX: Final = 100
"""That one repository or environment can have."""
SECRET_BYTES_MAX: Final = 48 * 1024


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What a secret for this place is sealed with."""

    key_id: str
    key: bytes


@dataclass(frozen=True, slots=True)
class Comment:
    id: int
    body: str


class Github:
    """One repository. Close it, or use ``with``."""

    def __init__(self, repository: str, token: str, *, api_url: str = "https://api.github.com") -> None:
        """``repository`` is OWNER/NAME."""
        owner, slash, name = repository.partition("/")
        if not slash or not owner or not name or "/" in name:
            raise InvalidInput(f"{repository!r} is not OWNER/NAME", next_step="for instance --repository acme/app")
        self.repository = repository
        self._path = f"/repos/{quote(owner, safe='')}/{quote(name, safe='')}"
        self._rest = Rest(
            "GitHub",
            api_url,
            token,
            headers={"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": API_VERSION},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._rest.close()

    # -- secrets ---------------------------------------------------------------------------------------------

    def public_key(self, environment: str | None = None) -> PublicKey:
        said = _mapping(self._rest.ask("GET", f"{self._secrets(environment)}/public-key").document)
        try:
            return PublicKey(str(said["key_id"]), base64.b64decode(str(said["key"]), validate=True))
        except (KeyError, ValueError) as error:
            raise Unavailable("GitHub's public key is not one", next_step="is the address of the API right?") from error

    def secret_names(self, environment: str | None = None) -> list[str]:
        """Names alone: GitHub tells nobody a value."""
        return [str(each["name"]) for each in self._pages(self._secrets(environment), "secrets")]

    def put_secret(self, name: str, encrypted: bytes, key_id: str, environment: str | None = None) -> None:
        body = {"encrypted_value": base64.b64encode(encrypted).decode(), "key_id": key_id}
        self._rest.ask("PUT", f"{self._secrets(environment)}/{quote(name, safe='')}", body=body)

    def make_environment(self, environment: str) -> None:
        """Safe for one that is there; its rules stay."""
        self._rest.ask("PUT", f"{self._path}/environments/{quote(environment, safe='')}")

    def has_environment(self, environment: str) -> bool:
        named = (str(each["name"]) for each in self._pages(f"{self._path}/environments", "environments"))
        return environment in named

    def _secrets(self, environment: str | None) -> str:
        if environment is None:
            return f"{self._path}/actions/secrets"
        return f"{self._path}/environments/{quote(environment, safe='')}/secrets"

    # -- pull requests ---------------------------------------------------------------------------------------

    def comments(self, number: int) -> Iterator[Comment]:
        """Of a pull request, the oldest first."""
        for each in self._pages(f"{self._path}/issues/{number}/comments", None):
            yield Comment(int(str(each["id"])), str(each.get("body") or ""))

    def write_comment(self, number: int, body: str) -> None:
        self._rest.ask("POST", f"{self._path}/issues/{number}/comments", body={"body": body})

    def change_comment(self, comment_id: int, body: str) -> None:
        self._rest.ask("PATCH", f"{self._path}/issues/comments/{comment_id}", body={"body": body})

    def _pages(self, path: str, key: str | None) -> Iterator[Mapping[str, object]]:
        for page in range(1, PAGES_MAX + 1):
            said = self._rest.ask("GET", path, query={"per_page": PAGE, "page": page}).document
            items = said if key is None else _mapping(said).get(key)
            if not isinstance(items, list):
                raise Unavailable(f"GitHub's answer to GET {path} is not a list of its items")
            listed = cast("list[object]", items)
            for each in listed:
                yield _mapping(each)
            if len(listed) < PAGE:
                return
        raise Defect(f"GET {path} has more than {PAGES_MAX * PAGE} items")


def _mapping(document: object) -> Mapping[str, object]:
    if not isinstance(document, dict):
        raise Unavailable("GitHub's answer is not what its contract says", next_step="is the address of the API right?")
    return cast("dict[str, object]", document)
