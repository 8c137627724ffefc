"""What the privacy engine carries from one round to the next, kept beside a run's record.

It holds raw norms and a secret order of units: it is the site's alone. It follows the sealed updates: a state
is kept when its update is, never earlier, so that a round that is done again starts from where the lost
attempt started.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adpfl.config import load_json
from adpfl.errors import StateError
from adpfl.privacy.engine import EngineState
from adpfl_client.durable import storing, write_bytes
from adpfl_client.spool import SpoolEntry

ENGINE_STATE_FILE = "engine_state.json"


def keep_engine_state(folder: Path, entry: SpoolEntry) -> None:
    """Keep the state that a sealed update left; doing so again changes nothing.

    Raises:
        StateError: what is kept already cannot be read.
        StorageError: the disk refuses.
    """
    kept = _read(folder)
    if kept is not None and kept["update_digest"] == entry.update_digest:
        return
    document = {
        "round": entry.round,
        "state": entry.engine_state,
        "update_digest": entry.update_digest,
    }
    with storing("the privacy engine's state"):
        write_bytes(folder / ENGINE_STATE_FILE, json.dumps(document).encode())


def read_engine_state(folder: Path) -> EngineState | None:
    """The state after the last sealed update of a run; None before the first.

    Raises:
        StateError: what is kept cannot be read.
    """
    kept = _read(folder)
    if kept is None:
        return None
    try:
        return EngineState.model_validate(kept["state"])
    except ValidationError as error:
        raise StateError(f"{folder / ENGINE_STATE_FILE}: is no engine state of this version") from error


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / ENGINE_STATE_FILE
    if not path.exists():
        return None
    try:
        document = load_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StateError(f"{path}: cannot be read") from error
    if not isinstance(document, dict) or not {"state", "update_digest"} <= document.keys():
        raise StateError(f"{path}: is no engine state of this version")
    return document
