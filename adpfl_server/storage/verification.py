"""Reads every stored chunk and says what is damaged, and puts back what a copy still has.

Chunks are named by their content, so any file that holds a model's bytes can mend it: an export, or the file
in which a site's agent keeps the model that it received.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adpfl.errors import IntegrityError, ProtocolError, StateError
from adpfl.wire.chunks import DEFAULT_CHUNK_SIZE, Manifest, check_chunk_size, sha256_hex
from adpfl.wire.limits import shown_text
from adpfl_server.config import ServerConfig
from adpfl_server.operating.overview import open_store
from adpfl_server.rounds.housekeeping import damaged_chunks
from adpfl_server.storage.blobs import BlobFolder
from adpfl_server.storage.collection import reading
from adpfl_server.storage.trouble import storage_reason
from adpfl_server.storage.weights import read_header

SHOWN_BYTES = 80
"""Of what a file says and must not."""

_WHAT = """
    SELECT digest AS object, 'the model of round ' || round || ' of ' || run AS what FROM run_models
    UNION ALL SELECT digest, 'the average of the models up to round ' || round || ' of ' || run
        FROM averaged_models
    UNION ALL SELECT first_digest, 'the optimizer''s state after round ' || round || ' of ' || run
        FROM server_moments
    UNION ALL SELECT second_digest, 'the optimizer''s state after round ' || round || ' of ' || run
        FROM server_moments
    UNION ALL SELECT offers.update_digest, iif(commits.site IS NULL, 'an update that ', 'the update of ')
        || offers.site || iif(commits.site IS NULL, ' announced', '') || ' for round ' || offers.round
        || ' of ' || offers.run
        FROM offers LEFT JOIN commits USING (run, round, site, update_digest)
"""


@dataclass(frozen=True)
class Damage:
    """One object that cannot be read whole."""

    what: str
    chunks: frozenset[str]

    def __str__(self) -> str:
        """One line that names the object and its first damaged chunk."""
        return f"{self.what}: {len(self.chunks)} chunk(s) damaged or missing, {min(self.chunks)} first"


@dataclass(frozen=True)
class Verification:
    """What reading everything has shown."""

    objects: int
    chunks: int
    damaged: tuple[Damage, ...]
    restored: int
    """Chunks that were put back."""


def verify_store(config: ServerConfig, copies: tuple[Path, ...] = ()) -> Verification:
    """Read the database and every chunk that it names; put damaged chunks back where a copy has them.

    The daemon may be running. An update that is announced and not committed may lack chunks: they are still
    to come, and are no damage.

    Args:
        config: the server's.
        copies: safetensors files that hold models of this server.

    Raises:
        StateError: there is no database, or it is damaged, or the disk refuses.
        IntegrityError: a copy is no weights file.
    """
    with open_store(config) as store, reading(config.state_dir):
        store.check()
        try:
            found = list(_damage(store.connection, store.blobs))
            wanted = frozenset(digest for one in found for digest in one.chunks)
            restored = sum(_restore(path, store.blobs, wanted) for path in copies)
            if restored:
                found = list(_damage(store.connection, store.blobs))
            (objects,) = store.connection.execute("SELECT count(*) FROM objects").fetchone()
            chunks = len(store.chunks_in_use())
        except OSError as error:
            raise StateError(f"{config.state_dir}: {storage_reason(error)}") from error
    return Verification(objects, chunks, tuple(found), restored)


def _damage(connection: sqlite3.Connection, blobs: BlobFolder) -> Iterator[Damage]:
    rows = connection.execute(
        f"SELECT what, manifest_json FROM ({_WHAT}) AS named "  # noqa: S608 - a constant
        "JOIN objects ON objects.digest = named.object ORDER BY what"
    ).fetchall()
    for row in rows:
        what = str(row["what"])
        bad = damaged_chunks(blobs, Manifest.from_canonical_json(row["manifest_json"]))
        if what.startswith("an update that"):
            bad = frozenset(digest for digest in bad if blobs.has(digest))
        if bad:
            yield Damage(what, bad)


def _chunk_size(path: Path, told: object) -> int:
    """What a file says of its chunks' size, checked: anybody may have written it."""
    if not isinstance(told, int) or isinstance(told, bool):
        found = shown_text(repr(told), limit=SHOWN_BYTES)
        raise IntegrityError(f"{path}: its chunk_size is {found}; must be a whole number")
    try:
        check_chunk_size(told)
    except ProtocolError as error:
        raise IntegrityError(f"{path}: {error}") from error
    return told


def _restore(path: Path, blobs: BlobFolder, wanted: frozenset[str]) -> int:
    """Store the wanted chunks that a file holds; returns how many."""
    header = read_header(path)
    size = _chunk_size(path, (header.description or {}).get("chunk_size", DEFAULT_CHUNK_SIZE))
    restored = 0
    with path.open("rb") as file:
        file.seek(header.payload_offset)
        while chunk := file.read(size):
            digest = sha256_hex(chunk)
            if digest in wanted:
                blobs.put(digest, chunk)
                restored += 1
    return restored
