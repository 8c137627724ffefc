"""Messages of the Identity and Operations services: renewal, status, control of runs, the audit log.

As in `adpfl.wire.messages`, `from_wire` checks what a peer sent, `to_wire` what we are about to send; both
raise `ProtocolError` with the name of the field.
"""

from dataclasses import dataclass, field
from enum import IntEnum

from adpfl.security.certificates import Role
from adpfl.wire import limits
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire.messages import RunStatus, check_chain, check_role


class RunControl(IntEnum):
    """What an operator may do to a run."""

    PAUSE = 1
    RESUME = 2
    CANCEL = 3


@dataclass(frozen=True, slots=True)
class RenewRequest:
    """A certificate signing request (PKCS#10, DER) for the caller's next key."""

    certificate_signing_request: bytes = field(repr=False)

    def __post_init__(self) -> None:
        limits.check_size(
            "RenewRequest.certificate_signing_request",
            self.certificate_signing_request,
            limits.CERTIFICATE_REQUEST_BYTES,
            least=1,
        )

    @classmethod
    def from_wire(cls, message: pb.RenewRequest) -> "RenewRequest":
        """Validate a received message."""
        return cls(message.certificate_signing_request)

    def to_wire(self) -> pb.RenewRequest:
        """The message to send."""
        return pb.RenewRequest(certificate_signing_request=self.certificate_signing_request)


@dataclass(frozen=True, slots=True)
class RenewResponse:
    """The new certificate chain, PEM, leaf first; or that the request waits for the authority."""

    certificate_chain: bytes
    awaits_signature: bool = False
    """Then the chain is empty."""

    def __post_init__(self) -> None:
        check_chain("RenewResponse.certificate_chain", self.certificate_chain, absent=self.awaits_signature)

    @classmethod
    def from_wire(cls, message: pb.RenewResponse) -> "RenewResponse":
        """Validate a received message."""
        return cls(message.certificate_chain, message.awaits_signature)

    def to_wire(self) -> pb.RenewResponse:
        """The message to send."""
        return pb.RenewResponse(
            certificate_chain=self.certificate_chain, awaits_signature=self.awaits_signature
        )


@dataclass(frozen=True, slots=True)
class GetStatusRequest:
    """Which run is asked about; None for all."""

    run: str | None

    def __post_init__(self) -> None:
        if self.run is not None:
            limits.check_name("GetStatusRequest.run", self.run)

    @classmethod
    def from_wire(cls, message: pb.GetStatusRequest) -> "GetStatusRequest":
        """Validate a received message."""
        return cls(message.run or None)

    def to_wire(self) -> pb.GetStatusRequest:
        """The message to send."""
        return pb.GetStatusRequest(run=self.run or "")


@dataclass(frozen=True, slots=True)
class ControlRunRequest:
    """What is to be done to a run, and why."""

    run: str
    control: RunControl
    reason: str

    def __post_init__(self) -> None:
        limits.check_name("ControlRunRequest.run", self.run)
        limits.check_text("ControlRunRequest.reason", self.reason)

    @classmethod
    def from_wire(cls, message: pb.ControlRunRequest) -> "ControlRunRequest":
        """Validate a received message."""
        control = limits.enum_from_wire("ControlRunRequest.control", RunControl, message.control)
        return cls(message.run, control, message.reason)

    def to_wire(self) -> pb.ControlRunRequest:
        """The message to send."""
        return pb.ControlRunRequest(
            run=self.run, control=f"RUN_CONTROL_{self.control.name}", reason=self.reason
        )


@dataclass(frozen=True, slots=True)
class ControlRunResponse:
    """Where the run stands now."""

    status: RunStatus

    @classmethod
    def from_wire(cls, message: pb.ControlRunResponse) -> "ControlRunResponse":
        """Validate a received message."""
        return cls(limits.enum_from_wire("ControlRunResponse.status", RunStatus, message.status))

    def to_wire(self) -> pb.ControlRunResponse:
        """The message to send."""
        return pb.ControlRunResponse(status=f"RUN_STATUS_{self.status.name}")


@dataclass(frozen=True, slots=True)
class RevokeRequest:
    """Whom to shut out."""

    role: Role
    name: str

    def __post_init__(self) -> None:
        check_role("RevokeRequest.role", self.role)
        limits.check_name("RevokeRequest.name", self.name)

    @classmethod
    def from_wire(cls, message: pb.RevokeRequest) -> "RevokeRequest":
        """Validate a received message."""
        return cls(check_role("RevokeRequest.role", message.role), message.name)

    def to_wire(self) -> pb.RevokeRequest:
        """The message to send."""
        return pb.RevokeRequest(role=self.role, name=self.name)


@dataclass(frozen=True, slots=True)
class ReadAuditLogRequest:
    """Entries after this sequence number are wanted."""

    after: int

    def __post_init__(self) -> None:
        limits.check_range("ReadAuditLogRequest.after", self.after, 0, 2**63 - 1)

    @classmethod
    def from_wire(cls, message: pb.ReadAuditLogRequest) -> "ReadAuditLogRequest":
        """Validate a received message."""
        return cls(message.after)

    def to_wire(self) -> pb.ReadAuditLogRequest:
        """The message to send."""
        return pb.ReadAuditLogRequest(after=self.after)
