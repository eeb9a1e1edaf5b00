"""Where the running cell is, and how to speak to it: a flag, the environment, or the file that `up` leaves behind."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import platformdirs

from tenantry.errors import InvalidInput, OperatorError, Unavailable

READY_FILE: Final = "ready.json"
"""In the data directory, mode 0600, while `tenantry up` answers."""
FLEET_FILE: Final = "fleet.json"
"""In the data directory, mode 0600: which project of the cell is the catalog."""
SETTINGS_FILE: Final = "tenantry.toml"
SETTINGS_VARIABLE: Final = "TENANTRY_CONFIG"
"""Names another file of settings, wherever it lies."""
ROOT_DATA: Final = Path("/var/lib/tenantry")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running cell (or another provider of the same API) as a client sees it. Null parts are switched off."""

    api_url: str
    api_key: str = field(repr=False)
    catalog_url: str | None = field(repr=False, default=None)
    """None: the fleet looks for its catalog among the provider's projects."""
    postgres_host: str | None = None
    postgres_port: int | None = None
    console_url: str | None = None
    api_ca: Path | None = None
    """A certificate to trust beside the system's, for an API that shows one of the cell's own."""
    pid: int | None = None


def verification(api_ca: Path | None) -> bool | str:
    """What ``NeonClient`` is to trust: the system's authorities, or the one in the file."""
    return True if api_ca is None else str(api_ca)


def data_directory(flag: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """``--data``, then ``TENANTRY_DATA``, then the platform's place for this user's data."""
    if flag is not None:
        return flag
    if named := environment.get("TENANTRY_DATA"):
        return Path(named)
    return ROOT_DATA if os.geteuid() == 0 else Path(platformdirs.user_data_dir("tenantry", appauthor=False))


def find_settings(start: Path, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The settings that count: TENANTRY_CONFIG, else the nearest tenantry.toml above ``start`` in its repository."""
    if named := environment.get(SETTINGS_VARIABLE):
        return Path(named)
    for directory in (start, *start.parents):
        if (found := directory / SETTINGS_FILE).is_file():
            return found
        if (directory / ".git").exists():
            break
    return None


def find_target(flag: Path | None, environment: Mapping[str, str] = os.environ) -> Target:
    """The cell that a command is meant for: ``--data`` before ``TENANTRY_API_URL`` before the data directory.

    Raises Unavailable when nothing runs there, InvalidInput when the environment names a cell without its key.
    """
    if flag is None and (api_url := environment.get("TENANTRY_API_URL")):
        api_key = environment.get("TENANTRY_API_KEY")
        if not api_key:
            raise InvalidInput(
                "TENANTRY_API_URL is set and TENANTRY_API_KEY is not",
                next_step="set TENANTRY_API_KEY to a key of that API",
            )
        return Target(
            api_url=api_url.rstrip("/"), api_key=api_key, catalog_url=environment.get("TENANTRY_CATALOG_URL") or None
        )
    return read_ready_file(data_directory(flag, environment))


def read_ready_file(data: Path) -> Target:
    """What `up` wrote once everything answered. Raises Unavailable when it is not running there."""
    start = f"start one with `tenantry up --data {data}`"
    path = data / READY_FILE
    try:
        content = path.read_text()
    except FileNotFoundError:
        raise Unavailable(f"no running cell found in {data}", next_step=start) from None
    except PermissionError as error:
        raise OperatorError(
            f"{path} may not be read by this user", next_step="run this as the user who runs `tenantry up`"
        ) from error
    target = _parse(path, content)
    if target.pid is not None and not _alive(target.pid):
        raise Unavailable(f"no running cell found in {data}: process {target.pid} is gone", next_step=start)
    return target


def _parse(path: Path, content: str) -> Target:
    try:
        loaded: object = json.loads(content)
        if not isinstance(loaded, dict):
            raise ValueError(type(loaded).__name__)  # noqa: TRY004 - like everything else that is wrong with it
        fields = cast(dict[str, object], loaded)
        return Target(
            api_url=_text(fields["api_url"]).rstrip("/"),
            api_key=_text(fields["api_key"]),
            catalog_url=None if fields.get("catalog_url") is None else _text(fields["catalog_url"]),
            postgres_host=None if fields.get("postgres_host") is None else _text(fields["postgres_host"]),
            postgres_port=None if fields.get("postgres_port") is None else int(_text(fields["postgres_port"])),
            console_url=None if fields.get("console_url") is None else _text(fields["console_url"]),
            api_ca=None if fields.get("api_ca") is None else Path(_text(fields["api_ca"])),
            pid=None if fields.get("pid") is None else int(_text(fields["pid"])),
        )
    except (ValueError, KeyError) as error:
        raise OperatorError(
            f"{path} is not what `tenantry up` writes",
            next_step="stop `tenantry up`, remove the file and start it again",
        ) from error


def _text(value: object) -> str:
    if isinstance(value, str | int):
        return str(value)
    raise ValueError(type(value).__name__)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
