"""Sign-ups from a file: what is refused as a whole and where, what is one row's matter, and rows done at a time."""

from __future__ import annotations

import csv
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidInput, Unavailable
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.main import open_fleet
from tenantry.fleet.tenants import csv_rows
from tenantry.fleet.tenants.create import Created, Wish, create_tenant, wish
from tenantry.fleet.tenants.create_many import RowDone, create_many
from tenantry.fleet.tenants.csv_rows import BadRow, GoodRow, read_rows
from tenantry.fleet.tenants.list import list_tenants

if TYPE_CHECKING:
    from conftest import MemoryProvider


def test_a_file_is_read_as_it_is_meant() -> None:
    content = (
        "\ufeffName, email ,plan,pg_version\r\n"
        '"ACME, ""Corp""",ops@acme.example,scale,17\r\n'
        "\r\n"
        'Two\tWords,,,\r\n"Three\r\nLines",,launch,\r\nLast,,,'
    )
    rows = read_rows(content.encode(), defaults=wish("x", plan="business", region="eu", pg_version=18))
    assert all(isinstance(row, GoodRow) for row in rows)
    assert [(row.line, row.wish) for row in rows if isinstance(row, GoodRow)] == [
        (2, wish('ACME, "Corp"', email="ops@acme.example", plan="scale", region="eu", pg_version=17)),
        (4, wish("Two Words", plan="business", region="eu", pg_version=18)),
        (5, wish("Three Lines", plan="launch", region="eu", pg_version=18)),
        (7, wish("Last", plan="business", region="eu", pg_version=18)),
    ]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"", "line 1, column 1: the file is empty"),
        (b"slug\nx\n", "line 1, column 1: there is no column name"),
        (b"name,colour\nx,y\n", "line 1, column 6: there is no column 'colour'"),
        (b"name,slug,Name\n", "line 1, column 11: the column name is there twice"),
        (b"name\nx\n,y\n", "line 3, column 2: the row has 2 columns, and the first line has 1"),
        (b"name,slug\nx,y\nz\n", "line 3, column 1: the row has 1 columns, and the first line has 2"),
        (b'name,slug\nx,"y\nz,w\n', "line 2, column 3: the quote that opens here is never closed"),
        (b'name,slug\n"x"y,z\n', "line 2, column 4: a comma or the end of the line belongs here"),
        (b'name,slug\nx"y,z\n', "line 2, column 2: a comma or the end of the line belongs here"),
        (b'name,slug\n"a\nb",c,d\n', "line 3, column 6: the row has 3 columns"),
        (b"name\nx\n\xc3\xa4\xff\n", "line 3, column 2: this is not UTF-8 text"),
        (b"name\nx\0y\n", "line 2, column 1: a NUL is not text"),
    ],
)
def test_what_is_no_file_of_rows_is_refused_where_it_is_wrong(content: bytes, where: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_rows(content)
    assert refused.value.message.startswith(where)


def test_a_file_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "ROWS_MAX", 2)
    with pytest.raises(InvalidInput, match="line 4: the file has more than 2 rows"):
        read_rows(b"name\na\nb\nc\n")
    monkeypatch.setattr(csv_rows, "BYTES_MAX", 3)
    with pytest.raises(InvalidInput, match="the file has more than"):
        read_rows(b"name\n")


def test_a_bad_row_names_its_line_its_column_and_why() -> None:
    rows = read_rows(
        b"name,slug,email,pg_version\n"
        b"ACME,,,\n"
        b",,,\n"
        b"B,Not A Slug,,\n"
        b"C,,nobody,\n"
        b"D,,,eighteen\n"
        b"E,,,9\n"
        b"acme,,,\n"
        b"F,acme,,\n"
        b"G,,g@x.example,18\n"
    )
    bad = [(row.line, row.column, row.reason) for row in rows if isinstance(row, BadRow)]
    assert [(line, column) for line, column, _ in bad] == [
        (3, "name"), (4, "slug"), (5, "email"), (6, "pg_version"), (7, "pg_version"), (8, "name"), (9, "name"),
    ]  # fmt: skip
    assert bad[0][2] == "the name is empty"
    assert bad[-1][2] == "the slug acme is that of line 2"
    assert [row.wish.name for row in rows if isinstance(row, GoodRow)] == ["ACME", "G"]


