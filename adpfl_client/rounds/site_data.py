"""A site's cases of one task, split by patient into what is trained on and what is held out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adpfl.data.case import Case
from adpfl.data.partition import split_held_out
from adpfl.tasks.registry import get_task
from adpfl_client.config import TaskDataConfig

if TYPE_CHECKING:
    from adpfl.tasks.task import Task


@dataclass(frozen=True)
class SiteData:
    """What a site has for one task."""

    task: "Task"
    training: tuple[Case, ...]
    held_out: tuple[Case, ...]
    cache_bytes: int = 2**30
    """Memory for preprocessed training images, in each run."""

    @property
    def training_patients(self) -> tuple[str, ...]:
        """The distinct patients that are trained on, sorted; their number is public, their names stay."""
        return tuple(sorted({case.patient for case in self.training}))

    @property
    def held_out_patients(self) -> int:
        """How many distinct patients are held out."""
        return len({case.patient for case in self.held_out})


def load_site_data(task_name: str, config: TaskDataConfig) -> SiteData:
    """Read and split one task's folder; images are checked, not kept in memory.

    Raises:
        ConfigError: the task is unknown or the held-out share is impossible.
        DataError: the folder is absent, empty or inconsistent.
    """
    task = get_task(task_name)
    split = split_held_out(task.read(config.path), config.held_out_fraction, config.split_seed)
    return SiteData(task, split.training, split.held_out, cache_bytes=config.cache_mib * 2**20)
