"""Which names of roles, databases and settings the API accepts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from tenantry.errors import InvalidInput

NAME_BYTES_MAX: Final = 63
RESERVED_ROLES: Final = frozenset({"cloud_admin", "neon_superuser", "public", "none", "postgres"})
RESERVED_DATABASES: Final = frozenset({"postgres", "template0", "template1"})
CU_MIN: Final = 0.25
CU_MAX: Final = 8.0
SUSPEND_SECONDS_MAX: Final = 604_800
SETTINGS_MAX: Final = 100
SETTING_VALUE_MAX: Final = 1_000

_SETTING: Final = re.compile(r"^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$")
_FORBIDDEN_SETTINGS: Final = re.compile(
    r"^(archive_.*|restore_command|recovery_.*|primary_.*|listen_addresses|port|unix_socket_.*|data_directory|"
    r"hba_file|ident_file|config_file|external_pid_file|ssl.*|.*_libraries|dynamic_library_path|"
    r"extension_control_path|log_.*|logging_collector|cluster_name|wal_.*|max_slot_wal_keep_size|fsync|"
    r"full_page_writes|synchronous_standby_names|restart_after_crash|allow_.*|zero_damaged_pages|"
    r"ignore_.*|debug_.*|io_method|huge_pages|password_encryption|event_source|krb_.*|db_user_namespace|"
    r"temp_tablespaces|default_tablespace|local_preload_libraries|include.*|summarize_wal|hot_standby.*)$"
)
"""Settings that would reach outside the tenant, break history, or weaken durability."""


def _check(kind: str, name: str, reserved: frozenset[str]) -> None:
    if not name or "\0" in name:
        raise InvalidInput(f"a {kind} needs a name", field="name")
    if len(name.encode()) > NAME_BYTES_MAX:
        raise InvalidInput(f"the {kind} name is longer than {NAME_BYTES_MAX} bytes", field="name")
    if name.lower() in reserved or name.lower().startswith("pg_"):
        raise InvalidInput(f"the {kind} name {name!r} is reserved", next_step="choose another name", field="name")


def check_role(name: str) -> None:
    """Raises InvalidInput for names that Postgres or the cell keep for themselves."""
    _check("role", name, RESERVED_ROLES)


def check_database(name: str) -> None:
    """Raises InvalidInput for names that Postgres or the cell keep for themselves."""
    _check("database", name, RESERVED_DATABASES)


def check_compute(min_cu: float, max_cu: float, suspend_timeout_seconds: int) -> None:
    """Raises InvalidInput when a size or a timeout is out of bounds."""
    for field, value in (("autoscaling_limit_min_cu", min_cu), ("autoscaling_limit_max_cu", max_cu)):
        if not CU_MIN <= value <= CU_MAX:
            raise InvalidInput(f"{field} must be between {CU_MIN} and {CU_MAX:g}", field=field)
    if min_cu > max_cu:
        raise InvalidInput("autoscaling_limit_min_cu is larger than autoscaling_limit_max_cu")
    if not -1 <= suspend_timeout_seconds <= SUSPEND_SECONDS_MAX:
        raise InvalidInput(
            f"suspend_timeout_seconds must be between -1 and {SUSPEND_SECONDS_MAX}",
            field="suspend_timeout_seconds",
        )


def check_settings(settings: Mapping[str, object]) -> None:
    """Raises InvalidInput when ``pg_settings`` holds a name that a tenant may not set, or a value of no use."""
    chosen = settings.get("pg_settings")
    if chosen is None:
        return
    if not isinstance(chosen, dict):
        raise InvalidInput("pg_settings must be an object of strings", field="pg_settings")
    if len(chosen) > SETTINGS_MAX:  # pyright: ignore[reportUnknownArgumentType] - only counted
        raise InvalidInput(f"pg_settings has more than {SETTINGS_MAX} entries", field="pg_settings")
    for name, value in chosen.items():  # pyright: ignore[reportUnknownVariableType] - checked next
        if not isinstance(name, str) or not isinstance(value, str) or len(value) > SETTING_VALUE_MAX:
            raise InvalidInput("pg_settings must be an object of strings", field="pg_settings")
        if not _SETTING.fullmatch(name) or _FORBIDDEN_SETTINGS.fullmatch(name) or "\n" in value or "\0" in value:
            raise InvalidInput(
                f"the setting {name!r} cannot be changed here", next_step="leave it out", field=f"pg_settings.{name}"
            )
