"""Through the door in plain TCP: what a client may do, and what it is told when it may not."""

from __future__ import annotations

import psycopg
import pytest


def test_a_password_opens_the_door(open_door):
    door = open_door()
    with door.connect() as client:
        assert client.execute("select current_user, current_database()").fetchone() == ("app", "appdb")
        assert client.info.parameter_status("server_version")
    assert door.cell.woken == 1


def test_a_wrong_password_wakes_nothing(open_door):
    door = open_door()
    with pytest.raises(psycopg.OperationalError, match='password authentication failed for user "app"'):
        door.connect(password="wrong")
    assert door.cell.woken == 0
