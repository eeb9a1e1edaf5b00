"""Which settings an endpoint's instance runs with, and what follows from them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from tenantry.cell.compute.ports import Facts
from tenantry.cell.config import CellConfig
from tenantry.cell.model import Endpoint, JsonObject
from tenantry.postgres import conf


def effective_settings(endpoint: Endpoint, major: int) -> dict[str, str]:
    """Lean settings for the endpoint's size, and over them its own ``pg_settings``."""
    return conf.lean_settings(endpoint.max_cu, major) | pg_settings(endpoint.settings)


def pg_settings(settings: Mapping[str, object]) -> dict[str, str]:
    """Those of an endpoint's settings, or of a project's defaults."""
    chosen = settings.get("pg_settings")
    if not isinstance(chosen, dict):
        return {}
    return {str(name): str(value) for name, value in chosen.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - validated on entry


def settings_of_new(defaults: Mapping[str, object], asked: JsonObject) -> JsonObject:
    """An endpoint's settings when it is made: what is asked for, over what its project says at that time."""
    chosen = pg_settings(defaults) | pg_settings(asked)
    return {**asked, "pg_settings": chosen} if chosen else asked


def connections_max(endpoint: Endpoint) -> int:
    """Sessions that clients may have at an endpoint: what its instance takes, less the slots that it keeps back."""
    kept_back = conf.RESERVED_CONNECTIONS
    chosen = pg_settings(endpoint.settings).get("max_connections", "")
    asked = int(chosen) if chosen.isdecimal() else conf.max_connections(endpoint.max_cu)
    return max(1, asked - kept_back)


def suspend_seconds(facts: Facts, config: CellConfig) -> int:
    """Idle seconds before sleep; -1 is never."""
    return facts.endpoint.suspend_timeout_seconds or config.suspend_seconds_default
