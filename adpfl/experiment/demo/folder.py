"""The demonstration's folder: what lies where, and the promise never to empty anybody else's."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adpfl.errors import ConfigError
from adpfl.experiment.held_folder import held

MARKER = ".adpfl-demo"
_MARKER_TEXT = "This folder was made by `adpfl demo`, which empties it before it starts again.\n"


@dataclass(frozen=True)
class DemoFolder:
    """Paths in one demonstration's folder."""

    root: Path

    @property
    def server_config(self) -> Path:
        """The aggregator's configuration."""
        return self.root / "server.yaml"

    @property
    def server_state(self) -> Path:
        """The aggregator's state folder."""
        return self.root / "server"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report.html"

    @property
    def record(self) -> Path:
        """The joined record."""
        return self.root / "run.json"

    def site_config(self, site: str) -> Path:
        """A site's configuration, where its agent looks for it."""
        return self.root / "sites" / f"{site}.yaml"

    def site_state(self, site: str) -> Path:
        """A site's state folder."""
        return self.root / "state" / site

    def site_data(self, site: str) -> Path:
        """A site's images and masks."""
        return self.root / "data" / site

    def bundle(self, site: str) -> Path:
        """The enrolment bundle that the operator hands to a site."""
        return self.root / "bundles" / f"{site}.json"

    @property
    def logs(self) -> Path:
        """Where every command's output goes."""
        return self.root / "logs"

    @property
    def started(self) -> bool:
        """Whether any command was started."""
        return self.logs.is_dir() and any(self.logs.iterdir())

    def log(self, name: str) -> Path:
        """Log file of one command."""
        return self.logs / f"{name}.log"


@contextmanager
def claimed(root: Path) -> Iterator[DemoFolder]:
    """An empty demonstration folder, held against a second demonstration for as long as the block runs.

    A folder that an earlier demonstration made is emptied; any other folder with something in it is refused.
    Git is told to ignore all of it: keys lie in it. Where the block fails before any command was started,
    what it made is removed; from then on everything stays, since the logs say what happened.

    Raises:
        ConfigError: `root` is not this command's to empty, or another demonstration is using it.
    """
    refuse_strangers(root)
    with held(root, marker=MARKER, text=_MARKER_TEXT, other="demonstration") as existed:
        _empty(root)
        folder = DemoFolder(root.resolve())
        for path in (folder.log("x"), folder.bundle("x"), folder.site_config("x"), folder.site_state("x")):
            path.parent.mkdir()
        (root / ".gitignore").write_text("*\n", encoding="utf-8")
        try:
            yield folder
        except BaseException:
            if not folder.started:
                _vanish(root, keep=existed)
            raise


def refuse_strangers(root: Path) -> None:
    """Refuse a folder that `claimed` would not empty.

    Raises:
        ConfigError: it is no folder, or holds what no demonstration made.
    """
    if not root.exists() and not root.is_symlink():
        return
    if root.is_symlink() or not root.is_dir():
        raise ConfigError(f"--output is {root}; must be a folder, not a file or a link")
    marker = root / MARKER
    if any(root.iterdir()) and (marker.is_symlink() or not marker.is_file()):
        raise ConfigError(
            f"--output is {root}, which holds files that adpfl demo did not make; "
            "name another folder, or remove it yourself"
        )


def _empty(root: Path) -> None:
    """Remove all but the marker; links are removed, never followed."""
    for entry in root.iterdir():
        if entry.name == MARKER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _vanish(root: Path, *, keep: bool) -> None:
    """Remove what a demonstration that never started has made; an existing folder stays, empty."""
    _empty(root)
    (root / MARKER).unlink(missing_ok=True)
    if not keep:
        root.rmdir()
