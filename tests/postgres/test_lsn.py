"""Positions and segment names go there and back, and nonsense is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidInput
from tenantry.postgres.lsn import Lsn, format_lsn, parse_lsn, segment_name, segment_start

SEGMENT_BYTES = st.integers(20, 30).map(lambda power: 1 << power)


@given(st.integers(0, 2**64 - 1))
def test_a_position_is_read_back(number: int) -> None:
    assert parse_lsn(format_lsn(Lsn(number))) == number


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**64 - 1), SEGMENT_BYTES)
def test_a_segment_holds_the_position_it_is_named_for(timeline: int, number: int, segment_bytes: int) -> None:
    read_timeline, start = segment_start(segment_name(timeline, Lsn(number), segment_bytes), segment_bytes)
    assert read_timeline == timeline
    assert start <= number < start + segment_bytes


def test_known_names() -> None:
    assert format_lsn(Lsn(0x16_B374D848)) == "16/B374D848"
    assert segment_name(1, parse_lsn("0/1400028"), 1 << 20) == "000000010000000000000014"
    assert segment_name(1, parse_lsn("2/10000000"), 1 << 24) == "000000010000000200000010"


@pytest.mark.parametrize("text", ["", "0", "0/", "/0", "0/123456789", "g/0", "0/0/0", " 0/0", "0/0\n", "-1/0"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_lsn(text)
    with pytest.raises(InvalidInput):
        segment_start(text, 1 << 20)
