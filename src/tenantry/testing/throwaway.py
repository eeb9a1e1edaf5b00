"""``tenantry up`` in a directory of its own: started, killed, started again, and gone at the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from tenantry.cell.storage.layout import run_directory
from tenantry.errors import OperatorError, Unavailable
from tenantry.fleet.config import Target, read_ready_file
from tenantry.runtime import child

READY_SECONDS_MAX: Final = 60.0
STOP_SECONDS_MAX: Final = 60.0
_POLL_SECONDS: Final = 0.01
_LOG_LINES: Final = 15


class ThrowawayCell:
    """One installation. Use ``with``, or ``start`` and ``close``; ``kill`` and ``start`` again in between.

    ``options`` go to ``tenantry up`` as they are, ``program`` is what is run as ``tenantry``. Without ``data`` a
    temporary directory is made and removed again.
    """

    def __init__(
        self,
        *,
        data: Path | None = None,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = (sys.executable, "-m", "tenantry"),
        http: str = "127.0.0.1:0",
        postgres: str = "127.0.0.1:0",
    ) -> None:
        self._temporary = None if data else Path(tempfile.mkdtemp(prefix="tenantry-"))
        if self._temporary is not None and os.geteuid() == 0:
            self._temporary.chmod(0o711)
        self.data = data or (self._temporary or Path()) / "data"
        self.log = self.data.parent / f"{self.data.name}.log"
        self.options = list(options)
        self.environment = dict(environment or {})
        self.program = list(program)
        self.http = http
        self.postgres = postgres
        self.ready_seconds = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running control process."""
        assert self._process is not None, "the cell was not started"
        return self._process

    @property
    def target(self) -> Target:
        """Where it answers. Raises Unavailable when it does not run."""
        return read_ready_file(self.data)

    def launch(self) -> None:
        """Starts the process without waiting for it."""
        assert self._process is None or self._process.poll() is not None, "the cell runs already"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *(*self.program, "up", "--data", str(self.data)),
                    *("--http", self.http, "--postgres", self.postgres, *self.options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def start(self) -> Target:
        """Starts it and waits until it answers. Raises OperatorError with the end of its log when it does not."""
        began = time.monotonic()
        self.launch()
        while time.monotonic() < began + READY_SECONDS_MAX and self.process.poll() is None:
            if self._answers():
                self.ready_seconds = time.monotonic() - began
                return self.target
            time.sleep(_POLL_SECONDS)
        raise OperatorError(f"the cell did not come up:\n{self.log_tail()}", next_step="see the lines above")

    def _answers(self) -> bool:
        """Whether the ready file is this process's: one of a killed predecessor may still lie there."""
        try:
            return self.target.pid == self.process.pid
        except Unavailable:
            return False

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])

    def kill(self) -> None:
        """SIGKILL to the control process alone: its workers and instances live on."""
        self.process.kill()
        self.process.wait()

    def wait_killed(self, seconds: float = READY_SECONDS_MAX) -> None:
        """Waits until it has died by SIGKILL, as at an armed failpoint. Raises TimeoutExpired or OperatorError."""
        status = self.process.wait(seconds)
        if status != -signal.SIGKILL:
            raise OperatorError(f"the cell ended with {status}, not by SIGKILL:\n{self.log_tail()}")

    def stop(self) -> int:
        """SIGTERM, and the exit status once it has ended; after STOP_SECONDS_MAX it is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def close(self) -> None:
        """Stops it, ends whatever a killed one left, and removes what was made here. Safe twice."""
        if self._process is not None:
            self.stop()
            for process in self.leftovers():
                child.kill(process, signal.SIGKILL)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def abandon(self) -> None:
        """Leaves it running: ``close`` does nothing any more."""
        self._process = self._temporary = None

    def leftovers(self) -> list[child.Identity]:
        """Living processes that belong to this data directory: postmasters with their children, workers."""
        found: list[child.Identity] = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                inside = (entry / "cwd").readlink().is_relative_to(self.data)
                worker = str(self._run_directory()).encode() in (entry / "cmdline").read_bytes()
            except OSError:
                continue
            identity = child.identity_of(int(entry.name))
            if (inside or worker) and identity is not None:
                found.append(identity)
        return found

    def _run_directory(self) -> Path:
        return run_directory(self.data, root=os.geteuid() == 0)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
