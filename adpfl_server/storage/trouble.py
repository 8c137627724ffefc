"""A disk or database in trouble: what counts as that, and how it is told.

Nothing was stored, and trying again later may mend it: the operator gets one line that says what to mend, a
site an answer that it retries.
"""

import os
import sqlite3
import tempfile
from pathlib import Path
from typing import Final

from adpfl.errors import AdpflError, IntegrityError


class DamagedChunkError(IntegrityError):
    """A stored chunk is gone, or its bytes have changed on disk."""


STORAGE_ERRORS: Final = (OSError, sqlite3.Error, DamagedChunkError)

STORAGE_FAILURE: Final = "the server's storage is in trouble and nothing was changed; try again later"
"""All that a caller learns: paths and sizes are the operator's."""


BLOBS_FOLDER: Final = "blobs"
PROBE_BYTES: Final = 64 * 2**10


def probe(state_dir: Path) -> None:
    """Write, sync and remove a small file beside the database, and one beside the chunks.

    Raises:
        OSError: the disk refuses.
    """
    for folder in (state_dir, state_dir / BLOBS_FOLDER):
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe.") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())


def storage_reason(error: Exception) -> str:
    """One line for the server's log: the system's reason, with the file where there is one."""
    if isinstance(error, AdpflError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or str(error) or type(error).__name__}"
    return f"database: {error}"
