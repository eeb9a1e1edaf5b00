"""pgjdbc, unmodified, through the front door: with TLS and channel binding and without, and through the pool.

Its jar is taken from where Maven keeps it; else it is fetched from the repository that MAVEN_REPOSITORY_URL names, or
by Maven itself as it is configured; else it is the one of Debian's package libpostgresql-jdbc-java.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest

PROGRAM: Final = Path(__file__).with_name("Pgjdbc.java")
VERSION: Final = "42.7.13"
BINDS_SINCE: Final = (42, 7, 4)
ARTIFACT: Final = "org/postgresql/postgresql"
OF_MAVEN: Final = Path.home() / ".m2" / "repository" / ARTIFACT
OF_DEBIAN: Final = Path("/usr/share/java/postgresql.jar")
MAVEN_COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"

Java = Callable[..., dict[str, str]]


def newest(folder: Path) -> Path | None:
    found = [path for path in folder.glob("42.*/postgresql-42.*.jar") if re.fullmatch(r"[\d.]+", path.parent.name)]
    return max(found, key=lambda path: [int(part) for part in path.parent.name.split(".")], default=None)


def fetched(folder: Path) -> Path | None:
    """The driver's jar out of a Maven repository; None where there is none."""
    jar = folder / f"postgresql-{VERSION}.jar"
    if url := os.environ.get("MAVEN_REPOSITORY_URL"):
        jar.write_bytes(httpx.get(f"{url}/{ARTIFACT}/{VERSION}/{jar.name}").raise_for_status().content)
    elif shutil.which("mvn"):
        artifact = f"-Dartifact=org.postgresql:postgresql:{VERSION}"
        command = ["mvn", "--quiet", "--batch-mode", MAVEN_COPY, artifact, f"-DoutputDirectory={folder}"]
        try:
            subprocess.run(command, cwd=folder, capture_output=True, timeout=100, check=False)
        except subprocess.TimeoutExpired:
            return None
    return jar if jar.exists() else None


@pytest.fixture(scope="module")
def jar(new_workdir: Callable[[str], Path]) -> Path:
    if shutil.which("java") is None:
        pytest.skip("java is not installed; it runs pgjdbc")
    found = newest(OF_MAVEN) or fetched(new_workdir("jar")) or (OF_DEBIAN if OF_DEBIAN.exists() else None)
    if found is None:
        pytest.skip("there is no jar of pgjdbc: no Maven repository answers, and libpostgresql-jdbc-java is not here")
    return found


@pytest.fixture
def java(jar: Path) -> Java:
    def run(mode: str, uri: str, **properties: str) -> dict[str, str]:
        parts = urlsplit(uri)
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        given |= {"user": unquote(str(parts.username)), "password": unquote(str(parts.password)), **properties}
        url = f"jdbc:postgresql://{parts.hostname}:{parts.port}{parts.path}"
        done = subprocess.run(
            [
                *("java", "-XX:TieredStopAtLevel=1", "-cp", jar, PROGRAM, mode, url),
                *(f"{name}={value}" for name, value in given.items()),
            ],
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-5000:]
        return dict(line.split("\t", 1) for line in done.stdout.splitlines())

    return run


def binds(jar: Path) -> bool:
    """Whether this driver knows channel binding. Debian's jar has no version in its name, and is older."""
    version = re.search(r"(\d+)\.(\d+)\.(\d+)\.jar$", jar.name)
    return version is not None and tuple(map(int, version.groups())) >= BINDS_SINCE


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])
@pytest.mark.parametrize("way", ["plain", "tls", "bound"])
def test_all_that_the_driver_does(way: str, pooled: bool, java: Java, jar: Path, tenant: Any, real_cell: Any) -> None:
    uri = tenant.uri.replace(tenant.endpoint_id, f"{tenant.endpoint_id}-pooler") if pooled else tenant.uri
    tls = {"sslmode": "verify-full", "sslrootcert": str(real_cell.ca)}
    if way == "bound" and not binds(jar):
        pytest.skip(f"{jar.name} knows no channel binding")
    seen = java("all", uri, **{
        "plain": {},
        "tls": {**tls, "channelBinding": "disable"},
        "bound": {**tls, "channelBinding": "require"},
    }[way])  # fmt: skip
    assert (seen["who"], seen["valid"], seen["pid"]) == ("neondb_owner in neondb", "true", "true")
    assert seen["error"] == "22012 division by zero"
    assert seen["columns"] == "id,n,big"
    assert (seen["twice"], seen["atServer"], seen["held"]) == ("[2, 4, 6, 8]", "true", "1"), "prepared at the server"
    assert (seen["key"], seen["big"]) == ("1", "true")
    assert (seen["byCursor"], seen["unique"], seen["rolledBack"]) == ("105", "23505", "0")
    assert (seen["batched"], seen["failedBatch"], seen["afterFailedBatch"]) == ("10000", "23505", "0")
    assert (seen["copiedIn"], seen["copiedOut"], seen["copied"]) == ("100000", "100000", "true")
    assert (seen["badCopy"], seen["afterBadCopy"]) == ("22P02", "0"), "the session goes on after a copy that failed"
    assert (seen["heard"], seen["from"]) == ("hello", "true")
    assert (seen["cancelled"], seen["afterCancel"]) == ("57014", "1"), "by Statement.cancel"
    assert (seen["timedOut"], seen["afterTimeout"]) == ("57014", "1"), "by setQueryTimeout"
    assert seen["sum"] == "45"
    assert int(seen["servers"]) < 10 if pooled else seen["servers"] == "10"


def test_what_is_refused(java: Java, jar: Path, tenant: Any, real_cell: Any) -> None:
    wrong = java("refused", tenant.uri, password="wrong")
    assert wrong["state"] == "28P01"
    assert "password authentication failed" in wrong["message"]
    replication = java("refused", tenant.uri, replication="database", assumeMinServerVersion="9.4")
    assert (replication["state"], "replication" in replication["message"]) == ("0A000", True)
    if binds(jar):
        unbound = java("refused", tenant.uri, channelBinding="require")
        assert unbound["state"] != "let in", "without TLS there is nothing to bind to"


@pytest.mark.parametrize("more", ["direct TLS", "protocol 3.2", "simple queries", "read-write hosts"])
def test_other_ways_to_connect(more: str, java: Java, jar: Path, tenant: Any, real_cell: Any) -> None:
    tls = {"sslmode": "verify-full", "sslrootcert": str(real_cell.ca)}
    if more in {"direct TLS", "protocol 3.2"} and not binds(jar):
        pytest.skip(f"{jar.name} is older than that")
    seen = java("all" if more == "protocol 3.2" else "refused", tenant.uri, **{
        "direct TLS": {**tls, "sslNegotiation": "direct"},
        "protocol 3.2": {"protocolVersion": "3.2"},
        "simple queries": {"preferQueryMode": "simple"},
        "read-write hosts": {"targetServerType": "primary"},
    }[more])  # fmt: skip
    if more == "protocol 3.2":
        assert (seen["cancelled"], seen["timedOut"], seen["from"]) == ("57014", "57014", "true")
    else:
        assert seen == {"state": "let in"}
