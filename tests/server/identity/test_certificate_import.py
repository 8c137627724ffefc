"""What comes back from the authority: taken when it answers its request in every point, else refused."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import serialization

from adpfl.errors import IdentityError
from adpfl.security.certificates import (
    CLIENT_LIFETIME,
    Holder,
    create_authority,
    create_request,
    issue_client_certificate,
    issue_server_certificate,
    new_key,
    serial_text,
    to_pem,
)
from adpfl.security.identity import holder_of, load_certificate
from adpfl.security.signing_files import (
    CertificateFile,
    RequestFile,
    SignedCertificate,
    certificate_fingerprint,
    read_carried,
    write_carried,
)
from adpfl_server.enrollment import redeem, revoke
from adpfl_server.identity import signing_queue
from adpfl_server.identity.audit_log import entries, verify
from adpfl_server.identity.certificate_import import import_certificates
from adpfl_server.identity.certificate_table import check_not_revoked, renew
from adpfl_server.identity.offline_signing import sign_file
from adpfl_server.identity.pki import init_without_authority_key, load_server_identity, load_server_key
from adpfl_server.identity.tokens import issue_token
from adpfl_server.storage.database import open_database

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
HOSPITAL1 = Holder("site", "hospital1")
HOSTS = ["fl.example.org", "10.0.0.1"]
AUTHORITY = create_authority("Lesion Study", now=NOW - DAY)


def der(key, name="hospital1"):
    return create_request(key, name).public_bytes(serialization.Encoding.DER)


@pytest.fixture
def server(tmp_path):
    """A server whose authority is elsewhere, with hospital1's enrolment and its own certificate waiting."""
    state_dir = tmp_path / "state"
    init_without_authority_key(state_dir, AUTHORITY.certificate)
    database = open_database(state_dir / "server.sqlite")
    signing_queue.wait_for_server_certificate(database, state_dir, HOSTS, now=NOW)
    token, key = issue_token(database, HOSPITAL1, now=NOW).token, new_key()
    request = der(key)

    def ask(now=NOW):
        return redeem(database, None, holder=HOSPITAL1, token=token, request=request, now=now)

    def take(path, now=NOW):
        return import_certificates(database, state_dir, path, now=now)

    def carry(now=NOW, authority=AUTHORITY):
        """To the authority, and back."""
        signing_queue.export(database, AUTHORITY.certificate, tmp_path / "requests.json", now=now)
        sign_file(tmp_path / "requests.json", tmp_path / "back.json", authority, lambda *_: True, now=now)
        return tmp_path / "back.json"

    ask()
    yield SimpleNamespace(**locals())
    database.close()


def answer_to(server, certificate, *, authority=AUTHORITY, role="site"):
    """A file that answers the request of this role with a certificate, or with any PEM."""
    (request,) = (one for one in signing_queue.waiting(server.database) if one.role == role)
    pem = certificate if isinstance(certificate, str) else to_pem(certificate).decode()
    path = server.state_dir.parent / "answer.json"
    answer = SignedCertificate(request_sha256=request.request_sha256, certificate_pem=pem)
    digest = certificate_fingerprint(authority.certificate)
    write_carried(path, CertificateFile(authority_sha256=digest, certificates=(answer,)))
    return path


def test_signed_requests_become_certificates_that_work(server):
    verdicts = server.take(server.carry())
    assert [(verdict.subject, verdict.refusal) for verdict in verdicts] == [
        ("server at fl.example.org, 10.0.0.1", ""),
        ("site hospital1", ""),
    ]
    assert verdicts[1].until == NOW + CLIENT_LIFETIME
    identity = load_server_identity(server.state_dir, now=NOW)
    assert identity.key.private_numbers() == load_server_key(server.state_dir).private_numbers()
    pem = server.ask(NOW + 30 * DAY)  # the token has ended; what it bought has not
    certificate = load_certificate(pem, what="answer")
    assert certificate.public_key() == server.key.public_key()
    check_not_revoked(server.database, serial_text(certificate))
    assert signing_queue.waiting(server.database) == []
    verify(server.database)
    log = [(entry.kind, entry.subject) for entry in entries(server.database)]
    assert log[-2:] == [("server_certificate_installed", ""), ("enrolled", HOSPITAL1.uri)]


def test_a_renewal_comes_back_to_who_asks_again(server):
    server.take(server.carry())
    serial = serial_text(load_certificate(server.ask(), what="first"))
    asked = {"holder": HOSPITAL1, "serial": serial, "request": der(new_key())}
    assert renew(server.database, None, **asked, now=NOW) is None
    (verdict,) = server.take(server.carry())
    assert verdict.refusal == ""
    renewed = load_certificate(renew(server.database, None, **asked, now=NOW), what="renewed")
    check_not_revoked(server.database, serial_text(renewed))
    check_not_revoked(server.database, serial)
    assert [entry.kind for entry in entries(server.database)][-1] == "renewed"


