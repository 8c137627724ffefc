"""What the invariants are checked against, written down by the daemons themselves as it happens.

- every release of noise is a line in `releases.log` of the site's state folder, written before it is drawn;
- every update that a site lets go of is kept in `sent/`, so that the sums can be made again.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from adpfl_client import spool
from adpfl_client.rounds import round_work

RELEASES_FILE = "releases.log"
SENT_FOLDER = "sent"


def watch() -> None:
    """Put the witnesses in place; what this process forks has them too."""
    train, release, remove = round_work._train, round_work.PrivacyEngine.release, spool.Spool.remove
    at: dict[str, Any] = {}

    def watched_train(site: Any, run: Any, key: Any, *others: Any) -> Any:
        at.update(file=site.config.state_dir / RELEASES_FILE, round=key.round, base=key.base_digest)
        return train(site, run, key, *others)

    def watched_release(engine: Any, step: int, *others: Any, **more: Any) -> Any:
        _append(at["file"], f"{os.getpid()} {at['round']} {at['base']} {step}\n")
        return release(engine, step, *others, **more)

    def watched_remove(self: spool.Spool, update: spool.SpooledUpdate) -> None:
        kept = self.folder.parent / SENT_FOLDER / update.entry.update_digest
        if not kept.exists():
            partial = kept.with_name(f"{kept.name}.{os.getpid()}")
            shutil.copytree(update.folder, partial)
            partial.rename(kept)
        remove(self, update)

    round_work._train = watched_train
    round_work.PrivacyEngine.release = watched_release
    spool.Spool.remove = watched_remove


def _append(path: Path, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
