"""Postgres's frontend/backend protocol as bytes and values; nothing here touches a socket.

Covers what a front door needs: the first packets (startup, encryption and cancel requests), the messages of
authentication, and the few others that it reads or replaces before it lets bytes through untouched. Protocol
3.0 and 3.2. The ``take_*`` functions remove one whole unit from the front of a buffer, or say None when more
bytes are needed; a unit longer than its bound raises before its bytes are awaited.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tenantry.errors import InvalidInput

PROTOCOL_3_0: Final = 0x0003_0000
PROTOCOL_3_2: Final = 0x0003_0002

STARTUP_BYTES_MAX: Final = 10_000
"""MAX_STARTUP_PACKET_LENGTH of Postgres, the length word included."""
SASL_BYTES_MAX: Final = 1024
"""PG_MAX_SASL_MESSAGE_LENGTH of Postgres."""
PASSWORD_BYTES_MAX: Final = 65_535
"""PG_MAX_AUTH_TOKEN_LENGTH of Postgres: of a password in clear text."""
MESSAGE_BYTES_MAX: Final = 0x3FFF_FFFF + 4
"""The longest message that Postgres makes (MaxAllocSize)."""
IDLE: Final = b"I"
"""What ReadyForQuery says outside of a transaction."""
CANCEL_KEY_BYTES_MAX: Final = 256
"""The longest secret key that protocol 3.2 allows."""

_CANCEL_CODE: Final = 80877102
_SSL_CODE: Final = 80877103
_GSSENC_CODE: Final = 80877104

_INT32: Final = struct.Struct("!i")
_UINT32: Final = struct.Struct("!I")
_TWO_UINT32: Final = struct.Struct("!II")


class ProtocolViolation(InvalidInput):
    """The peer sent bytes that the protocol does not allow; ``sqlstate`` is what it should be told."""

    code = "PROTOCOL_VIOLATION"

    def __init__(self, message: str, *, sqlstate: str = "08P01", next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.sqlstate = sqlstate


class NoPacket(ProtocolViolation):
    """What came first has no length that a first packet could have, so the peer may not speak this protocol at all.

    Postgres closes without a word then, which is what clients expect that leave before they have begun.
    """


# ---------------------------------------------------------------------------------------------------------
# The first packets


@dataclass(frozen=True, slots=True)
class SslRequest:
    """The client asks for TLS; the answer is one byte, S or N."""


@dataclass(frozen=True, slots=True)
class GssEncRequest:
    """The client asks for GSSAPI encryption; the answer is one byte, G or N."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """The client asks, on a connection of its own, to cancel what another one runs."""

    pid: int
    key: bytes

    def __repr__(self) -> str:
        return f"CancelRequest(pid={self.pid}, key=<{len(self.key)} bytes>)"


@dataclass(frozen=True, slots=True)
class Startup:
    """A startup message; ``version`` as asked, ``parameters`` in the order sent.

    Values that are not UTF-8 hold surrogate escapes, so that they travel on unchanged.
    """

    version: int
    parameters: dict[str, str]

    @property
    def user(self) -> str:
        """The role to log in as. Raises ProtocolViolation when there is none, or when it is not UTF-8."""
        user = self.parameters.get("user", "")
        if not user:
            raise ProtocolViolation("no user name in the startup packet", sqlstate="28000")
        if not _is_text(user):
            raise ProtocolViolation("the user name is not UTF-8", sqlstate="28000")
        return user

    @property
    def negotiated_version(self) -> int:
        """The version that both sides will speak."""
        return min(self.version, PROTOCOL_3_2)

    @property
    def unknown_protocol_options(self) -> list[str]:
        """Protocol extensions (``_pq_.``) that were asked for; this side knows none of them."""
        return [name for name in self.parameters if name.startswith("_pq_.")]


FirstPacket = SslRequest | GssEncRequest | CancelRequest | Startup


def take_first_packet(buffer: bytearray) -> FirstPacket | None:
    """Removes the first packet from ``buffer``; None when it is not whole yet.

    Raises NoPacket for an impossible length, ProtocolViolation for other things that no client of the protocol sends.
    """
    if len(buffer) < 4:
        return None
    length: int = _UINT32.unpack_from(buffer)[0]
    if not 8 <= length <= STARTUP_BYTES_MAX:
        raise NoPacket("invalid length of startup packet")
    if len(buffer) < length:
        return None
    body = bytes(buffer[4:length])
    del buffer[:length]
    return _parse_first_packet(body)


def _parse_first_packet(body: bytes) -> FirstPacket:
    code: int = _UINT32.unpack_from(body)[0]
    if code in {_SSL_CODE, _GSSENC_CODE}:
        if len(body) != 4:
            raise NoPacket("invalid length of startup packet")
        return SslRequest() if code == _SSL_CODE else GssEncRequest()
    if code == _CANCEL_CODE:
        if not 8 + 4 <= len(body) <= 8 + CANCEL_KEY_BYTES_MAX:
            raise NoPacket("invalid length of cancel request")
        return CancelRequest(pid=_UINT32.unpack_from(body, 4)[0], key=body[8:])
    if code >> 16 != 3:
        raise ProtocolViolation(
            f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: server supports 3.0 to 3.2",
            sqlstate="0A000",
        )
    return Startup(version=code, parameters=_parse_parameters(body[4:]))


def _parse_parameters(body: bytes) -> dict[str, str]:
    """``name NUL value NUL ... NUL``; a name given twice keeps its last value, as in Postgres."""
    if not body.endswith(b"\0"):
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    parts = body[:-1].split(b"\0")
    if parts.pop() != b"" or len(parts) % 2:
        raise ProtocolViolation("invalid startup packet layout: name without a value")
    names, values = parts[::2], parts[1::2]
    if not all(names):
        raise ProtocolViolation("invalid startup packet layout: bytes after the terminator")
    return {_decode(name): _decode(value) for name, value in zip(names, values, strict=True)}


def startup(parameters: Mapping[str, str], version: int = PROTOCOL_3_0) -> bytes:
    """A startup packet. Raises ProtocolViolation when it would exceed what Postgres accepts."""
    body = b"".join(_encode(name) + b"\0" + _encode(value) + b"\0" for name, value in parameters.items())
    length = 4 + 4 + len(body) + 1
    if length > STARTUP_BYTES_MAX:
        raise ProtocolViolation("startup packet is too long")
    return _TWO_UINT32.pack(length, version) + body + b"\0"


def ssl_request() -> bytes:
    return _TWO_UINT32.pack(8, _SSL_CODE)


def gssenc_request() -> bytes:
    return _TWO_UINT32.pack(8, _GSSENC_CODE)


def cancel_request(pid: int, key: bytes) -> bytes:
    return struct.pack("!III", 12 + len(key), _CANCEL_CODE, pid) + key


# ---------------------------------------------------------------------------------------------------------
# Messages: a type byte, a length, a body


@dataclass(frozen=True, slots=True)
class Message:
    """One typed message; ``kind`` is its type byte, as in ``b"R"``."""

    kind: bytes
    body: bytes

    def encode(self) -> bytes:
        return message(self.kind, self.body)


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + _UINT32.pack(len(body) + 4) + body


def take_message(buffer: bytearray, *, bytes_max: int) -> Message | None:
    """Removes one message from ``buffer``; None when it is not whole yet.

    Raises ProtocolViolation when its length is impossible or more than ``bytes_max``.
    """
    if len(buffer) < 5:
        return None
    length: int = _UINT32.unpack_from(buffer, 1)[0]
    if length < 4 or length > bytes_max:
        raise ProtocolViolation(f"invalid message length {length} (bound: {bytes_max})")
    if len(buffer) < 1 + length:
        return None
    taken = Message(bytes(buffer[:1]), bytes(buffer[5 : 1 + length]))
    del buffer[: 1 + length]
    return taken


def message_length(buffer: bytearray, start: int) -> int:
    """How long the message is whose first five bytes begin at ``start``."""
    length: int = _UINT32.unpack_from(buffer, start + 1)[0]
    return 1 + length


def message_end(buffer: bytearray, start: int, *, bytes_max: int) -> int | None:
    """Where the message that begins at ``start`` ends; None when it is not whole yet. Takes nothing.

    For reading over many messages at once. Raises ProtocolViolation as ``take_message`` does.
    """
    if len(buffer) < start + 5:
        return None
    length: int = _UINT32.unpack_from(buffer, start + 1)[0]
    if length < 4 or length > bytes_max:
        raise ProtocolViolation(f"invalid message length {length} (bound: {bytes_max})")
    end = start + 1 + length
    return end if end <= len(buffer) else None


# What a server says

AUTH_OK: Final = 0
AUTH_CLEARTEXT: Final = 3
AUTH_MD5: Final = 5
AUTH_SASL: Final = 10
AUTH_SASL_CONTINUE: Final = 11
AUTH_SASL_FINAL: Final = 12


def authentication(code: int, data: bytes = b"") -> bytes:
    return message(b"R", _UINT32.pack(code) + data)


def authentication_sasl(mechanisms: Sequence[str]) -> bytes:
    return authentication(AUTH_SASL, b"".join(m.encode() + b"\0" for m in mechanisms) + b"\0")


def parse_authentication(body: bytes) -> tuple[int, bytes]:
    """The code of an ``R`` message and what follows it."""
    if len(body) < 4:
        raise ProtocolViolation("authentication request is too short")
    return _UINT32.unpack_from(body)[0], body[4:]


def parse_mechanisms(data: bytes) -> list[str]:
    """The SASL mechanisms that AuthenticationSASL offers."""
    return [_decode(name) for name in data.split(b"\0") if name]


def negotiate_protocol_version(version: int, unknown_options: Sequence[str]) -> bytes:
    """Says which version will be spoken and which protocol options are not known."""
    names = b"".join(_encode(name) + b"\0" for name in unknown_options)
    return message(b"v", _TWO_UINT32.pack(version, len(unknown_options)) + names)


def parameter_status(name: str, value: str) -> bytes:
    return message(b"S", _encode(name) + b"\0" + _encode(value) + b"\0")


def backend_key_data(pid: int, key: bytes) -> bytes:
    return message(b"K", _UINT32.pack(pid) + key)


def parse_backend_key_data(body: bytes) -> tuple[int, bytes]:
    if not 8 <= len(body) <= 4 + CANCEL_KEY_BYTES_MAX:
        raise ProtocolViolation("invalid length of backend key data")
    return _UINT32.unpack_from(body)[0], body[4:]


def ready_for_query(status: bytes = b"I") -> bytes:
    return message(b"Z", status)


def error_response(sqlstate: str, text: str, *, severity: str = "FATAL", detail: str = "", hint: str = "") -> bytes:
    """An ErrorResponse; ``detail`` and ``hint`` are left out when empty."""
    fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", text), ("D", detail), ("H", hint)]
    body = b"".join(code.encode() + _encode(value).replace(b"\0", b"") + b"\0" for code, value in fields if value)
    return message(b"E", body + b"\0")


def parse_error(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse by their one-letter codes."""
    return {_decode(field[:1]): _decode(field[1:]) for field in body.split(b"\0") if field}


