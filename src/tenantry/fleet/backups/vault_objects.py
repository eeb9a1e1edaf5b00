"""A vault in S3 and what speaks like it, in Google's or Microsoft's storage, through obstore.

Uploads are multipart, so that an object of any size passes through a bounded memory and is there whole or not at all;
downloads are ranges of one version of the object, each asked for again when it fails.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, cast

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store, from_url

from tenantry.errors import InvalidInput, NotFound, TenantryError, VaultDenied, VaultError
from tenantry.fleet.backups.vault import READ_BYTES_MAX, Stored, check_key

PART_BYTES_MIN: Final = 8 * 2**20
PARTS_MAX: Final = 9_000
"""S3 takes 10,000; what is expected may be exceeded a little."""
PARTS_AT_ONCE_MAX: Final = 2
RETRIES_MAX: Final = 5
RETRY_SECONDS_MAX: Final = 60
REQUEST_SECONDS_MAX: Final = 300
"""A part of an upload over a slow line must fit into it."""
SILENCE_SECONDS_MAX: Final = 30
CONNECT_SECONDS_MAX: Final = 10
DELETE_KEYS_MAX: Final = 1000
LIST_KEYS_MAX: Final = 1000
REASON_CHARACTERS_MAX: Final = 300

_CODE: Final = re.compile(r"(?:<Code>|\(code: )([A-Za-z0-9_.-]{1,80})(?:</Code>|\))")
_MESSAGE: Final = re.compile(r"<Message>([^<]{1,300})</Message>")
_STATUS: Final = re.compile(r"non-2xx status code: (\d{3}[A-Za-z ]{0,40})")
_QUERY: Final = re.compile(r"\?[^\s\"')>]*")
_NO_BUCKET: Final = frozenset({"NoSuchBucket", "ContainerNotFound", "InvalidBucketName"})
_NOT_THIS: Final = frozenset({"AccessDenied", "AuthorizationPermissionMismatch", "AllAccessDisabled"})
_NOT_KNOWN: Final = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthenticationFailed"}
)
_RIGHTS: Final[Mapping[str, Mapping[str, str]]] = {
    "s3": {
        "write": "s3:PutObject (and s3:AbortMultipartUpload)",
        "read": "s3:GetObject",
        "look at": "s3:GetObject",
        "list": "s3:ListBucket",
        "delete": "s3:DeleteObject",
    },
    "gs": {
        "write": "storage.objects.create (and .delete, to write over one)",
        "read": "storage.objects.get",
        "look at": "storage.objects.get",
        "list": "storage.objects.list",
        "delete": "storage.objects.delete",
    },
    "az": {
        "write": "blobs/write and blobs/add/action",
        "read": "blobs/read",
        "look at": "blobs/read",
        "list": "blobs/read of the container",
        "delete": "blobs/delete",
    },
}


class ObjectVault:
    """Credentials are asked of the environment by obstore, and renewed there before they run out."""

    def __init__(self, url: str, *, options: Mapping[str, str], credentials: Mapping[str, str]) -> None:
        self.url: Final = url
        self._scheme: Final = url.partition(":")[0]
        config: dict[str, Any] = {**options, **credentials}
        endpoint = next((value for name, value in options.items() if name.lower().endswith("endpoint")), "")
        client: dict[str, Any] = {
            "timeout": timedelta(seconds=REQUEST_SECONDS_MAX),
            "read_timeout": timedelta(seconds=SILENCE_SECONDS_MAX),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS_MAX),
        }
        if endpoint.startswith("http://"):
            client["allow_http"] = True  # the operator wrote it; what is sent is sealed and signed
        try:
            store = from_url(
                url,
                config=cast(Any, config),
                client_options=cast(Any, client),
                retry_config={"max_retries": RETRIES_MAX, "retry_timeout": timedelta(seconds=RETRY_SECONDS_MAX)},
            )
        except (BaseError, ValueError, TypeError) as error:
            raise InvalidInput(
                f"{url} cannot be opened: {_reason(error, [*credentials.values()])}",
                next_step="see the options of vaults in docs/backups.md",
            ) from None  # its text may repeat a secret
        assert isinstance(store, S3Store | GCSStore | AzureStore)
        self._store: Final = store
        self._secrets: Final = tuple(value for value in credentials.values() if value)

    def write(self, key: str, chunks: Iterable[bytes], *, bytes_expected: int = 0) -> Stored:
        check_key(key)
        counted = _Counted(chunks)
        part = max(PART_BYTES_MIN, -(-bytes_expected // PARTS_MAX))
        with self._refusals("write", key, passed=counted):
            obstore.put(
                self._store,
                key,
                iter(counted),
                use_multipart=True,
                chunk_size=part,
                max_concurrency=PARTS_AT_ONCE_MAX,
            )
        stored = self.look(key)
        if stored is None or stored.size != counted.size:
            there = "nothing is" if stored is None else f"{stored.size} bytes are"
            raise VaultError(
                f"{counted.size} bytes were written to {key} in {self.url}, and {there} there",
                next_step="try again; if it stays so, this storage cannot be trusted with backups",
            )
        return stored

    def read(self, key: str) -> Iterator[bytes]:
        stored = self.look(key)
        if stored is None:
            raise NotFound(f"there is no {key} in {self.url}")
        start = 0
        while start < stored.size:
            end = min(start + READ_BYTES_MAX, stored.size)
            options: dict[str, Any] = {"range": (start, end)}
            if stored.etag is not None:
                options["if_match"] = stored.etag
            with self._refusals("read", key):
                chunk = bytes(obstore.get(self._store, key, options=cast(Any, options)).bytes())
            if len(chunk) != end - start:
                raise VaultError(f"{self.url} gave {len(chunk)} bytes of {key} where {end - start} were asked for")
            yield chunk
            start = end

    def read_small(self, key: str, *, bytes_max: int) -> bytes:
        with self._refusals("read", key):
            got = obstore.get(self._store, check_key(key))
            if got.meta["size"] > bytes_max:
                raise VaultError(f"{key} in {self.url} has more than {bytes_max} bytes")
            return bytes(got.bytes())

    def look(self, key: str) -> Stored | None:
        with self._refusals("look at", key):
            try:
                return _stored(obstore.head(self._store, check_key(key)))
            except FileNotFoundError:
                return None

    def list(self, prefix: str) -> Iterator[Stored]:
        folder = prefix.strip("/")
        with self._refusals("list", folder):
            pages = _listed(self._store, check_key(folder) if folder else None)
        while True:
            with self._refusals("list", folder):
                page = next(pages, None)
            if page is None:
                return
            for each in page:
                yield _stored(each)

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            check_key(key)
        for start in range(0, len(keys), DELETE_KEYS_MAX):
            some = [*keys[start : start + DELETE_KEYS_MAX]]
            with self._refusals("delete", some[0] if len(some) == 1 else f"{some[0]} and {len(some) - 1} more"):
                try:
                    obstore.delete(self._store, some)
                except FileNotFoundError:  # one of them was gone already, and some storages stop at it
                    self._delete_each(some)

    def _delete_each(self, keys: Sequence[str]) -> None:
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, key)

    @contextlib.contextmanager
    def _refusals(self, verb: str, key: str, *, passed: _Counted | None = None) -> Generator[None]:
        """Says in our words what the storage refuses, and never with its text whole: that may repeat a signature."""
        try:
            yield
        except FileNotFoundError:
            raise NotFound(f"there is no {key} in {self.url}") from None
        except PreconditionError:
            raise VaultError(
                f"{key} in {self.url} was written over while it was read", next_step="read it again"
            ) from None
        except (BaseError, ValueError, OSError) as error:
            if passed is not None and passed.failed is error:
                raise  # not the storage's: what was to be written could not be had
            raise self._refusal(error, verb, key) from None

    def _refusal(self, error: Exception, verb: str, key: str) -> TenantryError:
        found = _CODE.search(str(error))
        code = "" if found is None else found.group(1)
        what = f"could not {verb} {key or 'anything'} in {self.url}: {_reason(error, self._secrets)}"
        if code in _NOT_KNOWN or isinstance(error, UnauthenticatedError):
            return VaultDenied(
                what, next_step="look after the credentials: they are not accepted at all", missing="credentials"
            )
        if code in _NOT_THIS or isinstance(error, PermissionDeniedError):
            right = _RIGHTS[self._scheme][verb]
            return VaultDenied(what, next_step=f"give the owner of the credentials the right {right}", missing=right)
        if code in _NO_BUCKET:
            return VaultError(what, next_step="make the bucket, or mend its name in the vault's URL")
        return VaultError(what, next_step="look whether the storage runs and can be reached from here")


class _Counted:
    """What passes through, how much it was, and what went wrong in it."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.size = 0
        self.failed: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._chunks:
                self.size += len(chunk)
                yield chunk
        except BaseException as error:
            self.failed = error
            raise


def _listed(store: S3Store | GCSStore | AzureStore, folder: str | None) -> Iterator[Sequence[obstore.ObjectMeta]]:
    """One of its other answers is of a library that is not installed, so the type checker cannot follow it."""
    return cast(Any, obstore).list(store, folder, chunk_size=LIST_KEYS_MAX)


def _stored(meta: obstore.ObjectMeta) -> Stored:
    return Stored(key=meta["path"], size=meta["size"], modified=meta["last_modified"], etag=meta["e_tag"])


def _reason(error: Exception, secrets: Sequence[str]) -> str:
    """What the storage answered, in one line, without what it was asked. Pure."""
    text = str(error)
    code, message = _CODE.search(text), _MESSAGE.search(text)
    if code is not None:
        said = code.group(1) + (f" ({message.group(1).strip().rstrip('.')})" if message else "")
    elif status := _STATUS.search(text):
        said = status.group(1).strip()
    else:
        said = _QUERY.sub("", text.split("\n", 1)[0])
    for secret in secrets:
        said = said.replace(secret, "[redacted]")
    return " ".join(said.split())[:REASON_CHARACTERS_MAX]
