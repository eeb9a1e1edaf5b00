"""Clients of the pooled twin: server connections that are used again, and give nothing of one client to the next."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import asyncpg
import psycopg
import pytest

from tenantry.cell.proxy import pool
from tenantry.postgres import wire

from .conftest import DATABASE, ENDPOINT, PASSWORD, ROLE, DoorMaker, OpenDoor, StaticCell, wait_for

POOLED = f"endpoint={ENDPOINT}-pooler"


def pooled(door: OpenDoor, **changes: Any) -> psycopg.Connection[tuple[Any, ...]]:
    return door.connect(**{"options": POOLED, **changes})


def pid_of(client: psycopg.Connection[tuple[Any, ...]]) -> int:
    found = client.execute("select pg_backend_pid()").fetchone()
    assert found is not None
    return int(found[0])


def idle(door: OpenDoor, count: int) -> None:
    wait_for(lambda: door.house.pool.idle == count)


def test_the_next_client_gets_the_same_server_connection_and_nothing_of_the_last(open_door: DoorMaker) -> None:
    door = open_door()
    with pooled(door) as first:
        server = pid_of(first)
        first.execute("set search_path to nowhere; set role none; select pg_advisory_lock(7)")
        first.execute("create temp table mine (n int); prepare p as select 1; listen news")
        first.execute("set application_name to 'first'")
        first.execute("select set_config('my.secret', 'x', false)")
    idle(door, 1)
    with pooled(door) as second:
        assert pid_of(second) == server
        found = second.execute(
            "select current_setting('search_path'), to_regclass('pg_temp.mine'), current_setting('application_name'),"
            " (select count(*) from pg_locks where locktype = 'advisory'),"
            " (select count(*) from pg_prepared_statements), (select count(*) from pg_listening_channels()),"
            " nullif(current_setting('my.secret', true), '')"
        ).fetchone()
        assert found == ('"$user", public', None, "", 0, 0, 0, None)
        assert second.info.parameter_status("application_name") == ""
        assert second.info.parameter_status("server_version")


def test_without_the_suffix_nothing_is_shared(open_door: DoorMaker) -> None:
    door = open_door()
    with door.connect() as first:
        server = pid_of(first)
    with door.connect() as second:
        assert pid_of(second) != server
    assert door.house.pool.idle == 0


@pytest.mark.parametrize(
    "other", [{"application_name": "b"}, {"client_encoding": "latin1"}, {"dbname": "postgres"}, {"user": "other"}]
)
def test_who_is_not_alike_does_not_share(open_door: DoorMaker, other: dict[str, str]) -> None:
    door = open_door()
    with door.instance_admin() as admin:
        admin.execute(f"drop role if exists other; create role other login password '{PASSWORD}'")
    with pooled(door) as first:
        server = pid_of(first)
    idle(door, 1)
    with pooled(door, **other) as second:
        assert pid_of(second) != server


def test_a_new_password_ends_the_old_ones_connections_use(open_door: DoorMaker) -> None:
    door = open_door()
    with door.instance_admin() as admin:
        admin.execute(f"drop role if exists changing; create role changing login password '{PASSWORD}'")
    with pooled(door, user="changing") as first:
        server = pid_of(first)
    idle(door, 1)
    with door.instance_admin() as admin:
        admin.execute("alter role changing password 'another one'")
    door.cell.verifiers = {}
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        pooled(door, user="changing")
    with pooled(door, user="changing", password="another one") as second:
        assert pid_of(second) != server


def test_a_client_that_leaves_a_transaction_open_takes_its_server_connection_along(open_door: DoorMaker) -> None:
    door = open_door()
    with door.instance_admin() as admin:
        admin.execute("create table if not exists kept (n int); truncate kept; grant all on kept to app")
    client = pooled(door)
    server = pid_of(client)
    client.execute("begin; insert into kept values (1)")
    client.close()
    with pooled(door) as second:
        assert pid_of(second) != server
        assert second.execute("select count(*) from kept").fetchone() == (0,)


def test_what_a_leaving_client_asked_for_last_is_done_and_answered_to_nobody_else(open_door: DoorMaker) -> None:
    """Statements and the goodbye in one packet, DISCARD ALL among them: no later client may hear their answers."""
    door = open_door()
    with door.instance_admin() as admin:
        admin.execute("create table if not exists sent (n int); truncate sent; grant all on sent to app")
    last_words = [
        wire.query("insert into sent values (1)"),
        wire.query("DISCARD ALL") * 3,
        wire.query("select 1") + wire.query("DISCARD ALL"),
        wire.query("select pg_sleep(0.2)") + wire.query("DISCARD ALL"),
    ]
    for words in last_words * 3:
        raw = door.raw()
        raw.startup(options=POOLED)
        raw.prove(PASSWORD)
        raw.until(b"Z")
        raw.sock.sendall(words + wire.terminate())
        raw.sock.close()
        with pooled(door) as next_client:
            for n in range(5):
                assert next_client.execute("select %s::int", [n]).fetchone() == (n,)
    with door.instance_admin() as admin:
        wait_for(lambda: admin.execute("select count(*) from sent").fetchone() == (3,))


def test_goodbyes_and_messages_cut_anywhere(open_door: DoorMaker) -> None:
    door = open_door()
    words = wire.query("select 'X\0\0\0\4'::text is null".replace("\0", "")) + wire.query("select 2") + wire.terminate()
    for cut in range(1, len(words)):
        raw = door.raw()
        raw.startup(options=POOLED)
        raw.prove(PASSWORD)
        raw.until(b"Z")
        raw.sock.sendall(words[:cut])
        time.sleep(0.001)  # lets the two parts arrive apart
        raw.sock.sendall(words[cut:])
        raw.sock.close()
    wait_for(lambda: not door.house.limits.connections)
    with pooled(door) as client:
        assert client.execute("select 3").fetchone() == (3,)


def test_big_things_both_ways(open_door: DoorMaker) -> None:
    door = open_door()
    value = "X\x01\x04" * 700_000
    with pooled(door) as client:
        assert client.execute("select %s::text", [value]).fetchone() == (value,)
        client.execute("create temp table copied (t text)")
        with client.cursor() as cursor, cursor.copy("copy copied from stdin") as copy:
            for n in range(20_000):
                copy.write_row((f"{n} " + "X" * 100,))
        assert client.execute("select count(*) from copied").fetchone() == (20_000,)
    idle(door, 1)


def test_whoever_comes_when_all_are_out_waits_for_a_turn(open_door: DoorMaker) -> None:
    door = open_door(pool_servers_per_endpoint_max=2)
    inside = [pooled(door), pooled(door)]
    answers: list[int] = []

    def come() -> None:
        with pooled(door) as client:
            client.execute("select 1")
            answers.append(pid_of(client))

    waiting = [threading.Thread(target=come) for _ in range(6)]
    for thread in waiting:
        thread.start()
    servers = {pid_of(client) for client in inside}
    for client in inside:
        client.close()
    for thread in waiting:
        thread.join(20)
    assert len(answers) == 6
    assert set(answers) <= servers


def test_nobody_waits_for_a_connection_that_is_to_be_reset_later(
    open_door: DoorMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "LULL_SECONDS", 3600.0)
    door = open_door(pool_servers_per_endpoint_max=1)
    with pooled(door) as first:
        server = pid_of(first)
    wait_for(lambda: not door.house.limits.connections)
    assert not door.house.pool.idle
    with pooled(door) as second, door.instance_admin() as admin:
        assert pid_of(second) == server
        # Who left in the middle of something keeps no lock any longer than that takes.
        second.execute("begin; create table locked_in_the_middle (n int)")
        second.close()
        wait_for(
            lambda: (
                admin.execute("select from pg_stat_activity where pid = %s and state <> 'idle'", [server]).fetchone()
                is None
            )
        )


def test_a_wait_has_an_end_and_says_so(open_door: DoorMaker) -> None:
    door = open_door(pool_servers_per_endpoint_max=1, pool_wait_seconds=0.3)
    with pooled(door), pytest.raises(psycopg.OperationalError, match="no connection of the endpoint was free"):
        pooled(door)


def test_an_idle_connection_holds_no_lease_and_ends_with_its_instance(open_door: DoorMaker, instance: Any) -> None:
    door = open_door(cell=StaticCell(instance))
    with pooled(door) as client:
        server = pid_of(client)
        assert len(door.cell.leases) == 1
    idle(door, 1)
    wait_for(lambda: not door.cell.leases)
    with door.instance_admin() as admin:
        admin.execute("select pg_terminate_backend(%s)", [server])
    idle(door, 0)
    with pooled(door) as client:
        assert pid_of(client) != server


def test_cancel_reaches_the_clients_own_statement_only(open_door: DoorMaker) -> None:
    door = open_door()
    first = door.raw()
    first.startup(options=POOLED)
    first.prove(PASSWORD)
    key = wire.parse_backend_key_data(first.until(b"K").body)
    first.until(b"Z")
    first.sock.sendall(wire.query("select pg_sleep(30)"))
    with door.instance_admin() as admin:
        sleeping = "select from pg_stat_activity where wait_event = 'PgSleep' and pid = %s"
        wait_for(lambda: admin.execute(sleeping, [key[0]]).fetchone() is not None)
    cancelling = door.raw(wire.cancel_request(*key))
    assert wire.parse_error(first.until(b"E").body)["C"] == "57014"
    # The door closes it once the instance has taken the request; until then the connection would not be kept.
    assert cancelling.at_end()
    cancelling.sock.close()
    first.until(b"Z")
    first.sock.sendall(wire.terminate())
    first.sock.close()
    idle(door, 1)
    with pooled(door) as second:
        late = door.raw(wire.cancel_request(*key))
        assert second.execute("select pg_sleep(0.2)").fetchone() == ("",)
        assert late.at_end()
        late.sock.close()
    assert door.house.pool.idle <= 1


async def test_asyncpg_resets_and_reconnects(open_door: DoorMaker) -> None:
    door = open_door()

    async def once() -> int:
        client = await asyncpg.connect(
            host="127.0.0.1", port=door.port, user=ROLE, password=PASSWORD, database=DATABASE, ssl=False,
            server_settings={"options": POOLED},
        )  # fmt: skip
        try:
            await client.execute("select 1")
            return await client.fetchval("select pg_backend_pid()")
        finally:
            await client.close()

    servers: set[int] = set()
    for _ in range(5):
        servers.add(await once())
        await asyncio.to_thread(idle, door, 1)
    assert len(servers) == 1
