"""Tokens and their redemption against a real database, and the service over real TLS on loopback."""

import asyncio
import errno
import hashlib
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from structlog.testing import capture_logs

from adpfl.errors import ConfigError, IdentityError, StateError
from adpfl.security import tls
from adpfl.security.certificates import Holder, create_request, new_key, serial_text, to_pem
from adpfl.security.identity import load_certificate, site_of
from adpfl.wire import messages
from adpfl.wire._generated.adpfl.v1 import federation_pb2, federation_pb2_grpc
from adpfl_server import audit_log
from adpfl_server.certificate_table import (
    check_not_revoked,
)
from adpfl_server.database import open_database, transaction
from adpfl_server.enrollment import (
    REFUSAL,
    REFUSAL_LOG_SECONDS,
    EnrollmentService,
    redeem,
    revoke,
)
from adpfl_server.pki import init_consortium, load_authority
from adpfl_server.tokens import bundle_for, issue_token

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory):
    state_dir = tmp_path_factory.mktemp("state")
    identity = init_consortium(state_dir, "Lesion Study", ["localhost"], now=NOW)
    return identity, load_authority(state_dir, now=NOW)


@pytest.fixture
def authority(consortium):
    return consortium[1]


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


@pytest.fixture
def spend(database, authority):
    def call(token, request, site="hospital1", now=NOW):
        return redeem(database, authority, holder=Holder("site", site), token=token, request=request, now=now)

    return call


def new_request(key=None, name="hospital1"):
    return create_request(key or new_key(), name).public_bytes(serialization.Encoding.DER)


def rows(database, table):
    return [dict(row) for row in database.execute(f"SELECT * FROM {table}")]


def test_the_database_never_holds_a_token(database, issue, spend, tmp_path):
    token = issue()
    assert token not in repr(issue_token(database, Holder("site", "hospital2"), now=NOW))
    spend(token, new_request())
    dump = "\n".join(database.iterdump())
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert token not in dump
    assert token.encode() not in (tmp_path / "server.sqlite").read_bytes()


def test_tokens_are_long_and_random(issue):
    tokens = {issue() for _ in range(20)}
    assert len(tokens) == 20
    assert all(len(token) >= 43 for token in tokens)  # 256 bits in base 64


def test_a_token_buys_one_certificate_for_its_site(database, issue, spend, consortium):
    key = new_key()
    request = new_request(key, name="hospital9")
    pem = spend(issue(), request)
    certificate = load_certificate(pem, what="answer")
    assert site_of(certificate) == "hospital1"
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(consortium[0].authority)
    (row,) = rows(database, "certificates")
    assert row == {
        "serial": serial_text(certificate),
        "role": "site",
        "name": "hospital1",
        "request_sha256": hashlib.sha256(request).hexdigest(),
        "not_after": certificate.not_valid_after_utc.timestamp(),
        "issued_at": NOW.timestamp(),
        "revoked_at": None,
        "pem": pem.decode(),
    }


def test_a_lost_answer_can_be_asked_for_again(database, issue, spend):
    token, request = issue(), new_request()
    first = spend(token, request)
    assert spend(token, request, now=NOW + DAY) == first
    assert len(rows(database, "certificates")) == 1


def test_a_used_token_buys_nothing_for_another_key(database, issue, spend):
    token, key = issue(), new_key()
    spend(token, new_request(key))
    for request in (new_request(), new_request(key)):  # even the same key: ECDSA makes another request of it
        with pytest.raises(IdentityError, match="used with another signing request"):
            spend(token, request)
    assert len(rows(database, "certificates")) == 1


def test_a_token_works_for_its_site_alone(database, issue, spend):
    token = issue("hospital1")
    issue("hospital2")
    with pytest.raises(IdentityError, match="not one of hospital2's"):
        spend(token, new_request(), site="hospital2")
    assert rows(database, "certificates") == []
    spend(token, new_request())  # the attempt has not spent it


def test_a_token_expires(issue, spend):
    token, request = issue(lifetime=DAY), new_request()
    spend(token, request, now=NOW + DAY - timedelta(seconds=1))
    with pytest.raises(IdentityError, match="token ended at"):
        spend(token, request, now=NOW + DAY)


def test_a_new_token_ends_the_older_one(issue, spend):
    older = issue()
    newer = issue(now=NOW + timedelta(seconds=1))
    with pytest.raises(IdentityError, match="token ended at"):
        spend(older, new_request(), now=NOW + timedelta(seconds=1))
    spend(newer, new_request(), now=NOW + timedelta(seconds=1))


@pytest.mark.parametrize("ended_by", ["a newer token", "a revocation"])
def test_a_clock_set_back_brings_no_ended_token_back(database, issue, spend, ended_by):
    token, later = issue(), NOW + timedelta(minutes=1)
    if ended_by == "a newer token":
        issue(now=later)
    else:
        revoke(database, Holder("site", "hospital1"), now=later)
    with pytest.raises(IdentityError, match="token ended at"):
        spend(token, new_request(), now=NOW)


