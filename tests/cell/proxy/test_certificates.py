"""The door's certificate: made, kept, renewed; the operator's, believed only when it works."""

from __future__ import annotations

import gc
import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.x509.oid import NameOID

from tenantry.cell.proxy import certificates
from tenantry.errors import OperatorError

NAMES = ["*.localhost", "localhost", "127.0.0.1", "::1"]


def leaf_of(pair: certificates.Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.chain.encode())


def test_a_leaf_is_made_once_and_kept(workdir: Path):
    first = certificates.own(workdir, NAMES)
    assert certificates.own(workdir, NAMES) == first
    assert sorted(p.name for p in workdir.iterdir()) == ["ca.crt", "ca.key", "server.crt", "server.key"]
    assert {p.name: p.stat().st_mode & 0o777 for p in workdir.iterdir()} == {
        "ca.crt": 0o644, "ca.key": 0o600, "server.crt": 0o644, "server.key": 0o600,
    }  # fmt: skip
    leaf = leaf_of(first)
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate((workdir / "ca.crt").read_bytes()))
    assert "PRIVATE" not in repr(first)


@pytest.mark.parametrize("spoil", ["other names", "soon to end", "lost key", "other key", "torn file", "new authority"])
def test_a_leaf_that_does_not_fit_is_made_anew(workdir: Path, spoil: str):
    first = certificates.own(workdir, NAMES)
    authority = (workdir / "ca.crt").read_bytes()
    names, now = NAMES, datetime.now(UTC)
    match spoil:
        case "other names":
            names = [*NAMES, "*.db.example.com"]
        case "soon to end":
            now += timedelta(days=certificates.LEAF_DAYS - certificates.RENEW_DAYS + 1)
        case "lost key":
            (workdir / "server.key").unlink()
        case "other key":
            (workdir / "server.key").write_bytes((workdir / "ca.key").read_bytes())
        case "torn file":
            (workdir / "server.crt").write_bytes((workdir / "server.crt").read_bytes()[:200])
        case _:
            (workdir / "ca.key").unlink()
    second = certificates.own(workdir, names, now=now)
    assert second != first
    assert ((workdir / "ca.crt").read_bytes() == authority) == (spoil != "new authority")
    certificates.load(second)
    assert certificates.own(workdir, names, now=now) == second


def test_a_spoilt_authority_is_not_replaced_behind_the_clients_backs(workdir: Path):
    certificates.own(workdir, NAMES)
    (workdir / "ca.key").write_text("nonsense")
    with pytest.raises(OperatorError, match="authority"):
        certificates.own(workdir, NAMES)


def test_the_operators_files(workdir: Path):
    pair = certificates.own(workdir, NAMES)
    assert certificates.given(workdir / "server.crt", workdir / "server.key") == pair
    with pytest.raises(OperatorError, match="do not load") as caught:
        certificates.given(workdir / "server.crt", workdir / "ca.key")
    assert "PRIVATE" not in str(caught.value)
    with pytest.raises(OperatorError, match="cannot read"):
        certificates.given(workdir / "missing.crt", workdir / "server.key")
    with pytest.raises(OperatorError, match="do not load"):
        certificates.given(workdir / "server.key", workdir / "server.key")


def test_an_encrypted_key_is_refused_instead_of_asking_for_its_password(workdir: Path):
    certificates.own(workdir, NAMES)
    key = serialization.load_pem_private_key((workdir / "server.key").read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"words"),
    )
    (workdir / "server.key").write_bytes(encrypted)
    with pytest.raises(OperatorError, match="do not load"):
        certificates.given(workdir / "server.crt", workdir / "server.key")


def test_an_expired_certificate_is_refused(workdir: Path):
    certificates.own(workdir, NAMES, now=datetime.now(UTC) - timedelta(days=certificates.LEAF_DAYS + 1))
    with pytest.raises(OperatorError, match="has expired"):
        certificates.given(workdir / "server.crt", workdir / "server.key")


def self_signed(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, algorithm, **sign) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    return builder.sign(key, algorithm, **sign)


def test_what_a_login_is_bound_to():
    key = rsa.generate_private_key(65537, 2048)
    for algorithm, expected in ((hashes.SHA256(), "sha256"), (hashes.SHA384(), "sha384"), (hashes.SHA512(), "sha512")):
        leaf = self_signed(key, algorithm)
        der = leaf.public_bytes(serialization.Encoding.DER)
        assert certificates.channel_binding(leaf) == hashlib.new(expected, der).digest()
    pss = self_signed(
        key, hashes.SHA384(), rsa_padding=padding.PSS(padding.MGF1(hashes.SHA384()), padding.PSS.DIGEST_LENGTH)
    )
    der = pss.public_bytes(serialization.Encoding.DER)
    assert certificates.channel_binding(pss) == hashlib.sha384(der).digest()
    assert certificates.channel_binding(self_signed(ed25519.Ed25519PrivateKey.generate(), None)) is None


def test_loading_leaves_no_descriptor_open(workdir: Path):
    pair = certificates.own(workdir, NAMES)
    gc.collect()  # what other tests have left is not to go meanwhile
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        certificates.load(pair)
    assert len(os.listdir("/proc/self/fd")) == before
