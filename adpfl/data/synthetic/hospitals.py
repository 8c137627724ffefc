"""Imaginary hospitals by the task whose images they have: one door to the generators of all modalities."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from adpfl.data.case import Case
from adpfl.data.synthetic import ct, dermoscopy, mri
from adpfl.errors import ConfigError

PROFILES: Final = ("A", "B", "C", "D")
"""What every task's hospitals are called; what sets them apart stands with the task's own profiles."""


def write_hospital(task: str, folder: Path, profile: str, *, cases: int, seed: int) -> list[Case]:
    """Write one hospital's data set in a layout that the task reads, in the generator's default size.

    Args:
        task: skin_lesion, kidney_tumor or brain_tumor, or one of their presence tasks, which read the same
            images.
        folder: must not exist, or be empty.
        profile: A, B, C or D.
        cases: how many images.
        seed: another seed gives other patients.

    Returns:
        The cases written, ordered by case.

    Raises:
        ConfigError: the task or the profile is unknown, or there are too few or too many cases.
        DataError: the folder is not empty or cannot be written.
    """
    imaged = task.removesuffix("_presence")
    if imaged not in _WRITERS:
        known = sorted([*_WRITERS, *(f"{name}_presence" for name in _WRITERS)])
        raise ConfigError(f"the task of synthetic images is {task!r}; must be one of {', '.join(known)}")
    return _WRITERS[imaged](folder, profile, cases, seed)


def is_generated(case: Case) -> bool:
    """Whether a generator made this case, also after its files were copied, linked or dealt out.

    Raises:
        DataError: the case is a volume whose file cannot be read.
    """
    if case.image.is_dir():
        return mri.is_generated(case)
    if case.image.name.endswith((".nii", ".nii.gz")):
        return ct.is_generated(case)
    return dermoscopy.is_generated(case)


def _skin(folder: Path, profile: str, cases: int, seed: int) -> list[Case]:
    return dermoscopy.write_clinic(folder, profile, images=cases, seed=seed)


def _kidney(folder: Path, profile: str, cases: int, seed: int) -> list[Case]:
    return ct.write_hospital(folder, profile, cases=cases, seed=seed)


def _brain(folder: Path, profile: str, cases: int, seed: int) -> list[Case]:
    return mri.write_hospital(folder, profile, cases=cases, seed=seed)


_WRITERS: Final[Mapping[str, Callable[[Path, str, int, int], list[Case]]]] = MappingProxyType(
    {"skin_lesion": _skin, "kidney_tumor": _kidney, "brain_tumor": _brain}
)
