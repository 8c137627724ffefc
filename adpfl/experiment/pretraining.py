"""What `adpfl pretrain` does: images that need no protection, training, and a file that says so.

The file's description names what its weights were trained on; a run that starts from them carries it in its
plan, for every site to see.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from adpfl.data.case import Case
from adpfl.data.partition import split_held_out
from adpfl.data.synthetic.hospitals import PROFILES, is_generated, write_hospital
from adpfl.errors import ConfigError, DataError
from adpfl.experiment.comparison.task_settings import settings_of
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.evaluate import evaluate
from adpfl.learning.initial_model import save_weights
from adpfl.learning.unsafe_pretraining import unsafe_pretrain
from adpfl.tasks.registry import get_task
from adpfl.tasks.task import Task

HELD_OUT_FRACTION: Final = 0.1


@dataclass(frozen=True)
class PretrainingImages:
    """What to train on.

    Attributes:
        cases: with masks.
        trained_on: `generated` or `stated_public`, as `adpfl.federated.warm_start` knows it.
        words: what they are, for every site to read.
    """

    cases: tuple[Case, ...]
    trained_on: str
    words: str


@dataclass(frozen=True)
class PretrainingOutcome:
    """What was written.

    Attributes:
        words: what the file says of its weights.
        training_loss: mean over the last tenth of the steps.
        metric: Dice, or AUROC of a classifier.
        held_out: its value on a tenth of the patients, who were not trained on; None where undefined.
    """

    words: str
    training_loss: float
    metric: str
    held_out: float | None


def generate_images(
    folder: Path, task: str, profiles: Sequence[str], *, cases: int, seed: int
) -> PretrainingImages:
    """Generate images of imaginary patients, the same number with each profile or one more.

    Args:
        folder: must not exist, or be empty.
        task: one that has a generator.
        profiles: names of sites to imitate.
        cases: images in all; at least one a profile.
        seed: another seed gives other patients.

    Raises:
        ConfigError: the task has no generator, or a profile is unknown or named twice.
        DataError: the folder cannot be written.
    """
    settings, known = settings_of(task), get_task(task)
    for profile in profiles:
        if profile not in PROFILES or profiles.count(profile) > 1:
            raise ConfigError(
                f"--profiles is {','.join(profiles)!r}; must name each once, of: {', '.join(PROFILES)}"
            )
    if cases < len(profiles):
        raise ConfigError(f"--cases is {cases}; must be at least one for each of {len(profiles)} profiles")
    found: list[Case] = []
    for place, profile in enumerate(profiles):
        share = cases // len(profiles) + (place < cases % len(profiles))
        write_hospital(settings.images, folder / profile, profile, cases=share, seed=seed)
        found += [_named_apart(case, profile) for case in known.read(folder / profile)]
    plural = "profile" if len(profiles) == 1 else "profiles"
    words = f"{len(found)} generated images that show no person, {plural} {', '.join(profiles)}, seed {seed}"
    return PretrainingImages(tuple(found), "generated", words)


def _named_apart(case: Case, profile: str) -> Case:
    """The case under a name of its profile: two imaginary hospitals may number their patients alike."""
    return replace(case, case=f"{profile}-{case.case}", patient=f"{profile}-{case.patient}")


def read_images(folder: Path, task: Task, statement: str | None) -> PretrainingImages:
    """Read a folder that was generated, or that a person states to be public.

    Args:
        folder: in one of the task's layouts.
        task: reads it.
        statement: who says that the images are public, and why; None where nobody does.

    Raises:
        ConfigError: an image was not generated and nobody states that it is public.
        DataError: the folder cannot be read.
    """
    cases = tuple(task.read(folder))
    real = sum(not is_generated(case) for case in cases)
    if real == 0:
        words = f"{len(cases)} generated images that show no person, from a folder"
        return PretrainingImages(cases, "generated", words)
    if statement is None:
        raise ConfigError(
            f"--data is {folder}, with {real} images that adpfl did not generate; training without privacy "
            "on them needs --public-data: a statement of who says that they are public, and why"
        )
    words = f"{len(cases)} images WITHOUT PROTECTION, stated to be public: {statement}"
    return PretrainingImages(cases, "stated_public", words)


def write_pretrained(
    path: Path,
    plan: RunPlan,
    images: PretrainingImages,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> PretrainingOutcome:
    """Train without protection on all but a tenth of the patients, and write the weights.

    Args:
        path: the safetensors file; never overwritten.
        plan: as `pretraining_plan` makes it.
        images: what to train on.
        progress: called after each step with (steps done, steps in all).

    Raises:
        DataError: the file exists, or an image cannot be read.
        StateError: the file cannot be written.
    """
    if path.exists():
        raise DataError(f"{path}: exists already; it is never overwritten")
    task = get_task(plan.task)
    split = split_held_out(images.cases, HELD_OUT_FRACTION, plan.seed)
    pretrained = unsafe_pretrain(plan, task, split.training, progress=progress)
    scores = evaluate(
        pretrained.weights, plan=plan, task=task, cases=split.held_out, round_number=plan.rounds
    )
    steps = plan.local.steps
    words = f"{steps} steps on {images.words}"
    save_weights(path, pretrained.weights, plan=plan, pretrained=_described(images, plan, words))
    return PretrainingOutcome(
        words=words,
        training_loss=statistics.fmean(pretrained.losses[-max(1, steps // 10) :]),
        metric=scores.metric,
        held_out=scores.value,
    )


def _described(images: PretrainingImages, plan: RunPlan, words: str) -> Mapping[str, Any]:
    return {
        "trained_on": images.trained_on,
        "words": words,
        "image_size": list(plan.image_size),
        "spacing_mm": None if plan.spacing_mm is None else list(plan.spacing_mm),
        "steps": plan.local.steps,
        "seed": plan.seed,
    }
