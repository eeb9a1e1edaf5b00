"""Which names and settings the API accepts."""

from __future__ import annotations

import pytest

from tenantry.cell.operations.names import check_compute, check_database, check_role, check_settings
from tenantry.errors import InvalidInput


@pytest.mark.parametrize(
    "name", ["cloud_admin", "Cloud_Admin", "neon_superuser", "pg_read_server_files", "", "a\0b", "x" * 64, "é" * 32]
)
def test_roles_that_nobody_may_make(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_role(name)


@pytest.mark.parametrize("name", ["postgres", "template0", "TEMPLATE1", "pg_x", ""])
def test_databases_that_nobody_may_make(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_database(name)


def test_ordinary_names_pass() -> None:
    for name in ("neondb", "o'neil", 'with "quotes"', "x" * 63, "Größe"):
        check_role(name)
        check_database(name)


@pytest.mark.parametrize(
    "name",
    [
        "archive_command", "restore_command", "shared_preload_libraries", "session_preload_libraries",
        "unix_socket_directories", "fsync", "full_page_writes", "wal_level", "ssl_cert_file", "data_directory",
        "dynamic_library_path", "log_directory", "Work_Mem", "work mem", "work_mem\n", "allow_system_table_mods",
    ],
)  # fmt: skip
def test_settings_that_reach_outside_the_tenant(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be changed"):
        check_settings({"pg_settings": {name: "on"}})


@pytest.mark.parametrize("settings", [[], {"work_mem": 4}, {"work_mem": "4MB\nfsync=off"}, {"work_mem": "x" * 1001}])
def test_settings_of_wrong_form(settings: object) -> None:
    with pytest.raises(InvalidInput):
        check_settings({"pg_settings": settings})


def test_ordinary_settings_pass() -> None:
    check_settings({})
    check_settings({"pg_settings": {"work_mem": "8MB", "pgcrypto.x": "1", "statement_timeout": "5s"}})


@pytest.mark.parametrize("compute", [(0.1, 1, 0), (1, 9, 0), (2, 1, 0), (1, 1, -2), (1, 1, 604_801)])
def test_compute_out_of_bounds(compute: tuple[float, float, int]) -> None:
    with pytest.raises(InvalidInput):
        check_compute(*compute)


def test_compute_at_its_bounds() -> None:
    check_compute(0.25, 8, -1)
    check_compute(0.25, 0.25, 604_800)
