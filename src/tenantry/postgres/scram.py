"""SCRAM-SHA-256 as Postgres speaks it (RFC 5802, 7677, 5929): both sides, no sockets, no waiting.

The server side needs only a verifier, the text that ``pg_authid.rolpassword`` holds. A proof that it accepts
yields the client's key, and with it the client side logs in to an instance that holds the identical verifier:
the password itself is never known here. Nothing here may log or raise with a key, a proof or a password.

Making or checking a verifier from a password costs PBKDF2 (about a millisecond): call it off the event loop.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import stringprep
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tenantry.errors import InvalidInput
from tenantry.postgres.wire import ProtocolViolation

MECHANISM: Final = "SCRAM-SHA-256"
MECHANISM_PLUS: Final = "SCRAM-SHA-256-PLUS"
ITERATIONS_DEFAULT: Final = 4096
ITERATIONS_MAX: Final = 10_000_000
SALT_BYTES: Final = 16
"""The length of salts that Postgres makes; a fake one must not look different."""
_NONCE_BYTES: Final = 18
_KEY_BYTES: Final = 32


class WrongPassword(InvalidInput):
    """The proof does not fit the verifier."""

    code = "WRONG_PASSWORD"


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server stores of a password. ``doomed`` marks one that no proof may ever fit."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)
    doomed: bool = False

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Reads ``SCRAM-SHA-256$4096:salt$StoredKey:ServerKey``. Raises InvalidInput without the text."""
        try:
            mechanism, head, keys = text.split("$")
            iterations, salt = head.split(":")
            stored_key, server_key = keys.split(":")
            parsed = cls(int(iterations), _unbase64(salt), _unbase64(stored_key), _unbase64(server_key))
        except ValueError as error:
            raise InvalidInput("not a SCRAM-SHA-256 verifier") from error
        if (
            mechanism != MECHANISM
            or not 1 <= parsed.iterations <= ITERATIONS_MAX
            or not parsed.salt
            or len(parsed.stored_key) != _KEY_BYTES
            or len(parsed.server_key) != _KEY_BYTES
        ):
            raise InvalidInput("not a SCRAM-SHA-256 verifier")
        return parsed

    def __str__(self) -> str:
        return (
            f"{MECHANISM}${self.iterations}:{_base64(self.salt)}${_base64(self.stored_key)}:{_base64(self.server_key)}"
        )


def make_verifier(password: str, salt: bytes | None = None, iterations: int = ITERATIONS_DEFAULT) -> str:
    """The verifier of ``password``, byte for byte what Postgres would make. Blocks for PBKDF2."""
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    return str(_derive(password, salt, iterations))


def new_secret(password: str) -> tuple[str, str]:
    """The verifier of ``password`` under a new salt, and the ClientKey that logs in by it. Blocks for PBKDF2 once."""
    salt = os.urandom(SALT_BYTES)
    client_key, server_key = _keys(password, salt, ITERATIONS_DEFAULT)
    stored_key = hashlib.sha256(client_key).digest()
    return str(Verifier(ITERATIONS_DEFAULT, salt, stored_key, server_key)), _base64(client_key)


def keys_of(verifier: str, client_key: str) -> tuple[str, str] | None:
    """ClientKey and ServerKey in base64, as libpq 18 takes them instead of a password; None where they do not fit.

    Costs two hashes and no PBKDF2. Raises InvalidInput when ``verifier`` is none.
    """
    parsed = Verifier.parse(verifier)
    try:
        fits = hmac.compare_digest(hashlib.sha256(_unbase64(client_key)).digest(), parsed.stored_key)
    except ValueError:
        return None
    return (client_key, _base64(parsed.server_key)) if fits else None


def login_keys(password: str, salt: bytes, iterations: int = ITERATIONS_DEFAULT) -> tuple[str, str]:
    """ClientKey and ServerKey in base64, as libpq 18 takes them instead of a password. Blocks for PBKDF2."""
    client_key, server_key = _keys(password, salt, iterations)
    return _base64(client_key), _base64(server_key)


def check_password(verifier: str, password: str) -> bool:
    """Whether ``password`` fits. Blocks for PBKDF2. Raises InvalidInput when ``verifier`` is none."""
    parsed = Verifier.parse(verifier)
    derived = _derive(password, parsed.salt, parsed.iterations)
    return hmac.compare_digest(derived.stored_key, parsed.stored_key)


def prove(verifier: Verifier, password: str) -> ClientKeys:
    """The keys that log in where ``verifier`` is stored. Blocks for PBKDF2. Raises WrongPassword.

    A doomed verifier costs what any other does.
    """
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password), verifier.salt, verifier.iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    fits = hmac.compare_digest(hashlib.sha256(client_key).digest(), verifier.stored_key)
    if not fits or verifier.doomed:
        raise WrongPassword("password authentication failed")
    return ClientKeys(client_key, verifier.server_key)


