"""Opens a vault by its URL: the only place that knows which kinds of them there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from tenantry.errors import InvalidInput
from tenantry.fleet.backups.vault import Vault, check_url
from tenantry.fleet.backups.vault_directory import DirectoryVault

_SECRETS: Final = frozenset(
    {"secret", "token", "password", "sas", "credential", "private", "service_account_key", "access_key", "account_key"}
)


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
