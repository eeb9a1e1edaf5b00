"""SCRAM against the published examples, against itself, and against those who cheat."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.errors import InvalidInput
from tenantry.postgres import scram
from tenantry.postgres.wire import ProtocolViolation

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
VERIFIER = scram.Verifier.parse(scram.make_verifier("pencil", SALT))


class Client:
    """A client that knows the password, written after RFC 5802 and apart from the code under test."""

    def __init__(self, password: str, *, gs2: str = "n,,", binding: bytes = b"", user: str = "") -> None:
        self.password, self.gs2, self.binding = password, gs2, binding
        self.bare = f"n={user},r=clientnonce"

    def first(self) -> bytes:
        return (self.gs2 + self.bare).encode()

    def final(self, server_first: bytes) -> bytes:
        fields = dict(part.split("=", 1) for part in server_first.decode().split(","))
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        bound = base64.b64encode(self.gs2.encode() + self.binding).decode()
        without_proof = f"c={bound},r={fields['r']}"
        message = f"{self.bare},{server_first.decode()},{without_proof}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self.expected = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()


def test_the_example_of_rfc_7677():
    exchange = scram.ServerExchange(VERIFIER, nonce=lambda: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    first = exchange.first("SCRAM-SHA-256", b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    assert first == (b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    final = exchange.final(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert final == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_verifiers_read_and_write():
    text = scram.make_verifier("secret", b"0123456789abcdef", 4096)
    assert str(scram.Verifier.parse(text)) == text
    assert text.startswith("SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$")
    assert scram.make_verifier("secret") != scram.make_verifier("secret")
    assert scram.check_password(text, "secret")
    assert not scram.check_password(text, "Secret")
    assert "MDEy" not in repr(scram.Verifier.parse(text))
    assert base64.b64encode(scram.Verifier.parse(text).stored_key).decode() not in repr(scram.Verifier.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "", "md5abcdef", "SCRAM-SHA-256", "SCRAM-SHA-256$0:YQ==$YQ==:YQ==", "SCRAM-SHA-256$4096:YQ==$YQ==:YQ==",
        str(VERIFIER).replace("SHA-256", "SHA-512"), str(VERIFIER).replace("$4096:", "$-1:"),
        str(VERIFIER).replace("$4096:", "$99999999:"), str(VERIFIER) + "$", str(VERIFIER)[:-3],
    ],
)  # fmt: skip
def test_what_is_no_verifier_is_refused_without_showing_it(text):
    with pytest.raises(InvalidInput) as caught:
        scram.Verifier.parse(text)
    assert str(caught.value) == "not a SCRAM-SHA-256 verifier"


@pytest.mark.parametrize("binding", [None, b"h" * 32])
@pytest.mark.parametrize("gs2", ["n,,", "y,,", "p=tls-server-end-point,,"])
def test_who_may_log_in_with_and_without_tls(binding, gs2):
    client = Client("pencil", gs2=gs2, binding=binding or b"" if gs2[0] == "p" else b"")
    exchange = scram.ServerExchange(VERIFIER, channel_binding=binding)
    mechanism = scram.MECHANISM_PLUS if gs2[0] == "p" else scram.MECHANISM
    forbidden = (gs2[0] == "p" and binding is None) or (gs2[0] == "y" and binding is not None)
    if forbidden:
        with pytest.raises(ProtocolViolation):
            exchange.first(mechanism, client.first())
        return
    final = exchange.final(client.final(exchange.first(mechanism, client.first())))
    assert final == b"v=" + base64.b64encode(client.expected)


def test_a_proof_gives_the_keys_to_log_in_elsewhere():
    client = Client("pencil")
    door = scram.ServerExchange(VERIFIER)
    door.final(client.final(door.first(scram.MECHANISM, client.first())))

    instance = scram.ServerExchange(VERIFIER)
    inside = scram.ClientExchange(door.keys)
    server_final = instance.final(inside.final(instance.first(scram.MECHANISM, inside.first())))
    inside.verify(server_final)
    assert instance.keys == door.keys
    assert base64.b64encode(door.keys.client_key).decode() not in repr(door.keys)
    with pytest.raises(ProtocolViolation):
        inside.verify(server_final[:-4] + b"AAA=")


def test_another_password_or_another_salt_does_not_fit():
    for verifier in (
        scram.make_verifier("pencils", SALT),
        scram.make_verifier("pencil", SALT[::-1]).replace(
            base64.b64encode(SALT[::-1]).decode(), base64.b64encode(SALT).decode()
        ),
    ):
        exchange = scram.ServerExchange(scram.Verifier.parse(verifier))
        client = Client("pencil")
        with pytest.raises(scram.WrongPassword):
            exchange.final(client.final(exchange.first(scram.MECHANISM, client.first())))
        with pytest.raises(AssertionError):
            _ = exchange.keys


def test_fake_verifiers_are_stable_and_look_real():
    fake = scram.fake_verifier(b"k" * 32, "ep-a", "app")
    assert fake == scram.fake_verifier(b"k" * 32, "ep-a", "app")
    others = [
        scram.fake_verifier(b"k" * 32, "ep-b", "app"),
        scram.fake_verifier(b"k" * 32, "ep-a", "apq"),
        scram.fake_verifier(b"l" * 32, "ep-a", "app"),
    ]
    assert len({v.salt for v in [fake, *others]}) == 4
    real = scram.Verifier.parse(scram.make_verifier("x"))
    assert (len(fake.salt), fake.iterations) == (len(real.salt), real.iterations)
    assert len(str(fake)) == len(str(real))


def test_a_doomed_verifier_accepts_nothing():
    doomed = scram.Verifier(4096, SALT, VERIFIER.stored_key, VERIFIER.server_key, doomed=True)
    exchange = scram.ServerExchange(doomed)
    client = Client("pencil")
    with pytest.raises(scram.WrongPassword):
        exchange.final(client.final(exchange.first(scram.MECHANISM, client.first())))


@pytest.mark.parametrize(
    ("mechanism", "first"),
    [
        ("SCRAM-SHA-1", b"n,,n=,r=x"), ("SCRAM-SHA-256-PLUS", b"p=tls-unique,,n=,r=x"),
        ("SCRAM-SHA-256-PLUS", b"n,,n=,r=x"), ("SCRAM-SHA-256", b"p=tls-server-end-point,,n=,r=x"),
        ("SCRAM-SHA-256", b"n,a=admin,n=,r=x"), ("SCRAM-SHA-256", b"n,,m=x,n=,r=x"),
        ("SCRAM-SHA-256", b"n,,n="), ("SCRAM-SHA-256", b"n,,n=,r="), ("SCRAM-SHA-256", b"n,,n=,r=a b"),
        ("SCRAM-SHA-256", b"n,,n=,r=\xc3\xa9"), ("SCRAM-SHA-256", b"\xff"), ("SCRAM-SHA-256", b"n,,n=\0,r=x"),
        ("SCRAM-SHA-256", b""), ("SCRAM-SHA-256", b"n"),
    ],
)  # fmt: skip
def test_broken_first_messages_are_refused(mechanism, first):
    exchange = scram.ServerExchange(VERIFIER, channel_binding=b"h" * 32)
    with pytest.raises(ProtocolViolation):
        exchange.first(mechanism, first)


@given(st.binary(max_size=120))
@settings(max_examples=200)
def test_garbage_final_messages_never_pass(data):
    exchange = scram.ServerExchange(VERIFIER)
    exchange.first(scram.MECHANISM, b"n,,n=,r=x")
    with pytest.raises((ProtocolViolation, scram.WrongPassword)):
        exchange.final(data)


@pytest.mark.parametrize("change", ["nonce", "binding", "proof length", "proof bytes"])
def test_changed_final_messages_do_not_pass(change):
    exchange = scram.ServerExchange(VERIFIER)
    client = Client("pencil")
    final = client.final(exchange.first(scram.MECHANISM, client.first())).decode()
    head, proof = final.rsplit(",p=", 1)
    changed = {
        "nonce": final.replace("clientnonce", "clientnoncf"),
        "binding": final.replace("c=biws", "c=eSws"),
        "proof length": f"{head},p={proof[:-8]}",
        "proof bytes": f"{head},p={'A' if proof[0] != 'A' else 'B'}{proof[1:]}",
    }[change]
    with pytest.raises(scram.WrongPassword if change == "proof bytes" else ProtocolViolation):
        exchange.final(changed.encode())


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("user", b"user"),
        ("I\u00adX", b"IX"),  # RFC 4013, section 3
        ("\u00aa", b"a"),
        ("\u2168", b"IX"),
        ("pass\u00a0word", b"pass word"),
        ("u\u0308", "ü".encode()),
        ("\u0007", b"\x07"),  # prohibited: used as it is
        ("x\u0627", "x\u0627".encode()),  # mixed directions: used as it is
        ("\u0627\u0031", "\u0627\u0031".encode()),
        ("\u0627\u0628", "\u0627\u0628".encode()),
        ("\u00ad", "\u00ad".encode()),  # nothing would be left
    ],
)
def test_saslprep(password, prepared):
    assert scram.saslprep(password) == prepared


def test_a_new_secret_comes_with_the_key_that_logs_in_by_it() -> None:
    verifier, client_key = scram.new_secret("pencil")
    assert scram.check_password(verifier, "pencil")
    salt = scram.Verifier.parse(verifier).salt
    assert scram.keys_of(verifier, client_key) == scram.login_keys("pencil", salt)
    other, _ = scram.new_secret("pencil")
    assert scram.keys_of(other, client_key) is None, "another salt, another key"
    assert scram.keys_of(verifier, "no key") is None
