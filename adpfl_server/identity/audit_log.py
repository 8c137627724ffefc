"""The operator's audit log: who was let in, shut out, and what was done to runs; append-only, hash-chained.

Its form is `adpfl.security.audit_chain`'s. An entry is written in the transaction of what it tells
of, so neither exists without the other. Edits, insertions and removals in the middle break the chain. A log
that was cut or written anew from some entry on is found out by comparing it with an earlier export, whose
head the server signed: an auditor keeps one outside the server's reach.
"""

import json
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from adpfl.config import load_json
from adpfl.errors import ConfigError, IntegrityError
from adpfl.security.audit_chain import EMPTY_CHAIN, AuditEntry, Head, head_of, next_chain, parse_entry
from adpfl.security.certificates import Holder
from adpfl.security.private_files import replace_file

LOCAL: Final = "local"
"""The actor of what was done by command on the server's own machine."""
SERVER: Final = "server"
"""The actor of what the server did by itself."""
DETAIL_CHARACTERS: Final = 1024
PUBLIC_MODE: Final = 0o644


def record(
    database: sqlite3.Connection,
    now: datetime,
    kind: str,
    *,
    actor: Holder | str | None = None,
    subject: Holder | None = None,
    run: str = "",
    detail: str = "",
) -> AuditEntry:
    """Append an entry, within the transaction of what it tells of.

    Args:
        database: in a transaction.
        now: aware current time.
        kind: what happened, in the past tense.
        actor: who did it over the wire; None for a command on the server's machine.
        subject: whom it concerns.
        run: which run it concerns.
        detail: at most `DETAIL_CHARACTERS` characters are kept.
    """
    last = head(database)
    entry = AuditEntry(
        sequence=last.entries + 1,
        at=now.astimezone(UTC).isoformat(timespec="microseconds"),
        kind=kind,
        actor=actor.uri if isinstance(actor, Holder) else actor or LOCAL,
        subject=subject.uri if subject else "",
        run=run,
        detail=detail[:DETAIL_CHARACTERS],
    )
    database.execute(
        "INSERT INTO audit_log VALUES (?, ?, ?)",
        (entry.sequence, entry.canonical_json().decode("ascii"), next_chain(last.chain, entry)),
    )
    return entry


def head(database: sqlite3.Connection) -> Head:
    """Where the log ends now, as stored."""
    row = database.execute("SELECT sequence, chain FROM audit_log ORDER BY sequence DESC LIMIT 1").fetchone()
    return Head(0, EMPTY_CHAIN) if row is None else Head(int(row["sequence"]), str(row["chain"]))


def entries(
    database: sqlite3.Connection, *, after: int = 0, limit: int | None = None
) -> Iterator[AuditEntry]:
    """Entries after a sequence number, as stored, at most `limit` of them; the chain is not checked.

    Raises:
        IntegrityError: a row is no entry.
    """
    rows = database.execute(
        "SELECT sequence, entry_json FROM audit_log WHERE sequence > ? ORDER BY sequence LIMIT ?",
        (after, -1 if limit is None else limit),
    )
    for row in rows:
        yield parse_entry(row["entry_json"], f"entry {row['sequence']}")


def verify(database: sqlite3.Connection) -> Head:
    """Recompute the whole chain.

    Raises:
        IntegrityError: an entry was changed, added or removed; names the first place where it shows.
    """
    chain, count = EMPTY_CHAIN, 0
    for row in _rows(database):
        count += 1
        what = f"audit log, entry {row['sequence']}"
        if row["sequence"] != count:
            raise IntegrityError(f"{what} follows entry {count - 1}; entries in between were removed")
        entry = parse_entry(row["entry_json"], what)
        chain = next_chain(chain, entry)
        if entry.sequence != count or chain != row["chain"]:
            raise IntegrityError(f"{what} does not continue the chain; it or one before it was changed")
    return Head(count, chain)


def _rows(database: sqlite3.Connection) -> Iterator[sqlite3.Row]:
    """The log as it stands, in order; a page that cannot be read is a part that was changed."""
    try:
        yield from database.execute("SELECT * FROM audit_log ORDER BY sequence")
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        raise IntegrityError(f"audit log: the database is damaged ({error})") from error


def export(database: sqlite3.Connection, path: Path, key: ec.EllipticCurvePrivateKey) -> Head:
    """Write the verified log as JSON lines, ended by its head and the server's signature of it.

    Raises:
        IntegrityError: the log does not verify; nothing is written.
        IdentityError: the file cannot be written.
    """
    found = verify(database)
    signature = key.sign(found.signed_text(), ec.ECDSA(SHA256()))
    last = {"entries": found.entries, "chain": found.chain, "signature": b64encode(signature).decode("ascii")}
    lines = [entry.canonical_json().decode("ascii") for entry in entries(database)]
    replace_file(path, "".join(f"{line}\n" for line in [*lines, json.dumps(last)]).encode(), mode=PUBLIC_MODE)
    return found


def read_export(path: Path) -> list[str]:
    """The lines of an exported log.

    Raises:
        ConfigError: there is no such file.
        IntegrityError: the file cannot be read as text.
    """
    try:
        return path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path}: cannot be read as an exported audit log") from error


def verify_export(lines: Iterable[str], key: ec.EllipticCurvePublicKey, *, source: str) -> Head:
    """Check an exported log by itself: its chain, its head and the server's signature.

    Raises:
        IntegrityError: it was changed, cut, or signed by another key.
    """
    *written, last = [line for line in lines if line.strip()] or [""]
    try:
        document = load_json(last)
        found = Head(int(document["entries"]), str(document["chain"]))
        signature = b64decode(document["signature"], validate=True)
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{source}: does not end with a signed head; it was cut short") from error
    parsed = (parse_entry(line, f"{source}, line {number}") for number, line in enumerate(written, start=1))
    if head_of(parsed, source=source) != found:
        raise IntegrityError(f"{source}: its entries do not lead to its head; one was changed or removed")
    try:
        key.verify(signature, found.signed_text(), ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise IntegrityError(f"{source}: its head is not signed by this server") from error
    return found


def require_continues(database: sqlite3.Connection, earlier: Head, *, source: str) -> None:
    """Check that the log still contains an earlier head: nothing before it was cut or written anew.

    Raises:
        IntegrityError: it does not.
    """
    if earlier.entries == 0:
        return
    row = database.execute("SELECT chain FROM audit_log WHERE sequence = ?", (earlier.entries,)).fetchone()
    if row is None:
        raise IntegrityError(
            f"audit log: has {head(database).entries} entries; {source} has {earlier.entries}: it was cut"
        )
    if row["chain"] != earlier.chain:
        raise IntegrityError(f"audit log: differs from {source} at or before entry {earlier.entries}")
