"""Whether the ledger can be believed: its chain, and the server's signature under every head it was shown."""

import time
from datetime import UTC, datetime

from adpfl.errors import IntegrityError, StateError
from adpfl.privacy.ledger import Reservation
from adpfl_client.config import SiteConfig
from adpfl_client.ledger.ledger_files import RECEIPT_NAME, has_traces
from adpfl_client.ledger.receipts import StoredReceipt, kept_receipt, read_stored, require_contained
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.link.enrollment import load_site_identity


def verify_ledger(config: SiteConfig) -> str:
    """Check the chain, every receipt's signature, and that each head that was signed stands in the chain.

    The newest receipt is kept outside the database too, in `ledger.receipt`, and is compared like the others.
    What needs the server (its own memory of the newest receipt) the agent compares at its start.

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
            require_contained(ledger, receipt, holder="the ledger holds")
            receipts += 1
        kept = kept_receipt(config.state_dir)
        if kept is not None:
            require_contained(ledger, kept.verified(certificate), holder=f"{RECEIPT_NAME} holds")
    outside = f"{RECEIPT_NAME} agrees" if kept is not None else f"there is no {RECEIPT_NAME} to compare with"
    return f"ok: {entries} entries, unbroken; {receipts} receipts, each signed by the server; {outside}"


def read_receipt(reservation: Reservation) -> StoredReceipt:
    """The receipt of a committed reservation.

    Raises:
        IntegrityError: what is stored is no receipt.
    """
    source = f"receipt of run {reservation.run}, round {reservation.round_number}"
    return read_stored(reservation.receipt_json or "", source=source)


def open_ledger(config: SiteConfig) -> LedgerStore:
    """The site's ledger, for a command that only looks at it.

    Raises:
        StateError: there is no ledger yet.
        IntegrityError: the ledger was edited, cut, rolled back or removed.
    """
    if not has_traces(config.state_dir):
        raise StateError(f"{config.state_dir}: has no ledger yet; nothing has been spent")
    return LedgerStore.open(config.state_dir, time.time())
