"""The form of the audit log: entries, the chain over them, and a signed head.

chain_0 = SHA-256 of an empty text;  chain_n = SHA-256(chain_(n-1) || entry_n)

with entries as canonical JSON and chains as 32 bytes. Whoever holds the entries can recompute the chain, and
whoever kept an earlier head can tell whether the log was cut or written anew.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pydantic import Field, ValidationError

from adpfl.config import FrozenModel
from adpfl.errors import IntegrityError

EMPTY_CHAIN: Final = hashlib.sha256(b"").hexdigest()


class AuditEntry(FrozenModel):
    """One thing that happened. Names and public figures only: no token, no key, nothing of a patient."""

    sequence: int = Field(ge=1)
    at: str
    """UTC, ISO 8601 with microseconds."""
    kind: str
    actor: str
    """A holder's URI, `local` or `server`."""
    subject: str = ""
    """Whom it concerns: a holder's URI."""
    run: str = ""
    detail: str = ""

    def canonical_json(self) -> bytes:
        """Sorted, compact ASCII JSON: what is chained."""
        document = self.model_dump(mode="json")
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


@dataclass(frozen=True, slots=True)
class Head:
    """Where a log ends."""

    entries: int
    chain: str

    def signed_text(self) -> bytes:
        """What the server signs."""
        return f"adpfl-audit-log {self.entries} {self.chain}".encode("ascii")


def parse_entry(text: str | bytes, what: str) -> AuditEntry:
    """Read an entry's JSON.

    Raises:
        IntegrityError: it is none; `what` names it.
    """
    try:
        return AuditEntry.model_validate_json(text)
    except ValidationError as error:
        raise IntegrityError(f"{what}: is no entry of an audit log") from error


def next_chain(chain: str, entry: AuditEntry) -> str:
    """The chain after one more entry."""
    return hashlib.sha256(bytes.fromhex(chain) + entry.canonical_json()).hexdigest()


def head_of(entries: Iterable[AuditEntry], *, source: str) -> Head:
    """Recompute the chain over a log from its first entry.

    Raises:
        IntegrityError: the entries are not numbered 1, 2, 3, ...
    """
    chain, count = EMPTY_CHAIN, 0
    for count, entry in enumerate(entries, start=1):
        if entry.sequence != count:
            raise IntegrityError(f"{source}: holds entry {entry.sequence} where entry {count} must stand")
        chain = next_chain(chain, entry)
    return Head(count, chain)
