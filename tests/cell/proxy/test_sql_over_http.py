"""``POST /sql`` on a real port, before a real Postgres: who is answered, with what, within which bounds."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantry.cell.proxy import sql as sql_module
from tenantry.cell.proxy.limits import PER_ADDRESS_AND_ENDPOINT
from tenantry.cell.proxy.ports import Login
from tenantry.cell.proxy.sql_request import NUMBERS_MAX
from tenantry.neon.ids import EndpointId

from .conftest import (
    ADMIN_PASSWORD,
    DATABASE,
    ENDPOINT,
    PASSWORD,
    ROLE,
    Instance,
    OpenWeb,
    StaticCell,
    WebMaker,
    wait_for,
)

# Connections are not kept: tests count them.
HTTP = httpx.Client(verify=False, timeout=30, headers={"Connection": "close"})  # making a context for TLS takes longest


def connection_string(**changes: str) -> str:
    words = {"role": ROLE, "password": PASSWORD, "database": DATABASE, "host": f"{ENDPOINT}.localhost", **changes}
    quoted = {name: quote(word, safe="") for name, word in words.items()}
    query = f"?{words['query']}" if "query" in words else ""
    return f"postgresql://{quoted['role']}:{quoted['password']}@{words['host']}/{quoted['database']}{query}"


def ask(web: OpenWeb, body: Any, headers: dict[str, str] | None = None, /, **changes: str) -> httpx.Response:
    sent = {"Neon-Connection-String": connection_string(**changes), **(headers or {})}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HTTP.post(web.url, content=content, headers=sent)


def query(web: OpenWeb, sql: str, *parameters: Any, **changes: str) -> list[dict[str, Any]]:
    answer = ask(web, {"query": sql, "params": list(parameters)}, **changes)
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


def refused(answer: httpx.Response) -> tuple[int, str | None]:
    """The status and the SQLSTATE of an error, which has all fields that the driver reads."""
    body = answer.json()
    assert set(body) == {
        "message", "severity", "code", "detail", "hint", "position", "internalPosition", "internalQuery", "where",
        "schema", "table", "column", "dataType", "constraint", "file", "line", "routine",
    }  # fmt: skip
    assert body["message"]
    assert answer.headers["access-control-allow-origin"] == "*"
    return answer.status_code, body["code"]


@dataclass
class RawHttp:
    """A client whose every byte the test decides."""

    sock: socket.socket

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def request(self, length: int, body: bytes = b"", **changes: str) -> None:
        head = f"POST /sql HTTP/1.1\r\nhost: x\r\nneon-connection-string: {connection_string(**changes)}\r\n"
        self.send(head.encode(), f"content-length: {length}\r\n\r\n".encode(), body)

    def status(self) -> int:
        return int(self.read_until(b"\r\n").split()[1])

    def read_until(self, end: bytes) -> bytes:
        data = b""
        while end not in data:
            part = self.sock.recv(1)
            if not part:
                raise EOFError(data)
            data += part
        return data

    def at_end(self) -> bool:
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True

    def __enter__(self) -> RawHttp:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def raw(web: OpenWeb) -> RawHttp:
    return RawHttp(socket.create_connection(("127.0.0.1", web.port), timeout=20))


def test_a_query_is_answered(open_web: WebMaker):
    web = open_web()
    answer = ask(web, {"query": "select $1::int + 1 as two, 'x' as x, null as n", "params": [1]})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "fields": [
            {
                "name": name,
                "dataTypeID": type_,
                "tableID": 0,
                "columnID": 0,
                "dataTypeSize": size,
                "dataTypeModifier": -1,
                "format": "text",
            }
            for name, type_, size in (("two", 23, 4), ("x", 25, -1), ("n", 25, -1))
        ],
        "rows": [{"two": 2, "x": "x", "n": None}],
        "command": "SELECT",
        "rowCount": 1,
        "rowAsArray": False,
    }
    assert answer.headers["access-control-allow-origin"] == "*"
    wait_for(lambda: not web.cell.leases)


# -------------------------------------------------------------------------------------------- who may come in


@pytest.mark.parametrize(
    ("host", "parameters", "header"),
    [
        (f"{ENDPOINT}.db.example.com", "", {}),
        (f"{ENDPOINT}-pooler.db.example.com:7701", "sslmode=require&channel_binding=require", {}),
        ("127.0.0.1:7701", f"options=endpoint%3D{ENDPOINT}&sslmode=disable", {}),
        ("127.0.0.1:7701", f"options=endpoint%3D{ENDPOINT}%20-c%20work_mem%3D5MB&application_name=me", {}),
        ("127.0.0.1:7701", "", {"Host": f"{ENDPOINT}.db.example.com"}),
    ],
)
def test_the_ways_to_name_an_endpoint(open_web: WebMaker, host: str, parameters: str, header: dict[str, str]):
    web = open_web()
    asked = {"query": "select current_setting('work_mem') as w, current_setting('application_name') as a"}
    answer = ask(web, asked, header, host=host, query=parameters)
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["rows"]
    assert row == ({"w": "5MB", "a": "me"} if "work_mem" in parameters else {"w": "4MB", "a": ""})


def test_unknown_endpoint_unknown_role_and_wrong_password_look_the_same(open_web: WebMaker, instance: Instance):
    web = open_web()
    with instance.admin() as admin:
        admin.execute("drop role if exists nologin_role; create role nologin_role nologin")
    answers = [
        ask(web, {"query": "select 1"}, **changes)
        for changes in (
            {"password": "wrong"},
            {"host": "ep-no-such-a1b2c3d4.localhost"},
            {"role": "bpp"},
            {"role": "cloud_admin", "password": ADMIN_PASSWORD},
            {"role": "nologin_role"},
        )
    ]
    shown = [
        answer.text.replace(role, "ROLE")
        for answer, role in zip(answers, [ROLE, ROLE, "bpp", "cloud_admin", "nologin_role"], strict=True)
    ]
    assert refused(answers[0]) == (400, "28P01")
    assert len(set(shown)) == 1
    assert len({tuple(answer.headers) for answer in answers}) == 1
    assert web.cell.woken == 0
    assert len(web.cell.failed) == 5


def test_failed_logins_are_counted_as_the_front_door_counts_them(open_web: WebMaker):
    web = open_web(failed_login_seconds=0.001, now=lambda: 0.0)  # nothing is forgiven
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(ask, web, {"query": "select 1"}, password="wrong") for _ in range(40)]
        answers = [refused(answer.result(60)) for answer in asked]
    tries_max = PER_ADDRESS_AND_ENDPOINT.burst + 2  # one more for each thread that checks
    assert len(web.cell.failed) <= tries_max, "many begun at once get no more tries than one after the other"
    assert set(answers) == {(400, "28P01"), (400, "28000")}
    with pytest.raises(psycopg.OperationalError, match="too many failed logins"):
        web.door.connect()
    assert refused(ask(web, {"query": "select 1"})) == (400, "28000"), "the right password has to wait as well"
    assert web.cell.woken == 0


def test_a_password_that_was_changed_opens_nothing(open_web: WebMaker, instance: Instance):
    web = open_web(sql_login_seconds=0.0)
    with instance.admin() as admin:
        admin.execute("drop role if exists changing; create role changing login password 'first'")
        web.cell.refresh()
        assert query(web, "select 1 as n", role="changing", password="first") == [{"n": 1}]
        (before,) = query(web, "select pg_backend_pid() as pid", role="changing", password="first")
        admin.execute("alter role changing password 'second'")
        web.cell.refresh()
    answer = ask(web, {"query": "select 1"}, role="changing", password="first")
    assert refused(answer) == (400, "28P01"), "what is remembered of a proof does not outlive the password"
    (after,) = query(web, "select pg_backend_pid() as pid", role="changing", password="second")
    assert before != after, "a server connection does not either"


def test_of_many_requests_one_asks_the_cell_and_a_new_password_holds_at_once(open_web: WebMaker, instance: Instance):
    asked: list[str] = []

    class Counting(StaticCell):
        async def login(
            self, endpoint: EndpointId, role: str, client_address: str, operator: str | None = None
        ) -> Login:
            asked.append(role)
            return await super().login(endpoint, role, client_address, operator)

    web = open_web(cell=Counting(instance), sql_login_seconds=60.0)
    with instance.admin() as admin:
        admin.execute("drop role if exists changing; create role changing login password 'first'")
        web.cell.refresh()
        for _ in range(10):
            query(web, "select 1", role="changing", password="first")
        assert asked == ["changing"]
        admin.execute("alter role changing password 'second'")
        web.cell.refresh()
    assert query(web, "select 1 as n", role="changing", password="second") == [{"n": 1}]
    assert refused(ask(web, {"query": "select 1"}, role="changing", password="first")) == (400, "28P01")
    assert refused(ask(web, {"query": "select 1"}, role="changing", password="wrong")) == (400, "28P01")
    assert asked == ["changing"] * 4


def test_what_is_refused_before_anybody_is_asked(open_web: WebMaker):
    web = open_web()
    for string, expected in {
        "": (400, "08P01"),
        "postgresql://app@ep-a.localhost/db": (400, "28000"),
        "mysql://app:x@ep-a.localhost/db": (400, "08P01"),
        "postgresql://app:x@ep-a.localhost/": (400, "08P01"),
        "postgresql://app:x@localhost/db": (400, "08004"),
        f"postgresql://app:x@ep-a.localhost/db?options=endpoint%3D{ENDPOINT}": (400, "08P01"),
        "postgresql://app:x%00@ep-a.localhost/db": (400, "08P01"),
        "host=ep-a user=app password=hunter2": (400, "08P01"),
    }.items():
        answer = ask(web, {"query": "select 1"}, {"Neon-Connection-String": string})
        assert refused(answer) == expected, string
        assert "hunter2" not in answer.text
    assert refused(HTTP.post(web.url, json={"query": "select 1"})) == (400, "08P01")
    assert refused(ask(web, {"query": "select 1"}, {"Authorization": "Bearer x"})) == (400, "28000")
    assert web.cell.failed == []
    answer = HTTP.get(web.url)
    assert refused(answer) == (405, "08P01")
    assert answer.headers["allow"] == "OPTIONS, POST"


def test_a_refusal_comes_after_the_password_and_wakes_nobody(open_web: WebMaker, instance: Instance):
    web = open_web(cell=StaticCell(instance, refusal="the endpoint is disabled"))
    assert refused(ask(web, {"query": "select 1"}, password="wrong")) == (400, "28P01")
    answer = ask(web, {"query": "select 1"})
    assert refused(answer) == (400, "57P03")
    assert answer.json()["message"] == "the endpoint is disabled"
    assert web.cell.woken == 0


def test_an_instance_that_does_not_start_is_said_so(open_web: WebMaker, instance: Instance):
    web = open_web(cell=StaticCell(instance, broken=True))
    answer = ask(web, {"query": "select 1"})
    assert refused(answer) == (503, "57P03")
    assert answer.headers["retry-after"] == "1"
    assert "secret words" not in answer.text


def test_the_preflight_of_browsers(open_web: WebMaker):
    web = open_web()
    answer = HTTP.options(
        web.url,
        headers={
            "Origin": "https://app.example.com",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "neon-connection-string",
        },
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    allowed = set(answer.headers["access-control-allow-headers"].lower().split(", "))
    assert {
        "neon-connection-string",
        "neon-raw-text-output",
        "neon-array-mode",
        "neon-batch-isolation-level",
    } <= allowed
    assert {"neon-batch-read-only", "neon-batch-deferrable", "content-type"} <= allowed


# -------------------------------------------------------------------------------------------- answers


def test_values_by_their_types(open_web: WebMaker):
    web = open_web()
    (row,) = query(
        web,
        """select 1::int2 as i2, 9007199254740993 as i8, 1.50 as num, 1e20::float8 as f8, '-Infinity'::float4 as inf,
        true as yes, '{"a": [1]}'::jsonb as js, '\\x00ff'::bytea as bin, '[0:1]={1,NULL}'::int[] as bounds,
        '{{t,f},{f,t}}'::bool[] as matrix, '{}'::text[] as nothing,
        '{a,"b c","NULL",NULL,"\\\\ \\" ,{}"}'::text[] as texts,
        array['{"x": "\\""}'::jsonb] as jsons, 'x' as x, 'y' as x""",
    )
    assert row == {
        "i2": 1, "i8": "9007199254740993", "num": "1.50", "f8": 1e20, "inf": "-Infinity", "yes": True, "js": {"a": [1]},
        "bin": "\\x00ff", "bounds": [1, None], "matrix": [[True, False], [False, True]], "nothing": [],
        "texts": ["a", "b c", "NULL", None, '\\ " ,{}'], "jsons": [{"x": '"'}], "x": "y",
    }  # fmt: skip


def test_parameters_of_every_kind(open_web: WebMaker):
    web = open_web()
    given = [
        True,
        12345678901234567890,
        1.50,
        "ü\"'\\",
        None,
        {"a": [1, "x", None]},
        ["a", 'b"\\', None],
        [[1, 2], [3, 4.5]],
    ]
    body = json.dumps({
        "query": "select $1::bool as b, $2::numeric as big, $3::text as f, $4::text as t, $5::text as n,"
        " $6::jsonb as j, $7::text[] as a, $8::numeric[] as m, $9::text as exact", "params": [*given, "NUMBER"],
    }).replace('"NUMBER"', "1.500")  # fmt: skip
    answer = ask(web, body.encode())
    assert answer.json()["rows"] == [
        {
            "b": True, "big": "12345678901234567890", "f": "1.5", "t": "ü\"'\\", "n": None,
            "j": {"a": [1, "x", None]}, "a": ["a", 'b"\\', None], "m": [["1", "2"], ["3", "4.5"]], "exact": "1.500",
        }
    ]  # fmt: skip


def test_raw_text_and_array_mode(open_web: WebMaker):
    web = open_web()
    body = {"query": "select 1 as n, array[true] as a, null as x"}
    both = ask(web, body, {"Neon-Raw-Text-Output": "true", "Neon-Array-Mode": "true"}).json()
    assert (both["rows"], both["rowAsArray"]) == ([["1", "{t}", None]], True)
    assert ask(web, {**body, "arrayMode": True}).json()["rows"] == [[1, [True], None]]
    assert ask(web, {**body, "arrayMode": False}, {"Neon-Array-Mode": "true"}).json()["rows"][0]["n"] == 1
    empty = ask(web, {"query": ""}).json()
    assert (empty["command"], empty["rowCount"], empty["rows"], empty["fields"]) == ("", None, [], [])


def test_a_batch_is_one_transaction(open_web: WebMaker):
    web = open_web()
    query(web, "drop table if exists batch")
    query(web, "create table batch (n int unique deferrable initially deferred)")
    queries = [
        {"query": "insert into batch values ($1), ($2)", "params": [1, 2]},
        {"query": "select n from batch order by n", "arrayMode": True},
        {"query": "select 1 as one"},
    ]
    sent = {"Neon-Batch-Isolation-Level": "Serializable", "Neon-Batch-Read-Only": "false"}
    answer = ask(web, {"queries": queries}, sent)
    assert [result["rows"] for result in answer.json()["results"]] == [[], [[1], [2]], [{"one": 1}]]
    assert answer.headers["neon-batch-isolation-level"] == "Serializable"
    assert "neon-batch-read-only" not in answer.headers
    assert ask(web, {"queries": []}).json() == {"results": []}
    failed = ask(web, {"queries": [{"query": "insert into batch values (3)"}, {"query": "select 1/0"}]})
    assert refused(failed) == (400, "22012")
    late = ask(web, {"queries": [{"query": "insert into batch values (1)"}]})
    assert refused(late) == (400, "23505"), "what is found at the commit is found"
    assert query(web, "select count(*)::int as n from batch") == [{"n": 2}]
    assert refused(ask(web, {"queries": queries}, {"Neon-Batch-Isolation-Level": "read committed"})) == (400, "08P01")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "08P01"),
        (b"\xff", "08P01"),
        (b'"x"', "08P01"),
        (b"{}", "08P01"),
        (b'{"query": 1}', "08P01"),
        (b'{"query": "select 1", "params": 1}', "08P01"),
        (b'{"query": "select 1", "params": [NaN]}', "08P01"),
        (b'{"query": "select 1", "arrayMode": 1}', "08P01"),
        (b'{"queries": {}}', "08P01"),
        (b'{"queries": [1]}', "08P01"),
        (b'{"query": "select \\u0000"}', "08P01"),
        (b'{"query": "select $1::text", "params": ["\\u0000"]}', "08P01"),
        (b'{"query": "select $1::text", "params": ["\\ud800"]}', "08P01"),
        (b'{"query": "select 1", "params": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "08P01"),
        (b'{"query": "select 1", "params": [' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"]}", "08P01"),
        (json.dumps({"query": "select 1", "params": [None] * 65_536}).encode(), "08P01"),
        (b'{"query": "select 1", "params": [[' + b"1," * NUMBERS_MAX + b"1]]}", "08P01"),
        (json.dumps({"queries": [{"query": "select 1"}] * 10_001}).encode(), "08P01"),
        (b'{"query": "select 1", "params": [1]}', "08P01"),
        (b'{"query": "select $1", "params": []}', "08P01"),
        (b'{"query": "copy (select 1) to stdout"}', "0A000"),
        (b'{"query": "copy nosuch from stdin"}', "42P01"),
        (b'{"query": "select 1; select 2"}', "42601"),
        (b'{"query": "vacuum; select 2"}', "42601"),
    ],
)
def test_bodies_that_make_no_sense(open_web: WebMaker, body: bytes, code: str):
    web = open_web()
    assert refused(ask(web, body)) == (400, code)
    assert query(web, "select 1 as n") == [{"n": 1}]


def test_what_copy_leaves_behind_is_nobodys(open_web: WebMaker, instance: Instance):
    web = open_web()
    query(web, "create table if not exists copied (n int)")
    assert refused(ask(web, {"query": "copy copied from stdin"})) == (400, "0A000")
    assert query(web, "select count(*)::int as n from copied") == [{"n": 0}]
    with instance.admin() as admin:
        wait_for(
            lambda: admin.execute("select count(*) from pg_stat_activity where query ~ '^copy'").fetchone() == (0,)
        )


# -------------------------------------------------------------------------------------------- reuse


def test_a_server_connection_is_reused_and_clean(open_web: WebMaker):
    web = open_web()
    pids: set[int] = set()
    for _ in range(10):
        pids.add(query(web, "select pg_backend_pid() as pid")[0]["pid"])
        wait_for(lambda: web.house.pool.idle == 1)
    assert len(pids) == 1
    for statement in (
        "set work_mem = '7MB'",
        "create temp table left_over (n int)",
        "select pg_advisory_lock(1)",
        "listen news",
        "set session characteristics as transaction read only",
        "begin",
        "set role pg_read_all_data",
    ):
        ask(web, {"query": statement})
        wait_for(lambda: web.house.pool.idle == 1)
    assert (
        query(
            web,
            "select current_setting('work_mem') as w, to_regclass('left_over') as t, current_user as u,"
            " current_setting('transaction_read_only') as r, now() = statement_timestamp() as fresh,"
            " (select count(*)::int from pg_locks where locktype = 'advisory') as l, pg_listening_channels() as c",
        )
        == []
    )
    wait_for(lambda: web.house.pool.idle == 1)
    assert query(
        web,
        "select current_setting('work_mem') as w, to_regclass('left_over') as t, current_user as u,"
        " current_setting('transaction_read_only') as r,"
        " (select count(*)::int from pg_locks where locktype = 'advisory') as l",
    ) == [{"w": "4MB", "t": None, "u": ROLE, "r": "off", "l": 0}]
    wait_for(lambda: web.house.pool.idle == 1)
    assert query(web, "select pg_backend_pid() as pid")[0]["pid"] in pids


def test_kinds_do_not_mix(open_web: WebMaker):
    web = open_web()
    pid = "select pg_backend_pid() as pid, current_setting('application_name') as name"
    one = query(web, pid, query="application_name=one")
    two = query(web, pid, query="application_name=two")
    other = query(web, pid, database="postgres")
    wait_for(lambda: web.house.pool.idle == 3)
    again = query(web, pid, query="application_name=one")
    assert (one[0]["name"], two[0]["name"], other[0]["name"]) == ("one", "two", "")
    assert len({row["pid"] for (row,) in (one, two, other)}) == 3
    assert one == again


def test_an_idle_server_connection_holds_no_lease_and_may_end(open_web: WebMaker, instance: Instance):
    web = open_web()
    (before,) = query(web, "select pg_backend_pid() as pid")
    wait_for(lambda: not web.cell.leases)
    wait_for(lambda: web.house.pool.idle == 1)
    with instance.admin() as admin:
        admin.execute("select pg_terminate_backend(%s)", [before["pid"]])
    wait_for(lambda: web.house.pool.idle == 0)
    (after,) = query(web, "select pg_backend_pid() as pid")
    assert after != before


def test_idle_server_connections_close_after_a_while(open_web: WebMaker, instance: Instance):
    web = open_web(pool_idle_seconds=0.1)
    web.door.run(_start(web.house.pool.run(), web))
    query(web, "select 1", query="application_name=soon_idle")
    wait_for(lambda: web.house.pool.idle == 0)
    with instance.admin() as admin:
        of_ours = "select count(*) from pg_stat_activity where application_name = 'soon_idle'"
        wait_for(lambda: admin.execute(of_ours).fetchone() == (0,))


async def _start(work: Any, web: OpenWeb) -> None:
    web.house.tasks.start(work, "pool")


def test_a_server_connection_does_not_become_old(open_web: WebMaker):
    web = open_web(pool_lifetime_seconds=-1.0)  # however quick the machine
    pids = [query(web, "select pg_backend_pid() as pid")[0]["pid"] for _ in range(3)]
    assert len(set(pids)) == 3


def test_an_instance_that_dies_meanwhile(open_web: WebMaker, instance: Instance):
    web = open_web()
    with ThreadPoolExecutor(1) as pool, instance.admin() as admin:
        answer = pool.submit(ask, web, {"query": "select pg_sleep(60) /* over http */"})
        wait_for(lambda: _sleeping(admin) == 1)
        admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where query = 'select pg_sleep(60) /* over http */'"
        )
        assert refused(answer.result(20)) == (400, "57P01")
    assert query(web, "select 1 as n") == [{"n": 1}]


def _sleeping(admin: psycopg.Connection[tuple[Any, ...]]) -> int:
    # Ours alone: tests of other files leave sleepers on the instance that all share.
    running = (
        "select count(*)::int from pg_stat_activity where query ~ '^select pg_sleep.*over http' and state = 'active'"
    )
    row = admin.execute(running).fetchone()
    assert row is not None
    return int(row[0])


# -------------------------------------------------------------------------------------------- bounds


def test_a_body_that_is_too_large_is_not_taken(open_web: WebMaker):
    web = open_web(sql_request_bytes_max=1_000_000)
    with raw(web) as client:
        # As a client does that sends all before it listens.
        client.request(100_000_000)
        for _ in range(100):
            client.send(b" " * 1_000_000)
        assert client.status() == 413
    with raw(web) as client:
        head = f"POST /sql HTTP/1.1\r\nhost: x\r\nneon-connection-string: {connection_string()}\r\n"
        client.send(head.encode(), b"transfer-encoding: chunked\r\n\r\n")
        client.send(*[b"10000\r\n" + b" " * 65536 + b"\r\n"] * 17)
        assert client.status() == 413
    assert refused(ask(web, b" " * 1_000_001)) == (413, "54000")
    assert ask(web, b'{"query": "select 1"}'.ljust(1_000_000)).status_code == 200
    wait_for(lambda: web.house.limits.sql_bytes == 0)


def test_who_has_not_proved_a_password_sends_no_body(open_web: WebMaker):
    web = open_web()
    with raw(web) as client:
        client.request(100 * 2**20, b"x", password="wrong")
        assert client.status() == 400
    assert web.house.limits.sql_bytes == 0


def test_a_body_that_comes_too_slowly(open_web: WebMaker):
    web = open_web(sql_body_seconds=0.2)
    with raw(web) as client:
        client.request(1000, b"{")
        assert client.status() == 408
        assert client.at_end()
    assert web.cell.woken == 0


def test_an_answer_that_is_too_large_is_not_held(open_web: WebMaker, instance: Instance):
    web = open_web(sql_answer_bytes_max=2_000_000)
    for sql in (
        "select repeat('x', 100000000) as huge",
        "select repeat('x', 1000) from generate_series(1, 100000)",
        "select repeat(chr(1), 400000)",
        "select array_agg(n) from generate_series(1, 400000) n",
    ):
        assert refused(ask(web, {"query": sql}, query="application_name=large")) == (507, "54000"), sql
    assert len(query(web, "select repeat('x', 1999000) as large")[0]["large"]) == 1_999_000
    wait_for(lambda: web.house.limits.sql_bytes == 0)
    with instance.admin() as admin:
        active = "select count(*)::int from pg_stat_activity where application_name = 'large' and state = 'active'"
        wait_for(lambda: admin.execute(active).fetchone() == (0,))


def test_all_requests_together_have_a_bound(open_web: WebMaker):
    web = open_web(sql_bytes_max=1_000_000)
    answer = ask(web, {"query": "select repeat('x', 1100000)"})
    assert refused(answer) == (429, "53300")
    assert answer.headers["retry-after"] == "1"
    assert query(web, "select 1 as n") == [{"n": 1}]


def test_a_statement_that_never_ends(open_web: WebMaker, instance: Instance):
    web = open_web(sql_seconds=0.3)
    assert refused(ask(web, {"query": "select pg_sleep(60) /* over http */"})) == (400, "57014")
    with instance.admin() as admin:
        wait_for(lambda: _sleeping(admin) == 0)


def test_a_client_that_goes_away_has_its_statement_cancelled(open_web: WebMaker, instance: Instance):
    web = open_web()
    with instance.admin() as admin:
        body = b'{"query": "select pg_sleep(60) /* over http */"}'
        with raw(web) as client:
            client.request(len(body), body)
            wait_for(lambda: _sleeping(admin) == 1)
        wait_for(lambda: _sleeping(admin) == 0)
    wait_for(lambda: not web.cell.leases)


def test_a_client_that_does_not_read_its_answer(open_web: WebMaker):
    web = open_web(http_answer_seconds=0.3)
    body = b'{"query": "select repeat(\'x\', 30000000)"}'
    with raw(web) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.request(len(body), body)
        wait_for(lambda: web.cell.woken == 1)
        wait_for(lambda: web.house.limits.connections == 0)
    wait_for(lambda: web.house.limits.sql_bytes == 0)


def test_more_requests_than_server_connections_wait_in_order(open_web: WebMaker, instance: Instance):
    web = open_web(pool_servers_per_endpoint_max=2)
    query(web, "drop table if exists turns")
    query(web, "create table turns (id serial, n int)")
    with ThreadPoolExecutor(12) as pool, instance.admin() as admin:
        held = [pool.submit(ask, web, {"query": "select pg_sleep(60) /* over http */"}) for _ in range(2)]
        wait_for(lambda: _sleeping(admin) == 2)
        shelf = web.house.pool._shelves[ENDPOINT]
        waiting: list[Future[list[dict[str, Any]]]] = []
        for n in range(8):
            waiting.append(pool.submit(query, web, "insert into turns (n) values ($1) returning n", n))
            wait_for(lambda n=n: shelf.waiting == n + 1)
        admin.execute(
            "select pg_cancel_backend(pid) from pg_stat_activity"
            " where query = 'select pg_sleep(60) /* over http */' limit 1"
        )
        assert [future.result(20) for future in waiting] == [[{"n": n}] for n in range(8)]
        admin.execute(
            "select pg_cancel_backend(pid) from pg_stat_activity where query = 'select pg_sleep(60) /* over http */'"
        )
        assert [refused(future.result(20)) for future in held] == [(400, "57014")] * 2
    assert [row["n"] for row in query(web, "select n from turns order by id")] == list(range(8))


@pytest.mark.parametrize(("wait_seconds", "answer"), [(0.3, 429), (60.0, 200)])
def test_a_wait_has_an_end_and_so_has_the_queue(
    open_web: WebMaker, instance: Instance, wait_seconds: float, answer: int
):
    web = open_web(pool_servers_per_endpoint_max=1, pool_waiters_per_endpoint_max=1, pool_wait_seconds=wait_seconds)
    with ThreadPoolExecutor(3) as pool, instance.admin() as admin:
        held = pool.submit(ask, web, {"query": "select pg_sleep(60) /* over http */"})
        wait_for(lambda: _sleeping(admin) == 1)
        late = pool.submit(ask, web, {"query": "select 1"})
        if answer == 200:
            wait_for(lambda: web.house.pool._shelves[ENDPOINT].waiting == 1)
            crowded = ask(web, {"query": "select 1"})
            assert refused(crowded) == (429, "53300")
        else:
            assert refused(late.result(20)) == (429, "53300")
        admin.execute(
            "select pg_cancel_backend(pid) from pg_stat_activity where query = 'select pg_sleep(60) /* over http */'"
        )
        held.result(20)
        assert late.result(20).status_code == answer
    assert query(web, "select 1 as n") == [{"n": 1}]


def test_others_go_on_while_a_large_body_is_read(open_web: WebMaker, monkeypatch: pytest.MonkeyPatch):
    web = open_web()
    parse, begun, may_end = sql_module._parse, threading.Event(), threading.Event()

    def slowly(body: bytes, queries_max: int) -> Any:
        if len(body) >= sql_module.LARGE_BODY_BYTES:
            begun.set()
            assert may_end.wait(20), "nobody was answered meanwhile"
        return parse(body, queries_max)

    monkeypatch.setattr(sql_module, "_parse", slowly)
    with ThreadPoolExecutor(1) as pool:
        numbers = b'{"query": "select cardinality($1::int[])", "params": [[' + b"1," * 400_000 + b"1]]}"
        large = pool.submit(ask, web, numbers)
        assert begun.wait(20)
        for _ in range(3):
            assert query(web, "select 1 as n") == [{"n": 1}]
        may_end.set()
        assert large.result(30).json()["rows"] == [{"cardinality": 400_001}]


def test_traffic_is_counted(open_web: WebMaker):
    web = open_web()
    body = json.dumps({"query": "select repeat('x', 100000) as x"}).encode()
    answer = ask(web, body)
    wait_for(lambda: sum(item.bytes_out for item in web.cell.traffic) == len(answer.content))
    assert sum(item.bytes_in for item in web.cell.traffic) == len(body)
    assert sum(item.connections_opened for item in web.cell.traffic) == 1


# -------------------------------------------------------------------------------------------- HTTP itself


def test_a_head_that_is_too_large_or_too_slow(open_web: WebMaker):
    web = open_web()
    with raw(web) as client:
        client.send(b"POST /sql HTTP/1.1\r\n", b"x: " + b"y" * 70_000)
        assert client.status() == 431
        assert client.at_end()
    with raw(web) as client:
        client.send(b"\x16\x03\x01 is this TLS?\r\n\r\n")
        assert client.status() == 400
    wait_for(lambda: web.house.limits.connections == 0)
    web = open_web(http_head_seconds=0.3)
    for sent in (b"", b"POST /sql HTTP/1.1\r\nx: "):
        with raw(web) as client:
            client.send(sent)
            assert client.at_end()
    wait_for(lambda: web.house.limits.connections == 0)


@pytest.mark.parametrize(("idle_seconds", "requests"), [(60.0, 3), (1.0, 1)])
def test_a_connection_carries_many_requests_and_its_idle_time_ends(
    open_web: WebMaker, idle_seconds: float, requests: int
):
    web = open_web(http_idle_seconds=idle_seconds)
    with raw(web) as client:
        for _ in range(requests):
            client.request(21, b'{"query": "select 1"}')
            assert client.status() == 200
            head = client.read_until(b"\r\n\r\n").decode().lower()
            length = int(next(line for line in head.split("\r\n") if line.startswith("content-length")).split()[1])
            while length:
                length -= len(client.sock.recv(length))
        if idle_seconds < 60:
            assert client.at_end()


def test_who_comes_in_the_last_moment_is_let_go(open_web: WebMaker):
    web = open_web()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        client = RawHttp(socket.create_connection(listener.getsockname(), timeout=20))
        accepted, _ = listener.accept()

    async def welcome_and_drain() -> None:
        web.web._welcome(accepted, "127.0.0.1")
        await web.web.drain(0.0)  # before anything was done for the client

    with client:
        web.door.run(welcome_and_drain())
        assert client.at_end()
    assert accepted.fileno() == -1
    assert web.house.limits.connections == 0


def test_connections_have_a_bound(open_web: WebMaker):
    web = open_web(connections_max=3)
    with raw(web), raw(web), raw(web):
        wait_for(lambda: web.house.limits.connections == 3)
        with raw(web) as fourth:
            assert fourth.status() == 503
    wait_for(lambda: web.house.limits.connections == 0)
    assert query(web, "select 1 as n") == [{"n": 1}]


def test_whoever_asks_nothing_gives_way_to_who_comes(open_web: WebMaker, instance: Instance):
    web = open_web(handshakes_max=3)
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool, instance.admin() as admin:
        admin.execute("select pg_advisory_lock(4711)")
        busy = pool.submit(ask, web, {"query": "select pg_advisory_lock(4711), 1 as n /* busy */"})
        running = "select 1 from pg_stat_activity where state = 'active' and query ~ '[b]usy'"
        wait_for(lambda: admin.execute(running).fetchone() is not None)
        silent, half, idle = (stack.enter_context(raw(web)) for _ in range(3))
        half.send(b"POST /sql HTTP/1.1\r\nx: ")
        idle.request(21, b'{"query": "select 1"}')
        assert idle.status() == 200
        more = [stack.enter_context(raw(web)) for _ in range(2)]
        assert silent.at_end() and half.at_end(), "whom nothing was heard of for longest"
        wait_for(lambda: web.house.limits.connections == 4)
        assert query(web, "select 1 as n") == [{"n": 1}]
        assert idle.at_end(), "whose request was answered a while ago"
        admin.execute("select pg_advisory_unlock(4711)")
        assert busy.result(20).status_code == 200
        for client in more:
            client.sock.close()
    wait_for(lambda: web.house.limits.connections == 0)


def test_the_end_lets_requests_finish_and_cuts_those_that_do_not(open_web: WebMaker, instance: Instance):
    web = open_web()
    with ThreadPoolExecutor(2) as pool, instance.admin() as admin:
        admin.execute("select pg_advisory_lock(4712)")
        waiting = "select 1 from pg_stat_activity where wait_event = 'advisory' and query ~ '[s]hort'"
        short = pool.submit(ask, web, {"query": "select pg_advisory_lock(4712), 1 as n /* short */"})
        wait_for(lambda: admin.execute(waiting).fetchone() is not None)
        long = pool.submit(ask, web, {"query": "select pg_sleep(60) /* over http */"})
        wait_for(lambda: _sleeping(admin) == 1)
        draining = asyncio.run_coroutine_threadsafe(web.web.drain(60.0), web.door.thread.loop)
        with pytest.raises(OSError):
            wait_for(lambda: bool(raw(web).sock.close()))
        admin.execute("select pg_advisory_unlock(4712)")
        assert short.result(20).json()["rows"][0]["n"] == 1
        web.door.run(web.web.drain(0.2))
        assert refused(long.result(20)) == (503, "57P01")
        draining.result(20)
        wait_for(lambda: _sleeping(admin) == 0)


# -------------------------------------------------------------------------------------------- anything at all

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
_STATEMENT = st.fixed_dictionaries(
    {},
    optional={
        "query": st.sampled_from(["select $1::text", "select 1", "select $1::int[]", "", "selec"])
        | st.text(max_size=20)
        | _JSON,
        "params": st.lists(_JSON, max_size=3) | _JSON,
        "arrayMode": st.booleans() | _JSON,
    },
)
_BODY = st.binary(max_size=60) | (
    _STATEMENT | st.fixed_dictionaries({"queries": st.lists(_STATEMENT | _JSON, max_size=3)}) | _JSON
).map(lambda body: json.dumps(body).encode())
_SLOW = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
_CHARACTERS = st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f")
_HEADER = st.text(_CHARACTERS, max_size=30).map(str.strip)
_HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Neon-Connection-String": st.just("") | _HEADER | _HEADER.map(lambda text: f"postgresql://{text}"),
        "Neon-Raw-Text-Output": st.sampled_from(["true", "false"]) | _HEADER,
        "Neon-Array-Mode": st.sampled_from(["true", "false"]) | _HEADER,
        "Neon-Batch-Isolation-Level": st.sampled_from(["Serializable", "ReadCommitted"]) | _HEADER,
        "Neon-Batch-Read-Only": st.sampled_from(["true", "false"]) | _HEADER,
        "Neon-Batch-Deferrable": st.sampled_from(["true", "false"]) | _HEADER,
    },
)


def test_whatever_is_sent_there_is_an_answer(open_web: WebMaker):
    web = open_web(failed_login_seconds=0.0, sql_seconds=5.0)

    with httpx.Client(timeout=20) as client:

        @settings(max_examples=150, deadline=None, database=None, suppress_health_check=_SLOW)
        @given(_BODY, _HEADERS)
        def run(body: bytes, headers: dict[str, str]) -> None:
            sent = {"Neon-Connection-String": connection_string(), **headers}
            raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
            answer = client.post(web.url, content=body, headers=raw_headers)
            if answer.status_code == 200:
                assert {"rows", "results"} & set(answer.json())
            else:
                assert refused(answer)[0] == 400, answer.text

        run()
    assert query(web, "select 1 as n") == [{"n": 1}]
    wait_for(lambda: web.house.limits.sql_bytes == 0)
