"""The certificate that the door shows: the operator's, or a leaf of the cell's own authority.

The authority is made once and lives in one directory with its leaf; a client that wants ``verify-full`` is given
``ca.crt``. Both keys are P-256, which costs a handshake a third of what RSA does. Keys leave here only as the
``Pair`` that goes to the workers.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tenantry.cell.proxy.conn import TlsSocket
from tenantry.errors import OperatorError
from tenantry.runtime.files import write_atomic

AUTHORITY_DAYS: Final = 3650
LEAF_DAYS: Final = 397
"""The longest that clients with browser rules accept."""
RENEW_DAYS: Final = 30
_CLOCK_SKEW: Final = timedelta(days=1)
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
ALPN: Final = "postgresql"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain and its key, in PEM. Empty strings: no TLS."""

    chain: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tls:
    """The context to serve TLS with, and the hash by which a login is bound to its certificate (or None)."""

    context: ssl.SSLContext = field(repr=False)
    channel_binding: bytes | None = field(repr=False)


def load(pair: Pair) -> Tls:
    """A context that shows ``pair`` to Postgres clients. Raises OperatorError when it is no pair."""
    context = _context()
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0  # No Postgres client resumes; a ticket is bytes for nothing.
    context.sslsocket_class = TlsSocket
    context.set_alpn_protocols([ALPN])
    context.sni_callback = _remember_name
    return Tls(context, channel_binding(show(context, pair)))


def web_context() -> ssl.SSLContext:
    """A context for HTTP clients, which has nothing to show yet."""
    context = _context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    return context


def show(context: ssl.SSLContext, pair: Pair) -> x509.Certificate:
    """Gives the context its certificate; returns the leaf. Raises OperatorError when certificate and key do not fit."""
    # OpenSSL reads files only; a memory file never touches a disk, and its path is ours alone.
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, f"{pair.key}\n{pair.chain}".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
        return x509.load_pem_x509_certificate(pair.chain.encode())
    except (ssl.SSLError, ValueError) as error:
        raise OperatorError(
            "the TLS certificate and its key do not load",
            next_step="give a PEM chain, leaf first, and the unencrypted PEM key that belongs to it",
        ) from error
    finally:
        os.close(descriptor)


def _remember_name(sock: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
    if isinstance(sock, TlsSocket):
        sock.sni = name


def channel_binding(leaf: x509.Certificate) -> bytes | None:
    """tls-server-end-point (RFC 5929): the certificate's hash by its signature's hash algorithm.

    MD5 and SHA-1 give way to SHA-256. None where the signature names no hash (Ed25519): clients cannot bind then.
    """
    try:
        algorithm = leaf.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    return leaf.fingerprint(algorithm)


def given(certificate: Path, key: Path) -> Pair:
    """The operator's own files, loaded once to see that they work. Blocks. Raises OperatorError."""
    try:
        pair = Pair(chain=certificate.read_text(), key=key.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(
            f"cannot read the TLS certificate {certificate} or its key {key}",
            next_step="check the paths, and that the cell may read both files",
        ) from error
    load(pair)
    leaf = x509.load_pem_x509_certificate(pair.chain.encode())
    if leaf.not_valid_after_utc < datetime.now(UTC):
        raise OperatorError(
            f"the TLS certificate {certificate} has expired on {leaf.not_valid_after_utc:%Y-%m-%d}",
            next_step="renew it and start again",
        )
    return pair


def own(directory: Path, names: Sequence[str], *, now: datetime | None = None) -> Pair:
    """The cell's own leaf for ``names`` (host names, wildcards, addresses), made or renewed when it has to be.

    ``directory`` must exist. Files: ``ca.crt`` (give it to clients), ``ca.key``, ``server.crt``, ``server.key``.
    Blocks. Raises OperatorError.
    """
    now = now or datetime.now(UTC)
    authority, authority_key = _authority(directory, now)
    kept = _kept_leaf(directory, authority, names, now)
    if kept is not None:
        return kept
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = (
        x509.CertificateBuilder()
        .subject_name(_name(names[0]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=LEAF_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    # The key first: a crash between the two leaves a pair that does not load, and the next start makes another.
    write_atomic(directory / "server.key", _key_pem(key), mode=0o600)
    write_atomic(directory / "server.crt", _pem(leaf), mode=0o644)
    return Pair(chain=_pem(leaf).decode(), key=_key_pem(key).decode())


def _authority(directory: Path, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate_path, key_path = directory / "ca.crt", directory / "ca.key"
    if certificate_path.exists() and key_path.exists():
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise OperatorError(
                f"the cell's own certificate authority in {directory} does not load",
                next_step="restore ca.crt and ca.key, or remove both: clients then need the new ca.crt",
            ) from error
        if (
            isinstance(key, ec.EllipticCurvePrivateKey)
            and key.public_key() == certificate.public_key()
            and certificate.not_valid_after_utc > now + timedelta(days=RENEW_DAYS)
        ):
            return certificate, key
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Tenantry cell authority")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False, content_commitment=False, key_encipherment=False,
                data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
                encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    write_atomic(key_path, _key_pem(key), mode=0o600)
    write_atomic(certificate_path, _pem(certificate), mode=0o644)
    return certificate, key


def _kept_leaf(directory: Path, authority: x509.Certificate, names: Sequence[str], now: datetime) -> Pair | None:
    """The leaf on disk, unless it is missing, spoilt, of another authority, for other names or soon to end."""
    try:
        pair = Pair(chain=(directory / "server.crt").read_text(), key=(directory / "server.key").read_text())
        leaf = x509.load_pem_x509_certificate(pair.chain.encode())
        leaf.verify_directly_issued_by(authority)
        load(pair)
        shown = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # noqa: BLE001
        # Whatever is wrong with a leaf of our own making, the cure is the same: make another.
        return None
    fits = list(shown) == [_general_name(name) for name in names]
    return pair if fits and leaf.not_valid_after_utc > now + timedelta(days=RENEW_DAYS) else None


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common: str) -> x509.Name:
    # A common name has at most 64 characters; what counts are the alternative names.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
