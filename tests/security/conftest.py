"""A consortium in memory: an authority, a server and sites, made at a time of choice."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization

from adpfl.security.certificates import (
    CertificateAuthority,
    Holder,
    create_authority,
    create_request,
    issue_client_certificate,
    issue_server_certificate,
    new_key,
)
from adpfl.security.identity import CallerIdentity, ServerIdentity


class Consortium:
    """Issues whatever a test needs; TLS itself reads the real clock, so the default time is the real one."""

    def __init__(self, name: str, now: datetime):
        self.now = now
        self.authority: CertificateAuthority = create_authority(name, now=now - timedelta(days=1000))

    def server(self, *hosts: str) -> ServerIdentity:
        key = new_key()
        names = hosts or ("localhost", "127.0.0.1")
        certificate = issue_server_certificate(self.authority, key.public_key(), names, now=self.now)
        return ServerIdentity(self.authority.certificate, certificate, key)

    def site(
        self, name: str, *, issued: datetime | None = None, lifetime: timedelta = timedelta(days=1)
    ) -> CallerIdentity:
        key = new_key()
        request = create_request(key, name).public_bytes(serialization.Encoding.DER)
        certificate = issue_client_certificate(
            self.authority, request, Holder("site", name), now=issued or self.now, lifetime=lifetime
        )
        return CallerIdentity(
            holder=Holder("site", name),
            authority=self.authority.certificate,
            certificate=certificate,
            server_certificate=self.server().certificate,
            address="localhost:1",
            key=key,
        )


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def found(now) -> Callable[[str], Consortium]:
    """Found a consortium of this name."""
    return lambda name: Consortium(name, now)


@pytest.fixture
def consortium(found) -> Consortium:
    return found("Lesion Study")
