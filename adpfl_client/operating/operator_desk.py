"""The calls of operators and auditors, over their own mutually authenticated channel."""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc

from adpfl.errors import IntegrityError, StateError
from adpfl.security.audit_chain import AuditEntry, Head, head_of, parse_entry
from adpfl.security.certificates import Role
from adpfl.security.identity import CallerIdentity
from adpfl.security.private_files import replace_file
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc
from adpfl.wire.limits import shown_text
from adpfl.wire.operations import (
    ControlRunRequest,
    ControlRunResponse,
    GetStatusRequest,
    ReadAuditLogRequest,
    RenewRequest,
    RenewResponse,
    RevokeRequest,
    RunControl,
)
from adpfl_client.link.enrollment import PUBLIC_MODE, AwaitingSignatureError, enrolled_holder, load_identity
from adpfl_client.link.proxy import Route, environment_route
from adpfl_client.link.renewal import renew, renewal_due, signed_chain
from adpfl_client.link.running_identity import open_channel

CALL_SECONDS: Final = 30.0
Answer = TypeVar("Answer")


class Desk:
    """One operator's or auditor's channel; each call is made once."""

    def __init__(self, channel: grpc.Channel, route: Route) -> None:
        """Take over an open channel, which dials by this route."""
        self._channel = channel
        self._route = route
        self._operations: Any = rpc.OperationsStub(channel)  # type: ignore[no-untyped-call]
        self._identity: Any = rpc.IdentityStub(channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def status(self, run: str | None) -> list[str]:
        """One JSON document a run, in ASCII.

        Raises:
            StateError: the server refused, or cannot be reached.
            IntegrityError: it answered something else.
        """
        asked = GetStatusRequest(run).to_wire()
        answer = self._answered(lambda: self._operations.GetStatus(asked, timeout=CALL_SECONDS))
        return [_one_line(document) for document in answer.runs_json]

    def control(self, run: str, control: RunControl, reason: str) -> str:
        """Pause, resume or cancel; the run's status afterwards."""
        asked = ControlRunRequest(run, control, reason).to_wire()
        answer = self._answered(lambda: self._operations.ControlRun(asked, timeout=CALL_SECONDS))
        return ControlRunResponse.from_wire(answer).status.name.lower()

    def revoke(self, role: Role, name: str) -> tuple[str, ...]:
        """Shut somebody out; the serials that were revoked by this."""
        asked = RevokeRequest(role, name).to_wire()
        return tuple(self._answered(lambda: self._operations.Revoke(asked, timeout=CALL_SECONDS)).serials)

    def audit_log(self) -> list[AuditEntry]:
        """The whole log, from its first entry."""
        asked = ReadAuditLogRequest(0).to_wire()
        stream = self._answered(lambda: list(self._operations.ReadAuditLog(asked, timeout=10 * CALL_SECONDS)))
        return [parse_entry(message.entry_json, "the server's audit log") for message in stream]

    def renew(self, request: bytes) -> bytes:
        """The next certificate, for a signing request.

        Raises:
            AwaitingSignatureError: the request waits for an authority that is kept offline.
        """
        asked = RenewRequest(request).to_wire()
        answer = self._answered(lambda: self._identity.Renew(asked, timeout=CALL_SECONDS))
        return signed_chain(RenewResponse.from_wire(answer))

    def _answered(self, call: Callable[[], Answer]) -> Answer:
        """The answer, or the server's reason in one line.

        Raises:
            StateError: the server refused, or cannot be reached.
        """
        try:
            return call()
        except grpc.RpcError as error:
            details = shown_text(" ".join((error.details() or "no details").split()))
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                details = self._route.explained(details)
            raise StateError(f"the server answered {error.code().name}: {details}") from error


def _one_line(document: bytes) -> str:
    """A server's JSON written anew: escaped, it moves no cursor."""
    try:
        return json.dumps(json.loads(document))
    except (ValueError, RecursionError) as error:
        raise IntegrityError("the server's status is not JSON") from error


def open_desk(folder: Path) -> Desk:
    """Open the channel of whoever is enrolled in a folder; a certificate near its end is renewed on the way.

    Raises:
        IdentityError: nobody is enrolled there, or the identity cannot be used.
        ConfigError: the environment names a proxy that cannot be used.
    """
    now = datetime.now(UTC)
    identity: CallerIdentity = load_identity(folder, enrolled_holder(folder), now=now)
    route = environment_route()
    desk = Desk(open_channel(identity, route), route)
    if not renewal_due(identity, now):
        return desk
    with desk, suppress(AwaitingSignatureError):  # the certificate that is here works until its end
        identity = renew(folder, identity, desk.renew, now=now)
    return Desk(open_channel(identity, route), route)


def keep_audit_log(desk: Desk, path: Path) -> tuple[Head, int]:
    """Fetch the log into a file; returns its head and how many entries the file did not hold before.

    Raises:
        IntegrityError: the server's log does not begin with what the file holds; the file stays as it was.
    """
    fetched = desk.audit_log()
    head = head_of(fetched, source="the server's audit log")
    lines = [entry.canonical_json().decode("ascii") for entry in fetched]
    kept = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    if lines[: len(kept)] != kept:
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(kept, lines, strict=False)))
        raise IntegrityError(f"{path}: the server's audit log differs from it at entry {same + 1}")
    replace_file(path, "".join(f"{line}\n" for line in lines).encode("ascii"), mode=PUBLIC_MODE)
    return head, len(lines) - len(kept)
