"""The ledger's entries and the chain that makes a change to any of them show.

mac_i = HMAC-SHA256(key, mac_(i-1) | entry_i), mac_0 being 32 zero bytes. The key is kept outside the
database, so a hand that can write the database alone cannot forge an entry. Cutting the tail off leaves a
valid shorter chain: that shows against a head remembered elsewhere (beside the key, and in every receipt
that the server signed).
"""

import hashlib
import hmac
import json
import struct
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from adpfl.errors import IntegrityError

KEY_BYTES: Final = 32
GENESIS: Final = bytes(32)
"""The head of an empty ledger."""


@dataclass(frozen=True)
class Entry:
    """One row: what happened, when, and the MAC of all that happened until then."""

    sequence: int
    """From 1, without gaps."""
    at_millis: int
    """Unix time in milliseconds, as the site's clock had it."""
    kind: str
    body: str
    """Canonical JSON."""
    mac: bytes

    def document(self) -> dict[str, Any]:
        """The body, decoded."""
        document: dict[str, Any] = json.loads(self.body)
        return document


def canonical(document: Mapping[str, Any]) -> str:
    """Sorted, compact ASCII JSON: equal documents give equal text."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def link(key: bytes, previous: bytes, *, sequence: int, at_millis: int, kind: str, body: str) -> Entry:
    """Make the entry that follows the one whose MAC is `previous`."""
    mac = _mac(key, previous, sequence=sequence, at_millis=at_millis, kind=kind, body=body)
    return Entry(sequence, at_millis, kind, body, mac)


def verify_chain(entries: Iterable[Entry], key: bytes, *, remembered_heads: Iterable[bytes] = ()) -> bytes:
    """Recompute every MAC.

    Args:
        entries: all of them, in the order of the store.
        key: the ledger's key.
        remembered_heads: heads seen earlier; each must be the MAC of some entry.

    Returns:
        The head: the last entry's MAC, or `GENESIS` without entries.

    Raises:
        IntegrityError: an entry was edited, deleted, inserted or moved (the message names the first that does
            not fit), or a remembered head is gone (the tail was cut off or an old copy was put back).
    """
    missing = set(remembered_heads) - {GENESIS}
    previous, count = GENESIS, 0
    for count, entry in enumerate(entries, start=1):
        if entry.sequence != count:
            raise IntegrityError(
                f"ledger entry {count} is missing: the next one is numbered {entry.sequence}"
            )
        expected = _mac(
            key,
            previous,
            sequence=entry.sequence,
            at_millis=entry.at_millis,
            kind=entry.kind,
            body=entry.body,
        )
        if not hmac.compare_digest(expected, entry.mac):
            raise IntegrityError(
                f"ledger entry {count} ({entry.kind}) does not match its MAC: it was changed or moved"
            )
        missing.discard(entry.mac)
        previous = entry.mac
    if missing:
        lost = min(missing).hex()
        raise IntegrityError(
            f"ledger ends at entry {count} and does not hold the remembered head {lost[:16]}...: "
            "entries were cut off its end, or an old copy was put back"
        )
    return previous


def fingerprint(key: bytes, patient: str) -> str:
    """Keyed fingerprint of a patient identifier, 32 hexadecimal digits.

    Equal identifiers give equal fingerprints in every run and folder; without the key they cannot be looked
    up.
    """
    fingerprint_key = hmac.digest(key, b"adpfl patient fingerprint", hashlib.sha256)
    name = unicodedata.normalize("NFC", patient).strip().encode()
    return hmac.digest(fingerprint_key, name, hashlib.sha256)[:16].hex()


def _mac(key: bytes, previous: bytes, *, sequence: int, at_millis: int, kind: str, body: str) -> bytes:
    kind_bytes, body_bytes = kind.encode(), body.encode()
    head = struct.pack("<qqII", sequence, at_millis, len(kind_bytes), len(body_bytes))
    return hmac.digest(key, previous + head + kind_bytes + body_bytes, hashlib.sha256)
