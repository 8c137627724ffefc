"""The enrolment service over real TLS on loopback: what a site gets, and what a stranger learns."""

import asyncio
import errno
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from structlog.testing import capture_logs

from adpfl.errors import StateError
from adpfl.security import tls
from adpfl.security.certificates import Holder
from adpfl.security.identity import site_of
from adpfl.wire import messages
from adpfl.wire._generated.adpfl.v1 import federation_pb2, federation_pb2_grpc
from adpfl_server.enrollment import (
    REFUSAL,
    REFUSAL_LOG_SECONDS,
    EnrollmentService,
)
from adpfl_server.identity.pki import init_consortium, load_authority
from adpfl_server.identity.tokens import issue_token
from adpfl_server.storage.database import open_database, transaction
from tests.server.enrolling import DAY, NOW, new_request, rows


@pytest.fixture(scope="module")
def consortium(tmp_path_factory):
    state_dir = tmp_path_factory.mktemp("state")
    identity = init_consortium(state_dir, "Lesion Study", ["localhost"], now=NOW)
    return identity, load_authority(state_dir, now=NOW)


@pytest.fixture
def database(tmp_path):
    connection = open_database(tmp_path / "server.sqlite")
    yield connection
    connection.close()


@pytest.fixture
def issue(database):
    return lambda site="hospital1", now=NOW, **lifetime: (
        issue_token(database, Holder("site", site), now=now, **lifetime).token
    )


@contextmanager
def serving(service, credentials):
    """Run the service on a free port of loopback, in an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start():
        server = grpc.aio.server(options=tls.ENROLLMENT_SERVER_OPTIONS)
        federation_pb2_grpc.add_EnrollmentServicer_to_server(service, server)
        port = server.add_secure_port("localhost:0", credentials)
        await server.start()
        return server, port

    server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


class Stopwatch:
    """Seconds that pass between two looks, or only when a test says so."""

    def __init__(self):
        self.now = 0.0
        self.tick = REFUSAL_LOG_SECONDS

    def __call__(self):
        self.now += self.tick
        return self.now


@pytest.fixture
def stopwatch():
    return Stopwatch()


@pytest.fixture
def enroll(database, consortium, tmp_path, stopwatch):
    """Call Enroll over TLS; the database is open here too, as an operator's command would have it."""
    identity, authority = consortium
    with ThreadPoolExecutor(2) as executor:
        service = EnrollmentService(
            authority,
            connect=lambda: open_database(tmp_path / "server.sqlite"),
            clock=lambda: NOW,
            executor=executor,
            monotonic=stopwatch,
        )
        credentials = tls.enrollment_channel_credentials(identity.authority)
        with (
            serving(service, tls.enrollment_server_credentials(identity)) as port,
            grpc.secure_channel(f"localhost:{port}", credentials) as channel,
        ):
            stub = federation_pb2_grpc.EnrollmentStub(channel)

            def call(token, request, site="hospital1"):
                message = federation_pb2.EnrollRequest(
                    name=site, token=token, certificate_signing_request=request
                )
                return stub.Enroll(message, timeout=20).certificate_chain

            yield call


def test_a_site_enrols_over_tls_and_may_repeat_itself(enroll, issue, database):
    token, request = issue(), new_request()
    first = enroll(token, request)
    assert enroll(token, request) == first
    assert site_of(x509.load_pem_x509_certificate(first)) == "hospital1"
    assert len(rows(database, "certificates")) == 1


def test_a_site_is_told_that_its_request_waits(consortium, database, issue, tmp_path):
    identity, _ = consortium
    with ThreadPoolExecutor(2) as executor, capture_logs() as logs:
        service = EnrollmentService(
            None,
            connect=lambda: open_database(tmp_path / "server.sqlite"),
            clock=lambda: NOW,
            executor=executor,
        )
        credentials = tls.enrollment_channel_credentials(identity.authority)
        with (
            serving(service, tls.enrollment_server_credentials(identity)) as port,
            grpc.secure_channel(f"localhost:{port}", credentials) as channel,
        ):
            stub = federation_pb2_grpc.EnrollmentStub(channel)
            token, request = issue(), new_request()
            for _ in range(2):
                message = federation_pb2.EnrollRequest(
                    name="hospital1", token=token, certificate_signing_request=request
                )
                answer = stub.Enroll(message, timeout=20)
                assert (answer.certificate_chain, answer.awaits_signature) == (b"", True)
            message.certificate_signing_request = new_request()
            with pytest.raises(grpc.RpcError) as refused:
                stub.Enroll(message, timeout=20)
    assert refused.value.details() == REFUSAL
    assert [line["event"] for line in logs].count("enrolment waits for a signature") == 2
    assert token not in str(logs)


