"""Finds tasks by name: the built-in ones, and those that installed packages register.

A package outside the project adds a task with an entry point::

    [project.entry-points."adpfl.tasks"]
    retina = "my_package.retina:Retina"

Importable without torch: a task's module is imported only when that task is asked for.
"""

import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from adpfl.errors import ConfigError

if TYPE_CHECKING:
    from adpfl.tasks.task import Task

GROUP = "adpfl.tasks"

_BUILT_IN = (
    EntryPoint("brain_tumor", "adpfl.tasks.brain_tumor:BrainTumor", GROUP),
    EntryPoint("brain_tumor_presence", "adpfl.tasks.presence:BrainTumorPresence", GROUP),
    EntryPoint("kidney_tumor", "adpfl.tasks.kidney_tumor:KidneyTumor", GROUP),
    EntryPoint("kidney_tumor_presence", "adpfl.tasks.presence:KidneyTumorPresence", GROUP),
    EntryPoint("skin_lesion", "adpfl.tasks.skin_lesion:SkinLesion", GROUP),
    EntryPoint("skin_lesion_presence", "adpfl.tasks.presence:SkinLesionPresence", GROUP),
)
"""Known without installed metadata too, so that a source checkout works."""


def known_tasks() -> tuple[str, ...]:
    """Names of all tasks that `get_task` can give, sorted."""
    return tuple(sorted(_registered()))


def built_in_tasks() -> tuple[str, ...]:
    """Names of the project's own tasks, whose images can be generated, sorted."""
    return tuple(sorted(entry.name for entry in _BUILT_IN))


def get_task(name: str) -> "Task":
    """The task of this name.

    Raises:
        ConfigError: no task, or more than one, is registered under the name, or what is registered cannot be
            imported or is no `Task`.
    """
    registered = _registered()
    if name not in registered:
        raise ConfigError(f"task is {name!r}; must be one of: {', '.join(sorted(registered))}")
    candidates = registered[name]
    if len(candidates) > 1:
        values = ", ".join(sorted(entry.value for entry in candidates))
        raise ConfigError(f"task {name!r} is registered more than once ({values}); uninstall all but one")
    return _load(candidates[0])


def _registered() -> dict[str, list[EntryPoint]]:
    """Entry points by name; one object registered twice (a checkout also installed) counts once."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in (*_BUILT_IN, *entry_points(group=GROUP)):
        same_name = found.setdefault(entry.name, [])
        if all(entry.value != other.value for other in same_name):
            same_name.append(entry)
    return found


def _load(entry: EntryPoint) -> "Task":
    from adpfl.tasks.task import Task  # noqa: PLC0415 - brings torch, which listing names does not need

    try:
        kind = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"task {entry.name!r}: {entry.value} cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ConfigError(f"task {entry.name!r}: {entry.value} is not a subclass of adpfl.tasks.task.Task")
    if inspect.isabstract(kind):
        raise ConfigError(
            f"task {entry.name!r}: {entry.value} is abstract; it must define every method of Task"
        )
    task = kind()
    if task.name != entry.name:
        raise ConfigError(f"task {entry.name!r}: {entry.value} calls itself {task.name!r}; names must agree")
    return task
