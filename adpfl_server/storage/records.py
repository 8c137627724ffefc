"""Writes a run's record beside the state: `runs/<run>/run.json`, whole at every instant."""

import json
import os
import tempfile
from pathlib import Path

from adpfl.federated.records import ServerRunRecord
from adpfl.security.private_files import make_folder, sync_folder


def write_record(path: Path, record: ServerRunRecord) -> None:
    """Replace the record in one step.

    Raises:
        OSError: the disk refuses; the older record stays.
    """
    make_folder(path.parent, mode=0o755)
    text = json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=True) + "\n"
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, 0o644)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)
