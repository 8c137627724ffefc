"""Tokens and their redemption against a real database."""

import hashlib
import sqlite3
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from adpfl.errors import ConfigError, IdentityError
from adpfl.security.certificates import Holder, new_key, serial_text, to_pem
from adpfl.security.identity import load_certificate, site_of
from adpfl_server.enrollment import (
    redeem,
    revoke,
)
from adpfl_server.identity import audit_log
from adpfl_server.identity.certificate_table import (
    check_not_revoked,
)
from adpfl_server.identity.pki import init_consortium, load_authority
from adpfl_server.identity.tokens import bundle_for, issue_token
from adpfl_server.storage.database import open_database
from tests.server.enrolling import DAY, NOW, new_request, rows


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
