"""Receipts: the signed bytes are the contract's, and a changed receipt proves nothing."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256

from adpfl.errors import IdentityError, IntegrityError, ProtocolError
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire.receipts import CommitOutcome, Receipt, sign_receipt, verify_receipt

RECEIPT = Receipt(
    "demo", 3, "hospital1", "aa" * 32, "bb" * 32, "cc" * 32, CommitOutcome.ACCEPTED, 1_700_000_000_123
)


def certificate_of(key):
    name = x509.Name([])
    now = datetime(2026, 1, 1, tzinfo=UTC)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, algorithm)
    )


@pytest.fixture(scope="module")
def key():
    return ec.generate_private_key(ec.SECP256R1())


def test_the_signed_bytes_are_canonical_json():
    assert RECEIPT.canonical_json() == (
        b'{"base_digest":"'
        + b"aa" * 32
        + b'","ledger_head":"'
        + b"cc" * 32
        + b'","outcome":"COMMIT_OUTCOME_ACCEPTED",'
        b'"received_unix_millis":1700000000123,"round":3,"run":"demo","site":"hospital1",'
        b'"update_digest":"' + b"bb" * 32 + b'"}'
    )


def test_a_receipt_survives_the_wire_and_the_database():
    assert Receipt.from_wire(pb.Receipt.FromString(RECEIPT.to_wire().SerializeToString())) == RECEIPT
    assert Receipt.from_canonical_json(RECEIPT.canonical_json()) == RECEIPT


def test_a_genuine_receipt_is_accepted(key):
    verify_receipt(RECEIPT, sign_receipt(RECEIPT, key), certificate_of(key))


@pytest.mark.parametrize(
    "change",
    [
        {"run": "other"},
        {"round": 4},
        {"site": "hospital2"},
        {"base_digest": "ab" * 32},
        {"update_digest": "ab" * 32},
        {"ledger_head": ""},
        {"outcome": CommitOutcome.LATE},
        {"received_unix_millis": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_receipt_is_refused(key, change):
    signature = sign_receipt(RECEIPT, key)
    with pytest.raises(IdentityError, match="signature"):
        verify_receipt(dataclasses.replace(RECEIPT, **change), signature, certificate_of(key))


def test_another_servers_receipt_is_refused(key):
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(IdentityError, match="signature"):
        verify_receipt(RECEIPT, sign_receipt(RECEIPT, other), certificate_of(key))
    with pytest.raises(IdentityError, match="elliptic-curve"):
        verify_receipt(RECEIPT, b"", certificate_of(ed25519.Ed25519PrivateKey.generate()))


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"outcome": 3}', b'{"outcome": "COMMIT_OUTCOME_X"}'])
def test_a_damaged_stored_receipt_is_found_out(text):
    with pytest.raises(IntegrityError, match="stored receipt"):
        Receipt.from_canonical_json(text)


def test_a_receipt_nested_without_end_is_refused():
    with pytest.raises(ProtocolError, match="nested too deeply"):
        Receipt.from_canonical_json(b'{"outcome":' * 100_000)


def test_a_receipt_outside_the_contract_is_refused():
    with pytest.raises(ProtocolError, match="round"):
        dataclasses.replace(RECEIPT, round=0)
    with pytest.raises(ProtocolError, match="ledger_head"):
        dataclasses.replace(RECEIPT, ledger_head="xyz")


def test_outcomes_match_the_contract():
    named = {name.split("_", 2)[-1]: number for name, number in pb.CommitOutcome.items() if number}
    assert {member.name: member.value for member in CommitOutcome} == named


@pytest.mark.parametrize(("key", "odd"), [("round", 1.0), ("round", True), ("received_unix_millis", 5.5)])
def test_a_stored_receipt_with_numbers_that_only_look_whole_is_refused(key, odd):
    document = json.loads(RECEIPT.canonical_json()) | {key: odd}
    with pytest.raises(ProtocolError, match=f"{key} is {odd}; must be a whole number"):
        Receipt.from_canonical_json(json.dumps(document).encode())
