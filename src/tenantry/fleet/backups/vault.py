"""Where backups live, by URL: a directory, S3 and what speaks like it, Google's and Microsoft's storage.

A vault is what the weakest of them can honestly be: whole objects under keys, in folders. Nothing is to be seen under
a key until all of it is there; what was written is looked up before it counts; deleting what is not there is done.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

from tenantry.errors import InvalidInput

KEY_CHARACTERS_MAX: Final = 512
READ_BYTES_MAX: Final = 4 * 2**20
"""The largest piece that ``Vault.read`` gives at a time."""
SCHEMES: Final = ("file", "s3", "gs", "az")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An object as the vault shows it. ``modified`` is told by the vault's clock; ``etag`` changes with the content."""

    key: str
    size: int
    modified: datetime
    etag: str | None


class Vault(Protocol):
    """May be used by many threads. Each method raises VaultError, or its VaultDenied where a right is missing."""

    @property
    def url(self) -> str:
        """As the operator said it; holds no secret."""
        ...

    def write(self, key: str, chunks: Iterable[bytes], *, bytes_expected: int = 0) -> Stored:
        """Writes an object, over the one that was there. What ``chunks`` raises leaves nothing behind.

        ``bytes_expected``: where more than 64 GiB may come, about how much, for parts that are large enough.
        """
        ...

    def read(self, key: str) -> Iterator[bytes]:
        """The object in pieces of at most READ_BYTES_MAX; never a mixture of two. NotFound where there is none."""
        ...

    def read_small(self, key: str, *, bytes_max: int) -> bytes:
        """All of it. VaultError where it is larger."""
        ...

    def look(self, key: str) -> Stored | None:
        """None: there is none."""
        ...

    def list(self, prefix: str) -> Iterator[Stored]:
        """Everything in the folder ``prefix`` and below it, in no order; "" is the whole vault."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Returns when none of them is there any more."""
        ...


def check_key(key: str) -> str:
    """The key, for names that are the same everywhere. Raises InvalidInput."""
    segments = key.split("/")
    if len(key) > KEY_CHARACTERS_MAX or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise InvalidInput(f"{key[:KEY_CHARACTERS_MAX]!r} is no key of a vault: letters, digits, '.', '_', '-' and '/'")
    if any(set(segment) == {"."} for segment in segments):
        raise InvalidInput(f"{key!r} is no key of a vault: it leads out of it")
    return key


def check_url(url: str) -> str:
    """The URL as it is kept and shown. Raises InvalidInput, without repeating what may be a secret."""
    if _CONTROL.search(url):
        raise InvalidInput("the vault's URL has white space or control characters in it")
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        said = f"not {parts.scheme!r}" if parts.scheme else "and this has none"
        raise InvalidInput(
            f"a vault's URL begins with {', '.join(f'{each}://' for each in SCHEMES)}, {said}",
            next_step="for instance file:///var/backups/tenantry or s3://bucket/folder",
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidInput(
            "a vault's URL holds no credentials and no options",
            next_step="put credentials into the environment or a file, options under [backups.options]",
        )
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise InvalidInput("a vault in a directory is file:/// and an absolute path")
        if ".." in Path(unquote(parts.path)).parts:
            raise InvalidInput("a vault in a directory has a path without '..'")
    elif not parts.netloc:
        raise InvalidInput(f"{url} names no bucket", next_step=f"for instance {parts.scheme}://bucket/folder")
    elif parts.path.strip("/"):
        check_key(parts.path.strip("/"))
    return url.rstrip("/") if parts.scheme != "file" or parts.path != "/" else url
