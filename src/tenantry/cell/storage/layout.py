"""Where everything of a cell lies: one data directory, and one short run directory for sockets.

A Unix socket's path has about 100 bytes, whatever ``--data`` is, so sockets live under ``/run/tenantry`` (root),
``$XDG_RUNTIME_DIR`` or ``/tmp``, in a directory named by a hash of the data directory.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenantry.cell.storage.directories import spread
from tenantry.errors import OperatorError
from tenantry.neon.ids import EndpointId, HeadId, ProjectId
from tenantry.runtime.files import remove_tree

SOCKET_PATH_BYTES_MAX: Final = 100
_SOCKET_NAME_BYTES: Final = 60
"""Room for ``/<endpoint id>/.s.PGSQL.5432`` below the run directory."""


@dataclass(frozen=True, slots=True)
class Layout:
    data: Path
    run: Path

    @property
    def database(self) -> Path:
        return self.data / "cell.db"

    @property
    def key(self) -> Path:
        return self.data / "cell.key"

    @property
    def operator_key(self) -> Path:
        return self.data / "operator.key"

    @property
    def lock(self) -> Path:
        return self.data / "cell.lock"

    @property
    def engines(self) -> Path:
        return self.data / "engines"

    @property
    def templates(self) -> Path:
        return self.data / "templates"

    @property
    def projects(self) -> Path:
        return self.data / "projects"

    @property
    def trash(self) -> Path:
        return self.data / "trash"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def tls(self) -> Path:
        return self.data / "tls"

    @property
    def workers(self) -> Path:
        return self.run / "door"

    @property
    def rpc_socket(self) -> Path:
        return self.workers / "cell.sock"

    def project(self, project_id: ProjectId) -> Path:
        return self.projects / project_id

    def head(self, project_id: ProjectId, head_id: HeadId) -> Path:
        """A head with its history: ``data`` below it is what Postgres runs."""
        return self.project(project_id) / head_id

    def head_data(self, project_id: ProjectId, head_id: HeadId) -> Path:
        return self.head(project_id, head_id) / "data"

    def socket_dir(self, endpoint_id: EndpointId) -> Path:
        return self.run / endpoint_id

    def making_dir(self, head_id: HeadId) -> Path:
        """Socket directory of the private instance that makes a head."""
        return self.run / head_id

    def making_log(self, head_id: HeadId) -> Path:
        """What that instance says."""
        return self.logs / f"{head_id}.log"

    def remove_making_traces(self, head_id: HeadId) -> None:
        """Socket directory and log of a private instance that is gone. Blocking, safe twice."""
        remove_tree(self.making_dir(head_id))
        self.making_log(head_id).unlink(missing_ok=True)

    def log(self, endpoint_id: EndpointId) -> Path:
        return self.logs / f"{endpoint_id}.log"

    def remove_traces(self, endpoint_id: EndpointId) -> None:
        """Socket directory and log of an endpoint that is stopped for good. Blocking, safe twice."""
        remove_tree(self.socket_dir(endpoint_id))
        for path in (self.log(endpoint_id), self.log(endpoint_id).with_suffix(".log.1")):
            path.unlink(missing_ok=True)

    def relative(self, path: Path) -> str:
        """The path as rows name it, relative to the data directory, so that the directory may be moved."""
        return str(path.relative_to(self.data))


def run_directory(data: Path, *, root: bool) -> Path:
    """The run directory that belongs to ``data``; it is the same at each start and short enough for sockets."""
    name = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:8]
    if root:
        return Path("/run/tenantry") / name
    candidates = [Path(os.environ["XDG_RUNTIME_DIR"]) / "tenantry"] if os.environ.get("XDG_RUNTIME_DIR") else []
    candidates.append(Path(tempfile.gettempdir()) / f"tenantry-{os.getuid()}")
    candidates.append(Path("/tmp") / f"tenantry-{os.getuid()}")  # noqa: S108 - ownership is checked below
    for parent in candidates:
        path = parent / name
        if len(os.fsencode(path)) + _SOCKET_NAME_BYTES <= SOCKET_PATH_BYTES_MAX:
            return path
    raise OperatorError("no directory is short enough for Unix sockets", next_step="set TMPDIR to a short path")


def prepare(layout: Layout, *, root: bool) -> None:
    """Makes the directories with their modes. Raises OperatorError when one belongs to somebody else.

    Under root, directories on the way to a project's files can be passed through by every uid and listed by none.
    """
    passage = 0o711 if root else 0o700
    try:
        layout.data.mkdir(mode=passage, parents=True, exist_ok=True)
        layout.run.parent.mkdir(mode=0o711 if root else 0o700, parents=True, exist_ok=True)
        layout.run.mkdir(mode=passage, exist_ok=True)
        for path, mode in (
            (layout.data, passage),
            (layout.run.parent, 0o711 if root else 0o700),
            (layout.run, passage),
            (layout.engines, 0o755),
            (layout.templates, 0o711),
            (layout.projects, passage),
            (layout.trash, 0o700),
            (layout.logs, 0o700),
            (layout.tls, 0o700),
            (layout.workers, 0o700),
        ):
            path.mkdir(mode=mode, exist_ok=True)
            _own(path, mode)
        spread(layout.projects)
    except OSError as error:
        raise OperatorError(
            f"cannot prepare {error.filename or layout.data}: {error.strerror}",
            next_step="choose a --data directory that this user may write to",
            path=str(error.filename),
        ) from error


def _own(path: Path, mode: int) -> None:
    facts = path.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
        raise OperatorError(
            f"{path} is not a directory of this user",
            next_step="remove it, or choose another --data directory",
            path=str(path),
        )
    if stat.S_IMODE(facts.st_mode) != mode:
        path.chmod(mode)
