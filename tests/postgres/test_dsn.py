"""Connection strings: ours and libpq's reading of them are the same, and passwords stay out of sight."""

from __future__ import annotations

import psycopg.conninfo
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidInput
from tenantry.postgres.dsn import Dsn, parse_uri, redact

names = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=20)
hosts = st.sampled_from(["localhost", "127.0.0.1", "::1", "db.example.com", "/tmp/a b/Run", "DB.local"])
parameters = st.fixed_dictionaries(
    {}, optional={"sslmode": st.sampled_from(["require", "disable"]), "options": names, "application_name": names}
)
dsns = st.builds(
    Dsn,
    host=hosts,
    port=st.sampled_from([5432, 7701, 1, 65535]),
    database=names,
    role=names,
    password=st.none() | names,
    parameters=parameters,
)


def as_libpq_reads(dsn: Dsn) -> dict[str, str]:
    expected = {"host": dsn.host, "dbname": dsn.database, "user": dsn.role, **dsn.parameters}
    if dsn.password is not None:
        expected["password"] = dsn.password
    return expected


@given(dsns)
def test_libpq_reads_both_forms_as_meant(dsn: Dsn) -> None:
    port = {} if dsn.port == 5432 else {"port": str(dsn.port)}
    assert psycopg.conninfo.conninfo_to_dict(dsn.uri()) == as_libpq_reads(dsn) | port
    assert psycopg.conninfo.conninfo_to_dict(dsn.keywords()) == as_libpq_reads(dsn) | {"port": str(dsn.port)}


@given(dsns)
def test_what_is_written_is_read_again(dsn: Dsn) -> None:
    assert parse_uri(dsn.uri()) == dsn


@given(dsns, st.text("abcdefgh%'\\/:@ ", min_size=12, max_size=20))
def test_a_password_shows_only_where_it_must(dsn: Dsn, password: str) -> None:
    secret = Dsn(host=dsn.host, database="db", role="a", password=password, parameters={"sslmode": "require"})
    shown = [str(secret), repr(secret), f"{secret}", redact(f"failed: {secret.uri()} twice {secret.uri()}")]
    shown += [redact(f"conninfo {secret.keywords()} was wrong")]
    encoded = secret.uri().partition("a:")[2].partition("@")[0]
    assert all(password not in text and encoded not in text for text in shown)


def test_redaction_leaves_the_rest_as_it_is() -> None:
    text = "cannot connect to postgresql://al%2Fice:s3cr3t@h:5432/db?x=y and POSTGRES://b:t@i/d; user c@example.com"
    assert redact(text) == (
        "cannot connect to postgresql://al%2Fice:***@h:5432/db?x=y and POSTGRES://b:***@i/d; user c@example.com"
    )
    assert redact("host=h password='a b' sslpassword=x user=u") == "host=h password=*** sslpassword=*** user=u"
    assert redact("postgresql://a@h/db") == "postgresql://a@h/db"
    keyed = "postgresql://a@h/db?scram_client_key=x%2By%3D&scram_server_key=z%3D&sslmode=require"
    hidden = "postgresql://a@h/db?scram_client_key=***&scram_server_key=***&sslmode=require"
    assert (redact(keyed), str(parse_uri(keyed))) == (hidden, hidden)
    assert redact("postgresql://h/db?user=a&password=b&x=y") == "postgresql://h/db?user=a&password=***&x=y"


@pytest.mark.parametrize(
    "text",
    ["", "host=h dbname=d", "mysql://a:hunter2@h/db", "postgresql://a:hunter2@h1,h2/db", "postgresql://:hunter2@h/db",
     "postgresql://a:hunter2@h", "postgresql://a:hunter2@h:port/db", "postgresql://a:hunter2@[::1/db",
     "postgresql://a:hunter2@h:99999/db", "postgresql://a:hunter2/x@h/db", "postgresql:///db?user=a&password=hunter2"],
)  # fmt: skip
def test_a_refused_uri_is_not_repeated(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_uri(text)
    chain = f"{caught.value!s}{caught.value.client_text}{caught.value.fields}"
    assert "hunter2" not in chain
    assert caught.value.__cause__ is None
