from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunControl(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_CONTROL_UNSPECIFIED: _ClassVar[RunControl]
    RUN_CONTROL_PAUSE: _ClassVar[RunControl]
    RUN_CONTROL_RESUME: _ClassVar[RunControl]
    RUN_CONTROL_CANCEL: _ClassVar[RunControl]

class RunStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATUS_UNSPECIFIED: _ClassVar[RunStatus]
    RUN_STATUS_WAITING: _ClassVar[RunStatus]
    RUN_STATUS_RUNNING: _ClassVar[RunStatus]
    RUN_STATUS_FINISHED: _ClassVar[RunStatus]
    RUN_STATUS_FAILED: _ClassVar[RunStatus]
    RUN_STATUS_PAUSED: _ClassVar[RunStatus]
    RUN_STATUS_CANCELLED: _ClassVar[RunStatus]

class TaskKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_KIND_UNSPECIFIED: _ClassVar[TaskKind]
    TASK_KIND_WAIT: _ClassVar[TaskKind]
    TASK_KIND_TRAIN: _ClassVar[TaskKind]
    TASK_KIND_FINISHED: _ClassVar[TaskKind]
    TASK_KIND_FAILED: _ClassVar[TaskKind]

class CommitOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMMIT_OUTCOME_UNSPECIFIED: _ClassVar[CommitOutcome]
    COMMIT_OUTCOME_ACCEPTED: _ClassVar[CommitOutcome]
    COMMIT_OUTCOME_LATE: _ClassVar[CommitOutcome]

class SiteActivity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SITE_ACTIVITY_UNSPECIFIED: _ClassVar[SiteActivity]
    SITE_ACTIVITY_IDLE: _ClassVar[SiteActivity]
    SITE_ACTIVITY_FETCHING: _ClassVar[SiteActivity]
    SITE_ACTIVITY_TRAINING: _ClassVar[SiteActivity]
    SITE_ACTIVITY_PUSHING: _ClassVar[SiteActivity]
    SITE_ACTIVITY_REFUSED: _ClassVar[SiteActivity]
    SITE_ACTIVITY_LEFT: _ClassVar[SiteActivity]
RUN_CONTROL_UNSPECIFIED: RunControl
RUN_CONTROL_PAUSE: RunControl
RUN_CONTROL_RESUME: RunControl
RUN_CONTROL_CANCEL: RunControl
RUN_STATUS_UNSPECIFIED: RunStatus
RUN_STATUS_WAITING: RunStatus
RUN_STATUS_RUNNING: RunStatus
RUN_STATUS_FINISHED: RunStatus
RUN_STATUS_FAILED: RunStatus
RUN_STATUS_PAUSED: RunStatus
RUN_STATUS_CANCELLED: RunStatus
TASK_KIND_UNSPECIFIED: TaskKind
TASK_KIND_WAIT: TaskKind
TASK_KIND_TRAIN: TaskKind
TASK_KIND_FINISHED: TaskKind
TASK_KIND_FAILED: TaskKind
COMMIT_OUTCOME_UNSPECIFIED: CommitOutcome
COMMIT_OUTCOME_ACCEPTED: CommitOutcome
COMMIT_OUTCOME_LATE: CommitOutcome
SITE_ACTIVITY_UNSPECIFIED: SiteActivity
SITE_ACTIVITY_IDLE: SiteActivity
SITE_ACTIVITY_FETCHING: SiteActivity
SITE_ACTIVITY_TRAINING: SiteActivity
SITE_ACTIVITY_PUSHING: SiteActivity
SITE_ACTIVITY_REFUSED: SiteActivity
SITE_ACTIVITY_LEFT: SiteActivity

class EnrollRequest(_message.Message):
    __slots__ = ("name", "token", "certificate_signing_request", "role")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_SIGNING_REQUEST_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    name: str
    token: str
    certificate_signing_request: bytes
    role: str
    def __init__(self, name: _Optional[str] = ..., token: _Optional[str] = ..., certificate_signing_request: _Optional[bytes] = ..., role: _Optional[str] = ...) -> None: ...

class EnrollResponse(_message.Message):
    __slots__ = ("certificate_chain", "awaits_signature")
    CERTIFICATE_CHAIN_FIELD_NUMBER: _ClassVar[int]
    AWAITS_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    certificate_chain: bytes
    awaits_signature: bool
    def __init__(self, certificate_chain: _Optional[bytes] = ..., awaits_signature: _Optional[bool] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("certificate_signing_request",)
    CERTIFICATE_SIGNING_REQUEST_FIELD_NUMBER: _ClassVar[int]
    certificate_signing_request: bytes
    def __init__(self, certificate_signing_request: _Optional[bytes] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("certificate_chain", "awaits_signature")
    CERTIFICATE_CHAIN_FIELD_NUMBER: _ClassVar[int]
    AWAITS_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    certificate_chain: bytes
    awaits_signature: bool
    def __init__(self, certificate_chain: _Optional[bytes] = ..., awaits_signature: _Optional[bool] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("runs_json",)
    RUNS_JSON_FIELD_NUMBER: _ClassVar[int]
    runs_json: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, runs_json: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ControlRunRequest(_message.Message):
    __slots__ = ("run", "control", "reason")
    RUN_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run: str
    control: RunControl
    reason: str
    def __init__(self, run: _Optional[str] = ..., control: _Optional[_Union[RunControl, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class ControlRunResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: RunStatus
    def __init__(self, status: _Optional[_Union[RunStatus, str]] = ...) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("role", "name")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class RevokeResponse(_message.Message):
    __slots__ = ("serials",)
    SERIALS_FIELD_NUMBER: _ClassVar[int]
    serials: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, serials: _Optional[_Iterable[str]] = ...) -> None: ...

class ReadAuditLogRequest(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: int
    def __init__(self, after: _Optional[int] = ...) -> None: ...

class AuditLogEntry(_message.Message):
    __slots__ = ("entry_json",)
    ENTRY_JSON_FIELD_NUMBER: _ClassVar[int]
    entry_json: bytes
    def __init__(self, entry_json: _Optional[bytes] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("site", "instance_id", "software_version", "run", "training_patients")
    class TrainingPatientsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SITE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    TRAINING_PATIENTS_FIELD_NUMBER: _ClassVar[int]
    site: str
    instance_id: str
    software_version: str
    run: str
    training_patients: _containers.ScalarMap[str, int]
    def __init__(self, site: _Optional[str] = ..., instance_id: _Optional[str] = ..., software_version: _Optional[str] = ..., run: _Optional[str] = ..., training_patients: _Optional[_Mapping[str, int]] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("runs", "server_version", "server_instance_id", "newest_receipt")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    NEWEST_RECEIPT_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[RunOffer]
    server_version: str
    server_instance_id: str
    newest_receipt: SignedReceipt
    def __init__(self, runs: _Optional[_Iterable[_Union[RunOffer, _Mapping]]] = ..., server_version: _Optional[str] = ..., server_instance_id: _Optional[str] = ..., newest_receipt: _Optional[_Union[SignedReceipt, _Mapping]] = ...) -> None: ...

class RunOffer(_message.Message):
    __slots__ = ("run", "plan_json", "plan_digest", "status")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PLAN_JSON_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    run: str
    plan_json: bytes
    plan_digest: bytes
    status: RunStatus
    def __init__(self, run: _Optional[str] = ..., plan_json: _Optional[bytes] = ..., plan_digest: _Optional[bytes] = ..., status: _Optional[_Union[RunStatus, str]] = ...) -> None: ...

class NextTaskRequest(_message.Message):
    __slots__ = ("run", "wait_seconds")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    run: str
    wait_seconds: int
    def __init__(self, run: _Optional[str] = ..., wait_seconds: _Optional[int] = ...) -> None: ...

class NextTaskResponse(_message.Message):
    __slots__ = ("kind", "round", "base_digest", "wait_hint_seconds", "detail")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WAIT_HINT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    kind: TaskKind
    round: int
    base_digest: bytes
    wait_hint_seconds: int
    detail: str
    def __init__(self, kind: _Optional[_Union[TaskKind, str]] = ..., round: _Optional[int] = ..., base_digest: _Optional[bytes] = ..., wait_hint_seconds: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("tensors", "chunk_size", "chunk_digests")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SIZE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    chunk_size: int
    chunk_digests: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, tensors: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., chunk_size: _Optional[int] = ..., chunk_digests: _Optional[_Iterable[bytes]] = ...) -> None: ...

class HaveRequest(_message.Message):
    __slots__ = ("run", "object_digest", "held_digests")
    RUN_FIELD_NUMBER: _ClassVar[int]
    OBJECT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    HELD_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    run: str
    object_digest: bytes
    held_digests: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, run: _Optional[str] = ..., object_digest: _Optional[bytes] = ..., held_digests: _Optional[_Iterable[bytes]] = ...) -> None: ...

class HaveResponse(_message.Message):
    __slots__ = ("manifest", "missing")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    manifest: Manifest
    missing: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, manifest: _Optional[_Union[Manifest, _Mapping]] = ..., missing: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("run", "object_digest", "digests")
    RUN_FIELD_NUMBER: _ClassVar[int]
    OBJECT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    run: str
    object_digest: bytes
    digests: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, run: _Optional[str] = ..., object_digest: _Optional[bytes] = ..., digests: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FetchResponse(_message.Message):
    __slots__ = ("digest", "data")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    data: bytes
    def __init__(self, digest: _Optional[bytes] = ..., data: _Optional[bytes] = ...) -> None: ...

class OfferRequest(_message.Message):
    __slots__ = ("run", "round", "base_digest", "manifest")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    base_digest: bytes
    manifest: Manifest
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., base_digest: _Optional[bytes] = ..., manifest: _Optional[_Union[Manifest, _Mapping]] = ...) -> None: ...

class OfferResponse(_message.Message):
    __slots__ = ("missing",)
    MISSING_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, missing: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PushRequest(_message.Message):
    __slots__ = ("header", "chunk")
    class Header(_message.Message):
        __slots__ = ("run", "round", "update_digest")
        RUN_FIELD_NUMBER: _ClassVar[int]
        ROUND_FIELD_NUMBER: _ClassVar[int]
        UPDATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
        run: str
        round: int
        update_digest: bytes
        def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., update_digest: _Optional[bytes] = ...) -> None: ...
    class Chunk(_message.Message):
        __slots__ = ("digest", "data")
        DIGEST_FIELD_NUMBER: _ClassVar[int]
        DATA_FIELD_NUMBER: _ClassVar[int]
        digest: bytes
        data: bytes
        def __init__(self, digest: _Optional[bytes] = ..., data: _Optional[bytes] = ...) -> None: ...
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: PushRequest.Header
    chunk: PushRequest.Chunk
    def __init__(self, header: _Optional[_Union[PushRequest.Header, _Mapping]] = ..., chunk: _Optional[_Union[PushRequest.Chunk, _Mapping]] = ...) -> None: ...

class PushResponse(_message.Message):
    __slots__ = ("missing",)
    MISSING_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, missing: _Optional[_Iterable[bytes]] = ...) -> None: ...

class CommitUpdateRequest(_message.Message):
    __slots__ = ("run", "round", "base_digest", "update_digest", "ledger_head")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    UPDATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    LEDGER_HEAD_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    base_digest: bytes
    update_digest: bytes
    ledger_head: bytes
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., base_digest: _Optional[bytes] = ..., update_digest: _Optional[bytes] = ..., ledger_head: _Optional[bytes] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("run", "round", "site", "base_digest", "update_digest", "ledger_head", "outcome", "received_unix_millis")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    UPDATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    LEDGER_HEAD_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_UNIX_MILLIS_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    site: str
    base_digest: bytes
    update_digest: bytes
    ledger_head: bytes
    outcome: CommitOutcome
    received_unix_millis: int
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., site: _Optional[str] = ..., base_digest: _Optional[bytes] = ..., update_digest: _Optional[bytes] = ..., ledger_head: _Optional[bytes] = ..., outcome: _Optional[_Union[CommitOutcome, str]] = ..., received_unix_millis: _Optional[int] = ...) -> None: ...

class SignedReceipt(_message.Message):
    __slots__ = ("receipt", "signature")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    receipt: Receipt
    signature: bytes
    def __init__(self, receipt: _Optional[_Union[Receipt, _Mapping]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class CommitUpdateResponse(_message.Message):
    __slots__ = ("receipt", "signature")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    receipt: Receipt
    signature: bytes
    def __init__(self, receipt: _Optional[_Union[Receipt, _Mapping]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class ReportMetricsRequest(_message.Message):
    __slots__ = ("run", "round", "metrics")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ...) -> None: ...

class ReportMetricsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("run", "round", "activity", "steps_done", "steps_total", "detail")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    STEPS_DONE_FIELD_NUMBER: _ClassVar[int]
    STEPS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    activity: SiteActivity
    steps_done: int
    steps_total: int
    detail: str
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., activity: _Optional[_Union[SiteActivity, str]] = ..., steps_done: _Optional[int] = ..., steps_total: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("obsolete",)
    OBSOLETE_FIELD_NUMBER: _ClassVar[int]
    obsolete: bool
    def __init__(self, obsolete: _Optional[bool] = ...) -> None: ...
