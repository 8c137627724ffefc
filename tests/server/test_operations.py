"""Operators and auditors over the wire: what each role may do, and what it does to live runs and calls."""

import dataclasses
import json
import socket
import ssl
import threading
import time
from contextlib import closing
from datetime import UTC, datetime

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from adpfl.security.certificates import Holder, create_request, new_key
from adpfl.security.identity import CallerIdentity, holder_of, load_certificate
from adpfl.security.tls import CHANNEL_OPTIONS, channel_credentials
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc
from adpfl.wire.messages import RunStatus, TaskKind
from adpfl.wire.operations import (
    ControlRunRequest,
    ControlRunResponse,
    GetStatusRequest,
    ReadAuditLogRequest,
    RenewRequest,
    RevokeRequest,
    RunControl,
)
from adpfl_server.identity import audit_log, signing_queue
from adpfl_server.identity.certificate_import import import_certificates
from adpfl_server.identity.offline_signing import sign_file
from adpfl_server.identity.pki import read_authority, renew_server_certificate
from adpfl_server.interceptors import allowed_roles
from adpfl_server.rounds.steering import outcome, want
from adpfl_server.storage.database import open_database
from adpfl_server.store import DATABASE_FILE

ALL_METHODS = [
    f"/{service.full_name}/{method.name}"
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if service.name != "Enrollment"
]


class Desk:
    """One caller's stubs for everything but the Federation service."""

    def __init__(self, identity: CallerIdentity):
        self.known = identity
        self.channel = grpc.secure_channel(identity.address, channel_credentials(identity), CHANNEL_OPTIONS)
        self.operations = rpc.OperationsStub(self.channel)
        self.identity = rpc.IdentityStub(self.channel)
        self.federation = rpc.FederationStub(self.channel)

    def control(self, control: RunControl, reason: str = "", run: str = "demo") -> RunStatus:
        asked = ControlRunRequest(run, control, reason).to_wire()
        return ControlRunResponse.from_wire(self.operations.ControlRun(asked, timeout=20)).status

    def audit_log(self, after: int = 0) -> list[dict]:
        stream = self.operations.ReadAuditLog(ReadAuditLogRequest(after).to_wire(), timeout=20)
        return [json.loads(entry.entry_json) for entry in stream]


@pytest.fixture
def desk_of(consortium, enrolled):
    opened = []

    def open_desk(role: str, name: str = "alice") -> Desk:
        address = f"localhost:{consortium.running[-1].ports.main}"
        desk = Desk(enrolled(consortium.state_dir, Holder(role, name), address))
        opened.append(desk)
        return desk

    yield open_desk
    for desk in opened:
        desk.channel.close()


def refused(call) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code()


def test_every_method_has_its_roles():
    table = {method.rpartition(".")[2]: allowed_roles(method) for method in ALL_METHODS}
    assert table.pop("Identity/Renew") == {"site", "operator", "auditor"}
    for name in ("Operations/GetStatus", "Operations/ReadAuditLog"):
        assert table.pop(name) == {"operator", "auditor"}
    for name in ("Operations/ControlRun", "Operations/Revoke"):
        assert table.pop(name) == {"operator"}
    assert table
    assert all(name.startswith("Federation/") and roles == {"site"} for name, roles in table.items())


def test_a_method_that_nobody_was_given_is_refused_to_all():
    assert allowed_roles("/adpfl.v1.Invented/Anything") == frozenset()


@pytest.mark.parametrize("role", ["site", "operator", "auditor"])
def test_a_role_is_held_to_what_it_may_call(consortium, desk_of, role):
    consortium.start()
    desk = desk_of(role)
    calls = {
        "Federation": lambda: desk.federation.NextTask(pb.NextTaskRequest(run="demo"), timeout=20),
        "ControlRun": lambda: desk.control(RunControl.PAUSE),
        "Revoke": lambda: desk.operations.Revoke(RevokeRequest("site", "nobody").to_wire(), timeout=20),
        "GetStatus": lambda: desk.operations.GetStatus(GetStatusRequest(None).to_wire(), timeout=20),
        "ReadAuditLog": desk.audit_log,
    }
    allowed = {
        "site": set(),  # not of the cohort either, which answers alike
        "operator": {"ControlRun", "GetStatus", "ReadAuditLog"},
        "auditor": {"GetStatus", "ReadAuditLog"},
    }[role]
    for name, call in calls.items():
        if name in allowed:
            call()
        elif (role, name) == ("operator", "Revoke"):
            assert refused(call) is grpc.StatusCode.UNAUTHENTICATED  # allowed; there is nobody of that name
        else:
            assert refused(call) is grpc.StatusCode.PERMISSION_DENIED, name