@pytest.mark.parametrize("token", ["", "guess", "x" * 43, "x" * 100_000, "é"])
def test_a_guess_buys_nothing(database, issue, spend, token):
    issue()
    with pytest.raises(IdentityError):
        spend(token, new_request())
    assert rows(database, "certificates") == []


def test_an_unusable_request_leaves_the_token_unspent(issue, spend):
    token = issue()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with pytest.raises(IdentityError, match="must be P-256"):
        spend(token, new_request(key))
    with pytest.raises(IdentityError, match="malformed"):
        spend(token, b"")
    spend(token, new_request())


def test_a_failed_commit_spends_nothing(database, issue, spend):
    token, request = issue(), new_request()
    database.execute(
        "CREATE TRIGGER disk_full BEFORE INSERT ON certificates BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        spend(token, request)
    database.execute("DROP TRIGGER disk_full")
    assert rows(database, "enrollment_tokens")[0]["used_at"] is None
    spend(token, new_request())


@pytest.mark.parametrize("lifetime", [timedelta(0), -DAY])
def test_a_token_needs_time_to_live(database, lifetime):
    with pytest.raises(IdentityError, match="must be positive"):
        issue_token(database, Holder("site", "hospital1"), now=NOW, lifetime=lifetime)


def test_a_token_needs_a_site(database):
    with pytest.raises(IdentityError, match="site is 'Hospital 1'"):
        issue_token(database, Holder("site", "Hospital 1"), now=NOW)
    assert rows(database, "enrollment_tokens") == []


def test_revoking_a_site_ends_its_certificates_and_tokens(database, issue, spend):
    token, request = issue(), new_request()
    serial = serial_text(load_certificate(spend(token, request), what="answer"))
    bystander = serial_text(
        load_certificate(spend(issue("hospital2"), new_request(), site="hospital2"), what="answer")
    )
    check_not_revoked(database, serial)
    assert revoke(database, Holder("site", "hospital1"), now=NOW) == (serial,)
    with pytest.raises(IdentityError, match="has been revoked"):
        check_not_revoked(database, serial)
    with pytest.raises(IdentityError, match="token ended"):
        spend(token, request)
    check_not_revoked(database, bystander)
    assert revoke(database, Holder("site", "hospital1"), now=NOW) == ()
    pem = spend(issue(now=NOW + DAY), new_request(), now=NOW + DAY)  # enrolled anew
    check_not_revoked(database, serial_text(load_certificate(pem, what="answer")))


def test_a_certificate_that_the_server_never_issued_is_refused(database):
    with pytest.raises(IdentityError, match="certificate abc is unknown"):
        check_not_revoked(database, "abc")


def test_the_bundle_holds_all_that_a_site_needs(database, consortium):
    identity, _ = consortium
    token = issue_token(database, Holder("site", "hospital1"), now=NOW, lifetime=DAY)
    bundle = bundle_for(token, identity, address="localhost:1", enroll_address="localhost:2")
    assert (bundle.name, bundle.consortium) == ("hospital1", "Lesion Study")
    assert (bundle.address, bundle.enroll_address) == ("localhost:1", "localhost:2")
    assert bundle.authority_certificate.encode() == to_pem(identity.authority)
    assert bundle.server_certificate.encode() == to_pem(identity.certificate)
    assert bundle.token.get_secret_value() == token.token
    assert bundle.expires_at == NOW + DAY
    with pytest.raises(ConfigError, match="enroll_address is 'localhost'") as refusal:
        bundle_for(token, identity, address="localhost:1", enroll_address="localhost")
    assert token.token not in str(refusal.value)


# Over the wire ------------------------------------------------------------------------------------


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
            with pytest.raises(grpc.RpcError):
                enroll("guess", new_request())
        stopwatch.now += REFUSAL_LOG_SECONDS
        with pytest.raises(grpc.RpcError):
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


def test_a_sites_token_makes_no_operator(database, issue, consortium):
    token = issue()
    with pytest.raises(IdentityError, match="not one of operator hospital1"):
        redeem(
            database,
            consortium[0],
            holder=Holder("operator", "hospital1"),
            token=token,
            request=new_request(),
            now=NOW,
        )


def test_what_happens_to_identities_is_in_the_audit_log(database, issue, spend):
    spend(issue(), new_request())
    revoke(database, Holder("site", "hospital1"), now=NOW)
    told = [(entry.kind, entry.actor, entry.subject) for entry in audit_log.entries(database)]
    site = "urn:adpfl:site:hospital1"
    assert told == [("token_issued", "local", site), ("enrolled", site, site), ("revoked", "local", site)]
