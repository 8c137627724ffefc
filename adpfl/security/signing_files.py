"""What is carried between the server and an offline authority: requests out, certificates back.

Both files are canonical JSON (sorted keys, compact, ASCII, one line feed at the end) with PEM inside, so that
a file has one form and one hash, and whoever carries it can read it. Nothing in them is secret. Nothing in
them is trusted either: the authority's side verifies each request's signature by its own key and shows a
person whom it names; the server checks each certificate against the request that it kept.
"""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from adpfl.config import FrozenModel, parse
from adpfl.errors import ConfigError, IdentityError
from adpfl.security.certificates import HOSTS_PER_SERVER, Holder, Role, names_of_hosts
from adpfl.security.private_files import MAX_FILE_BYTES, read_public, sync_folder

REQUESTS_PER_FILE: Final = 500
"""Requests that one file carries; certificates for them fit in a file too."""

Purpose = Literal["enrolment", "renewal"]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RequestPem = Annotated[str, StringConstraints(max_length=12_288)]
CertificatePem = Annotated[
    str, StringConstraints(pattern=r"^-----BEGIN CERTIFICATE-----\n", max_length=16_384)
]
Host = Annotated[str, StringConstraints(min_length=1, max_length=253)]

_BEGIN, _END = "-----BEGIN CERTIFICATE REQUEST-----\n", "-----END CERTIFICATE REQUEST-----\n"
_PEM_LINE = 64


def request_to_pem(request: bytes) -> str:
    """A signing request (DER) as PEM; its very bytes, parsed by nobody."""
    text = base64.b64encode(request).decode("ascii")
    lines = [text[start : start + _PEM_LINE] for start in range(0, len(text), _PEM_LINE)]
    return _BEGIN + "".join(f"{line}\n" for line in lines) + _END


class SigningRequest(FrozenModel):
    """One key that wants a certificate, for the server or for one caller."""

    request_sha256: Digest
    """Of the request in DER: its name."""
    role: Role | Literal["server"]
    name: Annotated[str, StringConstraints(max_length=63)] = ""
    """The caller's; empty for the server."""
    hosts: Annotated[tuple[Host, ...], Field(max_length=HOSTS_PER_SERVER)] = ()
    """What sites dial; of the server's alone."""
    purpose: Purpose
    request_pem: RequestPem
    asked_at: AwareDatetime

    @model_validator(mode="after")
    def _check_subject(self) -> Self:
        try:
            if self.role == "server":
                names_of_hosts(self.hosts)
            else:
                Holder(self.role, self.name)
        except IdentityError as error:
            raise ValueError(str(error)) from error
        if (self.role == "server" and self.name) or (self.role != "server" and self.hosts):
            raise ValueError("a server has hosts and no name, a caller a name and no hosts")
        if hashlib.sha256(self.request_der).hexdigest() != self.request_sha256:
            raise ValueError(f"request_sha256 is {self.request_sha256}; is not that of request_pem")
        return self

    @property
    def holder(self) -> Holder | None:
        """Whom the certificate will name; None for the server."""
        return None if self.role == "server" else Holder(self.role, self.name)

    @property
    def request_der(self) -> bytes:
        """The request as its caller sent it; PKCS#10 only once `public_key_of_request` has said so."""
        body = self.request_pem.removeprefix(_BEGIN).removesuffix(_END).replace("\n", "")
        try:
            request = base64.b64decode(body, validate=True)
        except ValueError:
            request = b""
        if not request or request_to_pem(request) != self.request_pem:
            raise ValueError("request_pem must be one certificate request in PEM")
        return request

    @property
    def words(self) -> str:
        """The subject as messages name it."""
        return f"server at {', '.join(self.hosts)}" if self.role == "server" else f"{self.role} {self.name}"


class RequestFile(FrozenModel):
    """What the server wants signed."""

    format: Literal["adpfl-signing-requests"] = "adpfl-signing-requests"
    version: Literal[1] = 1
    consortium: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    authority_sha256: Digest
    """Of the authority's certificate in DER: another authority refuses the file."""
    requests: Annotated[tuple[SigningRequest, ...], Field(min_length=1, max_length=REQUESTS_PER_FILE)]

    @model_validator(mode="after")
    def _check_once(self) -> Self:
        if len({request.request_sha256 for request in self.requests}) != len(self.requests):
            raise ValueError("a request stands twice; each may stand once")
        return self


class SignedCertificate(FrozenModel):
    """The answer to one request."""

    request_sha256: Digest
    certificate_pem: CertificatePem


class CertificateFile(FrozenModel):
    """What the authority signed."""

    format: Literal["adpfl-signed-certificates"] = "adpfl-signed-certificates"
    version: Literal[1] = 1
    authority_sha256: Digest
    certificates: Annotated[tuple[SignedCertificate, ...], Field(min_length=1, max_length=REQUESTS_PER_FILE)]


Carried = TypeVar("Carried", RequestFile, CertificateFile)


def canonical(carried: RequestFile | CertificateFile) -> bytes:
    """The one form of a file."""
    document = carried.model_dump(mode="json")
    return (
        json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii") + b"\n"
    )


def write_carried(path: Path, carried: RequestFile | CertificateFile) -> str:
    """Write a file, whole; returns its SHA-256, hexadecimal.

    Raises:
        IdentityError: it cannot be written, or is larger than a reader accepts.
    """
    data = canonical(carried)
    if len(data) > MAX_FILE_BYTES:
        raise IdentityError(f"{path}: would hold {len(data)} bytes; must be at most {MAX_FILE_BYTES}")
    partial = path.with_name(f".{path.name}.partial")
    try:
        # No mode is set: file systems of memory sticks refuse that.
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.absolute().parent)
    except OSError as error:
        raise IdentityError(f"{path}: cannot be written: {error.strerror or error}") from error
    return hashlib.sha256(data).hexdigest()


def read_carried(path: Path, kind: type[Carried]) -> Carried:
    """Read a file of requests or of certificates.

    Raises:
        IdentityError: it is absent, too large, not of this kind, breaks a rule, or is not in its one form.
    """
    data = read_public(path)
    try:
        document = json.loads(data)
        found = parse(document, kind, source=str(path))
    except (ValueError, RecursionError) as error:
        raise IdentityError(f"{path}: is not JSON") from error
    except ConfigError as error:
        raise IdentityError(str(error)) from error
    if canonical(found) != data:
        raise IdentityError(f"{path}: is not in its canonical form; was it edited on its way?")
    return found


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate in DER, hexadecimal."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def key_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of a public key (SubjectPublicKeyInfo, DER) in eight groups, to be compared by two people."""
    info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.sha256(info).hexdigest()
    return " ".join(digest[start : start + 8] for start in range(0, 64, 8))