def test_a_paused_run_opens_no_round_until_it_is_resumed(consortium, desk_of):
    consortium.start()
    desk = desk_of("operator")
    assert desk.control(RunControl.PAUSE, "scanner replaced") is RunStatus.PAUSED
    assert desk.control(RunControl.PAUSE) is RunStatus.PAUSED
    callers = [consortium.caller(site) for site in ("hospital1", "hospital2", "hospital3")]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    assert [caller.next_task().kind for caller in callers] == [TaskKind.WAIT] * 3
    assert "paused by the operator" in callers[0].next_task().detail
    assert desk.control(RunControl.RESUME) is RunStatus.RUNNING
    assert [caller.next_task().kind for caller in callers] == [TaskKind.TRAIN] * 3
    kinds = [event["kind"] for event in consortium.record()["timeline"]] if _written(consortium) else []
    assert {"run_paused", "run_resumed"} <= set(kinds)


def _written(consortium) -> bool:
    for _ in range(50):
        if any(event["kind"] == "run_resumed" for event in consortium.record()["timeline"]):
            return True
        time.sleep(0.1)
    return False


def test_a_cancelled_run_is_over_for_every_site(consortium, desk_of):
    consortium.start()
    caller = consortium.caller("hospital1")
    caller.enter("0")
    desk = desk_of("operator")
    assert desk.control(RunControl.CANCEL, "wrong labels") is RunStatus.CANCELLED
    task = caller.next_task()
    assert (task.kind, "wrong labels" in task.detail) == (TaskKind.FAILED, True)
    assert refused(lambda: desk.control(RunControl.RESUME)) is grpc.StatusCode.FAILED_PRECONDITION
    (status,) = desk.operations.GetStatus(GetStatusRequest("demo").to_wire(), timeout=20).runs_json
    assert json.loads(status)["status"] == "cancelled"


def test_a_local_command_reaches_the_running_daemon(consortium):
    consortium.start()
    database = open_database(consortium.state_dir / DATABASE_FILE)
    assert outcome(database, want(database, "demo", RunControl.PAUSE, "", time.time())) == "demo is paused"
    with pytest.raises(Exception, match="there is no run nothing"):
        outcome(database, want(database, "nothing", RunControl.PAUSE, "", time.time()))
    database.close()


def test_a_local_command_waits_for_a_daemon_to_start(consortium):
    consortium.start().stop()
    database = open_database(consortium.state_dir / DATABASE_FILE)
    number = want(database, "demo", RunControl.CANCEL, "", time.time())
    assert outcome(database, number, seconds=0.5) is None
    consortium.start()
    assert outcome(database, number) == "demo is cancelled"
    database.close()


@pytest.mark.parametrize("by", ["an operator", "a local command"])
def test_revoking_ends_a_call_under_way_at_once(consortium, desk_of, revoke, by):
    consortium.start()
    caller = consortium.caller("hospital1")
    caller.enter("0")
    ended = []

    def poll():
        start = time.monotonic()
        ended.append((refused(lambda: caller.next_task(wait_seconds=25)), time.monotonic() - start))

    waiting = threading.Thread(target=poll)
    waiting.start()
    time.sleep(0.5)
    if by == "an operator":
        serials = (
            desk_of("operator")
            .operations.Revoke(RevokeRequest("site", "hospital1").to_wire(), timeout=20)
            .serials
        )
        assert len(serials) == 1
    else:
        revoke(consortium.state_dir, "hospital1")
    waiting.join(20)
    ((code, seconds),) = ended
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert seconds < 10  # the poll itself would have waited 25
    assert refused(caller.next_task) is grpc.StatusCode.UNAUTHENTICATED


def test_the_audit_log_names_who_did_what(consortium, desk_of):
    consortium.start()
    desk_of("operator").control(RunControl.PAUSE, "scanner replaced")
    told = desk_of("auditor", "bob").audit_log()
    (pause,) = [entry for entry in told if entry["kind"] == "run_paused"]
    assert (pause["actor"], pause["run"], pause["detail"]) == (
        "urn:adpfl:operator:alice",
        "demo",
        "scanner replaced",
    )
    assert [entry["sequence"] for entry in told] == list(range(1, len(told) + 1))
    assert desk_of("auditor", "eve").audit_log(after=len(told) - 1)[0]["sequence"] == len(told)