def test_a_file_taken_twice_changes_nothing(server):
    path = server.carry()
    server.take(path)
    before = server.ask()
    assert {verdict.refusal for verdict in server.take(path)} == {"was signed and taken before"}
    assert server.ask() == before


def test_a_withdrawn_requests_certificate_is_refused(server):
    path = server.carry()
    revoke(server.database, HOSPITAL1, now=NOW)
    taken, refused = server.take(path)
    assert taken.refusal == ""
    assert refused.refusal.startswith("was withdrawn meanwhile")
    assert server.database.execute("SELECT count(*) FROM certificates").fetchone()[0] == 0


def test_another_servers_answers_are_refused(server, tmp_path):
    path = server.carry()
    other = tmp_path / "other"
    init_without_authority_key(other, AUTHORITY.certificate)
    database = open_database(other / "server.sqlite")
    verdicts = import_certificates(database, other, path, now=NOW)
    database.close()
    assert {verdict.refusal for verdict in verdicts} == {"never waited on this server"}
    assert not (other / "pki" / "server.pem").exists()


def test_another_authoritys_file_is_refused_whole(server):
    foreign = create_authority("Lesion Study", now=NOW)
    path = answer_to(
        server, issue_client_certificate(foreign, server.request, HOSPITAL1, now=NOW), authority=foreign
    )
    with pytest.raises(IdentityError, match="comes from another authority"):
        server.take(path)


def client(server, *, authority=AUTHORITY, request=None, holder=HOSPITAL1, **when):
    return issue_client_certificate(authority, request or server.request, holder, **({"now": NOW} | when))


def for_server(server, *, key=None, hosts=HOSTS, **when):
    key = key or load_server_key(server.state_dir).public_key()
    return issue_server_certificate(AUTHORITY, key, hosts, **({"now": NOW} | when))


WRONG = {
    "another authority": (
        "site",
        lambda server: client(server, authority=create_authority("Lesion Study", now=NOW)),
        "was not signed by the certificate authority",
    ),
    "another key": ("site", lambda server: client(server, request=der(new_key())), "is for another key"),
    "another site": (
        "site",
        lambda server: client(server, holder=Holder("site", "hospital2")),
        "names site hospital2; must name site hospital1",
    ),
    "another role": (
        "site",
        lambda server: client(server, holder=Holder("operator", "hospital1")),
        "names operator hospital1; must name site hospital1",
    ),
    "the server's end": (
        "site",
        lambda server: for_server(server, key=server.key.public_key()),
        "names 0 holders",
    ),
    "the authority itself": ("site", lambda _server: AUTHORITY.certificate, "is for another key"),
    "ended": ("site", lambda server: client(server, now=NOW - DAY, lifetime=DAY / 2), "expired at"),
    "not begun": ("site", lambda server: client(server, now=NOW + DAY), "not valid before"),
    "too long": (
        "site",
        lambda server: client(server, lifetime=CLIENT_LIFETIME + 2 * DAY),
        "lives longer than 365",
    ),
    "two certificates": (
        "site",
        lambda server: to_pem(client(server)).decode() * 2,
        "is not one certificate in PEM",
    ),
    "no certificate": (
        "site",
        lambda _server: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "holds no usable certificate",
    ),
    "a caller for the server": (
        "server",
        lambda server: client(server, request=der(load_server_key(server.state_dir))),
        "is for other hosts",
    ),
    "fewer hosts": ("server", lambda server: for_server(server, hosts=HOSTS[:1]), "is for other hosts"),
    "more hosts": (
        "server",
        lambda server: for_server(server, hosts=[*HOSTS, "evil.example"]),
        "is for other hosts",
    ),
    "another server's key": (
        "server",
        lambda server: for_server(server, key=new_key().public_key()),
        "is for another key",
    ),
    "a server for ever": (
        "server",
        lambda server: for_server(server, lifetime=timedelta(days=2000)),
        "lives longer than 825 days",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_certificate_that_is_not_the_answer_is_refused_by_name(server, case):
    role, make, rule = WRONG[case]
    (verdict,) = server.take(answer_to(server, make(server), role=role))
    assert verdict.subject == ("site hospital1" if role == "site" else "server at fl.example.org, 10.0.0.1")
    assert rule in verdict.refusal
    assert verdict.until is None
    assert len(signing_queue.waiting(server.database)) == 2
    assert server.ask() is None
    assert not (server.state_dir / "pki" / "server.pem").exists()
    (*_, last) = entries(server.database)
    assert (last.kind, last.subject) == ("certificate_refused", HOSPITAL1.uri if role == "site" else "")
    assert all(verdict.refusal == "" for verdict in server.take(server.carry())), (
        "the right one is still welcome"
    )


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), timedelta(hours=23)])
def test_a_clock_at_the_authority_may_be_ahead(server, ahead):
    verdicts = server.take(server.carry(now=NOW + ahead))
    assert [verdict.refusal for verdict in verdicts] == ["", ""]
    assert load_server_identity(server.state_dir, now=NOW).certificate.not_valid_before_utc < NOW
    assert load_certificate(server.ask(), what="answer").not_valid_before_utc < NOW


