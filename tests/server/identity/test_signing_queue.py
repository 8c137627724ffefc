"""Requests that wait for an offline authority: bound to their token, few, and gone when they must be."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization

from adpfl.errors import IdentityError, StateError
from adpfl.security.certificates import (
    HOSTS_PER_SERVER,
    Holder,
    create_authority,
    create_request,
    new_key,
    serial_text,
)
from adpfl.security.identity import load_certificate, site_of
from adpfl.security.private_files import MAX_FILE_BYTES
from adpfl.security.signing_files import REQUESTS_PER_FILE, RequestFile, read_carried
from adpfl.wire.chunks import sha256_hex
from adpfl_server.enrollment import redeem, revoke
from adpfl_server.identity import signing_queue
from adpfl_server.identity.audit_log import entries, verify
from adpfl_server.identity.certificate_table import RENEWALS_A_DAY, renew
from adpfl_server.identity.pki import init_without_authority_key
from adpfl_server.identity.tokens import issue_token
from adpfl_server.storage.database import open_database, transaction

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
HOSPITAL1 = Holder("site", "hospital1")
OPERATOR1 = Holder("operator", "hospital1")


@pytest.fixture(scope="module")
def authority():
    return create_authority("Lesion Study", now=NOW)


@pytest.fixture
def database(tmp_path):
    connection = open_database(tmp_path / "server.sqlite")
    yield connection
    connection.close()


@pytest.fixture
def issue(database):
    return lambda holder=HOSPITAL1, now=NOW: issue_token(database, holder, now=now).token


@pytest.fixture
def ask(database):
    """Enrol at a server without an authority key."""

    def call(token, request, holder=HOSPITAL1, now=NOW, authority=None):
        return redeem(database, authority, holder=holder, token=token, request=request, now=now)

    return call


def new_request(name="hospital1"):
    return create_request(new_key(), name).public_bytes(serialization.Encoding.DER)


def kinds(database):
    verify(database)
    return [entry.kind for entry in entries(database)]


def waiting(database):
    return [(request.words, request.request_der) for request in signing_queue.waiting(database)]


def test_an_enrolment_waits_and_may_be_repeated(database, issue, ask):
    token, request = issue(), new_request("whatever it says")
    assert ask(token, request) is None
    assert ask(token, request, now=NOW + DAY) is None
    assert waiting(database) == [("site hospital1", request)]
    assert kinds(database) == ["token_issued", "signature_requested"]
    (entry,) = (entry for entry in entries(database) if entry.kind == "signature_requested")
    assert (entry.actor, entry.subject) == (HOSPITAL1.uri, HOSPITAL1.uri)
    assert entry.detail.startswith("enrolment, key ")


def test_a_token_is_bound_to_its_request_from_the_first_moment(database, issue, ask):
    token, request = issue(), new_request()
    ask(token, request)
    with pytest.raises(IdentityError, match="used with another signing request"):
        ask(token, new_request())
    with pytest.raises(IdentityError, match="not one of"):
        ask(token, request, holder=OPERATOR1)
    assert waiting(database) == [("site hospital1", request)]


def test_a_bound_token_may_be_shown_after_its_end(issue, ask):
    token, request = issue(), new_request()
    ask(token, request)
    assert ask(token, request, now=NOW + 60 * DAY) is None
    with pytest.raises(IdentityError, match="used with another"):
        ask(token, new_request(), now=NOW + 60 * DAY)
    unused = issue()
    with pytest.raises(IdentityError, match="token ended at"):
        ask(unused, new_request(), now=NOW + 60 * DAY)


def test_an_unusable_request_does_not_wait(database, issue, ask):
    token = issue()
    with pytest.raises(IdentityError, match="malformed"):
        ask(token, b"not a request")
    assert waiting(database) == []
    assert ask(token, new_request()) is None


def test_a_new_token_withdraws_what_waited(database, issue, ask):
    token, request = issue(), new_request()
    ask(token, request)
    issue(now=NOW + timedelta(seconds=1))
    assert waiting(database) == []
    assert signing_queue.outcome(database, sha256_hex(request), HOSPITAL1) == "withdrawn"
    with pytest.raises(IdentityError, match="token ended at"):
        ask(token, request, now=NOW + timedelta(seconds=2))
    assert kinds(database)[-2:] == ["request_withdrawn", "token_issued"]


def test_a_revocation_withdraws_what_waits(database, issue, ask, authority):
    token, request = issue(), new_request()
    ask(token, request)
    revoke(database, HOSPITAL1, now=NOW)
    assert waiting(database) == []
    with pytest.raises(IdentityError, match="token ended at"):
        ask(token, request)


def test_who_sends_anothers_request_first_stands_in_nobodys_way(database, issue, ask):
    request, thief = new_request(), Holder("site", "hospital2")
    token, stolen = issue(), issue(thief)
    assert ask(stolen, request, holder=thief) is None
    assert ask(token, request) is None
    assert waiting(database) == [("site hospital2", request), ("site hospital1", request)]
    revoke(database, thief, now=NOW)
    assert waiting(database) == [("site hospital1", request)]
    assert ask(token, request) is None


def test_an_authority_that_comes_back_signs_what_waits(database, issue, ask, authority):
    token, request = issue(), new_request()
    ask(token, request)
    pem = ask(token, request, authority=authority)
    assert site_of(load_certificate(pem, what="answer")) == "hospital1"
    assert ask(token, request, authority=authority) == pem
    assert ask(token, request) == pem
    assert waiting(database) == []


# Renewal ------------------------------------------------------------------------------------------


@pytest.fixture
def serial(issue, ask, authority):
    """Of the certificate that hospital1 has."""
    pem = ask(issue(), new_request(), authority=authority)
    return serial_text(load_certificate(pem, what="first"))


def test_a_renewal_waits(database, serial):
    asked = {"holder": HOSPITAL1, "serial": serial, "request": new_request(), "now": NOW}
    assert renew(database, None, **asked) is None
    assert renew(database, None, **asked) is None
    assert waiting(database) == [("site hospital1", asked["request"])]
    assert kinds(database).count("signature_requested") == 1


def test_a_newer_renewal_takes_the_place_of_the_one_that_waits(database, serial):
    first, second = new_request(), new_request()
    for request in (first, second):
        renew(database, None, holder=HOSPITAL1, serial=serial, request=request, now=NOW)
    assert waiting(database) == [("site hospital1", second)]
    renew(database, None, holder=HOSPITAL1, serial=serial, request=first, now=NOW)  # a backup was put back
    assert waiting(database) == [("site hospital1", first)]


def test_renewals_that_wait_are_bounded(database, serial):
    asked = {"holder": HOSPITAL1, "serial": serial}
    for _ in range(RENEWALS_A_DAY - 1):
        renew(database, None, **asked, request=new_request(), now=NOW)
    with pytest.raises(IdentityError, match="no more are issued"):
        renew(database, None, **asked, request=new_request(), now=NOW)
    assert len(waiting(database)) == 1


def test_a_revoked_holders_renewal_is_withdrawn(database, serial):
    renew(database, None, holder=HOSPITAL1, serial=serial, request=new_request(), now=NOW)
    revoke(database, HOSPITAL1, now=NOW)
    assert waiting(database) == []
    with pytest.raises(IdentityError, match="has been revoked"):
        renew(database, None, holder=HOSPITAL1, serial=serial, request=new_request(), now=NOW)


def test_an_authority_that_comes_back_signs_a_renewal(database, serial, authority):
    asked = {"holder": HOSPITAL1, "serial": serial, "request": new_request(), "now": NOW}
    renew(database, None, **asked)
    assert site_of(load_certificate(renew(database, authority, **asked), what="renewed")) == "hospital1"
    assert waiting(database) == []


# The server's own, and the file ---------------------------------------------------------------------


def test_the_servers_request_is_the_newest_alone(database, tmp_path, authority):
    init_without_authority_key(tmp_path, authority.certificate)
    signing_queue.wait_for_server_certificate(database, tmp_path, ["old.example"], now=NOW)
    signing_queue.wait_for_server_certificate(database, tmp_path, ["new.example", "10.0.0.1"], now=NOW)
    assert [words for words, _ in waiting(database)] == ["server at new.example, 10.0.0.1"]
    with pytest.raises(IdentityError, match="must be a DNS name or an IP address"):
        signing_queue.wait_for_server_certificate(database, tmp_path, ["*.example"], now=NOW)
    assert len(waiting(database)) == 1


def test_a_request_that_no_file_can_carry_is_refused_when_it_is_made(database, tmp_path, authority):
    init_without_authority_key(tmp_path, authority.certificate)
    hosts = [f"host{number}.example.org" for number in range(HOSTS_PER_SERVER + 1)]
    with pytest.raises(IdentityError, match="hosts names 65"):
        signing_queue.wait_for_server_certificate(database, tmp_path, hosts, now=NOW)
    assert waiting(database) == []


def test_an_export_holds_what_waits_and_can_be_repeated(database, issue, ask, authority, tmp_path):
    path = tmp_path / "requests.json"
    with pytest.raises(StateError, match="no request waits"):
        signing_queue.export(database, authority.certificate, path, now=NOW)
    assert not path.exists()
    request = new_request()
    ask(issue(), request)
    for _ in range(2):
        exported = signing_queue.export(database, authority.certificate, path, now=NOW)
        assert read_carried(path, RequestFile).requests == exported.requests
    assert [one.request_der for one in exported.requests] == [request]
    assert exported.left == 0
    (*_, last) = entries(database)
    assert last.detail == f"1 request, file {sha256_hex(path.read_bytes())}"


@pytest.mark.parametrize("padding", [0, 7_000])
def test_what_finds_no_room_is_left_for_the_next_file(database, authority, tmp_path, padding, monkeypatch):
    """Many requests, or large ones; their bytes are not looked into here."""
    monkeypatch.setattr(signing_queue, "public_key_of_request", lambda _request: new_key().public_key())
    count = REQUESTS_PER_FILE + 3
    with transaction(database):
        for number in range(count):
            request = number.to_bytes(4) + bytes(padding)
            signing_queue.wait(database, Holder("site", f"s{number}"), request, purpose="enrolment", now=NOW)
    path = tmp_path / "requests.json"
    exported = signing_queue.export(database, authority.certificate, path, now=NOW)
    assert len(exported.requests) + exported.left == count
    assert exported.left == 3 if not padding else exported.left > 3
    assert path.stat().st_size <= MAX_FILE_BYTES
