"""The protocol as bytes: what is taken, what is refused, and that no garbage is ever half taken."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.postgres import wire

NAMES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=20)
VALUES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=40)


def packet(body: bytes) -> bytearray:
    return bytearray(struct.pack("!I", len(body) + 4) + body)


# -- first packets


@given(st.dictionaries(NAMES, VALUES, max_size=20), st.sampled_from([wire.PROTOCOL_3_0, wire.PROTOCOL_3_2]))
def test_a_startup_packet_survives_the_journey(parameters, version):
    buffer = bytearray(wire.startup(parameters, version) + b"next")
    assert wire.take_first_packet(buffer) == wire.Startup(version, parameters)
    assert buffer == b"next"


@given(st.binary(max_size=60))
def test_garbage_is_refused_or_awaited_and_never_crashes(data):
    buffer = bytearray(data)
    try:
        taken = wire.take_first_packet(buffer)
    except wire.ProtocolViolation as error:
        assert error.sqlstate in {"08P01", "0A000"}
    else:
        if taken is None:
            assert bytes(buffer) == data


@given(st.binary(max_size=200))
def test_garbage_in_the_shape_of_a_startup_packet(body):
    try:
        taken = wire.take_first_packet(packet(struct.pack("!I", wire.PROTOCOL_3_0) + body))
    except wire.ProtocolViolation:
        return
    assert isinstance(taken, wire.Startup)
    assert all("\0" not in part for item in taken.parameters.items() for part in item)


@given(st.data())
def test_every_prefix_of_a_packet_is_awaited(data):
    whole = wire.startup({"user": "app", "options": "endpoint=ep-x"})
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert wire.take_first_packet(bytearray(whole[:cut])) is None


@pytest.mark.parametrize("length", [0, 7, wire.STARTUP_BYTES_MAX + 1, 2**31, 2**32 - 1])
def test_an_impossible_length_is_refused_before_its_bytes_come(length):
    with pytest.raises(wire.NoPacket, match="invalid length"):
        wire.take_first_packet(bytearray(struct.pack("!I", length)))


def test_the_longest_packet_is_taken():
    value = "x" * (wire.STARTUP_BYTES_MAX - len(wire.startup({"user": ""})))
    buffer = bytearray(wire.startup({"user": value}))
    assert len(buffer) == wire.STARTUP_BYTES_MAX
    assert isinstance(wire.take_first_packet(buffer), wire.Startup)
    with pytest.raises(wire.ProtocolViolation, match="too long"):
        wire.startup({"user": value + "x"})


def test_encryption_requests():
    assert wire.take_first_packet(bytearray(wire.ssl_request())) == wire.SslRequest()
    assert wire.take_first_packet(bytearray(wire.gssenc_request())) == wire.GssEncRequest()
    with pytest.raises(wire.ProtocolViolation):
        wire.take_first_packet(packet(struct.pack("!I", 80877103) + b"x"))


@pytest.mark.parametrize("key", [b"1234", b"k" * 32, b"k" * 256])
def test_cancel_requests_have_keys_of_many_lengths(key):
    taken = wire.take_first_packet(bytearray(wire.cancel_request(4_000_000_000, key)))
    assert taken == wire.CancelRequest(4_000_000_000, key)
    assert "k" * 4 not in repr(taken).replace("key", "")


@pytest.mark.parametrize("key", [b"", b"123", b"k" * 257])
def test_cancel_keys_out_of_bounds_are_refused(key):
    with pytest.raises(wire.ProtocolViolation, match="cancel request"):
        wire.take_first_packet(bytearray(wire.cancel_request(1, key)))


@pytest.mark.parametrize("version", [0x0002_0000, 0x0004_0000, 0, 1234])
def test_another_protocol_is_refused(version):
    with pytest.raises(wire.ProtocolViolation, match="unsupported frontend protocol") as caught:
        wire.take_first_packet(bytearray(wire.startup({}, version)))
    assert caught.value.sqlstate == "0A000"


@pytest.mark.parametrize("body", [b"user\0app\0", b"user\0app\0\0\0", b"user\0\0", b"\0x\0\0", b"user\0app", b""])
def test_broken_parameters_are_refused(body):
    with pytest.raises(wire.ProtocolViolation, match="layout"):
        wire.take_first_packet(packet(struct.pack("!I", wire.PROTOCOL_3_0) + body))


def test_versions_and_options_to_negotiate():
    startup = wire.Startup(0x0003_270F, {"user": "app", "_pq_.thing": "on"})
    assert startup.negotiated_version == wire.PROTOCOL_3_2
    assert startup.unknown_protocol_options == ["_pq_.thing"]
    answer = wire.negotiate_protocol_version(wire.PROTOCOL_3_2, ["_pq_.thing"])
    assert answer == b"v\0\0\0\x17\0\3\0\2\0\0\0\1_pq_.thing\0"


def test_a_user_is_needed_and_has_to_be_text():
    with pytest.raises(wire.ProtocolViolation, match="no user"):
        _ = wire.Startup(wire.PROTOCOL_3_0, {}).user
    foreign = wire.take_first_packet(packet(struct.pack("!I", wire.PROTOCOL_3_0) + b"user\0\xff\xfe\0\0"))
    assert isinstance(foreign, wire.Startup)
    with pytest.raises(wire.ProtocolViolation, match="not UTF-8"):
        _ = foreign.user


def test_values_in_other_encodings_pass_unchanged():
    body = b"user\0a\0application_name\0caf\xe9\0\0"
    taken = wire.take_first_packet(packet(struct.pack("!I", wire.PROTOCOL_3_0) + body))
    assert isinstance(taken, wire.Startup)
    assert wire.startup(taken.parameters)[8:] == body


# -- messages


@given(st.lists(st.tuples(st.sampled_from([b"R", b"S", b"E", b"Z"]), st.binary(max_size=50)), max_size=5))
def test_messages_are_taken_one_by_one(messages):
    buffer = bytearray(b"".join(wire.message(kind, body) for kind, body in messages))
    taken = []
    while (message := wire.take_message(buffer, bytes_max=1000)) is not None:
        taken.append((message.kind, message.body))
    assert taken == messages
    assert not buffer


@given(st.binary(max_size=60))
def test_garbage_messages_are_refused_or_awaited(data):
    buffer = bytearray(data)
    try:
        taken = wire.take_message(buffer, bytes_max=64)
    except wire.ProtocolViolation:
        return
    if taken is None:
        assert bytes(buffer) == data
    else:
        assert taken.encode() + bytes(buffer) == data


def test_a_long_message_is_refused_before_its_bytes_come():
    with pytest.raises(wire.ProtocolViolation, match="bound: 1024"):
        wire.take_message(bytearray(b"p" + struct.pack("!I", 1025)), bytes_max=1024)


@given(st.binary(max_size=80))
def test_garbage_sasl_responses(data):
    try:
        mechanism, body = wire.parse_sasl_initial_response(data)
    except wire.ProtocolViolation:
        return
    assert wire.sasl_initial_response(mechanism, body)[5:] == data or not mechanism.isascii()


def test_errors_carry_their_fields():
    message = wire.take_message(
        bytearray(wire.error_response("28P01", 'no "x"\0 here', hint="do this")), bytes_max=1000
    )
    assert message is not None
    assert wire.parse_error(message.body) == {
        "S": "FATAL", "V": "FATAL", "C": "28P01", "M": 'no "x" here', "H": "do this",
    }  # fmt: skip


def test_backend_keys():
    message = wire.take_message(bytearray(wire.backend_key_data(17, b"k" * 32)), bytes_max=1000)
    assert message is not None
    assert wire.parse_backend_key_data(message.body) == (17, b"k" * 32)
    with pytest.raises(wire.ProtocolViolation):
        wire.parse_backend_key_data(b"1234567")


# -- options


@pytest.mark.parametrize(
    ("options", "endpoint", "rest"),
    [
        ("", None, ""),
        ("endpoint=ep-a", "ep-a", ""),
        ("project=ep-a", "ep-a", ""),
        ("--endpoint=ep-a", "ep-a", ""),
        ("-c endpoint=ep-a", "ep-a", ""),
        ("-cendpoint=ep-a", "ep-a", ""),
        ("-c search_path=x endpoint=ep-a", "ep-a", "-c search_path=x"),
        ("endpoint=ep-a -c search_path=x", "ep-a", "-c search_path=x"),
        ("-c a=1 -c endpoint=ep-a -c b=2", "ep-a", "-c a=1  -c b=2"),
        (r"-c application_name=a\ b\\c endpoint=ep-a", "ep-a", r"-c application_name=a\ b\\c"),
        (r"-c application_name=a\ endpoint=ep-b", None, r"-c application_name=a\ endpoint=ep-b"),
        ("-c search_path=x", None, "-c search_path=x"),
        ("endpoint=ep-a endpoint=ep-a", "ep-a", ""),
        ("endpoint=", "", ""),
        ("-c -c endpoint=ep-a", "ep-a", "-c -c"),
        ("  endpoint=ep-a\t\n", "ep-a", ""),
        ("my.endpoint=ep-a", None, "my.endpoint=ep-a"),
    ],
)
def test_the_endpoint_is_found_in_options_and_taken_out(options, endpoint, rest):
    assert wire.take_endpoint_option(options) == (endpoint, rest)


def test_two_endpoints_are_refused():
    with pytest.raises(wire.ProtocolViolation, match="two different"):
        wire.take_endpoint_option("endpoint=ep-a project=ep-b")


@given(st.text(max_size=60))
def test_options_without_an_endpoint_are_never_changed(options):
    found, rest = wire.take_endpoint_option(options)
    if found is None:
        assert rest == options