# What a client says


def sasl_initial_response(mechanism: str, data: bytes) -> bytes:
    return message(b"p", mechanism.encode() + b"\0" + _INT32.pack(len(data)) + data)


def parse_sasl_initial_response(body: bytes) -> tuple[str, bytes]:
    """The mechanism chosen and the client's first message. Raises ProtocolViolation."""
    name, terminator, rest = body.partition(b"\0")
    if not terminator or len(rest) < 4:
        raise ProtocolViolation("malformed SASL initial response")
    length: int = _INT32.unpack_from(rest)[0]
    data = rest[4:]
    if length != len(data):
        raise ProtocolViolation("malformed SASL initial response")
    return _decode(name), data


def sasl_response(data: bytes) -> bytes:
    return message(b"p", data)


def parse_password(body: bytes) -> str:
    """The password of a PasswordMessage. Raises ProtocolViolation."""
    if body[-1:] != b"\0" or b"\0" in body[:-1]:
        raise ProtocolViolation("malformed password message")
    return _decode(body[:-1])


def terminate() -> bytes:
    return message(b"X")


def query(sql: str) -> bytes:
    return message(b"Q", _encode(sql) + b"\0")


# ---------------------------------------------------------------------------------------------------------
# The options parameter

_TOKEN: Final = re.compile(r"(?:\\.|[^\s\\])+", re.DOTALL)
"""One word of ``options``: a backslash takes the next character literally (pg_split_opts)."""
ENDPOINT_OPTION: Final = re.compile(r"(?:-c|--)?(?:endpoint|project)=(?P<value>.*)", re.DOTALL)
"""The endpoint, also under its older name."""
OPERATOR_OPTION: Final = re.compile(r"(?:-c|--)?operator=(?P<value>.*)", re.DOTALL)


