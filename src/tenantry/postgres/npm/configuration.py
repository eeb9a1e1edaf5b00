"""Where npm looks for packages on this machine, and with which token: from the environment and ``.npmrc`` files.

Read as npm reads them: the environment (``npm_config_registry``) before the project's file, the user's and the
machine's. A scope may have a registry of its own (``@scope:registry``), and a token belongs to a host and a path
(``//host/path/:_authToken``). Must never show a token, and never take one for another host.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from tenantry.errors import InvalidInput

PUBLIC_REGISTRY: Final = "https://registry.npmjs.org/"
"""npm's own default."""
FILE_BYTES_MAX: Final = 1024 * 1024
"""A larger ``.npmrc`` is none."""

_FILE: Final = ".npmrc"
_ENVIRONMENT: Final = re.compile(r"npm_config_", re.IGNORECASE)
_VARIABLE: Final = re.compile(r"(?<!\\)\$\{([^${}?]+)(\?)?\}")
_MACHINE_FILES: Final = ("/usr/local/etc/npmrc", "/usr/etc/npmrc", "/etc/npmrc")
_NOTHING: Final = frozenset({"", "null", "undefined", "false"})


@dataclass(frozen=True, slots=True)
class Configuration:
    """npm's settings, as far as they say how to reach a registry. Its text names no secret."""

    values: Mapping[str, str] = field(repr=False)
    sources: Mapping[str, str] = field(repr=False)
    """For each setting where it comes from, for messages."""

    def registry(self, scope: str) -> str:
        """The registry for packages of ``@scope``, ending in a slash. Raises InvalidInput for one that is no URL."""
        name = self._registry_setting(scope)
        url = self.values.get(name, PUBLIC_REGISTRY) if name else PUBLIC_REGISTRY
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(
                f"npm's setting {name} ({self.sources.get(name or '')}) is not a URL like https://host/",
                next_step=f"mend it: npm config set {name} URL",
            )
        return url.rstrip("/") + "/"

    def registry_source(self, scope: str) -> str:
        """Which file or variable named the registry."""
        name = self._registry_setting(scope)
        return "npm's default" if name is None else self.sources[name]

    def _registry_setting(self, scope: str) -> str | None:
        return next((name for name in (f"@{scope}:registry", "registry") if name in self.values), None)

    def authorization(self, url: str) -> str | None:
        """The ``Authorization`` header for this URL, if npm has a token or password for its host and path."""
        parts = urlsplit(url)
        if parts.username is not None:
            return _basic(unquote(parts.username), unquote(parts.password or ""))
        default = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
        host = parts.netloc.lower().removesuffix(default)
        path = parts.path.rstrip("/")
        while True:
            dart = f"//{host}{path}/:"
            if token := self.values.get(f"{dart}_authToken"):
                return f"Bearer {token}"
            if pair := self.values.get(f"{dart}_auth"):
                return f"Basic {pair}"
            user, password = self.values.get(f"{dart}username"), self.values.get(f"{dart}_password")
            if user and password:
                return _basic(user, base64.b64decode(password).decode(errors="replace"))
            if not path:
                return None
            path = path.rpartition("/")[0]

    def proxy(self, url: str) -> str | None:
        """The proxy that npm was told to reach this URL by; None leaves it to the usual environment variables."""
        parts = urlsplit(url)
        wanted = ("https-proxy", "proxy") if parts.scheme == "https" else ("proxy",)
        return next((self.values[name] for name in wanted if self.values.get(name, "") not in _NOTHING), None)

    def direct(self, url: str) -> bool:
        """Whether npm was told to go around proxies for this URL's host."""
        host = (urlsplit(url).hostname or "").lower()
        return any(
            host == suffix.lstrip(".") or host.endswith(f".{suffix.lstrip('.')}")
            for suffix in (entry.strip().lower() for entry in self.values.get("noproxy", "").split(","))
            if suffix
        )

    @property
    def authorities(self) -> tuple[str | None, str | None]:
        """A file with, and the text of, certificates to trust beside the system's."""
        file, text = self.values.get("cafile", ""), self.values.get("ca", "")
        return (file if file not in _NOTHING else None, text.replace("\\n", "\n") if text not in _NOTHING else None)

    @property
    def verifies(self) -> bool:
        """False where npm was told not to look at certificates (``strict-ssl=false``)."""
        return self.values.get("strict-ssl", "true") != "false"


