"""Whether the ledger can be believed: its chain, and the server's signature under every head it was shown."""

import json
import time
from datetime import UTC, datetime
from typing import Any

from adpfl.config import FrozenModel, parse
from adpfl.errors import IntegrityError, StateError
from adpfl.privacy.ledger import Reservation
from adpfl.wire.receipts import Receipt, verify_receipt
from adpfl_client.config import SiteConfig
from adpfl_client.enrollment import load_site_identity
from adpfl_client.ledger_store import DATABASE_NAME, LedgerStore


class StoredReceipt(FrozenModel):
    """A server's receipt as the ledger keeps it."""

    receipt: dict[str, Any]
    signature: str
    """DER, hexadecimal."""

    def verified(self, certificate: Any) -> Receipt:
        """The receipt, if the server's key signed it.

        Raises:
            IdentityError: the signature is not the server's.
            IntegrityError: what is stored is no receipt.
        """
        text = json.dumps(self.receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        receipt = Receipt.from_canonical_json(text.encode())
        verify_receipt(receipt, bytes.fromhex(self.signature), certificate)
        return receipt


def verify_ledger(config: SiteConfig) -> str:
    """Check the chain, every receipt's signature, and that each head that was signed stands in the chain.

    Raises:
        StateError: there is no ledger yet.
        IntegrityError: the ledger was edited, cut or rolled back.
        IdentityError: a receipt is not signed by the server.
    """
    certificate = load_site_identity(config.state_dir, config.site, now=datetime.now(UTC)).server_certificate
    with open_ledger(config) as ledger:
        entries = ledger.verify().entries
        receipts = 0
        for reservation in ledger.reservations():
            if reservation.receipt_json is None:
                continue
            receipt = read_receipt(reservation).verified(certificate)
            if receipt.update_digest != reservation.update_digest:
                raise IntegrityError(
                    f"ledger: the receipt of run {reservation.run}, round {reservation.round_number} is for "
                    "another update than its row was sealed with"
                )
            ledger.verify(bytes.fromhex(receipt.ledger_head))
            receipts += 1
    return f"ok: {entries} entries, unbroken; {receipts} receipts, each signed by the server"


def read_receipt(reservation: Reservation) -> StoredReceipt:
    """The receipt of a committed reservation.

    Raises:
        IntegrityError: what is stored is no receipt.
    """
    source = f"receipt of run {reservation.run}, round {reservation.round_number}"
    try:
        return parse(json.loads(reservation.receipt_json or ""), StoredReceipt, source=source)
    except ValueError as error:
        raise IntegrityError(f"{source}: is not JSON") from error


def open_ledger(config: SiteConfig) -> LedgerStore:
    """The site's ledger, for a command that only looks at it.

    Raises:
        StateError: there is no ledger yet.
        IntegrityError: the ledger was edited, cut or rolled back.
    """
    if not (config.state_dir / DATABASE_NAME).exists():
        raise StateError(f"{config.state_dir}: has no ledger yet; nothing has been spent")
    return LedgerStore.open(config.state_dir, time.time())