def fake_verifier(secret: bytes, endpoint: str, role: str) -> Verifier:
    """What to show for a role that does not exist: always the same for one name, and never satisfied.

    Only the holder of ``secret`` can tell it from a real one.
    """

    def part(label: bytes) -> bytes:
        name = b"\0".join((label, endpoint.encode("utf-8", "surrogateescape"), role.encode("utf-8", "surrogateescape")))
        return hmac.digest(secret, name, "sha256")

    return Verifier(
        iterations=ITERATIONS_DEFAULT,
        salt=part(b"salt")[:SALT_BYTES],
        stored_key=part(b"stored"),
        server_key=part(b"server"),
        doomed=True,
    )


def _derive(password: str, salt: bytes, iterations: int) -> Verifier:
    client_key, server_key = _keys(password, salt, iterations)
    return Verifier(
        iterations=iterations, salt=salt, stored_key=hashlib.sha256(client_key).digest(), server_key=server_key
    )


def _keys(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """ClientKey and ServerKey (RFC 5802, section 3)."""
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password), salt, iterations)
    return hmac.digest(salted, b"Client Key", "sha256"), hmac.digest(salted, b"Server Key", "sha256")


# ---------------------------------------------------------------------------------------------------------
# The server


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What logs in to any server that holds the identical verifier."""

    client_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


def mechanisms(*, channel_binding: bytes | None) -> list[str]:
    """What a server offers, strongest first; binding needs TLS and its certificate's hash."""
    return [MECHANISM] if channel_binding is None else [MECHANISM_PLUS, MECHANISM]


class ServerExchange:
    """One login, seen from the server: :meth:`first`, then :meth:`final`, then :attr:`keys`.

    ``channel_binding`` is the tls-server-end-point hash of the certificate shown, None without TLS.
    """

    def __init__(
        self,
        verifier: Verifier,
        *,
        channel_binding: bytes | None = None,
        nonce: Callable[[], str] = lambda: _base64(os.urandom(_NONCE_BYTES)),
    ) -> None:
        self._verifier = verifier
        self._binding = channel_binding
        self._new_nonce = nonce
        self._gs2_header = b""
        self._bound = False
        self._nonce = ""
        self._auth_message_head = b""
        self._keys: ClientKeys | None = None

    def first(self, mechanism: str, data: bytes) -> bytes:
        """Takes client-first-message, gives server-first-message. Raises ProtocolViolation."""
        offered = mechanisms(channel_binding=self._binding)
        if mechanism not in offered:
            raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
        text = _text(data)
        flag, comma, rest = text.partition(",")
        authzid, comma2, bare = rest.partition(",")
        if not comma or not comma2:
            raise ProtocolViolation("malformed SCRAM message")
        if authzid:
            raise ProtocolViolation("client uses an authorization identity", sqlstate="0A000")
        self._check_binding_flag(flag, mechanism)
        self._gs2_header = f"{flag},{authzid},".encode()
        client_nonce = self._client_nonce(bare)
        self._nonce = client_nonce + self._new_nonce()
        verifier = self._verifier
        server_first = f"r={self._nonce},s={_base64(verifier.salt)},i={verifier.iterations}"
        self._auth_message_head = f"{bare},{server_first},".encode()
        return server_first.encode()

    def _check_binding_flag(self, flag: str, mechanism: str) -> None:
        if mechanism == MECHANISM_PLUS:
            if flag != "p=tls-server-end-point":
                raise ProtocolViolation("unsupported SCRAM channel-binding type")
            self._bound = True
        elif flag == "y":
            if self._binding is not None:
                # The client believes that we cannot bind, and we said that we can: someone in between
                # took the stronger mechanism out of our offer.
                raise ProtocolViolation("SCRAM channel binding negotiation error", sqlstate="28000")
        elif flag != "n":
            raise ProtocolViolation("unexpected SCRAM channel-binding flag")

    @staticmethod
    def _client_nonce(bare: str) -> str:
        attributes = bare.split(",")
        if attributes[0].startswith("m="):
            raise ProtocolViolation("client requires an unsupported SCRAM extension", sqlstate="0A000")
        if len(attributes) < 2 or not attributes[0].startswith("n=") or not attributes[1].startswith("r="):
            raise ProtocolViolation("malformed SCRAM message")
        nonce = attributes[1][2:]
        if not nonce or not all("!" <= c <= "~" for c in nonce):
            raise ProtocolViolation("non-printable characters in SCRAM nonce")
        return nonce

    def final(self, data: bytes) -> bytes:
        """Takes client-final-message, gives server-final-message.

        Raises WrongPassword when the proof does not fit, ProtocolViolation when the message is no such one.
        """
        text = _text(data)
        without_proof, marker, proof_text = text.rpartition(",p=")
        attributes = without_proof.split(",")
        if not marker or len(attributes) < 2 or attributes[0][:2] != "c=" or attributes[1][:2] != "r=":
            raise ProtocolViolation("malformed SCRAM message")
        expected = self._gs2_header + (self._binding or b"" if self._bound else b"")
        if not hmac.compare_digest(attributes[0][2:].encode(), _base64(expected).encode()):
            raise ProtocolViolation("SCRAM channel binding check failed", sqlstate="28000")
        if not hmac.compare_digest(attributes[1][2:].encode(), self._nonce.encode()):
            raise ProtocolViolation("SCRAM nonce does not match")
        try:
            proof = _unbase64(proof_text)
        except ValueError as error:
            raise ProtocolViolation("malformed SCRAM message") from error
        if len(proof) != _KEY_BYTES:
            raise ProtocolViolation("malformed SCRAM message")

        verifier = self._verifier
        auth_message = self._auth_message_head + without_proof.encode()
        client_key = _xor(proof, hmac.digest(verifier.stored_key, auth_message, "sha256"))
        fits = hmac.compare_digest(hashlib.sha256(client_key).digest(), verifier.stored_key)
        if not fits or verifier.doomed:
            raise WrongPassword("password authentication failed")
        self._keys = ClientKeys(client_key, verifier.server_key)
        return b"v=" + _base64(hmac.digest(verifier.server_key, auth_message, "sha256")).encode()

    @property
    def keys(self) -> ClientKeys:
        """The keys for logging in to the instance; only after :meth:`final` has accepted."""
        assert self._keys is not None, "the exchange has not succeeded"
        return self._keys


