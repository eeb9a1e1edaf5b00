"""``tenantry`` in processes that are forks of a nursery: the real program, without the second that its imports take."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

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
            # Its nursery has waited for it, and says so in a moment.
            with contextlib.suppress(ProcessLookupError):
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
        self, arguments: Sequence[str], environment: Mapping[str, str], *, timeout: float, directory: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """As ``subprocess.run`` would run the program, with nothing to read."""
        with tempfile.TemporaryDirectory() as made:
            out, err = Path(made) / "out", Path(made) / "err"
            born = self.give_birth(arguments, environment, out=out, err=err, directory=directory or Path.cwd())
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


class Installed:
    """``tenantry`` in a directory of programs, for scripts: what is called there is done by a fork."""

    def __init__(self, nurseries: Nurseries, home: Path) -> None:
        self.programs = home
        address = home / "s"
        program = home / "tenantry"
        program.write_text(f"#!{sys.executable} -IS\n{_CALLS.format(address=str(address))}")
        program.chmod(0o755)

        class Call(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                called = json.loads(self.rfile.readline())
                out, err = (Path(f"/proc/{called['pid']}/fd/{number}") for number in (1, 2))
                born = nurseries.give_birth(
                    called["arguments"], called["environment"], out=out, err=err, directory=Path(called["directory"])
                )
                self.wfile.write(b"%d\n" % born.wait())

        self._server = socketserver.UnixStreamServer(str(address), Call)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


_CALLS = """
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    called = dict(arguments=sys.argv[1:], environment=dict(os.environ), directory=os.getcwd(), pid=os.getpid())
    server.sendall(json.dumps(called).encode() + b"\\n")
    code = int(server.makefile().readline())
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


class ForkedCell(ThrowawayCell):
    """A cell whose control process is a fork of a nursery: ``tenantry``, or a script in its place."""

    def __init__(self, nurseries: Nurseries, *, script: Path | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self._nurseries = nurseries
        self._script = script

    def launch(self) -> None:
        assert self._process is None or self._process.poll() is not None, "the cell runs already"
        arguments = ["up", "--data", str(self.data), "--http", self.http, "--postgres", self.postgres, *self.options]
        born = self._nurseries.give_birth(
            arguments, os.environ | self.environment, out=self.log, err=self.log, directory=Path.cwd(),
            script=self._script,
        )  # fmt: skip
        self._process = cast("subprocess.Popen[bytes]", born)
