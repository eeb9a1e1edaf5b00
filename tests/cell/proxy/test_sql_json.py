"""JSON to Postgres's text and back, whatever the values."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.cell.proxy.sql_answer import Result, array, quote
from tenantry.cell.proxy.sql_request import read_body, read_options, read_target
from tenantry.errors import InvalidInput
from tenantry.postgres import queries, wire

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ITEMS = st.recursive(TEXT | st.none(), lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=8)


def parameters(*values: Any) -> list[str | None]:
    body = json.dumps({"query": "select 1", "params": list(values)})
    return read_body(body.encode(), 1).statements[0].parameters


@given(st.lists(ITEMS, max_size=4))
def test_an_array_comes_back_as_it_was(values: list[Any]):
    (text,) = parameters(values)
    assert text is not None
    assert json.loads(array(text)) == values


@pytest.mark.parametrize("number", ["1", "-0", "1.500", "1e5", "12345678901234567890.123456789", "1E-400"])
def test_numbers_keep_every_digit(number: str):
    body = f'{{"query": "", "params": [{number}, [{number}], {{"a": [{number}]}}]}}'
    assert read_body(body.encode(), 1).statements[0].parameters == [number, f"{{{number}}}", f'{{"a":[{number}]}}']


def test_booleans_objects_and_texts_in_arrays():
    assert parameters([True, False, None, "NULL", "", {"a": 'x"y'}, "a\\b", "{,}"]) == [
        r'{true,false,NULL,"NULL","","{\"a\":\"x\\\"y\"}","a\\b","{,}"}'
    ]


@pytest.mark.parametrize("text", ["{", "}{", '{"a}', "[1:2]", ""])
def test_what_is_no_array_raises_nothing_but_our_own(text: str):
    try:
        array(text)
    except (InvalidInput, ValueError):
        return


@given(TEXT)
def test_texts_are_quoted(text: str):
    assert json.loads(quote(text)) == text


@given(
    st.lists(TEXT | st.none(), min_size=1, max_size=4),
    st.sampled_from([1, 20_000]),
    st.booleans(),
    st.sampled_from([25, 1009, 3802]),
)
def test_a_large_row_is_written_as_a_small_one(row: list[str | None], times: int, array_mode: bool, type_: int):
    def written(text: str) -> str:
        match type_:
            case 25:
                return text * times
            case 1009:
                return str(parameters([text] * min(times, 700))[0])
            case _:
                return json.dumps(text * times, ensure_ascii=False)

    body = _row(*(None if value is None else written(value).encode() for value in row))
    results: list[Result] = []
    for large in (False, True):
        result = Result(raw_text=False, array_mode=array_mode)
        result.columns([queries.Column(f"c{number // 2}", 0, 0, type_, -1, -1) for number in range(len(row))])
        for _ in range(2):
            size = sum(result.large_row(memoryview(body))) if large else result.row(body)
            assert size
        result.complete("SELECT", 2)
        results.append(result)
    small, large = (b"".join(result.parts()) for result in results)
    assert small == large
    json.loads(small)


def _row(*values: bytes | None) -> bytes:
    body = struct.pack("!H", len(values))
    for value in values:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return body


@given(st.lists(st.tuples(TEXT, TEXT | st.none()), max_size=4), st.booleans(), st.integers(0, 3))
def test_results_are_json_and_say_how_large_they_are(row: list[tuple[str, str | None]], array_mode: bool, rows: int):
    result = Result(raw_text=True, array_mode=array_mode)
    size = result.columns([queries.Column(name, 1, 2, 25, -1, -1) for name, _ in row])
    body = _row(*(None if value is None else value.encode() for _, value in row))
    for _ in range(rows):
        size += result.row(body)
    result.complete("SELECT", rows)
    text = b"".join(result.parts())
    assert abs(len(text) - size) < 100 + 6 * sum(len(name) for name, _ in row)
    read = json.loads(text)
    expected: Any = [value for _, value in row] if array_mode else dict(row)
    assert read["rows"] == [expected] * rows
    assert [column["name"] for column in read["fields"]] == [name for name, _ in row]
    assert (read["command"], read["rowCount"], read["rowAsArray"]) == ("SELECT", rows, array_mode)


@pytest.mark.parametrize("type_", [25, 3802, 1009])
def test_what_is_not_text_is_refused(type_: int):
    result = Result(raw_text=False, array_mode=True)
    result.columns([queries.Column("c", 0, 0, type_, -1, -1)])
    for value in (b"\xff", b"x" * 65_535 + b"\xc3", "ü".encode("latin-1")):
        with pytest.raises(InvalidInput):
            result.row(_row(value))
        with pytest.raises(InvalidInput):
            list(result.large_row(memoryview(_row(value))))


@given(st.binary(max_size=40))
def test_answers_that_are_none_raise_nothing_but_a_violation(body: bytes):
    for parse in (queries.parse_data_row, queries.parse_row_description):
        try:
            parse(body)
        except wire.ProtocolViolation:
            pass
    queries.parse_command_tag(body)


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        (b"SELECT 5\0", ("SELECT", 5)),
        (b"INSERT 0 3\0", ("INSERT", 3)),
        (b"CREATE TABLE\0", ("CREATE", None)),
        (b"BEGIN\0", ("BEGIN", None)),
        (b"MERGE 2\0", ("MERGE", 2)),
        (b"\0", ("", None)),
    ],
)
def test_command_tags(tag: bytes, expected: tuple[str, int | None]):
    assert queries.parse_command_tag(tag) == expected


@given(st.text(max_size=40))
def test_connection_strings_that_are_none_are_refused_without_being_repeated(text: str):
    secret = "hunter2"
    try:
        read_target({"neon-connection-string": f"postgresql://{text}:{secret}@{text}", "host": text})
    except Exception as error:
        assert secret not in str(error)


def test_an_operators_token_goes_no_further():
    string = "postgresql://a:b@ep-a.x/d?options=-c%20operator%3Dsecret%20-c%20work_mem%3D5MB"
    target = read_target({"neon-connection-string": string})
    assert "secret" not in repr(target)


def test_headers_that_are_not_true_are_false():
    given = {"neon-raw-text-output": "TRUE", "neon-array-mode": "1", "neon-batch-isolation-level": "Serializable"}
    options = read_options({**given, "neon-batch-read-only": "true", "neon-batch-deferrable": "true"})
    assert (options.raw_text, options.array_mode) == (False, False)
    assert options.begin == "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"
    assert read_options({}).begin == "BEGIN"
