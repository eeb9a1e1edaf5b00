"""The peer of migrations: the real drizzle-kit, run as the guide runs it, once for each tenant."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

_INSTALL_SECONDS_MAX: Final = 240.0
_RUN_SECONDS_MAX: Final = 120.0
_EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "tasks"


class Absent(Exception):
    """The peer cannot be had here; the text says why."""


class DrizzleKit:
    """An npm project of the example's versions, whose ``drizzle`` folder is filled by the caller."""

    def __init__(self, home: Path) -> None:
        """Installs. Raises Absent."""
        if shutil.which("npm") is None:
            raise Absent("peer not installed: apt-get install nodejs npm")
        self.folder = home / "drizzle"
        self._home = home
        home.mkdir()
        for name in ("package.json", "drizzle.config.ts", "schema.ts"):
            shutil.copy(_EXAMPLE / name, home / name)
        try:
            done = subprocess.run(
                ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"],
                cwd=home, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS_MAX,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Absent(f"npm install took more than {_INSTALL_SECONDS_MAX:g} s") from error
        if done.returncode != 0:
            raise Absent(f"npm install failed: {done.stderr.strip().splitlines()[-1:]}")

    @property
    def version(self) -> str:
        return str(json.loads((self._home / "package.json").read_text())["devDependencies"]["drizzle-kit"])

    def migrate(self, uri: str) -> float:
        """Seconds of one ``npx drizzle-kit migrate``. Raises RuntimeError."""
        began = time.perf_counter()
        done = subprocess.run(
            ["npx", "drizzle-kit", "migrate"],
            cwd=self._home, env={**os.environ, "DATABASE_URL": uri}, capture_output=True, text=True, check=False,
            timeout=_RUN_SECONDS_MAX,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        if done.returncode != 0:
            raise RuntimeError(f"drizzle-kit failed: {(done.stdout + done.stderr).strip()[-500:]}")
        return seconds
