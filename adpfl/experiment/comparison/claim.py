"""A comparison's folder belongs to one command at a time, and to one comparison for good."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adpfl.errors import ConfigError
from adpfl.experiment.comparison.choices import Choices
from adpfl.experiment.comparison.folder import ComparisonFolder
from adpfl.experiment.comparison.plan import ComparisonPlan
from adpfl.experiment.held_folder import held
from adpfl.experiment.report.record import read_record

MARKER = ".adpfl-compare"
_MARKER_TEXT = "This folder was made by `adpfl compare` or `adpfl sweep`.\n"


@contextmanager
def claimed(root: Path) -> Iterator[ComparisonFolder]:
    """The folder, held against another command for as long as the block runs.

    Where the block fails before it has written anything, what it made is removed.

    Raises:
        ConfigError: the folder holds what no comparison made, or another command is using it.
    """
    refuse_strangers(root)
    with held(root, marker=MARKER, text=_MARKER_TEXT, other="command") as existed:
        try:
            yield ComparisonFolder(root.resolve())
        except BaseException:
            if not existed and [path.name for path in root.iterdir()] == [MARKER]:
                shutil.rmtree(root)
            raise


def refuse_strangers(root: Path) -> None:
    """Refuse a folder that is not a comparison's.

    Raises:
        ConfigError: it is no folder, or holds files that no comparison made.
    """
    if not root.exists() and not root.is_symlink():
        return
    if not root.is_dir():
        raise ConfigError(f"--output is {root}; must be a folder")
    if any(root.iterdir()) and not (root / MARKER).is_file():
        raise ConfigError(
            f"--output is {root}, which holds files that no comparison made; name another folder"
        )


def earlier_plan(folder: ComparisonFolder, choices: Choices) -> ComparisonPlan | None:
    """The plan that this folder was begun with; None where there is none yet.

    What a start that was cut short before its plan was written has left is removed.

    Raises:
        ConfigError: it was begun with other choices; names what differs.
        StateError: the plan cannot be read.
    """
    if not folder.plan.exists():
        shutil.rmtree(folder.data, ignore_errors=True)
        return None
    plan = read_record(folder.plan, ComparisonPlan)
    asked = choices.options()
    differing = [
        f"{name} is {asked.get(name, 'absent')}, was {plan.options.get(name, 'absent')}"
        for name in sorted(asked.keys() | plan.options.keys())
        if asked.get(name) != plan.options.get(name)
    ]
    if differing:
        raise ConfigError(
            f"--output is {folder.root}, which holds another comparison ({'; '.join(differing)}); "
            "name another folder, or ask for the same again to go on with it"
        )
    return plan


@contextmanager
def working_on(lock: Path) -> Iterator[bool]:
    """Whether this process alone works on a cell, for as long as the block runs.

    The lock ends with the process that holds it, however that ends.
    """
    with lock.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
