"""The server's signed receipt of an update: what is signed, and how a site checks it.

ECDSA P-256 with SHA-256 (FIPS 186-5), DER, over the receipt's canonical JSON. The receipt returns the head of
the site's ledger, so a ledger that was rolled back is found out by comparing it with the last receipt.
"""

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from adpfl.errors import IdentityError, IntegrityError, ProtocolError
from adpfl.wire import limits
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb


class CommitOutcome(IntEnum):
    """What became of an update."""

    ACCEPTED = 1
    """Counts, or has counted, in its round."""
    LATE = 2
    """Its round had closed: recorded, not aggregated."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the server says it received. `ledger_head` is empty for a run that spends nothing."""

    run: str
    round: int
    site: str
    base_digest: str
    update_digest: str
    ledger_head: str
    outcome: CommitOutcome
    received_unix_millis: int

    def __post_init__(self) -> None:
        limits.check_name("Receipt.run", self.run)
        limits.check_range("Receipt.round", self.round, 1, limits.ROUND_MAX)
        limits.check_name("Receipt.site", self.site)
        limits.check_digest("Receipt.base_digest", self.base_digest)
        limits.check_digest("Receipt.update_digest", self.update_digest)
        if self.ledger_head:
            limits.check_digest("Receipt.ledger_head", self.ledger_head)
        limits.check_range("Receipt.received_unix_millis", self.received_unix_millis, 0, 2**63 - 1)

    def canonical_json(self) -> bytes:
        """The bytes that are signed: sorted, compact ASCII JSON; `outcome` by its protobuf name."""
        document = {
            "base_digest": self.base_digest,
            "ledger_head": self.ledger_head,
            "outcome": f"COMMIT_OUTCOME_{self.outcome.name}",
            "received_unix_millis": self.received_unix_millis,
            "round": self.round,
            "run": self.run,
            "site": self.site,
            "update_digest": self.update_digest,
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")

    @classmethod
    def from_canonical_json(cls, text: bytes) -> "Receipt":
        """Read back what `canonical_json` wrote.

        Raises:
            IntegrityError: not a receipt.
            ProtocolError: a field breaks the contract's limits, or the text is nested too deeply to be read.
        """
        try:
            document: dict[str, Any] = json.loads(text)
            outcome = CommitOutcome[document.pop("outcome").removeprefix("COMMIT_OUTCOME_")]
            return cls(outcome=outcome, **document)
        except RecursionError as error:
            raise ProtocolError("receipt is nested too deeply to be read") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"stored receipt cannot be read: {type(error).__name__}: {error}") from error

    @classmethod
    def from_wire(cls, message: pb.Receipt) -> "Receipt":
        """Validate a received message."""
        head = message.ledger_head
        return cls(
            run=message.run,
            round=message.round,
            site=message.site,
            base_digest=limits.digest_from_wire("Receipt.base_digest", message.base_digest),
            update_digest=limits.digest_from_wire("Receipt.update_digest", message.update_digest),
            ledger_head=limits.digest_from_wire("Receipt.ledger_head", head) if head else "",
            outcome=limits.enum_from_wire("Receipt.outcome", CommitOutcome, message.outcome),
            received_unix_millis=message.received_unix_millis,
        )

    def to_wire(self) -> pb.Receipt:
        """The message to send."""
        return pb.Receipt(
            run=self.run,
            round=self.round,
            site=self.site,
            base_digest=bytes.fromhex(self.base_digest),
            update_digest=bytes.fromhex(self.update_digest),
            ledger_head=bytes.fromhex(self.ledger_head),
            outcome=f"COMMIT_OUTCOME_{self.outcome.name}",
            received_unix_millis=self.received_unix_millis,
        )


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt with the server's signature (DER), apart from the call that it answered."""

    receipt: Receipt
    signature: bytes

    def __post_init__(self) -> None:
        limits.check_size("SignedReceipt.signature", self.signature, limits.SIGNATURE_BYTES, least=1)

    @classmethod
    def from_wire(cls, message: pb.SignedReceipt) -> "SignedReceipt":
        """Validate a received message."""
        return cls(Receipt.from_wire(message.receipt), message.signature)

    def to_wire(self) -> pb.SignedReceipt:
        """The message to send."""
        return pb.SignedReceipt(receipt=self.receipt.to_wire(), signature=self.signature)

    def verify(self, certificate: x509.Certificate) -> None:
        """Check the signature against the server's certificate.

        Raises:
            IdentityError: as `verify_receipt`.
        """
        verify_receipt(self.receipt, self.signature, certificate)


def sign_receipt(receipt: Receipt, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign a receipt with the server certificate's key; DER."""
    return key.sign(receipt.canonical_json(), ec.ECDSA(SHA256()))


def verify_receipt(receipt: Receipt, signature: bytes, certificate: x509.Certificate) -> None:
    """Check a receipt against the server's certificate.

    Raises:
        IdentityError: the certificate has no P-256 key, or the signature is not by it.
    """
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IdentityError(
            "the server's certificate has no elliptic-curve key; receipts are signed with P-256"
        )
    try:
        key.verify(signature, receipt.canonical_json(), ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise IdentityError(
            f"receipt of run {receipt.run}, round {receipt.round}: "
            "the signature is not by the server's certificate"
        ) from error
