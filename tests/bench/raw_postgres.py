"""The peer of wake, disk and memory: ``postgres`` itself, with nothing of ours around it."""

from __future__ import annotations

import os
import pwd
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tenantry.postgres import conf, scram
from tenantry.postgres.engines import Engine
from tenantry.postgres.template import ADMIN_ROLE, DATABASE, OWNER_ROLE, build_template
from tenantry.runtime.files import Owner

CONNECT_EVERY_SECONDS: Final = 0.0005
START_SECONDS_MAX: Final = 60.0
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "GMT"}


class RawPostgres:
    """One data directory and, between ``start`` and ``stop``, its postmaster."""

    def __init__(self, engine: Engine, data: Path, owner: Owner | None, dsn: str, options: list[str]) -> None:
        self._engine, self._owner = engine, owner
        self._command = [*_as(owner), engine.program("postgres"), "-D", str(data), *options]
        self._log = data.with_name(f"{data.name}.log")
        self.data = data
        self.dsn = dsn
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> float:
        """Seconds from the exec to the first row, asked for every half millisecond."""
        with self._log.open("ab") as log:
            began = time.perf_counter()
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_ENVIRONMENT, cwd="/",
                start_new_session=True, umask=0o077,
            )  # fmt: skip
        while True:
            try:
                with psycopg.connect(self.dsn, autocommit=True) as connection:
                    row = connection.execute("select 1").fetchone()
                    seconds = time.perf_counter() - began
                assert row == (1,)
                return seconds
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.perf_counter() - began > START_SECONDS_MAX:
                    raise
                time.sleep(CONNECT_EVERY_SECONDS)

    def stop(self) -> None:
        """A clean, fast stop. Safe twice."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(START_SECONDS_MAX)
            self.process = None

    def configured(self, settings: Mapping[str, str]) -> dict[str, str]:
        """These settings with where it listens."""
        return {**settings, "unix_socket_directories": str(conninfo_to_dict(self.dsn)["host"]), "port": "5432"}

    @property
    def admin_dsn(self) -> str:
        """As its superuser, which may copy it."""
        return make_conninfo(self.dsn, user=ADMIN_ROLE)

    def basebackup(self, into: Path) -> tuple[float, RawPostgres]:
        """Seconds of one ``pg_basebackup`` of this running instance, and the copy, which is not started."""
        data, sockets = into / "data", into / "sockets"
        for directory in (into, sockets):
            directory.mkdir(mode=0o711)
            if self._owner is not None:
                os.chown(directory, *self._owner)
        known = conninfo_to_dict(self.admin_dsn)
        began = time.perf_counter()
        subprocess.run(
            [
                *_as(self._owner), self._engine.program("pg_basebackup"), "-D", str(data), "--checkpoint=fast",
                "-h", str(known["host"]), "-U", str(known["user"]), "--no-password",
            ],
            check=True, capture_output=True, cwd="/", env={**_ENVIRONMENT, "PGPASSWORD": str(known["password"])},
        )  # fmt: skip
        seconds = time.perf_counter() - began
        dsn = make_conninfo(self.dsn, host=str(sockets))
        return seconds, RawPostgres(self._engine, data, self._owner, dsn, ["-c", f"unix_socket_directories={sockets}"])


def _as(owner: Owner | None) -> list[str]:
    """Takes the user on after the exec: before it, Python must fork all of this process, which costs the peer 5 ms."""
    return [] if owner is None else ["setpriv", f"--reuid={owner[0]}", f"--regid={owner[1]}", "--clear-groups", "--"]


def clone_of_template(
    engine: Engine, templates: Path, into: Path, owner: Owner | None, *, cu: float, options: Sequence[str] = ()
) -> RawPostgres:
    """As a new tenant is: the same template, the same settings, the same kind of login. ``options`` go to postgres."""
    password = secrets.token_urlsafe(16)
    data, sockets = into / "data", into / "sockets"
    for directory in (into, sockets):
        directory.mkdir(mode=0o711)
        if owner is not None:
            os.chown(directory, *owner)
    verifiers = {role: scram.make_verifier(password) for role in (ADMIN_ROLE, OWNER_ROLE)}
    template = build_template(engine, templates)
    template.clone(data, system_identifier=secrets.randbits(62) + 1, verifiers=verifiers, owner=owner, durable=True)
    dsn = make_conninfo(host=str(sockets), user=OWNER_ROLE, dbname=DATABASE, password=password)
    made = RawPostgres(engine, data, owner, dsn, list(options))
    conf.write_configuration(data, made.configured(conf.lean_settings(cu, engine.major)), owner=owner)
    return made


def stock(engine: Engine, into: Path) -> RawPostgres:
    """What ``initdb`` and ``postgres`` make by themselves. Raises LookupError where initdb refuses our user."""
    into.mkdir(mode=0o711)
    data, sockets = into / "data", into / "sockets"
    owner: Owner | None = None
    try:
        if os.geteuid() == 0:
            entry = pwd.getpwnam("nobody")
            owner = (entry.pw_uid, entry.pw_gid)
        else:
            pwd.getpwuid(os.geteuid())
    except KeyError as error:
        raise LookupError("initdb needs a user of /etc/passwd, and there is none for it") from error
    for directory in (data, sockets):
        directory.mkdir(mode=0o700)
        if owner is not None:
            os.chown(directory, *owner)
    subprocess.run(
        [*_as(owner), engine.program("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"],
        check=True,
        capture_output=True,
        env=_ENVIRONMENT,
        cwd="/",
    )
    dsn = make_conninfo(host=str(sockets), user="postgres", dbname="postgres")
    # Where it listens is not a matter of settings here: only that it is not in anybody's way.
    where = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={sockets}"]
    return RawPostgres(engine, data, owner, dsn, where)
