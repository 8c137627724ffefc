"""The Identity and Operations services: what a caller does for its own certificate, and operators from afar.

Who may call what is the interceptor's business; nothing here asks for a role.
"""
# ruff: noqa: ARG002, N802 - the contract and gRPC's servicer give the names and the parameters

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import structlog

from adpfl.security.certificates import CertificateAuthority, Holder
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc
from adpfl.wire.messages import RunStatus
from adpfl.wire.operations import (
    ControlRunRequest,
    ControlRunResponse,
    GetStatusRequest,
    ReadAuditLogRequest,
    RenewRequest,
    RenewResponse,
    RevokeRequest,
)
from adpfl_server.identity import audit_log
from adpfl_server.identity.certificate_table import renew
from adpfl_server.interceptors import caller
from adpfl_server.limits.refusals import CallRefusedError, Code
from adpfl_server.operating.overview import status_document
from adpfl_server.rounds.steering import Steering
from adpfl_server.runner import Runner

ENTRIES_AT_ONCE: Final = 256
"""Entries of the audit log that are read in one turn of the database thread."""
_log = structlog.get_logger()


class IdentityService(rpc.IdentityServicer):
    """Renewal of a caller's own certificate."""

    def __init__(self, runner: Runner, authority: CertificateAuthority | None) -> None:
        """Serve renewals, signed by this authority; None keeps them for one whose key is offline."""
        self._runner = runner
        self._authority = authority

    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.RenewResponse:
        """Certify the caller's next key."""
        asked = RenewRequest.from_wire(request)
        peer = caller()
        pem = await self._runner.in_database(
            partial(
                renew,
                self._runner.store.connection,
                self._authority,
                holder=peer.holder,
                serial=peer.serial,
                request=asked.certificate_signing_request,
                now=datetime.fromtimestamp(self._runner.clock(), UTC),
            )
        )
        told = "renewal waits for a signature" if pem is None else "certificate renewed"
        _log.info(told, caller=str(peer.holder))
        return RenewResponse(pem or b"", awaits_signature=pem is None).to_wire()


class OperationsService(rpc.OperationsServicer):
    """What operators and auditors may do over the wire."""

    def __init__(self, runner: Runner, steering: Steering) -> None:
        """Serve operators.

        Args:
            runner: the runs.
            steering: carries out what they want.
        """
        self._runner = runner
        self._steering = steering

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        """Tell where runs stand."""
        asked = GetStatusRequest.from_wire(request)
        names = sorted(self._runner.states) if asked.run is None else [asked.run]
        documents = []
        for name in names:
            if name not in self._runner.states:
                raise CallRefusedError(Code.NOT_FOUND, f"there is no run {name}")
            document = await self._runner.in_database(
                status_document, self._runner.store, name, self._runner.storage_trouble
            )
            documents.append(json.dumps(document).encode())
        return pb.GetStatusResponse(runs_json=documents)

    async def ControlRun(self, request: pb.ControlRunRequest, context: Any) -> pb.ControlRunResponse:
        """Pause, resume or cancel a run."""
        asked = ControlRunRequest.from_wire(request)
        state = await self._steering.control(
            asked.run, asked.control, actor=caller().holder, reason=asked.reason
        )
        return ControlRunResponse(RunStatus[state.shown_status.upper()]).to_wire()

    async def Revoke(self, request: pb.RevokeRequest, context: Any) -> pb.RevokeResponse:
        """Shut somebody out."""
        asked = RevokeRequest.from_wire(request)
        holder = Holder(asked.role, asked.name)
        return pb.RevokeResponse(serials=await self._steering.revoke(holder, actor=caller().holder))

    async def ReadAuditLog(
        self, request: pb.ReadAuditLogRequest, context: Any
    ) -> AsyncIterator[pb.AuditLogEntry]:
        """Stream the log from an entry on, up to its end as it is then."""
        after = ReadAuditLogRequest.from_wire(request).after
        while texts := await self._runner.in_database(self._entries, after):
            for text in texts:
                yield pb.AuditLogEntry(entry_json=text)
            after += len(texts)

    def _entries(self, after: int) -> list[bytes]:
        found = audit_log.entries(self._runner.store.connection, after=after, limit=ENTRIES_AT_ONCE)
        return [entry.canonical_json() for entry in found]