def test_every_committed_update_is_in_the_audit_log(consortium):
    running = consortium.start()
    callers = [consortium.caller(site) for site in ("hospital1", "hospital2", "hospital3")]
    for number, caller in enumerate(callers):
        caller.enter(str(number))
    base = callers[0].next_task().base_digest
    update = consortium.update(1)
    callers[0].send(1, base, update)
    running.stop()
    database = open_database(consortium.state_dir / DATABASE_FILE)
    audit_log.verify(database)
    (entry,) = [entry for entry in audit_log.entries(database) if entry.kind == "update_committed"]
    assert (entry.subject, entry.run) == ("urn:adpfl:site:hospital1", "demo")
    assert entry.detail == f"round 1, update {update.manifest.digest}"
    database.close()


@pytest.mark.parametrize("role", ["site", "operator", "auditor"])
def test_everybody_may_renew_and_nobody_for_another(consortium, desk_of, role):
    consortium.start()
    desk = desk_of(role, "hospital1")
    request = create_request(new_key(), "hospital9").public_bytes(serialization.Encoding.DER)
    asked = RenewRequest(request).to_wire()
    chain = desk.identity.Renew(asked, timeout=20).certificate_chain
    certificate = load_certificate(chain, what="renewed")
    assert certificate.not_valid_after_utc > datetime.now(UTC)
    assert holder_of(certificate) == Holder(role, "hospital1")
    assert desk.identity.Renew(asked, timeout=20).certificate_chain == chain


def test_a_renewal_waits_where_the_authority_is_kept_offline(consortium, desk_of, tmp_path):
    identity = read_authority(
        consortium.state_dir / "pki" / "ca.pem",
        consortium.state_dir / "pki" / "ca.key",
        now=datetime.now(UTC),
    )
    consortium.start()
    desk = desk_of("operator")
    consortium.running[-1].stop()
    (consortium.state_dir / "pki" / "ca.key").unlink()
    running = consortium.start()
    desk = Desk(dataclasses.replace(desk.known, address=f"localhost:{running.ports.main}"))
    request = create_request(new_key(), "alice").public_bytes(serialization.Encoding.DER)
    asked = RenewRequest(request).to_wire()
    for _ in range(2):
        answer = desk.identity.Renew(asked, timeout=20)
        assert (answer.certificate_chain, answer.awaits_signature) == (b"", True)
    with closing(open_database(consortium.state_dir / DATABASE_FILE)) as database:
        now = datetime.now(UTC)
        signing_queue.export(database, identity.certificate, tmp_path / "r.json", now=now)
        sign_file(tmp_path / "r.json", tmp_path / "c.json", identity, lambda *_: True, now=now)
        import_certificates(database, consortium.state_dir, tmp_path / "c.json", now=now)
    answer = desk.identity.Renew(asked, timeout=20)
    assert not answer.awaits_signature
    assert holder_of(load_certificate(answer.certificate_chain, what="renewed")) == Holder(
        "operator", "alice"
    )
    kinds = [entry["kind"] for entry in desk.audit_log()]
    assert kinds[-3:] == ["signature_requested", "requests_exported", "renewed"]
    desk.channel.close()


def test_the_servers_certificate_is_renewed_without_a_restart(consortium, desk_of):
    running = consortium.start()
    desk = desk_of("operator")
    assert desk.control(RunControl.PAUSE) is RunStatus.PAUSED
    before = shown_by(running.ports.main)
    renewed = renew_server_certificate(
        consortium.state_dir, ["localhost", "127.0.0.1"], now=datetime.now(UTC)
    )
    assert renewed.certificate.serial_number != before.serial_number
    assert shown_by(running.ports.main) == renewed.certificate
    assert shown_by(running.ports.enrollment) == renewed.certificate
    assert desk.control(RunControl.RESUME) is RunStatus.WAITING  # over the connection of before
    fresh = desk_of("auditor", "bob")
    assert fresh.audit_log()


def test_a_spoilt_certificate_leaves_the_old_one_serving(consortium, desk_of):
    running = consortium.start()
    before = shown_by(running.ports.main)
    (consortium.state_dir / "pki" / "server.pem").write_text("nonsense")
    with capture_logs() as logs:
        assert shown_by(running.ports.main) == before
    assert any("cannot be used" in entry["event"] for entry in logs)


def shown_by(port):
    """The certificate that a port's TLS shows a stranger."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
        return x509.load_der_x509_certificate(wrapped.getpeercert(binary_form=True))
