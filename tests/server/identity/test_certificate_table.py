"""The table of certificates: renewal, and who still holds one that works."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization

from adpfl.errors import IdentityError
from adpfl.security.certificates import Holder, create_authority, create_request, new_key, serial_text
from adpfl.security.identity import load_certificate, site_of
from adpfl_server.enrollment import redeem, revoke
from adpfl_server.identity.certificate_table import RENEWALS_A_DAY, check_not_revoked, renew, revoked_holders
from adpfl_server.identity.tokens import issue_token
from adpfl_server.storage.database import open_database, transaction

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
HOSPITAL1 = Holder("site", "hospital1")


@pytest.fixture(scope="module")
def authority():
    return create_authority("Lesion Study", now=NOW)


@pytest.fixture
def database(tmp_path):
    connection = open_database(tmp_path / "server.sqlite")
    yield connection
    connection.close()


def new_request():
    return create_request(new_key(), "hospital1").public_bytes(serialization.Encoding.DER)


@pytest.fixture
def first(database, authority):
    """The certificate that hospital1's token bought, PEM."""
    token = issue_token(database, HOSPITAL1, now=NOW).token
    return redeem(database, authority, holder=HOSPITAL1, token=token, request=new_request(), now=NOW)


def test_a_holder_is_revoked_once_none_of_its_certificates_stands(database):
    with transaction(database):
        database.executemany(
            "INSERT INTO certificates (serial, role, name, not_after, issued_at, revoked_at, pem) "
            "VALUES (?, ?, ?, 9.0, 0.0, ?, '')",
            [
                ("1", "site", "one", 1.0),
                ("2", "site", "one", 2.0),
                ("3", "site", "two", 1.0),
                ("4", "site", "two", None),
                ("5", "operator", "one", None),
            ],
        )
    assert revoked_holders(database) == {Holder("site", "one")}


def test_a_certificate_that_works_buys_the_next_one(database, authority, first):
    old = serial_text(load_certificate(first, what="first"))
    request = new_request()
    asked = {"holder": HOSPITAL1, "serial": old, "request": request}
    again = renew(database, authority, **asked, now=NOW + DAY)
    certificate = load_certificate(again, what="renewed")
    assert (site_of(certificate), again == first) == ("hospital1", False)
    check_not_revoked(database, old)  # until its own end: the answer may have been lost
    check_not_revoked(database, serial_text(certificate))
    assert renew(database, authority, **asked, now=NOW + 2 * DAY) == again


def test_a_revoked_certificate_buys_nothing(database, authority, first):
    holder = HOSPITAL1
    serial = serial_text(load_certificate(first, what="first"))
    revoke(database, holder, now=NOW)
    with pytest.raises(IdentityError, match="has been revoked"):
        renew(database, authority, holder=holder, serial=serial, request=new_request(), now=NOW)
    assert database.execute("SELECT count(*) FROM certificates").fetchone()[0] == 1


def test_renewals_are_bounded(database, authority, first):
    serial = serial_text(load_certificate(first, what="first"))
    asked = {"holder": HOSPITAL1, "serial": serial}
    for _ in range(RENEWALS_A_DAY - 1):
        renew(database, authority, **asked, request=new_request(), now=NOW)
    with pytest.raises(IdentityError, match="no more are issued"):
        renew(database, authority, **asked, request=new_request(), now=NOW)
    renew(database, authority, **asked, request=new_request(), now=NOW + 2 * DAY)
