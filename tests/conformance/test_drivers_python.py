"""psycopg, asyncpg and pg8000, unmodified, through the front door: with TLS and without, directly and pooled."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import asyncpg
import pg8000.exceptions
import pg8000.native
import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

BIG: Final = "ü" * (2 * 2**20)
"""Larger than any buffer on the way."""
UNTYPED: Final[Any] = asyncpg
NUMBERS: Final = list(range(50_000))
ASLEEP: Final = "select count(*) from pg_stat_activity where state = 'active' and query ~ '^select pg_sleep'"


@pytest.fixture(params=["direct", "pooled"])
def uri(request: pytest.FixtureRequest, tenant: Any) -> str:
    given: str = tenant.uri
    endpoint: str = tenant.endpoint_id
    return given.replace(endpoint, f"{endpoint}-pooler") if request.param == "pooled" else given


@pytest.fixture(params=["plain", "tls"])
def context(request: pytest.FixtureRequest, real_cell: Any) -> ssl.SSLContext | None:
    """Verifies whom it speaks to."""
    return ssl.create_default_context(cafile=real_cell.ca) if request.param == "tls" else None


PSYCOPG: Final[dict[str, dict[str, str]]] = {
    "plain": {"sslmode": "disable", "channel_binding": "disable"},
    "tls": {"sslmode": "verify-full", "channel_binding": "disable"},
    "bound": {"sslmode": "verify-full", "channel_binding": "require"},
    "direct tls": {"sslmode": "verify-full", "sslnegotiation": "direct", "channel_binding": "require"},
    "protocol 3.2": {"sslmode": "disable", "min_protocol_version": "3.2", "max_protocol_version": "3.2"},
}


@pytest.mark.parametrize("way", PSYCOPG)
def test_psycopg(way: str, uri: str, real_cell: Any) -> None:
    given: dict[str, Any] = PSYCOPG[way] | {"sslrootcert": str(real_cell.ca), "require_auth": "scram-sha-256"}

    def connect() -> psycopg.Connection[Any]:
        return psycopg.connect(uri, autocommit=True, connect_timeout=30, **given)

    with connect() as client, connect() as other:
        assert client.pgconn.ssl_in_use == (PSYCOPG[way]["sslmode"] != "disable")
        for number in range(3):
            assert client.execute("select %s::int * 2", [number], prepare=True).fetchone() == (number * 2,)
        assert client.execute("select count(*) from pg_prepared_statements").fetchone() == (1,)
        value = {"a": [1, None]}
        assert client.execute("select %b::jsonb, %b::text", [Jsonb(value), BIG], binary=True).fetchone() == (value, BIG)
        with pytest.raises(psycopg.errors.DivisionByZero):
            client.execute("select 1/0")

        client.execute("create table from_driver (n int)")
        for form in ("text", "binary"):
            with client.cursor().copy(f"copy from_driver from stdin ({'format ' + form})".encode()) as copy:
                copy.set_types(["int4"])
                for number in NUMBERS:
                    copy.write_row([number])
            query = sql.SQL("copy (select n from from_driver order by n) to stdout (format {})").format(sql.SQL(form))
            with client.cursor().copy(query) as copy:
                copy.set_types(["int4"])
                assert [row[0] for row in copy.rows()] == NUMBERS
            client.execute("truncate from_driver")
        with (
            pytest.raises(psycopg.errors.BadCopyFileFormat),
            client.cursor().copy("copy from_driver from stdin") as copy,
        ):
            copy.write("1\t2\n")
        with client.pipeline(), client.cursor() as cursor:
            cursor.executemany("insert into from_driver values (%s)", [(number,) for number in range(1000)])
        with client.transaction(), client.cursor("by_name") as cursor:
            cursor.execute("select n from from_driver order by n")
            assert sum(1 for _ in cursor) == 1000
        client.execute("drop table from_driver")

        client.execute("listen news")
        other.execute("notify news, 'hello'")
        heard = list(client.notifies(timeout=30, stop_after=1))
        assert [(notify.payload, notify.pid) for notify in heard] == [("hello", other.info.backend_pid)]

        for cancel in (client.cancel_safe, client.cancel):
            cancelled = asyncio.run(_cancelled(lambda: client.execute("select pg_sleep(60)"), other, cancel))
            assert isinstance(cancelled, psycopg.errors.QueryCanceled)
            assert client.execute("select 1").fetchone() == (1,)


async def _cancelled(
    run: Callable[[], Any], other: psycopg.Connection[Any], cancel: Callable[[], None]
) -> BaseException | None:
    """What a sleeping query ends with when it is cancelled from another thread."""
    sleeping = asyncio.ensure_future(asyncio.to_thread(run))
    while other.execute(ASLEEP).fetchone() == (0,):
        await asyncio.sleep(0.01)
    await asyncio.to_thread(cancel)
    (end,) = await asyncio.gather(sleeping, return_exceptions=True)
    return end if isinstance(end, BaseException) else None


async def test_asyncpg(uri: str, context: ssl.SSLContext | None) -> None:
    async def connect() -> Any:
        return await UNTYPED.connect(uri, ssl=context or False, timeout=30)

    client, other = await connect(), await connect()
    try:
        statement = await client.prepare("select $1::int * 2")
        assert [await statement.fetchval(number) for number in range(3)] == [0, 2, 4]
        assert await client.fetchval("select $1::text", BIG) == BIG
        with pytest.raises(asyncpg.DivisionByZeroError):
            await client.fetchval("select 1/0")

        await client.execute("create table from_driver (n int)")
        await client.copy_records_to_table("from_driver", records=[(number,) for number in NUMBERS])
        out = io.BytesIO()
        await client.copy_from_query("select n from from_driver order by n", output=out)
        assert [int(line) for line in out.getvalue().split()] == NUMBERS
        await client.execute("truncate from_driver")
        await client.executemany("insert into from_driver values ($1)", [(number,) for number in range(1000)])
        async with client.transaction():
            assert len([row async for row in client.cursor("select n from from_driver", prefetch=7)]) == 1000
        await client.execute("drop table from_driver")

        heard: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

        def hear(_connection: Any, pid: int, _channel: str, payload: str) -> None:
            heard.put_nowait((pid, payload))

        await client.add_listener("news", hear)
        await other.execute("notify news, 'hello'")
        assert await asyncio.wait_for(heard.get(), 30) == (other.get_server_pid(), "hello")
        await client.reset()

        sleeping = asyncio.ensure_future(client.execute("select pg_sleep(60)"))
        while not await other.fetchval(ASLEEP):
            await asyncio.sleep(0.01)
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        assert await client.fetchval("select 1") == 1
        while await other.fetchval(ASLEEP):
            await asyncio.sleep(0.01)
    finally:
        await client.close()
        await other.close()


async def test_the_pool_of_asyncpg(uri: str, context: ssl.SSLContext | None) -> None:
    pool: Any
    async with UNTYPED.create_pool(uri, ssl=context or False, min_size=1, max_size=4, timeout=30) as pool:

        async def one(number: int) -> Any:
            return await pool.fetchval("select $1::int", number)

        assert await asyncio.gather(*(one(number) for number in range(50))) == list(range(50))


def test_pg8000(uri: str, context: ssl.SSLContext | None) -> None:
    parts = urlsplit(uri)
    endpoint = unquote(parts.query).split("options=")[1].split("&")[0]

    def connect() -> Any:  # It has no types.
        return pg8000.native.Connection(
            str(parts.username), host=str(parts.hostname), port=int(parts.port or 0), password=parts.password,
            database=parts.path[1:], ssl_context=context or False, startup_params={"options": endpoint}, timeout=30,
        )  # fmt: skip

    client, other = connect(), connect()
    try:
        statement = client.prepare("select cast(:n as int) * 2")
        assert [statement.run(n=number) for number in range(3)] == [[[0]], [[2]], [[4]]]
        statement.close()
        assert client.run("select cast(:big as text)", big=BIG) == [[BIG]]
        with pytest.raises(pg8000.exceptions.DatabaseError) as raised:
            client.run("select 1/0")
        assert raised.value.args[0]["C"] == "22012"

        client.run("create table from_driver (n int)")
        lines = "".join(f"{number}\n" for number in NUMBERS).encode()
        client.run("copy from_driver from stdin", stream=io.BytesIO(lines))
        out = io.BytesIO()
        client.run("copy (select n from from_driver order by n) to stdout", stream=out)
        assert out.getvalue() == lines
        client.run("drop table from_driver")

        client.run("listen news")
        other.run("notify news, 'hello'")
        while not client.notifications:
            client.run("select 1")
        assert [heard[1:] for heard in client.notifications] == [("news", "hello")]
    finally:
        client.close()
        other.close()
