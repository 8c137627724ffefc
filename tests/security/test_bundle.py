import json
from datetime import timedelta

import pytest
from pydantic import SecretStr

from adpfl.errors import IdentityError
from adpfl.security.bundle import EnrollmentBundle, read_bundle, write_bundle
from adpfl.security.certificates import to_pem

TOKEN = "a-token-that-nobody-may-see-0123456789"


@pytest.fixture
def bundle(consortium, now):
    return EnrollmentBundle(
        consortium="Lesion Study",
        name="hospital1",
        address="aggregator.example:50051",
        enroll_address="[2001:db8::7]:50052",
        authority_certificate=to_pem(consortium.authority.certificate).decode(),
        server_certificate=to_pem(consortium.server().certificate).decode(),
        token=SecretStr(TOKEN),
        expires_at=now + timedelta(days=1),
    )


@pytest.fixture
def path(tmp_path, bundle):
    write_bundle(tmp_path / "bundle.json", bundle)
    return tmp_path / "bundle.json"


def rewrite(path, **changes):
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not ...}))


def test_a_bundle_survives_the_disk_in_private(path, bundle):
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_bundle(path) == bundle
    assert read_bundle(path).token.get_secret_value() == TOKEN


def test_a_newer_bundle_takes_the_place_of_an_older_one(path, bundle):
    write_bundle(path, bundle.model_copy(update={"token": SecretStr("n" * 43)}))
    assert read_bundle(path).token.get_secret_value() == "n" * 43
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_token_never_shows(bundle):
    assert TOKEN not in repr(bundle)
    assert TOKEN not in str(bundle)
    assert TOKEN not in bundle.model_dump_json()


def test_a_bundle_that_others_can_read_is_refused(path):
    path.chmod(0o644)
    with pytest.raises(IdentityError, match=r"0644.*chmod 600"):
        read_bundle(path)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"name": "Hospital 1"}, "name is 'Hospital 1'"),
        ({"token": ...}, "token is missing"),
        ({"tokens": "x"}, "tokens is not a known key"),
        ({"address": "aggregator.example"}, "address is 'aggregator.example'"),
        ({"address": "https://aggregator.example:1"}, "address is "),
        ({"expires_at": "2030-01-01T00:00:00"}, "expires_at is "),
        ({"version": 3}, "version is 3"),
        ({"format": "something else"}, "format is 'something else'"),
        ({"authority_certificate": "none"}, "authority_certificate is 'none'"),
    ],
)
def test_a_broken_bundle_is_refused_by_key_and_rule(path, changes, rule):
    rewrite(path, **changes)
    with pytest.raises(IdentityError) as refusal:
        read_bundle(path)
    assert str(refusal.value).startswith(f"{path}: {rule}")
    assert str(refusal.value).endswith("ask the operator for a new bundle")
    assert TOKEN not in str(refusal.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[1]", b'"text"', b'{"token": "' + TOKEN.encode()])
def test_what_is_no_bundle_is_refused_without_quoting_it(path, data):
    path.write_bytes(data)
    with pytest.raises(IdentityError) as refusal:
        read_bundle(path)
    assert str(path) in str(refusal.value)
    assert TOKEN not in str(refusal.value)