def test_every_refusal_looks_the_same(enroll, issue, database):
    used = issue("hospital2")
    enroll(used, new_request(), site="hospital2")
    expired = issue("hospital3", now=NOW - DAY, lifetime=DAY)
    good = issue("hospital1")
    answers = set()
    with capture_logs() as logs:
        for token, request, site in [
            ("guess", new_request(), "hospital1"),
            (good, new_request(), "hospital4"),
            (good, new_request(), "../hospital1"),
            (used, new_request(), "hospital2"),
            (expired, new_request(), "hospital3"),
            (good, b"", "hospital1"),
            (good, b"x" * 20_000, "hospital1"),
            (good, new_request(rsa.generate_private_key(public_exponent=65537, key_size=2048)), "hospital1"),
            ("", b"", ""),
            ("x" * 5000, new_request(), "hospital1"),
        ]:
            with pytest.raises(grpc.RpcError) as error:
                enroll(token, request, site=site)
            answers.add((error.value.code(), error.value.details(), error.value.trailing_metadata()))
    assert {answer[:2] for answer in answers} == {(grpc.StatusCode.PERMISSION_DENIED, REFUSAL)}
    assert len(answers) == 1
    reasons = [entry["reason"] for entry in logs]
    assert len(reasons) == 10  # the operator is told what the caller is not
    assert len(set(reasons)) >= 6
    assert not any(secret in str(logs) for secret in (good, used, expired))
    assert len(rows(database, "certificates")) == 1


def test_a_flood_of_refusals_is_a_line_now_and_then(enroll, issue, stopwatch):
    stopwatch.tick = 0.0
    with capture_logs() as logs:
        for _ in range(20):
            with pytest.raises(grpc.RpcError, match=REFUSAL):
                enroll("guess", new_request())
        stopwatch.now += REFUSAL_LOG_SECONDS
        with pytest.raises(grpc.RpcError, match=REFUSAL):
            enroll("guess", new_request())
    assert [entry["refused_meanwhile"] for entry in logs] == [0, 19]


def test_a_stranger_neither_takes_nor_waits_for_the_write_lock(enroll, issue, database):
    issue("hospital1")
    with transaction(database):  # a site's commit under way
        started = time.monotonic()
        for token in ("guess", "x" * 43):
            with pytest.raises(grpc.RpcError) as error:
                enroll(token, new_request())
            assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert time.monotonic() - started < 10  # the lock is waited for 30 seconds


def test_what_has_not_the_shape_of_a_token_reaches_no_database(consortium):
    identity, authority = consortium

    def connect():
        raise AssertionError("the database was opened")

    with ThreadPoolExecutor(1) as executor:
        service = EnrollmentService(authority, connect=connect, clock=lambda: NOW, executor=executor)
        with (
            serving(service, tls.enrollment_server_credentials(identity)) as port,
            grpc.secure_channel(
                f"localhost:{port}", tls.enrollment_channel_credentials(identity.authority)
            ) as channel,
        ):
            stub = federation_pb2_grpc.EnrollmentStub(channel)
            for request in (
                {"name": "hospital1", "token": "short", "certificate_signing_request": b"x"},
                {"name": "../x", "token": "t" * 43, "certificate_signing_request": b"x"},
                {"name": "hospital1", "token": "t" * 43, "certificate_signing_request": b"x" * 9000},
                {"name": "hospital1", "token": "t" * 43},
            ):
                with pytest.raises(grpc.RpcError) as error:
                    stub.Enroll(federation_pb2.EnrollRequest(**request), timeout=20)
                assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_of_two_that_race_with_one_token_one_wins(enroll, issue, database):
    token = issue()

    def attempt(_):
        try:
            return enroll(token, new_request())
        except grpc.RpcError:
            return None

    with ThreadPoolExecutor(4) as executor:
        answers = list(executor.map(attempt, range(4)))
    assert sum(answer is not None for answer in answers) == 1
    assert len(rows(database, "certificates")) == 1


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (StateError("/srv/secret/server.sqlite: cannot be opened"), "/srv/secret/server.sqlite: cannot be"),
        (sqlite3.OperationalError("disk is full"), "database: disk is full"),
        (OSError(errno.ENOSPC, "No space left", "/srv/secret"), "/srv/secret: No space left"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_fault_of_the_server_tells_a_stranger_nothing(consortium, failure, reason):
    identity, authority = consortium

    def connect():
        raise failure

    with ThreadPoolExecutor(1) as executor:
        service = EnrollmentService(authority, connect=connect, clock=lambda: NOW, executor=executor)
        with (
            capture_logs() as logs,
            serving(service, tls.enrollment_server_credentials(identity)) as port,
            grpc.secure_channel(
                f"localhost:{port}", tls.enrollment_channel_credentials(identity.authority)
            ) as channel,
        ):
            stub = federation_pb2_grpc.EnrollmentStub(channel)
            message = messages.EnrollRequest("site", "hospital1", "t" * 43, b"x").to_wire()
            with pytest.raises(grpc.RpcError) as error:
                stub.Enroll(message, timeout=20)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "secret" not in error.value.details()
    (line,) = logs
    assert line["event"] == "enrolment failed"
    assert line["reason"].startswith(reason)
    assert "exc_info" not in line
