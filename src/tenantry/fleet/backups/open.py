"""Opens a vault by its URL, or as it is configured: the only place that knows which kinds of them there are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tenantry.errors import InvalidInput
from tenantry.fleet.backups.vault import Vault, check_url
from tenantry.fleet.backups.vault_directory import DirectoryVault
from tenantry.fleet.providers.secrets import read_secret_file

if TYPE_CHECKING:
    from tenantry.fleet.settings import Backups

_SECRETS: Final = frozenset(
    {"secret", "token", "password", "sas", "credential", "private", "service_account_key", "access_key", "account_key"}
)
_LINE: Final = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")


def open_configured(said: Backups, url: str | None = None) -> Vault:
    """The vault of ``[backups]``, or another one with the same options. Raises InvalidInput where none is named."""
    wanted = url or said.vault
    if wanted is None:
        raise InvalidInput(
            "no vault is configured", next_step='say where backups go: vault = "s3://BUCKET/FOLDER" under [backups]'
        )
    if urlsplit(wanted).scheme == "file":
        return open_vault(wanted)
    credentials = {} if said.credentials_file is None else read_credentials(said.credentials_file)
    return open_vault(wanted, said.options, credentials=credentials)


def read_credentials(path: Path) -> dict[str, str]:
    """``NAME=VALUE`` lines, named as the storage's own tools name them. Raises OperatorError, InvalidInput."""
    found: dict[str, str] = {}
    for number, line in enumerate(read_secret_file(path, "the vault's credentials").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        said = _LINE.fullmatch(line.strip())
        if said is None:
            raise InvalidInput(f"{path}, line {number}: not NAME=VALUE")
        found[said.group(1).lower()] = said.group(2).strip("\"'")
    return found


def open_vault(
    url: str, options: Mapping[str, str] | None = None, *, credentials: Mapping[str, str] | None = None
) -> Vault:
    """Opens a vault; nothing is asked of it yet.

    ``options``: what the storage needs beside the URL, by the names that obstore has for it (endpoint, region);
    ``credentials``: the same for secrets. What neither says is taken from the environment, as every client of that
    storage does. Raises InvalidInput for a URL or an option that is none.
    """
    checked = check_url(url)
    for name in options or {}:
        if any(word in name.lower() for word in _SECRETS) and not name.lower().endswith("_file"):
            raise InvalidInput(
                f"the option {name} of a vault is a secret, and options are no place for one",
                next_step="put it into the environment, or into the file that backups.credentials_file names",
            )
    if urlsplit(checked).scheme == "file":
        if options:
            raise InvalidInput("a vault in a directory takes no options", next_step="remove [backups.options]")
        return DirectoryVault(checked)
    from tenantry.fleet.backups.vault_objects import ObjectVault  # noqa: PLC0415 - a large library, for these alone

    return ObjectVault(checked, options=options or {}, credentials=credentials or {})
