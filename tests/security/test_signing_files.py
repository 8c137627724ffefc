"""The files between server and offline authority: one form, bounds, and nothing believed."""

import hashlib
import json
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from adpfl.errors import IdentityError
from adpfl.security.certificates import create_request, new_key
from adpfl.security.private_files import MAX_FILE_BYTES
from adpfl.security.signing_files import (
    REQUESTS_PER_FILE,
    CertificateFile,
    RequestFile,
    SignedCertificate,
    SigningRequest,
    canonical,
    key_fingerprint,
    read_carried,
    request_to_pem,
    write_carried,
)

NOW = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
DIGEST = "ab" * 32


def der(name="hospital1", key=None):
    return create_request(key or new_key(), name).public_bytes(serialization.Encoding.DER)


REQUEST = der()


def document(request=REQUEST, **changes):
    return {
        "request_sha256": hashlib.sha256(request).hexdigest(),
        "role": "site",
        "name": "hospital1",
        "purpose": "enrolment",
        "request_pem": request_to_pem(request),
        "asked_at": NOW,
    } | changes


def file_of(*requests, **changes):
    return RequestFile(
        **{
            "consortium": "Study",
            "authority_sha256": DIGEST,
            "requests": requests or (SigningRequest(**document()),),
        }
        | changes
    )


def test_what_is_written_is_read(tmp_path):
    server = SigningRequest(
        **document(der("server"), role="server", name="", hosts=("fl.example.org", "10.0.0.1"))
    )
    written = file_of(SigningRequest(**document()), server)
    digest = write_carried(tmp_path / "requests.json", written)
    assert read_carried(tmp_path / "requests.json", RequestFile) == written
    assert hashlib.sha256((tmp_path / "requests.json").read_bytes()).hexdigest() == digest
    assert [request.words for request in written.requests] == [
        "site hospital1",
        "server at fl.example.org, 10.0.0.1",
    ]
    assert written.requests[0].request_der == REQUEST
    assert [path.name for path in tmp_path.iterdir()] == ["requests.json"]


def test_the_pem_is_what_others_read():
    key = new_key()
    request = create_request(key, "hospital1")
    pem = request.public_bytes(serialization.Encoding.PEM).decode()
    assert request_to_pem(request.public_bytes(serialization.Encoding.DER)) == pem


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"name": "Hospital One"}, "must be 1 to 63 lower-case letters"),
        ({"name": ""}, "must be 1 to 63"),
        ({"role": "root"}, "role"),
        ({"hosts": ("fl.example.org",)}, "a caller a name and no hosts"),
        ({"role": "server"}, "hosts is empty"),
        ({"role": "server", "hosts": ("fl.example.org",)}, "a server has hosts and no name"),
        ({"role": "server", "name": "", "hosts": ("*.example.org",)}, "must be a DNS name or an IP address"),
        ({"role": "server", "name": "", "hosts": ("a",) * 65}, "at most 64"),
        ({"purpose": "fun"}, "purpose"),
        ({"request_sha256": DIGEST}, "is not that of request_pem"),
        ({"request_sha256": "AB" * 32}, "request_sha256"),
        ({"request_pem": "-----BEGIN CERTIFICATE REQUEST-----\n"}, "must be one certificate request in PEM"),
        ({"request_pem": request_to_pem(REQUEST) * 2}, "must be one certificate request in PEM"),
        ({"request_pem": request_to_pem(REQUEST) + "note\n"}, "must be one certificate request in PEM"),
        ({"request_pem": request_to_pem(bytes(10_000))}, "at most 12288"),
        ({"asked_at": NOW.replace(tzinfo=None)}, "timezone"),
        ({"token": "t"}, "Extra inputs"),
    ],
)
def test_a_request_that_breaks_a_rule_is_refused(changes, rule):
    with pytest.raises(ValidationError, match=rule):
        SigningRequest(**document(**changes))


def test_a_file_holds_each_request_once_and_few():
    one = SigningRequest(**document())
    with pytest.raises(ValidationError, match="stands twice"):
        file_of(one, one)
    with pytest.raises(ValidationError, match="at least 1"):
        file_of(requests=())
    with pytest.raises(ValidationError, match=f"at most {REQUESTS_PER_FILE}"):
        file_of(requests=(one,) * (REQUESTS_PER_FILE + 1))


