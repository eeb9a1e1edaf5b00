"""The peer of migrations that keeps each customer in a schema: the real django-tenants, with its own executors."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

EXECUTORS: Final = ("standard", "multiprocessing")
_RUN_SECONDS_MAX: Final = 600.0
_SETTINGS: Final = """\
import json, os
SECRET_KEY = "measured"
SHARED_APPS = ["django_tenants", "django.contrib.contenttypes", "customers"]
TENANT_APPS = ["tasks"]
INSTALLED_APPS = SHARED_APPS + TENANT_APPS
DATABASES = {"default": json.loads(os.environ["BENCH_DATABASE"])}
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
TENANT_MODEL, TENANT_DOMAIN_MODEL = "customers.Customer", "customers.Domain"
TENANT_MULTIPROCESSING_MAX_PROCESSES = 8
TENANT_MULTIPROCESSING_CHUNKS = 1
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
_CUSTOMERS: Final = """\
from django.db import models
from django_tenants.models import DomainMixin, TenantMixin

class Customer(TenantMixin):
    auto_create_schema = False

class Domain(DomainMixin):
    pass
"""
_TASKS: Final = """\
from django.db import models

class Task(models.Model):
    title = models.TextField()
"""
_ADD_COLUMN: Final = """\
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [("tasks", "{before}")]
    operations = [migrations.AddField("task", "note_{number}", models.TextField(null=True))]
"""


class Absent(Exception):
    """The peer cannot be had here; the text says why."""


class DjangoSchemas:
    """A project with so many schemas in one database, that stand at its first migration."""

    def __init__(self, home: Path, dsn: str, count: int) -> None:
        """Raises Absent."""
        if importlib.util.find_spec("django_tenants") is None:
            raise Absent("peer not installed: pip install django-tenants")
        from importlib.metadata import version  # noqa: PLC0415

        self.version = version("django-tenants")
        self.count = count
        self._home = home
        self._before = "0001_initial"
        known = conninfo_to_dict(dsn)
        database = {
            "ENGINE": "django_tenants.postgresql_backend", "NAME": known["dbname"], "HOST": known["host"],
            "USER": known["user"], "PASSWORD": known["password"],
        }  # fmt: skip
        self._environment = {
            **os.environ, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(home),
            "BENCH_DATABASE": json.dumps(database),
        }  # fmt: skip
        self._write({"settings.py": _SETTINGS, "customers/models.py": _CUSTOMERS, "tasks/models.py": _TASKS})
        for app in ("customers", "tasks"):
            self._write({f"{app}/__init__.py": "", f"{app}/migrations/__init__.py": ""})
        self._django("makemigrations", "customers", "tasks")
        self._django("migrate_schemas", "--shared")
        with psycopg.connect(dsn, autocommit=True) as connection:
            for number in range(count):
                connection.execute(f"CREATE SCHEMA customer_{number}".encode())
                connection.execute("INSERT INTO customers_customer (schema_name) VALUES (%s)", (f"customer_{number}",))
        self._django("migrate_schemas", "--tenant")

    def add_column(self, number: int) -> None:
        """One more migration."""
        name = f"{number + 2:04}_note_{number}"
        self._write({f"tasks/migrations/{name}.py": _ADD_COLUMN.format(before=self._before, number=number)})
        self._before = name

    def migrate(self, executor: str) -> float:
        """Seconds of one ``migrate_schemas`` over all schemas. Raises RuntimeError."""
        began = time.perf_counter()
        self._django("migrate_schemas", "--tenant", f"--executor={executor}")
        return time.perf_counter() - began

    def _django(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            cwd=self._home, env=self._environment, capture_output=True, text=True, check=False,
            timeout=_RUN_SECONDS_MAX,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"django {arguments[0]} failed: {(done.stdout + done.stderr).strip()[-800:]}")

    def _write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self._home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
