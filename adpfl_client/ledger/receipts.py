"""The server's signed receipts as witnesses against a ledger that was rolled back.

Each receipt carries the head that the ledger had when the update was committed, so a ledger that does not
contain that head is an older copy. Two witnesses are heard: `ledger.receipt`, the newest receipt in a file of
its own beside the ledger, and the server, which answers every `Join` with the newest one that it signed for
this site. The file serves without a link, and is of use where it was not put back with the rest; the server's
memory no restored backup of the site can reach.
"""

import json
from pathlib import Path
from typing import Any

from cryptography import x509

from adpfl.config import FrozenModel, load_json, parse
from adpfl.errors import IdentityError, IntegrityError
from adpfl.wire.receipts import Receipt, SignedReceipt, verify_receipt
from adpfl_client.durable import storing, write_bytes
from adpfl_client.ledger.ledger_files import DATABASE_NAME, HEAD_NAME, KEY_NAME, RECEIPT_NAME
from adpfl_client.ledger_store import LedgerStore


class StoredReceipt(FrozenModel):
    """A server's receipt as the ledger and `ledger.receipt` keep it."""

    receipt: dict[str, Any]
    signature: str
    """DER, hexadecimal."""

    @classmethod
    def of(cls, signed: SignedReceipt) -> "StoredReceipt":
        """The form to be kept."""
        document = json.loads(signed.receipt.canonical_json())
        return cls(receipt=document, signature=signed.signature.hex())

    def text(self) -> str:
        """One line of JSON; the same receipt always gives the same text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    def verified(self, certificate: x509.Certificate) -> Receipt:
        """The receipt, if the server's key signed it.

        Raises:
            IdentityError: the signature is not the server's.
            IntegrityError: what is stored is no receipt.
        """
        try:
            signature = bytes.fromhex(self.signature)
        except ValueError as error:
            raise IntegrityError("a stored receipt's signature is not hexadecimal") from error
        receipt = self.unverified()
        verify_receipt(receipt, signature, certificate)
        return receipt

    def unverified(self) -> Receipt:
        """The receipt, whoever signed it.

        Raises:
            IntegrityError: what is stored is no receipt.
        """
        text = json.dumps(self.receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return Receipt.from_canonical_json(text.encode())


def read_stored(text: str, *, source: str) -> StoredReceipt:
    """Read what `StoredReceipt.text` wrote.

    Raises:
        IntegrityError: it is no receipt.
    """
    try:
        return parse(load_json(text), StoredReceipt, source=source)
    except ValueError as error:
        raise IntegrityError(f"{source}: is not JSON") from error


def keep_receipt(state_dir: Path, signed: SignedReceipt) -> None:
    """Keep a receipt whose signature was checked, unless a newer one is kept already.

    Raises:
        IntegrityError: the file that is there is no receipt.
        StorageError: the disk refuses.
    """
    kept = kept_receipt(state_dir)
    newest = -1 if kept is None else kept.unverified().received_unix_millis
    if signed.receipt.ledger_head and signed.receipt.received_unix_millis >= newest:
        with storing("the newest receipt"):
            write_bytes(state_dir / RECEIPT_NAME, StoredReceipt.of(signed).text().encode() + b"\n")


def kept_receipt(state_dir: Path) -> StoredReceipt | None:
    """What `ledger.receipt` holds, its signature not checked; None where there is no such file.

    Raises:
        IntegrityError: the file is no receipt.
    """
    path = state_dir / RECEIPT_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path}: cannot be read as a receipt") from error
    return read_stored(text, source=str(path))


def require_contained(ledger: LedgerStore, receipt: Receipt, *, holder: str) -> None:
    """Refuse a ledger that does not contain the head of a signed receipt.

    Args:
        ledger: the site's.
        receipt: its signature was checked.
        holder: who holds the receipt, in the error: "the server holds".

    Raises:
        IntegrityError: the ledger is an older copy, or another one.
    """
    if not receipt.ledger_head:
        return
    ledger.verify()  # what is wrong within the ledger is said as that
    try:
        ledger.verify(bytes.fromhex(receipt.ledger_head))
    except IntegrityError as error:
        raise IntegrityError(
            f"{holder} a signed receipt (run {receipt.run}, round {receipt.round}) for a ledger state that "
            f"this ledger does not contain: restore the newest copy of {DATABASE_NAME}, {KEY_NAME} and "
            f"{HEAD_NAME}; until then nothing is spent"
        ) from error


def check_newest(
    ledger: LedgerStore,
    state_dir: Path,
    *,
    site: str,
    certificate: x509.Certificate,
    from_server: SignedReceipt | None,
) -> None:
    """Hold the ledger against both witnesses, before anything is spent.

    Whose signature the kept receipt bears does not matter: the ledger outlives a change of the consortium.

    Args:
        ledger: the site's.
        state_dir: where `ledger.receipt` stands.
        site: this site's name.
        certificate: the server's, as enrolment pinned it.
        from_server: what the server answered to `Join`.

    Raises:
        IntegrityError: the ledger does not contain a head that was signed for.
        IdentityError: the server's receipt is not signed by it, or is another site's.
    """
    kept = kept_receipt(state_dir)
    if kept is not None:
        require_contained(ledger, kept.unverified(), holder=f"{RECEIPT_NAME} holds")
    if from_server is None:
        return
    from_server.verify(certificate)
    receipt = from_server.receipt
    if receipt.site != site:
        raise IdentityError(f"the server's newest receipt is {receipt.site}'s; this is {site}")
    require_contained(ledger, receipt, holder="the server holds")
    keep_receipt(state_dir, from_server)