def spoiled(change):
    """The bytes of a good file after a change of its document."""
    found = json.loads(canonical(file_of()))
    change(found)
    return json.dumps(found, sort_keys=True, separators=(",", ":")).encode() + b"\n"


GOOD = canonical(file_of())
SPOILED = {
    "nothing": (b"", "is not JSON"),
    "no JSON": (b"{", "is not JSON"),
    "bad text": (b"\xff\xfe", "is not JSON"),
    "a list": (b"[]", "must be a mapping"),
    "deep": (b"[" * 100_000, "is not JSON"),
    "spaces": (GOOD.replace(b",", b", "), "not in its canonical form"),
    "no line feed": (GOOD.rstrip(), "not in its canonical form"),
    "carriage return": (GOOD.replace(b"\n", b"\r\n"), "not in its canonical form"),
    "a key twice": (GOOD.replace(b'"version":1', b'"version":1,"version":1'), "not in its canonical form"),
    "another version": (spoiled(lambda found: found.update(version=2)), "version is 2"),
    "another kind": (spoiled(lambda found: found.update(format="adpfl-signed-certificates")), "format is"),
    "an unknown key": (spoiled(lambda found: found.update(note="x")), "note is not a known key"),
    "no requests": (spoiled(lambda found: found.update(requests=[])), "requests"),
    "another name": (
        spoiled(lambda found: found["requests"][0].update(name="Hospital")),
        "must be 1 to 63 lower-case",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_file_is_refused_in_one_line(tmp_path, case):
    data, rule = SPOILED[case]
    (tmp_path / "file.json").write_bytes(data)
    with pytest.raises(IdentityError, match=rule) as refused:
        read_carried(tmp_path / "file.json", RequestFile)
    assert str(refused.value).startswith(str(tmp_path / "file.json"))
    assert "\n" not in str(refused.value)


def test_a_file_too_large_is_neither_written_nor_read(tmp_path):
    answers = [
        SignedCertificate(
            request_sha256=f"{number:064x}", certificate_pem="-----BEGIN CERTIFICATE-----\n" + "A" * 4000
        )
        for number in range(REQUESTS_PER_FILE)
    ]
    with pytest.raises(IdentityError, match=f"must be at most {MAX_FILE_BYTES}"):
        write_carried(
            tmp_path / "big.json", CertificateFile(authority_sha256=DIGEST, certificates=tuple(answers))
        )
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "big.json").write_bytes(b" " * (MAX_FILE_BYTES + 1))
    with pytest.raises(IdentityError, match="must be at most"):
        read_carried(tmp_path / "big.json", CertificateFile)


def test_an_unwritable_place_is_named(tmp_path):
    with pytest.raises(IdentityError, match="cannot be written"):
        write_carried(tmp_path / "absent" / "requests.json", file_of())


def test_a_fingerprint_can_be_read_out():
    key = new_key()
    shown = key_fingerprint(key.public_key())
    assert [len(group) for group in shown.split(" ")] == [8] * 8
    assert shown == key_fingerprint(key.public_key()) != key_fingerprint(new_key().public_key())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_bytes_crash_the_reader(tmp_path_factory, data):
    """Good files with bytes changed, cut or put in: read as they were, or refused."""
    spoilt = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(spoilt) - 1))
        match data.draw(st.sampled_from(["change", "cut", "put in"])):
            case "change":
                spoilt[place] = data.draw(st.integers(0, 255))
            case "cut":
                del spoilt[place : place + data.draw(st.integers(1, 50))]
            case _:
                spoilt[place:place] = data.draw(st.binary(min_size=1, max_size=20))
        if not spoilt:
            spoilt = bytearray(b"x")
    path = tmp_path_factory.getbasetemp() / "spoilt.json"
    path.write_bytes(bytes(spoilt))
    try:
        found = read_carried(path, RequestFile)
    except IdentityError:
        return
    assert canonical(found) == bytes(spoilt)