def test_of_two_who_sent_one_request_each_gets_the_certificate_that_names_it(server):
    thief = Holder("site", "hospital2")
    token = issue_token(server.database, thief, now=NOW).token
    asked = {"holder": thief, "token": token, "request": server.request, "now": NOW}
    assert redeem(server.database, None, **asked) is None
    assert [verdict.refusal for verdict in server.take(server.carry())] == ["", "", ""]
    assert holder_of(load_certificate(server.ask(), what="answer"), what="answer") == HOSPITAL1
    theirs = load_certificate(redeem(server.database, None, **asked), what="answer")
    assert holder_of(theirs, what="answer") == thief  # for a key that it does not have
    assert [verdict.refusal for verdict in server.take(server.state_dir.parent / "back.json")] == [
        "was signed and taken before"
    ] * 3


def test_one_bad_certificate_does_not_hold_up_the_others(server):
    path = server.carry()
    file = read_carried(path, CertificateFile)
    server_answer, site_answer = file.certificates
    swapped = SignedCertificate(
        request_sha256=site_answer.request_sha256, certificate_pem=server_answer.certificate_pem
    )
    write_carried(path, file.model_copy(update={"certificates": (swapped, server_answer)}))
    bad, good = server.take(path)
    assert (bad.subject, bad.refusal) == ("site hospital1", "the certificate: is for another key")
    assert good.refusal == ""


def test_a_serial_is_used_once(server):
    certificate = client(server)
    server.database.execute(
        "INSERT INTO certificates (serial, role, name, not_after, issued_at, pem) VALUES (?, ?, ?, 0, 0, '')",
        (serial_text(certificate), "site", "hospital9"),
    )
    (verdict,) = server.take(answer_to(server, certificate))
    assert "of another one" in verdict.refusal
    assert server.ask() is None


# The authority's side ---------------------------------------------------------------------------------


def test_only_what_somebody_agrees_to_is_signed(server, tmp_path):
    signing_queue.export(server.database, AUTHORITY.certificate, tmp_path / "r.json", now=NOW)
    seen = []

    def agrees(request, fingerprint):
        seen.append((request.words, fingerprint))
        return request.role == "site"

    signed = sign_file(tmp_path / "r.json", tmp_path / "c.json", AUTHORITY, agrees, now=NOW)
    assert [request.words for request in signed] == ["site hospital1"]
    assert [words for words, _ in seen] == ["server at fl.example.org, 10.0.0.1", "site hospital1"]
    assert len({fingerprint for _, fingerprint in seen}) == 2
    (verdict,) = server.take(tmp_path / "c.json")
    assert verdict.refusal == ""
    assert [request.role for request in signing_queue.waiting(server.database)] == ["server"]


def test_nothing_is_written_where_nobody_agrees(server, tmp_path):
    signing_queue.export(server.database, AUTHORITY.certificate, tmp_path / "r.json", now=NOW)
    assert sign_file(tmp_path / "r.json", tmp_path / "c.json", AUTHORITY, lambda *_: False, now=NOW) == []
    assert not (tmp_path / "c.json").exists()


def test_another_authority_signs_nothing(server, tmp_path):
    signing_queue.export(server.database, AUTHORITY.certificate, tmp_path / "r.json", now=NOW)
    foreign = create_authority("Lesion Study", now=NOW)
    with pytest.raises(IdentityError, match="is for another authority, of 'Lesion Study'"):
        sign_file(tmp_path / "r.json", tmp_path / "c.json", foreign, lambda *_: True, now=NOW)


def test_a_request_that_does_not_prove_its_key_stops_everything_before_the_first_question(server, tmp_path):
    signing_queue.export(server.database, AUTHORITY.certificate, tmp_path / "r.json", now=NOW)
    file = read_carried(tmp_path / "r.json", RequestFile)
    forged = bytearray(server.request)
    forged[-1] ^= 1  # of the signature
    document = file.requests[1].model_dump() | {
        "request_sha256": signing_queue.sha256_hex(bytes(forged)),
        "request_pem": signing_queue.request_to_pem(bytes(forged)),
    }
    requests = (file.requests[0], type(file.requests[1])(**document))
    write_carried(tmp_path / "r.json", file.model_copy(update={"requests": requests}))
    asked = []
    with pytest.raises(IdentityError, match="site hospital1: signing request is not signed by its own key"):
        sign_file(
            tmp_path / "r.json", tmp_path / "c.json", AUTHORITY, lambda *seen: asked.append(seen), now=NOW
        )
    assert asked == []
