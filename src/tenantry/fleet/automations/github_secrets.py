"""Which secrets a repository's workflows need, and how they get there: sealed for it alone before they are sent.

The fleet's key is made for the repository, so that it can be taken away again without anybody else's. Nobody can read
a secret back, so a key that is there is left as it is until it is asked to be renewed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

from tenantry.errors import InvalidInput, NotFound, OperatorError, TenantryError, Unavailable
from tenantry.fleet.automations.customers import Customer
from tenantry.fleet.automations.github_api import SECRET_BYTES_MAX, SECRETS_MAX, Github
from tenantry.fleet.automations.workflows import KEY
from tenantry.fleet.catalog.records import ProviderRecord
from tenantry.runtime.failpoints import failpoint

if TYPE_CHECKING:
    from tenantry.neon.client import NeonClient

Source = Literal["key", "environment", "customer"]


KEY_NAME_MAX: Final = 64
"""As long as a key's name may be."""


class Keys(Protocol):
    """Who gives out keys to the fleet, and takes them back."""

    def make(self, name: str) -> tuple[int, str]:
        """Its id, and the key, which is told this once."""
        ...

    def revoke(self, key_id: int) -> None: ...

    def named(self, name: str) -> Sequence[int]:
        """The ids of those that have this name."""
        ...


class ProviderKeys:
    """Keys of the API that the fleet was opened with."""

    def __init__(self, client: NeonClient) -> None:
        self._client = client

    def make(self, name: str) -> tuple[int, str]:
        made = self._client.create_api_key(name)
        return made.id, made.key

    def revoke(self, key_id: int) -> None:
        with contextlib.suppress(NotFound):
            self._client.revoke_api_key(key_id)

    def named(self, name: str) -> Sequence[int]:
        return [key.id for key in self._client.list_api_keys() if key.name == name]


@dataclass(frozen=True, slots=True)
class GivenKey:
    """A key that the operator has made, where the provider gives none out."""

    key: str = field(repr=False)

    def make(self, name: str) -> tuple[int, str]:
        del name
        return 0, self.key

    def revoke(self, key_id: int) -> None:
        """It is the operator's to take back."""

    def named(self, name: str) -> Sequence[int]:
        del name
        return []


@dataclass(frozen=True, slots=True)
class Secret:
    name: str
    source: Source
    there: bool
    """Whether GitHub has one of this name."""
    customer: str | None = None
    """The slug of whose database it opens."""

    def is_set(self, *, rotate: bool) -> bool:
        """Whether it would be set now. What the environment or a tenant says may have changed, and is sent again."""
        return self.source != "key" or rotate or not self.there


def plan_secrets(
    more: Sequence[str], customers: Sequence[Customer], there: Sequence[str], *, key_needed: bool
) -> list[Secret]:
    """Pure. Raises InvalidInput for more than one place can have: then one key for the whole fleet is the way."""
    known = {name.upper() for name in there}
    planned: list[Secret] = []
    if key_needed and KEY not in more:
        planned.append(Secret(KEY, "key", KEY in known))
    planned.extend(Secret(name, "environment", name.upper() in known) for name in more)
    planned.extend(Secret(each.variable, "customer", each.variable in known, customer=each.slug) for each in customers)
    total = len(known | {secret.name.upper() for secret in planned})
    if total > SECRETS_MAX:
        raise InvalidInput(
            f"there would be {total} secrets; GitHub has room for {SECRETS_MAX} in one place",
            next_step="leave secret_per_customer away: one key of the fleet opens every customer's database",
        )
    return planned


def out_of_reach(providers: Iterable[ProviderRecord], passed_on: Collection[str]) -> list[str]:
    """Providers whose key a runner would not have, each as a sentence. Pure."""
    said: list[str] = []
    for each in providers:
        kind, _, place = each.secret_from.partition(":")
        if each.removed_at is not None or kind == "home" or (kind == "env" and place in passed_on):
            continue
        if kind == "env":
            said.append(f"jobs do not reach provider {each.name}: list {place} in secrets of [github]")
        else:
            said.append(
                f"jobs do not reach provider {each.name}: its key is in a file, which runners do not have; "
                f"see `tenantry provider add {each.name} --change --key-env NAME`"
            )
    return said


def set_secrets(
    github: Github,
    secrets: Sequence[Secret],
    *,
    environment: str | None,
    keys: Keys,
    url_of: Callable[[str], str],
    variables: Mapping[str, str],
    rotate: bool = False,
    on_set: Callable[[Secret], None] = lambda _: None,
) -> None:
    """Sets what the plan says. Safe to repeat. Raises OperatorError when a variable of the environment is missing.

    ``url_of`` gives the connection string of a customer. An old key of the repository is revoked only when the new one
    is at GitHub; one that was interrupted in between is revoked with the next.
    """
    wanted = [secret for secret in secrets if secret.is_set(rotate=rotate)]
    missing = [secret.name for secret in wanted if secret.source == "environment" and not variables.get(secret.name)]
    if missing:
        raise OperatorError(
            f"nothing was set: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} to be passed on, and not "
            "set here",
            next_step="set them in the environment of this command, or take them out of secrets in [github]",
        )
    if not wanted:
        return
    public = github.public_key(environment)
    for secret in wanted:
        match secret.source:
            case "key":
                _hand_out_key(github, environment, keys)
            case "environment":
                _put(github, secret.name, variables[secret.name], public.key_id, public.key, environment)
            case "customer":
                assert secret.customer is not None
                _put(github, secret.name, url_of(secret.customer), public.key_id, public.key, environment)
        on_set(secret)


def key_name(repository: str, environment: str | None) -> str:
    """What the key of a repository, or of an environment of it, is called in the fleet; it is renewed alone.

    One that is too long ends in a digest of the whole, so that two of them never fall together.
    """
    name = f"github {repository}" if environment is None else f"github {repository} {environment}"
    if len(name) <= KEY_NAME_MAX:
        return name
    return f"{name[: KEY_NAME_MAX - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _hand_out_key(github: Github, environment: str | None, keys: Keys) -> None:
    name = key_name(github.repository, environment)
    old = keys.named(name)
    key_id, key = keys.make(name)
    failpoint("github_key.made")
    try:
        public = github.public_key(environment)
        _put(github, KEY, key, public.key_id, public.key, environment)
    except Unavailable:
        # GitHub may have it. It goes with the next one, as one does whose maker was killed.
        raise
    except TenantryError:
        keys.revoke(key_id)
        raise
    failpoint("github_key.set")
    for each in old:
        keys.revoke(each)


def _put(github: Github, name: str, value: str, key_id: str, key: bytes, environment: str | None) -> None:
    if len(value.encode()) > SECRET_BYTES_MAX:
        raise InvalidInput(f"the value of {name} is longer than the {SECRET_BYTES_MAX} bytes that GitHub takes")
    github.put_secret(name, seal(value, key), key_id, environment)


def seal(value: str, public_key: bytes) -> bytes:
    """A sealed box (libsodium's): who seals it cannot open it again."""
    from nacl.exceptions import CryptoError  # noqa: PLC0415 - rarely needed
    from nacl.public import PublicKey, SealedBox  # noqa: PLC0415

    try:
        return SealedBox(PublicKey(public_key)).encrypt(value.encode())
    except (CryptoError, ValueError, TypeError) as error:
        raise OperatorError("GitHub's public key does not seal", next_step="is its API's address right?") from error
