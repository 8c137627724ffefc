"""Renewal at a site: the next key is on disk before it is asked for, and no crash strands the site."""

import shutil
from datetime import UTC, datetime, timedelta

import pytest

from adpfl.errors import IdentityError
from adpfl.security.bundle import EnrollmentBundle
from adpfl.security.certificates import (
    Holder,
    create_authority,
    issue_client_certificate,
    issue_server_certificate,
    new_key,
    to_pem,
)
from adpfl.security.identity import public_key
from adpfl.wire.operations import RenewResponse
from adpfl_client.link import enrollment
from adpfl_client.link.enrollment import (
    AWAITED,
    IDENTITY_FOLDER,
    RENEWED_FOLDER,
    AwaitingSignatureError,
    load_site_identity,
)
from adpfl_client.link.renewal import ASK_AGAIN, asked_lately, ends_soon, renew, renewal_due, signed_chain

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
LIFE = timedelta(days=90)
SITE = Holder("site", "hospital1")
OPERATOR = Holder("operator", "hospital1")


class Authority:
    """Signs what it is asked to, and counts."""

    def __init__(self):
        self.own = create_authority("Lesion Study", now=NOW)
        self.requests = []

    def sign(self, request, holder=SITE, now=NOW):
        self.requests.append(request)
        return to_pem(issue_client_certificate(self.own, request, holder, now=now, lifetime=LIFE))


@pytest.fixture
def authority():
    return Authority()


@pytest.fixture
def state_dir(tmp_path, authority, monkeypatch):
    """A state folder that was enrolled for real, but for the wire."""
    server = issue_server_certificate(authority.own, new_key().public_key(), ["localhost"], now=NOW)
    bundle = EnrollmentBundle(
        consortium="Lesion Study",
        name="hospital1",
        address="localhost:1",
        enroll_address="localhost:2",
        authority_certificate=to_pem(authority.own.certificate).decode(),
        server_certificate=to_pem(server).decode(),
        token="t" * 43,
        expires_at=NOW + DAY,
    )
    monkeypatch.setattr(enrollment, "read_bundle", lambda _path: bundle)
    monkeypatch.setattr(
        enrollment,
        "ask_for_certificate",
        lambda _bundle, _authority, request, _route: enrollment.load_certificate(
            authority.sign(request), what="x"
        ),
    )
    enrollment.enroll(tmp_path / "bundle.json", tmp_path / "state", SITE, now=NOW)
    authority.requests.clear()
    return tmp_path / "state"


def test_the_last_third_of_a_life_is_for_renewing(state_dir):
    identity = load_site_identity(state_dir, "hospital1", now=NOW)
    assert not renewal_due(identity, NOW + LIFE / 2)
    assert renewal_due(identity, NOW + 0.7 * LIFE)
    assert not ends_soon(identity, NOW + 0.7 * LIFE)
    assert ends_soon(identity, NOW + LIFE - DAY)


def test_a_renewed_identity_has_a_new_key_and_the_same_name(state_dir, authority):
    old = load_site_identity(state_dir, "hospital1", now=NOW)
    later = NOW + 0.7 * LIFE
    new = renew(state_dir, old, lambda request: authority.sign(request, now=later), now=later)
    assert (new.holder, new.address) == (old.holder, old.address)
    assert public_key(new.certificate) != public_key(old.certificate)
    assert load_site_identity(state_dir, "hospital1", now=later + LIFE - DAY).certificate == new.certificate
    assert not (state_dir / RENEWED_FOLDER).exists()


def test_a_lost_answer_is_asked_for_with_the_same_request(state_dir, authority):
    old = load_site_identity(state_dir, "hospital1", now=NOW)

    def lost(request):
        authority.sign(request)
        raise IdentityError("the link is gone")

    with pytest.raises(IdentityError, match="link is gone"):
        renew(state_dir, old, lost, now=NOW)
    assert load_site_identity(state_dir, "hospital1", now=NOW).certificate == old.certificate
    renew(state_dir, old, authority.sign, now=NOW)
    assert authority.requests[0] == authority.requests[1]


def test_a_renewal_that_waits_is_asked_for_now_and_then_with_the_same_request(state_dir, authority):
    old = load_site_identity(state_dir, "hospital1", now=NOW)

    def waits(request):
        authority.requests.append(request)
        return signed_chain(RenewResponse(b"", awaits_signature=True))

    assert not asked_lately(state_dir, NOW)
    for later in (NOW, NOW + DAY):
        with pytest.raises(AwaitingSignatureError, match="waits for the consortium's signature"):
            renew(state_dir, old, waits, now=later)
        assert asked_lately(state_dir, later + ASK_AGAIN / 2)
        assert not asked_lately(state_dir, later + ASK_AGAIN)
    assert not asked_lately(state_dir, NOW)  # the clock was set back
    assert load_site_identity(state_dir, "hospital1", now=NOW).certificate == old.certificate
    new = renew(state_dir, old, lambda request: signed_chain(RenewResponse(authority.sign(request))), now=NOW)
    assert new.certificate != old.certificate
    assert len(set(authority.requests)) == 1
    assert not (state_dir / IDENTITY_FOLDER / AWAITED).exists()
    assert not asked_lately(state_dir, NOW)


def test_an_unusable_answer_changes_nothing(state_dir, authority):
    old = load_site_identity(state_dir, "hospital1", now=NOW)
    for answer, rule in (
        (lambda request: authority.sign(request, Holder("site", "hospital2")), "names site hospital2"),
        (
            lambda request: authority.sign(request, Holder("operator", "hospital1")),
            "names operator hospital1",
        ),
        (lambda _request: to_pem(old.certificate), "is for another private key"),
        (lambda _request: b"nonsense", "no usable certificate"),
    ):
        with pytest.raises(IdentityError, match=rule):
            renew(state_dir, old, answer, now=NOW)
        assert load_site_identity(state_dir, "hospital1", now=NOW).certificate == old.certificate
    renew(state_dir, old, authority.sign, now=NOW)


def test_a_crash_between_the_renames_is_finished_at_the_next_load(state_dir, authority, monkeypatch):
    old = load_site_identity(state_dir, "hospital1", now=NOW)
    moves = []

    def first_move_only(staging, folder):
        if moves:
            raise KeyboardInterrupt
        moves.append(folder)
        staging.rename(folder)

    real = enrollment.publish_folder
    with monkeypatch.context() as crash:
        crash.setattr(enrollment, "publish_folder", first_move_only)
        with pytest.raises(KeyboardInterrupt):
            renew(state_dir, old, authority.sign, now=NOW)
    assert real is enrollment.publish_folder
    assert not (state_dir / IDENTITY_FOLDER).exists()
    found = load_site_identity(state_dir, "hospital1", now=NOW)
    assert public_key(found.certificate) != public_key(old.certificate)


def test_a_half_prepared_renewal_is_begun_anew(state_dir, authority):
    old = load_site_identity(state_dir, "hospital1", now=NOW)
    (state_dir / RENEWED_FOLDER).mkdir()
    shutil.copy(state_dir / IDENTITY_FOLDER / "key.pem", state_dir / RENEWED_FOLDER / "key.pem")
    new = renew(state_dir, old, authority.sign, now=NOW)
    assert public_key(new.certificate) != public_key(old.certificate)
