"""``tenantry`` in processes that are forks of a nursery: the real program, without the second that its imports take."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tenantry.testing.throwaway import ThrowawayCell

NURSERY = Path(__file__).with_name("nursery.py")
CLOSE_SECONDS_MAX = 10.0


class Born:
    """A process of a nursery, as far as those who start processes look at theirs."""

    def __init__(self, nursery: subprocess.Popen[bytes], nurseries: Nurseries) -> None:
        assert nursery.stdout is not None
        self._nursery = nursery
        self._nurseries = nurseries
        self._answers = nursery.stdout
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            ready, _, _ = select.select([self._answers], [], [], timeout)
            if not ready:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            self.returncode = int(self._answers.readline())
            self._nurseries.give_back(self._nursery)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nurseries:
    """One for each process that lives at the same time as others: a nursery waits for its child's death."""

    def __init__(self) -> None:
        self._free: list[subprocess.Popen[bytes]] = []
        self._all: list[subprocess.Popen[bytes]] = []

    def give_birth(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        out: Path,
        err: Path,
        directory: Path,
        script: Path | None = None,
    ) -> Born:
        """The program, or ``script`` in its place."""
        try:
            nursery = self._free.pop()
        except IndexError:
            nursery = subprocess.Popen(
                [sys.executable, str(NURSERY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
            self._all.append(nursery)
        assert nursery.stdin is not None
        order: dict[str, Any] = {
            "arguments": list(arguments), "environment": dict(environment), "directory": str(directory),
            "out": str(out), "err": str(err), "script": script and str(script),
        }  # fmt: skip
        nursery.stdin.write(json.dumps(order).encode() + b"\n")
        return Born(nursery, self)

    def give_back(self, nursery: subprocess.Popen[bytes]) -> None:
        self._free.append(nursery)

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], *, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """As ``subprocess.run`` would run the program, with nothing to read."""
        with tempfile.TemporaryDirectory() as made:
            out, err = Path(made) / "out", Path(made) / "err"
            born = self.give_birth(arguments, environment, out=out, err=err, directory=Path.cwd())
            try:
                code = born.wait(timeout)
            except subprocess.TimeoutExpired:
                born.kill()
                born.wait()
                raise
            return subprocess.CompletedProcess(list(arguments), code, out.read_text(), err.read_text())

    def close(self) -> None:
        for nursery in self._all:
            assert nursery.stdin is not None and nursery.stdout is not None
            nursery.stdin.close()
            nursery.wait(CLOSE_SECONDS_MAX)
            nursery.stdout.close()


class ForkedCell(ThrowawayCell):
    """A cell whose control process is a fork of a nursery."""

    def __init__(self, nurseries: Nurseries, **settings: Any) -> None:
        super().__init__(**settings)
        self._nurseries = nurseries

    def launch(self) -> None:
        assert self._process is None or self._process.poll() is not None, "the cell runs already"
        arguments = ["up", "--data", str(self.data), "--http", self.http, "--postgres", self.postgres, *self.options]
        born = self._nurseries.give_birth(
            arguments, os.environ | self.environment, out=self.log, err=self.log, directory=Path.cwd()
        )
        self._process = cast("subprocess.Popen[bytes]", born)