def shown(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    netloc = (f"[{host}]" if ":" in host else host) + (f":{parts.port}" if parts.port else "")
    return urlunsplit((parts.scheme, netloc, parts.path, "", ""))


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# ------------------------------------------------------------------------------------------------ reading


def read(
    environment: Mapping[str, str], *, cwd: Path, home: Path, on_passed_over: Callable[[str], None] | None = None
) -> Configuration:
    """npm's configuration as a command in ``cwd`` finds it. A file that cannot be trusted or read is passed over."""
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for source, found in _layers(environment, cwd, home, on_passed_over or (lambda _: None)):
        for name, value in found.items():
            if name not in values:
                values[name] = value
                sources[name] = source
    return Configuration(values, sources)


def _layers(
    environment: Mapping[str, str], cwd: Path, home: Path, passed_over: Callable[[str], None]
) -> Iterator[tuple[str, dict[str, str]]]:
    """What names settings, the strongest first."""
    own = _of_environment(environment)
    yield "the environment", own
    user = Path(own.get("userconfig") or home / _FILE)
    project = _project(cwd) / _FILE
    paths = [] if project == user else [(project, True)]
    paths.append((user, False))
    if machine := own.get("globalconfig"):
        paths.append((Path(machine), False))
    else:
        paths += [(path, False) for path in _machine_files(own)]
    for path, must_be_ours in paths:
        text = _text(path, passed_over, must_be_ours=must_be_ours)
        if text is not None:
            yield str(path), parse(text, environment)


def _of_environment(environment: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in environment.items():
        begun = _ENVIRONMENT.match(name)
        if begun and value:
            key = name[begun.end() :]
            # npm folds names, but not those of hosts and tokens.
            found[key if key.startswith("//") else re.sub(r"(?<!^)_", "-", key).lower()] = value
    return found


def _project(cwd: Path) -> Path:
    """npm's root of a project: the nearest directory with a package in it, else where we are."""
    for directory in (cwd, *cwd.parents):
        if (directory / "package.json").exists() or (directory / "node_modules").is_dir():
            return directory
    return cwd


def _machine_files(own: Mapping[str, str]) -> list[Path]:
    prefixes = [Path(own["prefix"])] if own.get("prefix") else []
    if node := shutil.which("node"):
        prefixes.append(Path(node).resolve().parent.parent)
    paths = [prefix / "etc/npmrc" for prefix in prefixes] + [Path(name) for name in _MACHINE_FILES]
    return list(dict.fromkeys(paths))


def _text(path: Path, passed_over: Callable[[str], None], *, must_be_ours: bool) -> str | None:
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            # Whoever owns the file chooses what is run as us; npm asks no such question, and we may be root.
            if must_be_ours and (facts.st_uid not in (0, os.geteuid()) or facts.st_mode & 0o002):
                passed_over(f"{path} is passed over: others than you may have written it")
                return None
            content = file.read(FILE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        passed_over(f"{path} is passed over: {error.strerror}")
        return None
    if len(content) > FILE_BYTES_MAX:
        passed_over(f"{path} is passed over: it is larger than {FILE_BYTES_MAX} bytes")
        return None
    return content.decode(errors="replace")


def parse(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The settings of an ``.npmrc``: names and values, ``${NAME}`` replaced from the environment. Pure."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped[0] in ";#":
            continue
        if stripped[0] == "[" and stripped[-1] == "]":
            break  # sections are none of npm's
        name, equals, value = stripped.partition("=")
        name = _expanded(name.strip(), environment)
        value = _expanded(_unquoted(value.strip()), environment) if equals else "true"
        if name.endswith("[]"):
            name = name[:-2]
            found[name] = f"{found[name]}\n{value}" if name in found else value
        else:
            found[name] = value
    return found


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    kept: list[str] = []
    escaping = False
    for letter in value:
        if escaping:
            kept.append(letter if letter in "\\;#" else f"\\{letter}")
            escaping = False
        elif letter in ";#":
            break
        elif letter == "\\":
            escaping = True
        else:
            kept.append(letter)
    return "".join(kept).strip() + ("\\" if escaping else "")


def _expanded(value: str, environment: Mapping[str, str]) -> str:
    """npm leaves the name of an unknown variable as it stands, unless it ends in a question mark."""
    return _VARIABLE.sub(lambda found: environment.get(found[1], "" if found[2] else found[0]), value)