# ---------------------------------------------------------------------------------------------------------
# The client


class ClientExchange:
    """One login with keys instead of a password: :meth:`first`, :meth:`final`, :meth:`verify`.

    Speaks without channel binding: it is for the Unix socket of an instance, where there is no TLS.
    """

    def __init__(
        self, keys: ClientKeys, *, nonce: Callable[[], str] = lambda: _base64(os.urandom(_NONCE_BYTES))
    ) -> None:
        self._keys = keys
        self._nonce = nonce()
        self._auth_message = b""

    def first(self) -> bytes:
        return f"n,,n=,r={self._nonce}".encode()

    def final(self, server_first: bytes) -> bytes:
        """Takes server-first-message. Raises ProtocolViolation."""
        text = _text(server_first)
        attributes = text.split(",")
        if len(attributes) < 3 or not attributes[0].startswith(f"r={self._nonce}"):
            raise ProtocolViolation("malformed SCRAM message from the instance")
        without_proof = f"c=biws,{attributes[0]}"
        self._auth_message = f"n=,r={self._nonce},{text},{without_proof}".encode()
        stored_key = hashlib.sha256(self._keys.client_key).digest()
        signature = hmac.digest(stored_key, self._auth_message, "sha256")
        return f"{without_proof},p={_base64(_xor(self._keys.client_key, signature))}".encode()

    def verify(self, server_final: bytes) -> None:
        """Raises ProtocolViolation unless the server proved that it holds the verifier."""
        expected = hmac.digest(self._keys.server_key, self._auth_message, "sha256")
        if not hmac.compare_digest(server_final, b"v=" + _base64(expected).encode()):
            raise ProtocolViolation("the instance's SCRAM signature is wrong")


# ---------------------------------------------------------------------------------------------------------
# SASLprep


def saslprep(password: str) -> bytes:
    """RFC 4013, with Postgres's leniency: what cannot be prepared is used as it is, in UTF-8."""
    raw = password.encode("utf-8", "surrogateescape")
    if password.isascii():
        return raw
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c))
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if not prepared or any(prohibited(c) for prohibited in _PROHIBITED for c in prepared):
        return raw
    if any(map(stringprep.in_table_d1, prepared)) and not _right_to_left(prepared):
        return raw
    return prepared.encode()


def _right_to_left(text: str) -> bool:
    """Whether a text that has right-to-left characters has them as RFC 3454, section 6, allows."""
    return (
        not any(map(stringprep.in_table_d2, text))
        and stringprep.in_table_d1(text[0])
        and stringprep.in_table_d1(text[-1])
    )


_PROHIBITED: Final[tuple[Callable[[str], bool], ...]] = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def _text(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ProtocolViolation("malformed SCRAM message") from error
    if "\0" in text:
        raise ProtocolViolation("malformed SCRAM message")
    return text


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left) ^ int.from_bytes(right)).to_bytes(_KEY_BYTES)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _unbase64(text: str) -> bytes:
    """Raises ValueError (which binascii.Error is) for anything but canonical base64."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
