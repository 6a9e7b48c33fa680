"""TLS on both sides: PS3.15 B.12, the BCP 195 profile (RFC 8996, RFC 9325), never less.

TLS 1.2 or newer, with ephemeral keys and authenticated encryption only; no compression, no renegotiation.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace
from typing import Any

from radnode.dicom import acceptor
from radnode.dicom.negotiation import HANDSHAKE_FAILED, Policy
from radnode.domain.errors import PeerError, SettingsError
from radnode.domain.routing.destinations import Tls

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all of this kind
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def server_context(certificate: str, key: str, authorities: str = "", minimum: str = "1.2") -> ssl.SSLContext:
    """What a TLS port needs. Raises SettingsError where a file cannot be used.

    Args:
        certificate: PEM file with the node's certificate and those between it and its authority.
        key: PEM file with its private key, without passphrase.
        authorities: PEM file; where given, a peer needs a certificate one of these has signed.
        minimum: `1.2` or `1.3`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[minimum]
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # A stream that just ends is no end to be trusted in DICOM either, and an A-ABORT may still go the other way.
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as fault:
        raise SettingsError(
            f"RADNODE_TLS_CERT={certificate}, RADNODE_TLS_KEY={key}: {words(fault)}",
            remedy="name a PEM file with the certificate chain, and one with its key, without passphrase",
        ) from None
    if authorities:
        try:
            context.load_verify_locations(authorities)
        except (OSError, ValueError) as fault:
            raise SettingsError(
                f"RADNODE_TLS_CA={authorities}: {words(fault)}", remedy="name a PEM file with the authorities of peers"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_password() -> str:
    raise ValueError("the key has a passphrase")


def client_context(files: Tls) -> ssl.SSLContext:
    """For calling a peer, whose certificate has to name its host. Raises PeerError where a file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=files.ca or None)
        if files.cert:
            context.load_cert_chain(files.cert, files.key, password=_no_password)
    except (OSError, ValueError) as fault:
        named = ", ".join(filter(None, (files.ca, files.cert, files.key)))
        raise PeerError(f"{named}: {words(fault)}", remedy="correct `tls` in routing.yaml, or the files") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    return context


def words(fault: Exception) -> str:
    if isinstance(fault, ssl.SSLError):
        return (fault.reason or str(fault)).replace("_", " ").lower()
    return fault.strerror or str(fault) if isinstance(fault, OSError) else str(fault)


def serve(sock: socket.socket, address: str, policy: Policy, node: acceptor.Node) -> None:
    """As `acceptor.serve`, after a handshake that has to be complete within the policy's request time-out."""
    assert policy.tls is not None  # or there would be no port for it
    with sock:  # stays open beside TLS' own, which can so be ended from outside
        try:
            secured = _shake_hands(sock.dup(), policy.tls, policy.request_timeout)
        except (ssl.SSLEOFError, ConnectionError):
            return  # a probe that only opens and closes
        except OSError as fault:
            node.rejected("", address, HANDSHAKE_FAILED, words(fault))
            return
        if policy.tls_match_aet:
            policy = _matched(policy, names(secured))
        acceptor.serve(secured, address, policy, node)


def _shake_hands(sock: socket.socket, context: ssl.SSLContext, timeout: float) -> ssl.SSLSocket:
    secured = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    try:
        secured.settimeout(timeout)
        secured.do_handshake()
    except BaseException:
        secured.close()
        raise
    return secured


def _matched(policy: Policy, known: frozenset[str]) -> Policy:
    """The policy for a peer whose certificate has these names."""
    return replace(policy, allowed=lambda aet, address: aet in known and policy.allowed(aet, address))


def names(sock: ssl.SSLSocket) -> frozenset[str]:
    """Whom the peer's certificate names: its CN, DNS names, and the last part of its URIs; empty without one."""
    certificate: dict[str, Any] = sock.getpeercert() or {}
    found = {value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"}
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "DNS":
            found.add(value)
        elif kind == "URI":
            found.add(value.replace(":", "/").rpartition("/")[2])
    return frozenset(found)
