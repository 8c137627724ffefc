"""What a comparison takes for each task where a person says nothing: images, grid, training, thresholds.

A task is added by an entry in `_SETTINGS`. Learning rate, momentum and steps were set on the FL arm alone and
hold for every arm; the thresholds' defaults stand on curves that `adpfl sweep` draws anew.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from adpfl.data.case import Case
from adpfl.errors import ConfigError

Generate = Callable[[Path, str, int, int], None]
"""(folder, profile, cases, seed): writes one imaginary hospital in a layout that the task reads."""


@dataclass(frozen=True)
class TaskSettings:
    """One task's defaults.

    Attributes:
        image_size: what the network sees.
        rounds: federated rounds.
        steps: local steps a round.
        learning_rate: of the local steps.
        momentum: of the local steps.
        sampling_probability: of each patient in each step.
        clip_norm: DP-FL's C in the main comparison.
        percentile: ADP-FL's percentile of the norms.
        clip_norms: the curve over C.
        cases: generated images a hospital.
        profiles: of the generated hospitals, in the order in which sites take them.
        generate: makes a hospital.
        is_generated: whether a case came from `generate`, also after it was copied or dealt out.
        spacing_mm: of a voxel, for volumes; None is the task's own.
    """

    image_size: tuple[int, ...]
    rounds: int
    steps: int
    learning_rate: float
    momentum: float
    sampling_probability: float
    clip_norm: float
    percentile: float
    clip_norms: tuple[float, ...]
    cases: int
    profiles: tuple[str, ...]
    generate: Generate
    is_generated: Callable[[Case], bool]
    spacing_mm: tuple[float, ...] | None = None


def _dermoscopy(folder: Path, profile: str, cases: int, seed: int) -> None:
    from adpfl.data.synthetic.dermoscopy import write_clinic  # noqa: PLC0415 - brings scipy

    write_clinic(folder, profile, images=cases, seed=seed)


def _ct(folder: Path, profile: str, cases: int, seed: int) -> None:
    from adpfl.data.synthetic.ct import write_hospital  # noqa: PLC0415 - brings scipy

    write_hospital(folder, profile, cases=cases, seed=seed)


def _mri(folder: Path, profile: str, cases: int, seed: int) -> None:
    from adpfl.data.synthetic.mri import write_hospital  # noqa: PLC0415 - brings scipy

    write_hospital(folder, profile, cases=cases, seed=seed)


def _is_photograph(case: Case) -> bool:
    from adpfl.data.synthetic.dermoscopy import is_generated  # noqa: PLC0415 - brings scipy

    return is_generated(case)


def _is_ct(case: Case) -> bool:
    from adpfl.data.synthetic.ct import is_generated  # noqa: PLC0415 - brings scipy

    return is_generated(case)


def _is_mri(case: Case) -> bool:
    from adpfl.data.synthetic.mri import is_generated  # noqa: PLC0415 - brings scipy

    return is_generated(case)


_PROFILES = ("A", "B", "C", "D")

_SETTINGS = {
    "skin_lesion": TaskSettings(
        image_size=(96, 96),
        rounds=30,
        steps=6,
        learning_rate=0.1,
        momentum=0.9,
        sampling_probability=0.15,
        clip_norm=1.0,
        percentile=75.0,
        clip_norms=(0.1, 0.3, 3.0, 10.0),
        cases=80,
        profiles=_PROFILES,
        generate=_dermoscopy,
        is_generated=_is_photograph,
    ),
    "kidney_tumor": TaskSettings(
        image_size=(32, 32, 32),
        spacing_mm=(4.0, 4.0, 4.0),
        rounds=30,
        steps=6,
        learning_rate=0.1,
        momentum=0.9,
        sampling_probability=0.2,
        clip_norm=1.0,
        percentile=75.0,
        clip_norms=(0.1, 0.3, 3.0, 10.0),
        cases=32,
        profiles=_PROFILES,
        generate=_ct,
        is_generated=_is_ct,
    ),
    "brain_tumor": TaskSettings(
        image_size=(32, 32, 32),
        spacing_mm=(3.0, 3.0, 3.0),
        rounds=30,
        steps=6,
        learning_rate=0.1,
        momentum=0.9,
        sampling_probability=0.2,
        clip_norm=1.0,
        percentile=75.0,
        clip_norms=(0.1, 0.3, 3.0, 10.0),
        cases=32,
        profiles=_PROFILES,
        generate=_mri,
        is_generated=_is_mri,
    ),
}


# A crop stands for an image: what the network sees of it, and a lower rate, which pooled features need.
_SETTINGS |= {
    "skin_lesion_presence": replace(_SETTINGS["skin_lesion"], image_size=(32, 32), learning_rate=0.05),
    "kidney_tumor_presence": replace(_SETTINGS["kidney_tumor"], image_size=(16, 16, 16), learning_rate=0.05),
    "brain_tumor_presence": replace(_SETTINGS["brain_tumor"], image_size=(16, 16, 16), learning_rate=0.05),
}


def settings_of(task: str) -> TaskSettings:
    """The defaults of a task.

    Raises:
        ConfigError: there are none.
    """
    if task not in _SETTINGS:
        raise ConfigError(f"--task is {task!r}; comparisons know: {', '.join(sorted(_SETTINGS))}")
    return _SETTINGS[task]
