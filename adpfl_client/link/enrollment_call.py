"""The one call of an enrolment: a token and a signing request to a certificate, over the enrolment port."""

import grpc
from cryptography import x509

from adpfl.errors import IdentityError, ProtocolError
from adpfl.security.bundle import EnrollmentBundle
from adpfl.security.identity import load_certificate
from adpfl.security.tls import ENROLLMENT_CHANNEL_OPTIONS, enrollment_channel_credentials
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc
from adpfl.wire.limits import shown_text
from adpfl.wire.messages import EnrollRequest, EnrollResponse
from adpfl_client.link.proxy import Route

ENROLL_TIMEOUT_SECONDS = 30.0


class UnreachableError(IdentityError):
    """The server cannot be reached or cannot answer now; the same command may be repeated."""


def ask_for_certificate(
    bundle: EnrollmentBundle, authority: x509.Certificate, request: bytes, route: Route
) -> x509.Certificate | None:
    """Ask once for the certificate.

    Args:
        bundle: the operator's.
        authority: whose servers are trusted with the token.
        request: PKCS#10, DER.
        route: how to dial.

    Returns:
        The certificate, unchecked; None while the request waits for an authority that is kept offline.

    Raises:
        IdentityError: the server is another consortium's, refuses, or answers with no certificate.
        UnreachableError: it cannot be reached or cannot answer.
    """
    credentials = enrollment_channel_credentials(authority)
    where = bundle.enroll_address
    try:
        asked = EnrollRequest(bundle.role, bundle.name, bundle.token.get_secret_value(), request)
        with grpc.secure_channel(
            where, credentials, (*ENROLLMENT_CHANNEL_OPTIONS, *route.options)
        ) as channel:
            stub = federation_pb2_grpc.EnrollmentStub(channel)  # type: ignore[no-untyped-call]
            message = stub.Enroll(asked.to_wire(), timeout=ENROLL_TIMEOUT_SECONDS)
        answer = EnrollResponse.from_wire(message)
    except grpc.RpcError as error:
        raise _explained(error, bundle, route) from error
    except ProtocolError as error:
        raise IdentityError(f"enrolment at {where}: {error}") from error
    if answer.awaits_signature:
        return None
    return load_certificate(answer.certificate_chain, what=f"answer of {where}")


def _explained(error: grpc.RpcError, bundle: EnrollmentBundle, route: Route) -> IdentityError:
    """Put a failed call into words that say what to do; gRPC reports a TLS failure as text alone."""
    where = f"enrolment at {bundle.enroll_address}"
    details = shown_text(" ".join((error.details() or "no details").split()))
    through = f"; dialled through the proxy {route.proxy}" if route.proxy else ""
    if error.code() is grpc.StatusCode.PERMISSION_DENIED:
        return IdentityError(
            f"{where}: refused; the bundle's token has ended or was used with another key; "
            "ask the operator for a new bundle"
        )
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return IdentityError(
            f"{where}: the server's certificate is expired or not signed by the certificate authority of "
            f"{bundle.consortium!r}; nothing was sent{through}"
        )
    if "Hostname Verification" in details:
        return IdentityError(
            f"{where}: the server's certificate is for another address; nothing was sent{through}"
        )
    if route.refused(details):
        return IdentityError(f"{where}: {route.explained(details)}")
    return UnreachableError(
        f"{where}: the server cannot be reached or cannot answer: {route.explained(details)} "
        "(repeat the command later)"
    )
