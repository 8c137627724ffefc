"""Control messages: protobuf converted once, at the edge, into validated dataclasses.

`from_wire` checks what a peer sent, `to_wire` what we are about to send. Both raise `ProtocolError` with the
name of the field. Bulk transfer is in `transfers`, the signed receipt in `receipts`.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

from adpfl.errors import ProtocolError
from adpfl.security.certificates import ROLES, Role
from adpfl.wire import limits
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire.receipts import SignedReceipt


class RunStatus(IntEnum):
    """Where a run stands."""

    WAITING = 1
    RUNNING = 2
    FINISHED = 3
    FAILED = 4
    PAUSED = 5
    CANCELLED = 6


class TaskKind(IntEnum):
    """What a site is asked to do next."""

    WAIT = 1
    TRAIN = 2
    FINISHED = 3
    FAILED = 4


class SiteActivity(IntEnum):
    """What a site says it is doing."""

    IDLE = 1
    FETCHING = 2
    TRAINING = 3
    PUSHING = 4
    REFUSED = 5
    LEFT = 6


def check_chain(field_name: str, chain: bytes, *, absent: bool) -> None:
    """Refuse a certificate chain that is too long, is missing, or stands where there must be none.

    Raises:
        ProtocolError: the length is wrong.
    """
    most = 0 if absent else limits.CERTIFICATE_CHAIN_BYTES
    limits.check_size(field_name, chain, most, least=min(1, most))


@dataclass(frozen=True, slots=True)
class EnrollRequest:
    """A one-time token and a certificate signing request (PKCS#10, DER)."""

    role: Role
    name: str
    token: str = field(repr=False)
    certificate_signing_request: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check_role("EnrollRequest.role", self.role)
        limits.check_name("EnrollRequest.name", self.name)
        limits.check_text("EnrollRequest.token", self.token, limit=limits.TOKEN_BYTES)
        limits.check_size(
            "EnrollRequest.certificate_signing_request",
            self.certificate_signing_request,
            limits.CERTIFICATE_REQUEST_BYTES,
            least=1,
        )

    @classmethod
    def from_wire(cls, message: pb.EnrollRequest) -> "EnrollRequest":
        """Validate a received message."""
        role = check_role("EnrollRequest.role", message.role or "site")
        return cls(role, message.name, message.token, message.certificate_signing_request)

    def to_wire(self) -> pb.EnrollRequest:
        """The message to send."""
        return pb.EnrollRequest(
            role=self.role,
            name=self.name,
            token=self.token,
            certificate_signing_request=self.certificate_signing_request,
        )


@dataclass(frozen=True, slots=True)
class EnrollResponse:
    """The client certificate chain, PEM, leaf first; or that the request waits for the authority."""

    certificate_chain: bytes
    awaits_signature: bool = False
    """Then the chain is empty."""

    def __post_init__(self) -> None:
        check_chain("EnrollResponse.certificate_chain", self.certificate_chain, absent=self.awaits_signature)

    @classmethod
    def from_wire(cls, message: pb.EnrollResponse) -> "EnrollResponse":
        """Validate a received message."""
        return cls(message.certificate_chain, message.awaits_signature)

    def to_wire(self) -> pb.EnrollResponse:
        """The message to send."""
        return pb.EnrollResponse(
            certificate_chain=self.certificate_chain, awaits_signature=self.awaits_signature
        )


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """An agent declares itself and its public patient counts, by task."""

    site: str
    instance_id: str
    software_version: str
    run: str | None
    """None asks about all runs that name the site."""
    training_patients: Mapping[str, int]

    def __post_init__(self) -> None:
        limits.check_name("JoinRequest.site", self.site)
        limits.check_instance_id("JoinRequest.instance_id", self.instance_id)
        limits.check_text("JoinRequest.software_version", self.software_version)
        if self.run is not None:
            limits.check_name("JoinRequest.run", self.run)
        limits.check_size("JoinRequest.training_patients", self.training_patients, limits.TASKS_PER_JOIN)
        for task, patients in self.training_patients.items():
            limits.check_name("JoinRequest.training_patients key", task)
            limits.check_range(f"JoinRequest.training_patients[{task}]", patients, 1, 2**32 - 1)
        object.__setattr__(self, "training_patients", MappingProxyType(dict(self.training_patients)))

    @classmethod
    def from_wire(cls, message: pb.JoinRequest) -> "JoinRequest":
        """Validate a received message."""
        limits.check_size("JoinRequest.training_patients", message.training_patients, limits.TASKS_PER_JOIN)
        return cls(
            site=message.site,
            instance_id=message.instance_id,
            software_version=message.software_version,
            run=message.run or None,
            training_patients=dict(message.training_patients),
        )

    def to_wire(self) -> pb.JoinRequest:
        """The message to send."""
        return pb.JoinRequest(
            site=self.site,
            instance_id=self.instance_id,
            software_version=self.software_version,
            run=self.run or "",
            training_patients=dict(self.training_patients),
        )


@dataclass(frozen=True, slots=True)
class RunOffer:
    """A run that names the site. `plan_json` is the very document that the site approves."""

    run: str
    plan_json: bytes
    plan_digest: str
    status: RunStatus

    def __post_init__(self) -> None:
        limits.check_name("RunOffer.run", self.run)
        limits.check_size("RunOffer.plan_json", self.plan_json, limits.PLAN_BYTES, least=2)
        limits.check_digest("RunOffer.plan_digest", self.plan_digest)
        if hashlib.sha256(self.plan_json).hexdigest() != self.plan_digest:
            raise ProtocolError(f"RunOffer.plan_digest of run {self.run} is not the SHA-256 of plan_json")

    @classmethod
    def from_wire(cls, message: pb.RunOffer) -> "RunOffer":
        """Validate a received message."""
        return cls(
            run=message.run,
            plan_json=message.plan_json,
            plan_digest=limits.digest_from_wire("RunOffer.plan_digest", message.plan_digest),
            status=limits.enum_from_wire("RunOffer.status", RunStatus, message.status),
        )

    def to_wire(self) -> pb.RunOffer:
        """The message to send."""
        return pb.RunOffer(
            run=self.run,
            plan_json=self.plan_json,
            plan_digest=bytes.fromhex(self.plan_digest),
            status=f"RUN_STATUS_{self.status.name}",
        )


@dataclass(frozen=True, slots=True)
class JoinResponse:
    """The runs that name the site, which start of the server answers, and what it remembers of the ledger."""

    runs: tuple[RunOffer, ...]
    server_version: str
    server_instance_id: str
    newest_receipt: SignedReceipt | None = None
    """Of the site's newest commit that carried a ledger head; None where there is none."""

    def __post_init__(self) -> None:
        limits.check_text("JoinResponse.server_version", self.server_version)
        limits.check_instance_id("JoinResponse.server_instance_id", self.server_instance_id)

    @classmethod
    def from_wire(cls, message: pb.JoinResponse) -> "JoinResponse":
        """Validate a received message."""
        return cls(
            runs=tuple(RunOffer.from_wire(offer) for offer in message.runs),
            server_version=message.server_version,
            server_instance_id=message.server_instance_id,
            newest_receipt=SignedReceipt.from_wire(message.newest_receipt)
            if message.HasField("newest_receipt")
            else None,
        )

    def to_wire(self) -> pb.JoinResponse:
        """The message to send."""
        return pb.JoinResponse(
            runs=[offer.to_wire() for offer in self.runs],
            server_version=self.server_version,
            server_instance_id=self.server_instance_id,
            newest_receipt=self.newest_receipt.to_wire() if self.newest_receipt else None,
        )


@dataclass(frozen=True, slots=True)
class NextTaskRequest:
    """Ask what to do in a run; the server may hold the answer back for `wait_seconds`."""

    run: str
    wait_seconds: int

    def __post_init__(self) -> None:
        limits.check_name("NextTaskRequest.run", self.run)
        limits.check_range("NextTaskRequest.wait_seconds", self.wait_seconds, 0, limits.WAIT_SECONDS)

    @classmethod
    def from_wire(cls, message: pb.NextTaskRequest) -> "NextTaskRequest":
        """Validate a received message."""
        return cls(message.run, message.wait_seconds)

    def to_wire(self) -> pb.NextTaskRequest:
        """The message to send."""
        return pb.NextTaskRequest(run=self.run, wait_seconds=self.wait_seconds)


@dataclass(frozen=True, slots=True)
class NextTaskResponse:
    """The task. `base_digest` is set for TRAIN and FINISHED, `round` counts from 1."""

    kind: TaskKind
    round: int = 0
    base_digest: str | None = None
    wait_hint_seconds: int = 0
    detail: str = ""

    def __post_init__(self) -> None:
        limits.check_text("NextTaskResponse.detail", self.detail)
        if self.kind is TaskKind.TRAIN:
            limits.check_range("NextTaskResponse.round", self.round, 1, limits.ROUND_MAX)
        if self.base_digest is not None:
            limits.check_digest("NextTaskResponse.base_digest", self.base_digest)
        elif self.kind in {TaskKind.TRAIN, TaskKind.FINISHED}:
            raise ProtocolError(f"NextTaskResponse.base_digest is absent; a task {self.kind.name} needs it")

    @classmethod
    def from_wire(cls, message: pb.NextTaskResponse) -> "NextTaskResponse":
        """Validate a received message."""
        raw = message.base_digest
        return cls(
            kind=limits.enum_from_wire("NextTaskResponse.kind", TaskKind, message.kind),
            round=message.round,
            base_digest=limits.digest_from_wire("NextTaskResponse.base_digest", raw) if raw else None,
            wait_hint_seconds=message.wait_hint_seconds,
            detail=message.detail,
        )

    def to_wire(self) -> pb.NextTaskResponse:
        """The message to send."""
        return pb.NextTaskResponse(
            kind=f"TASK_KIND_{self.kind.name}",
            round=self.round,
            base_digest=bytes.fromhex(self.base_digest or ""),
            wait_hint_seconds=self.wait_hint_seconds,
            detail=self.detail,
        )


@dataclass(frozen=True, slots=True)
class ReportMetricsRequest:
    """Metrics of a round, by name; finite numbers."""

    run: str
    round: int
    metrics: Mapping[str, float]

    def __post_init__(self) -> None:
        limits.check_name("ReportMetricsRequest.run", self.run)
        limits.check_range("ReportMetricsRequest.round", self.round, 0, limits.ROUND_MAX)
        limits.check_size("ReportMetricsRequest.metrics", self.metrics, limits.METRICS_PER_REPORT)
        for name, value in self.metrics.items():
            limits.check_text("ReportMetricsRequest.metrics.name", name, limit=limits.TENSOR_NAME_BYTES)
            if not math.isfinite(value):
                raise ProtocolError(f"ReportMetricsRequest.metrics.{name[:60]} is {value}; must be finite")
        object.__setattr__(self, "metrics", MappingProxyType(dict(self.metrics)))

    @classmethod
    def from_wire(cls, message: pb.ReportMetricsRequest) -> "ReportMetricsRequest":
        """Validate a received message."""
        limits.check_size("ReportMetricsRequest.metrics", message.metrics, limits.METRICS_PER_REPORT)
        metrics = {metric.name: metric.value for metric in message.metrics}
        if len(metrics) != len(message.metrics):
            raise ProtocolError("ReportMetricsRequest.metrics names a metric twice; each may stand once")
        return cls(message.run, message.round, metrics)

    def to_wire(self) -> pb.ReportMetricsRequest:
        """The message to send."""
        metrics = [pb.Metric(name=name, value=value) for name, value in self.metrics.items()]
        return pb.ReportMetricsRequest(run=self.run, round=self.round, metrics=metrics)


@dataclass(frozen=True, slots=True)
class HeartbeatRequest:
    """What a site is doing. `detail` names the rule when `activity` is REFUSED."""

    run: str
    round: int
    activity: SiteActivity
    steps_done: int = 0
    steps_total: int = 0
    detail: str = ""

    def __post_init__(self) -> None:
        limits.check_name("HeartbeatRequest.run", self.run)
        limits.check_range("HeartbeatRequest.round", self.round, 0, limits.ROUND_MAX)
        limits.check_range("HeartbeatRequest.steps_total", self.steps_total, 0, 2**32 - 1)
        limits.check_range("HeartbeatRequest.steps_done", self.steps_done, 0, self.steps_total)
        limits.check_text("HeartbeatRequest.detail", self.detail)

    @classmethod
    def from_wire(cls, message: pb.HeartbeatRequest) -> "HeartbeatRequest":
        """Validate a received message."""
        return cls(
            run=message.run,
            round=message.round,
            activity=limits.enum_from_wire("HeartbeatRequest.activity", SiteActivity, message.activity),
            steps_done=message.steps_done,
            steps_total=message.steps_total,
            detail=message.detail,
        )

    def to_wire(self) -> pb.HeartbeatRequest:
        """The message to send."""
        return pb.HeartbeatRequest(
            run=self.run,
            round=self.round,
            activity=f"SITE_ACTIVITY_{self.activity.name}",
            steps_done=self.steps_done,
            steps_total=self.steps_total,
            detail=self.detail,
        )


@dataclass(frozen=True, slots=True)
class HeartbeatResponse:
    """Whether the round is closed or the run over, so that training may stop."""

    obsolete: bool

    @classmethod
    def from_wire(cls, message: pb.HeartbeatResponse) -> "HeartbeatResponse":
        """Validate a received message."""
        return cls(message.obsolete)

    def to_wire(self) -> pb.HeartbeatResponse:
        """The message to send."""
        return pb.HeartbeatResponse(obsolete=self.obsolete)


def check_role(field_name: str, role: str) -> Role:
    """Return a role that this version knows.

    Raises:
        ProtocolError: it is none of `ROLES`.
    """
    if role not in ROLES:
        raise ProtocolError(f"{field_name} is {role[:80]!r}; must be one of {', '.join(ROLES)}")
    return role