CELL = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff") | st.sampled_from('",\r\n'), max_size=12
)


@given(st.lists(st.tuples(CELL, CELL), max_size=6))
def test_what_pythons_own_writer_wrote_is_read_back(cells: list[tuple[str, str]]) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerow(["name", "plan"])
    writer.writerows(cells)
    rows = read_rows(file.getvalue().encode())
    assert len(rows) == len(cells)
    for row, (name, plan) in zip(rows, cells, strict=True):
        if isinstance(row, GoodRow):
            assert row.wish.plan == (plan.strip() or None)
            assert row.wish.name == wish(name.strip()).name


@given(st.binary(max_size=60))
def test_whatever_is_in_a_file_it_is_read_or_refused(content: bytes) -> None:
    try:
        read_rows(b"name,slug\n" + content)
    except InvalidInput as refused:
        assert refused.message.startswith("line ")


# -- many at a time ------------------------------------------------------------------------------------------


def test_good_rows_are_created_whatever_the_others_are(catalog: Catalog, provider: MemoryProvider) -> None:
    create_tenant(catalog, provider.of, wish("Was There"))
    create_tenant(catalog, provider.of, wish("Taken", slug="taken"))
    rows = read_rows(b"name,slug,plan\nACME,,\n,,\nWas There,,\nOther,taken,\nGold,,gold\nLast,,scale\n")
    seen: list[RowDone] = []
    done = create_many(lambda want: create_tenant(catalog, provider.of, want), rows, jobs=3, on_done=seen.append)
    assert [(row.line, row.outcome, row.column) for row in done.rows] == [
        (2, "created", None),
        (3, "failed", "name"),
        (4, "there", None),
        (5, "failed", "name"),
        (6, "failed", "plan"),
        (7, "created", None),
    ]
    assert sorted(seen, key=lambda row: row.line) == list(done.rows)
    assert done.rows[3].reason == "the slug taken belongs to 'Taken'"
    assert [tenant.slug for tenant in list_tenants(catalog)] == ["acme", "last", "taken", "was-there"]
    # The same file again: what was created is there.
    again = create_many(lambda want: create_tenant(catalog, provider.of, want), rows, jobs=2)
    assert (again.count("created"), again.count("there"), again.count("failed")) == (0, 3, 3)
    assert len(provider.projects) == 4


def test_so_many_are_under_way_at_a_time() -> None:
    running, most = 0, 0
    lock, gate = threading.Lock(), threading.Barrier(3)

    def create(_: Wish) -> Created:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(30)
        with lock:
            running -= 1
        raise Unavailable("away")

    rows = read_rows(b"name\n" + b"".join(b"c%d\n" % number for number in range(12)))
    done = create_many(create, rows, jobs=3)
    assert (most, done.count("failed")) == (3, 12)
    with pytest.raises(InvalidInput, match="between 1 and 64"):
        create_many(create, rows, jobs=65)


def test_as_many_have_a_connection_to_the_catalog_as_are_under_way(catalog_url: str) -> None:
    """Each holds its tenant while its provider answers, however long that takes: nobody waits for a connection."""
    gate = threading.Barrier(9)

    def hold(_: int) -> None:
        with fleet.catalog.transaction():
            gate.wait(60)

    with (
        open_fleet("http://127.0.0.1:9/api/v2", "key", catalog_url, at_a_time=9) as fleet,
        ThreadPoolExecutor(9) as pool,
    ):
        list(pool.map(hold, range(9)))


def test_an_interrupt_begins_nothing_more() -> None:
    begun: list[str] = []

    def create(wanted: Wish) -> Created:
        begun.append(wanted.slug)
        raise Unavailable("away")

    def interrupt(_: RowDone) -> None:
        raise KeyboardInterrupt

    rows = read_rows(b"name\n" + b"".join(b"c%d\n" % number for number in range(200)))
    with pytest.raises(KeyboardInterrupt):
        create_many(create, rows, jobs=2, on_done=interrupt)
    assert len(begun) <= 8
