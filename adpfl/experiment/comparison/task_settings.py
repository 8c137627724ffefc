"""What a comparison takes for each task where a person says nothing: images, grid, training, thresholds.

A task is added by an entry in `_SETTINGS`; its images come from `adpfl.data.synthetic.hospitals`. Learning
rate, momentum and steps were set on the FL arm alone and hold for every arm; the thresholds' defaults stand
on curves that `adpfl sweep` draws anew.
"""

from dataclasses import dataclass, replace

from adpfl.errors import ConfigError


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
        clip_norm: DP-FL's C in the main comparison: mis-set on purpose, as a C is that nobody could tune on
            private gradients. `clip_norms` beside it show what a better one gives.
        percentile: ADP-FL's percentile of the norms.
        clip_norms: the curve over C.
        cases: generated images a hospital.
        evaluate_every: rounds between two scorings.
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
    evaluate_every: int
    spacing_mm: tuple[float, ...] | None = None


_SETTINGS = {
    "skin_lesion": TaskSettings(
        image_size=(96, 96),
        rounds=30,
        steps=6,
        learning_rate=0.1,
        momentum=0.9,
        sampling_probability=0.15,
        clip_norm=0.1,
        percentile=75.0,
        clip_norms=(0.03, 0.3, 1.0, 10.0),
        cases=80,
        evaluate_every=5,
    ),
    "kidney_tumor": TaskSettings(
        image_size=(32, 48, 48),
        spacing_mm=(4.0, 4.0, 4.0),
        rounds=24,
        steps=8,
        learning_rate=0.2,
        momentum=0.9,
        sampling_probability=0.25,
        clip_norm=0.1,
        percentile=75.0,
        clip_norms=(0.3, 1.0, 10.0),
        cases=20,
        evaluate_every=8,
    ),
    "brain_tumor": TaskSettings(
        image_size=(32, 40, 32),
        spacing_mm=(3.0, 3.0, 3.0),
        rounds=24,
        steps=8,
        learning_rate=0.2,
        momentum=0.9,
        sampling_probability=0.25,
        clip_norm=0.1,
        percentile=75.0,
        clip_norms=(0.3, 1.0, 10.0),
        cases=20,
        evaluate_every=8,
    ),
}


# A crop stands for an image: what the network sees of it, and a lower rate, which pooled features need.
_SETTINGS |= {
    "skin_lesion_presence": replace(_SETTINGS["skin_lesion"], image_size=(32, 32), learning_rate=0.05),
    "kidney_tumor_presence": replace(_SETTINGS["kidney_tumor"], image_size=(16, 16, 16), learning_rate=0.05),
    "brain_tumor_presence": replace(_SETTINGS["brain_tumor"], image_size=(16, 16, 16), learning_rate=0.05),
}


def is_mis_set(task: str, clip_norm: float) -> bool:
    """Whether DP-FL's C is the one that `TaskSettings.clip_norm` mis-sets on purpose."""
    return task in _SETTINGS and _SETTINGS[task].clip_norm == clip_norm


def settings_of(task: str) -> TaskSettings:
    """The defaults of a task.

    Raises:
        ConfigError: there are none.
    """
    if task not in _SETTINGS:
        raise ConfigError(f"--task is {task!r}; comparisons know: {', '.join(sorted(_SETTINGS))}")
    return _SETTINGS[task]
