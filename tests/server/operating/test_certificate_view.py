"""What is said of the server's own certificates, and by which commands they are renewed."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from adpfl.security.certificates import (
    AUTHORITY_LIFETIME,
    SERVER_LIFETIME,
    create_authority,
    issue_server_certificate,
)
from adpfl_server.identity.certificate_table import EXPIRES_SOON
from adpfl_server.identity.pki import (
    init_consortium,
    init_without_authority_key,
    install_server_certificate,
    load_server_key,
)
from adpfl_server.operating.certificate_view import ending_soon

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
ALMOST = NOW + SERVER_LIFETIME - EXPIRES_SOON


@pytest.fixture
def online(tmp_path):
    init_consortium(tmp_path / "online", "Lesion Study", ["localhost"], now=NOW)
    return tmp_path / "online"


@pytest.fixture
def offline(tmp_path):
    authority = create_authority("Lesion Study", now=NOW)
    init_without_authority_key(tmp_path / "offline", authority.certificate)
    key = load_server_key(tmp_path / "offline").public_key()
    certificate = issue_server_certificate(authority, key, ["localhost"], now=NOW)
    install_server_certificate(tmp_path / "offline", certificate)
    return tmp_path / "offline"


def test_nothing_is_said_in_time(online, offline):
    for state_dir in (online, offline):
        assert list(ending_soon(state_dir, ALMOST - HOUR)) == []


def test_each_kind_of_consortium_is_told_its_commands(online, offline):
    (here,) = ending_soon(online, ALMOST)
    (elsewhere,) = ending_soon(offline, ALMOST)
    said = "the server's certificate ends at 2033-08-08 07:08 UTC; renew it: adpfl-server renew-certificate"
    assert here == said
    assert elsewhere == (
        f"{said}, requests export FILE, sign FILE on the authority's machine, requests import FILE"
    )


def test_an_authority_that_ends_cannot_be_renewed(offline):
    _, said = sorted(ending_soon(offline, NOW + AUTHORITY_LIFETIME), reverse=True)
    assert said.startswith("the authority's certificate ends at")
    assert said.endswith("found a new consortium and enrol everybody")


def test_a_certificate_that_is_not_there_is_nobodys_warning(tmp_path):
    init_without_authority_key(tmp_path / "state", create_authority("Lesion Study", now=NOW).certificate)
    assert list(ending_soon(tmp_path / "state", ALMOST)) == []


def test_a_daemon_says_it_in_its_log(consortium):
    consortium.state_dir = consortium.root / "old"
    almost = datetime.now(UTC) - SERVER_LIFETIME + EXPIRES_SOON - HOUR
    init_consortium(consortium.state_dir, "Lesion Study", ["localhost"], now=almost)
    with capture_logs() as logs:
        consortium.start(state_dir="old")
        deadline = time.monotonic() + 20
        while not any("renew it" in line["event"] for line in logs):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    (told,) = [line for line in logs if "renew it" in line["event"]]
    assert told["log_level"] == "warning"
    assert "the server's certificate ends at" in told["event"]
