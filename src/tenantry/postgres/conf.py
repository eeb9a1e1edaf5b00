"""What a postmaster is told: settings for each compute size, who may log in, and the files that say so.

The three files are written anew at each start, never inherited from a clone or from an ALTER SYSTEM. Login is
SCRAM over the instance's own Unix socket and nothing else: no trust, no peer, no TCP.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tenantry.errors import InvalidInput
from tenantry.postgres.template import ADMIN_ROLE
from tenantry.runtime import files

CU_MIN: Final = 0.25
CU_MAX: Final = 8.0
RESERVED_CONNECTIONS: Final = 4
"""Slots of ``max_connections`` kept for the cell's admin, so that a tenant at its limit can still be looked after."""

_HBA: Final = f"""\
# Written by tenantry at each start; changes are lost.
local  all          all            scram-sha-256
local  replication  {ADMIN_ROLE}    scram-sha-256
"""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


def lean_settings(cu: float, major: int) -> dict[str, str]:
    """Settings of an instance of this compute size: small enough to have hundreds of them awake on one machine.

    One compute unit stands for 4 GB of RAM on Neon; here it scales what a tenant may use at most. What an idle instance
    costs grows with ``max_connections`` alone. Raises InvalidInput.
    """
    if not CU_MIN <= cu <= CU_MAX:
        raise InvalidInput(f"a compute size of {cu:g} is not between {CU_MIN:g} and {CU_MAX:g} CU", field="cu")
    parallel = 0 if cu < 1 else int(cu)
    settings = {
        # who is served
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "password_encryption": "scram-sha-256",
        "max_connections": str(max_connections(cu)),
        "superuser_reserved_connections": str(RESERVED_CONNECTIONS),
        "client_connection_check_interval": "10s",
        # memory
        "shared_buffers": f"{_power_of_two(32 * cu)}MB",
        "work_mem": f"{_between(4, 4 * cu, 32)}MB",
        "maintenance_work_mem": f"{_between(16, 64 * cu, 512)}MB",
        "autovacuum_work_mem": f"{_between(8, 32 * cu, 256)}MB",
        "effective_cache_size": f"{math.floor(1024 * cu)}MB",
        "wal_buffers": "64kB" if cu < 1 else "1MB",
        "huge_pages": "off",
        # Segments in /dev/shm would outlive a killed and deleted tenant, and containers have 64 MB there; parallel
        # queries need the faster kind.
        "dynamic_shared_memory_type": "posix" if parallel else "mmap",
        "temp_file_limit": f"{math.floor(4 * cu)}GB",
        # Room for locks is touched at the start, for every connection, and is half of what an idle instance costs.
        "max_locks_per_transaction": "32",
        "max_pred_locks_per_transaction": "16",
        # A start tries out as many descriptors as this.
        "max_files_per_process": "256" if cu < 1 else "1000",
        # processes
        "max_worker_processes": str(parallel),
        "max_parallel_workers": str(parallel),
        "max_parallel_workers_per_gather": str(min(2, parallel)),
        "max_parallel_maintenance_workers": str(min(2, parallel)),
        "max_logical_replication_workers": "0",
        "autovacuum_max_workers": "1" if cu < 1 else "3",
        "jit": "off",
        "restart_after_crash": "off",
        # write-ahead log; segments are never recycled, because history keeps them by hard link
        "wal_recycle": "off",
        "max_wal_senders": "3",
        "max_replication_slots": "3",
        "max_wal_size": f"{_between(32, 128 * cu, 1024)}MB",
        "min_wal_size": "2MB",
        "recovery_init_sync_method": "syncfs",
        # what clients see: the same on every host
        "timezone": "GMT",
        "datestyle": "iso, mdy",
        "lc_messages": "C",
        "lc_monetary": "C",
        "lc_numeric": "C",
        "lc_time": "C",
        "default_text_search_config": "pg_catalog.english",
        # The log: the postmaster and its helpers from LOG up, sessions (the template says so) from FATAL up, and
        # never the text of a statement, where passwords are.
        "log_timezone": "GMT",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "log_min_messages": "log",
        "log_min_error_statement": "panic",
        "log_checkpoints": "off",
    }
    if major >= 17:
        settings["allow_alter_system"] = "off"
    if major >= 18:
        settings["io_method"] = "sync"
        settings["autovacuum_worker_slots"] = settings["autovacuum_max_workers"]
    return settings


def max_connections(cu: float) -> int:
    """Connections that an instance takes: 100 for tenants on the smallest, 1,000 on the largest."""
    return RESERVED_CONNECTIONS + _between(100, 200 * cu, 1000)


def render_conf(settings: Mapping[str, str]) -> str:
    """The text of postgresql.conf. Raises InvalidInput for a name or value that cannot stand in the file."""
    lines = ["# Written by tenantry at each start; changes are lost."]
    for name, value in settings.items():
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"{name!r} is not the name of a setting", field=name)
        if any(character in value for character in "\n\r\0"):
            raise InvalidInput(f"the value of {name} holds a line break", field=name)
        quoted = value.replace("\\", "\\\\").replace("'", "''")
        lines.append(f"{name} = '{quoted}'")
    return "\n".join(lines) + "\n"


def render_hba() -> str:
    return _HBA


def render_ident() -> str:
    return "# Written by tenantry at each start; no maps.\n"


def write_configuration(data: Path, settings: Mapping[str, str], *, owner: files.Owner | None) -> None:
    """Makes postgresql.conf, pg_hba.conf and pg_ident.conf hold this and nothing else; empties postgresql.auto.conf.

    A file that is already what it should be, byte for byte, is left (it saves a third of what a wake costs us).
    Not synced: each start does this before Postgres reads them. Does not follow links that a hostile owner of the
    directory may have put there. Raises OperatorError.
    """
    texts = {
        "postgresql.conf": render_conf(settings),
        "postgresql.auto.conf": "",
        "pg_hba.conf": render_hba(),
        "pg_ident.conf": render_ident(),
    }
    for name, text in texts.items():
        if not _holds(data / name, text.encode(), owner):
            files.write_atomic(data / name, text.encode(), mode=0o600, owner=owner, durable=False, follow_parent=False)


def write_overrides(data: Path, settings: Mapping[str, str], *, owner: files.Owner | None) -> None:
    """Makes postgresql.auto.conf, which is read last, hold this and nothing else; the next start empties it.

    Raises InvalidInput, OperatorError.
    """
    text = render_conf(settings)
    path = data / "postgresql.auto.conf"
    files.write_atomic(path, text.encode(), mode=0o600, owner=owner, durable=False, follow_parent=False)


def _holds(path: Path, content: bytes, owner: files.Owner | None) -> bool:
    """Whether it is a plain file with one name, closed to others, of this owner and with exactly this content."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # absent, a link, not ours: it is replaced
        return False
    try:
        status = os.fstat(descriptor)
        return (
            stat.S_ISREG(status.st_mode)
            and stat.S_IMODE(status.st_mode) == 0o600
            and status.st_nlink == 1
            and status.st_size == len(content)
            and (status.st_uid, status.st_gid) == (owner or (os.geteuid(), os.getegid()))
            and os.read(descriptor, len(content) + 1) == content
        )
    finally:
        os.close(descriptor)


def _between(low: int, value: float, high: int) -> int:
    return int(min(max(low, value), high))


def _power_of_two(value: float) -> int:
    return 2 ** math.floor(math.log2(value))
