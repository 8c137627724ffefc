"""The ledger for a person: what was spent on what, and whether the record can be believed."""

import json
import math
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


def show_ledger(config: SiteConfig, *, as_json: bool) -> str:
    """Every reservation, and what the data set has spent in all.

    Raises:
        StateError: there is no ledger yet.
        IntegrityError: the ledger has been tampered with.
    """
    with _open(config) as ledger:
        reservations = ledger.reservations()
        spent = ledger.spent(config.policy.data_set_id, delta=config.policy.delta)
    if as_json:
        document = {
            "data_set_id": spent.data_set_id,
            "epsilon": "inf" if math.isinf(spent.epsilon) else spent.epsilon,
            "epsilon_of_finite_runs": spent.epsilon_of_finite_runs,
            "epsilon_cap": config.policy.epsilon_cap,
            "delta": spent.delta,
            "no_finite_guarantee_since": spent.no_finite_guarantee_since,
            "reservations": [_row(reservation) for reservation in reservations],
        }
        return json.dumps(document, indent=2)
    lines = [
        f"{_time(one.reserved_at_millis)}  {one.run}  round {one.round_number}, attempt {one.attempt}  "
        f"{one.steps} steps  {'no finite guarantee  ' if one.is_unbounded else ''}{one.status}"
        for one in reservations
    ]
    lines.append(
        f"data set {spent.data_set_id}: epsilon {spent.epsilon:.4g} spent of {config.policy.epsilon_cap:g} "
        f"at delta {spent.delta:g}, {len(reservations)} reservations"
    )
    if spent.no_finite_guarantee_since is not None:
        since = _time(round(1000 * spent.no_finite_guarantee_since))
        lines.append(
            f"no finite guarantee since {since}; the runs that have one add up to epsilon "
            f"{spent.epsilon_of_finite_runs:.4g}"
        )
    return "\n".join(lines)


def verify_ledger(config: SiteConfig) -> str:
    """Check the chain, every receipt's signature, and that each head that was signed stands in the chain.

    Raises:
        StateError: there is no ledger yet.
        IntegrityError: the ledger was edited, cut or rolled back.
        IdentityError: a receipt is not signed by the server.
    """
    certificate = load_site_identity(config.state_dir, config.site, now=datetime.now(UTC)).server_certificate
    with _open(config) as ledger:
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


def _open(config: SiteConfig) -> LedgerStore:
    if not (config.state_dir / DATABASE_NAME).exists():
        raise StateError(f"{config.state_dir}: has no ledger yet; nothing has been spent")
    return LedgerStore.open(config.state_dir, time.time())


def _row(reservation: Reservation) -> dict[str, Any]:
    return {
        "id": reservation.id,
        "run": reservation.run,
        "round": reservation.round_number,
        "attempt": reservation.attempt,
        "steps": reservation.steps,
        "status": reservation.status,
        "finite_guarantee": not reservation.is_unbounded,
        "reserved_at": _time(reservation.reserved_at_millis),
        "update_digest": reservation.update_digest,
    }


def _time(unix_millis: int) -> str:
    return datetime.fromtimestamp(unix_millis / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
