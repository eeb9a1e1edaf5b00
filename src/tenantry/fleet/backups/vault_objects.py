"""A vault in S3 and what speaks like it, in Google's or Microsoft's storage, through obstore.

Uploads are multipart, so that an object of any size passes through a bounded memory and is there whole or not at all;
downloads are ranges of one version of the object, each asked for again when it fails.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
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
AHEAD_BYTES_MAX: Final = 256 * 1024
AHEAD_CHUNKS_MAX: Final = 16
"""What is read and sealed while a part is sent: 4 MiB."""
REASON_CHARACTERS_MAX: Final = 300

_CODE: Final = re.compile(r"(?:<Code>|\(code: )([A-Za-z0-9_.-]{1,80})(?:</Code>|\))")
_MESSAGE: Final = re.compile(r"<Message>([^<]{1,300})</Message>")
_STATUS: Final = re.compile(r"non-2xx status code: (\d{3}[A-Za-z ]{0,40})")
_TRIED: Final = re.compile(r"Error performing \S+ \S+ in \S+, after (\d+) retries, .*? - (.+)")
"""What is asked again until nobody answers: the address says no more than the vault's URL."""
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

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, str],
        credentials: Mapping[str, str],
        retries_max: int = RETRIES_MAX,
    ) -> None:
        self.url: Final = url
        self._scheme: Final = url.partition(":")[0]
        config: dict[str, Any] = {**options, **credentials}
        client: dict[str, Any] = {
            "timeout": timedelta(seconds=REQUEST_SECONDS_MAX),
            "read_timeout": timedelta(seconds=SILENCE_SECONDS_MAX),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS_MAX),
        }
        if any(value.startswith("http://") for value in _endpoints(config)):
            client["allow_http"] = True  # the operator wrote it; what is sent is sealed and signed
        try:
            store = from_url(
                url,
                config=cast(Any, config),
                client_options=cast(Any, client),
                retry_config={"max_retries": retries_max, "retry_timeout": timedelta(seconds=RETRY_SECONDS_MAX)},
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
        upload = _Upload(
            self._store, key, part_bytes=max(PART_BYTES_MIN, -(-bytes_expected // PARTS_MAX)), url=self.url
        )
        try:
            for chunk in chunks:
                if not upload.add(chunk):
                    break  # and hear from it why
        except BaseException:
            upload.give_up()
            raise
        with self._refusals("write", key):
            size = upload.finish()
        stored = self.look(key)
        if stored is None or stored.size != size:
            there = "nothing is" if stored is None else f"{stored.size} bytes are"
            raise VaultError(
                f"{size} bytes were written to {key} in {self.url}, and {there} there",
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
    def _refusals(self, verb: str, key: str) -> Generator[None]:
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


class _Upload:
    """One object on its way: given here chunk by chunk, sent by a thread of its own, that is never far behind.

    obstore would take the chunks from an iterator, which then may not use obstore itself, as copying from one vault to
    another does; and what is read and sealed here meanwhile would wait for the network.
    """

    def __init__(self, store: S3Store | GCSStore | AzureStore, key: str, *, part_bytes: int, url: str) -> None:
        self._chunks: Final = queue.Queue[bytes | None](AHEAD_CHUNKS_MAX)
        self._abandoned = False
        self._ended = False
        self._failed: BaseException | None = None
        self._size = 0
        self._thread: Final = threading.Thread(
            target=self._send, args=(store, key, part_bytes), name=f"upload to {url}", daemon=True
        )
        self._thread.start()

    def add(self, chunk: bytes) -> bool:
        """Waits while the storage is slower. False: it has failed, ``finish`` says how."""
        view = memoryview(chunk)
        for start in range(0, len(view), AHEAD_BYTES_MAX):
            piece = bytes(view[start : start + AHEAD_BYTES_MAX])
            self._size += len(piece)
            self._chunks.put(piece)
        return self._failed is None

    def finish(self) -> int:
        """Returns the size once all is there. Raises what the storage said."""
        self._chunks.put(None)
        self._thread.join()
        if self._failed is not None:
            raise self._failed
        return self._size

    def give_up(self) -> None:
        """Nothing is to be seen of it. Safe after a failure."""
        self._abandoned = True
        self._chunks.put(None)
        self._thread.join()

    def _send(self, store: S3Store | GCSStore | AzureStore, key: str, part_bytes: int) -> None:
        try:
            obstore.put(
                store,
                key,
                self._given(),
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=PARTS_AT_ONCE_MAX,
            )
        except BaseException as error:  # noqa: BLE001 - told to whoever waits for the upload
            self._failed = error
            while not self._ended:  # whoever adds may wait for room
                self._ended = self._chunks.get() is None

    def _given(self) -> Iterator[bytes]:
        while (chunk := self._chunks.get()) is not None:
            yield chunk
        self._ended = True
        if self._abandoned:
            raise _Abandoned


class _Abandoned(Exception):
    """Tells obstore to take back what it has sent."""


def _endpoints(config: Mapping[str, str]) -> Iterator[str]:
    for name, value in (*os.environ.items(), *config.items()):
        if name.lower().startswith(("aws_endpoint", "endpoint", "azure_storage_endpoint", "azure_endpoint")):
            yield value


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
    elif tried := _TRIED.search(text.split("\n", 1)[0]):
        said = f"no answer in {int(tried.group(1)) + 1} tries ({tried.group(2).removeprefix('HTTP error: ')})"
    else:
        said = _QUERY.sub("", text.split("\n", 1)[0])
    for secret in secrets:
        said = said.replace(secret, "[redacted]")
    return " ".join(said.split())[:REASON_CHARACTERS_MAX]