def take_endpoint_option(options: str) -> tuple[str | None, str]:
    """Finds ``endpoint=ID`` (or its older name ``project=ID``) in a startup packet's ``options``."""
    return take_option(options, ENDPOINT_OPTION)


def take_option(options: str, wanted: re.Pattern[str]) -> tuple[str | None, str]:
    """Finds a word like ``endpoint=ID`` in a startup packet's ``options``.

    The word may stand alone, as ``--endpoint=ID``, or behind ``-c``. Returns the value (None when there is
    none) and the options without it, every other character kept. Raises ProtocolViolation when two words
    say different things.
    """
    found: str | None = None
    kept: list[str] = []
    kept_to = 0
    flag_at: int | None = None
    """Where a lone ``-c`` begins, when it is the word before this one."""
    for token in _TOKEN.finditer(options):
        word = token.group()
        named = wanted.fullmatch(word)
        if named is None:
            flag_at = token.start() if word == "-c" and flag_at is None else None
            continue
        value = named["value"]
        if found is not None and found != value:
            what = "endpoints" if wanted is ENDPOINT_OPTION else "operators"
            raise ProtocolViolation(f"the connection's options name two different {what}")
        found = value
        start = token.start() if flag_at is None else flag_at
        kept.append(options[kept_to:start])
        kept_to = token.end()
        flag_at = None
    if found is None:
        return None, options
    kept.append(options[kept_to:])
    return found, "".join(kept).strip()


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
