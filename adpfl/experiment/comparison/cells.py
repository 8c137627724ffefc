"""From choices to cells: the arms at every seed, and the points of each curve.

Within a seed, cells differ in their privacy plan and their name, and in nothing else.
"""

from collections.abc import Iterator
from typing import Final

from pydantic import ValidationError

from adpfl.config import describe
from adpfl.errors import ConfigError
from adpfl.experiment.arms import Arm, privacy_of_arm
from adpfl.experiment.comparison.choices import Choices
from adpfl.experiment.comparison.plan import CellPlan, Group
from adpfl.experiment.comparison.recipes import recipes_for
from adpfl.federated.aggregation_plan import AggregationPlan
from adpfl.federated.run_plan import CohortPlan, RunPlan
from adpfl.learning.plan import LocalPlan, NetworkPlan
from adpfl.privacy.plan import FixedThreshold, PercentileThreshold, PrivacyPlan, Sampling

LABELS: Final[dict[Arm, str]] = {"fl": "FL", "dp-fl": "DP-FL", "adp-fl": "ADP-FL", "rigorous": "Rigorous"}


def plan_cells(choices: Choices, sites: tuple[str, ...]) -> tuple[CellPlan, ...]:
    """Every cell of a comparison: arms first, seed by seed, so that a comparison cut short is a fair one.

    Args:
        choices: what was asked.
        sites: the cohort.

    Raises:
        ConfigError: a choice breaks a rule of the run's plan, or a curve has a value twice.
    """
    try:
        cells = (*_arms(choices, sites), *_curves(choices, sites), *_recipes(choices, sites))
    except ValidationError as error:
        raise ConfigError(f"options: {describe(error, choices.model_dump(mode='json'))}") from error
    seen: set[str] = set()
    for cell in cells:
        if cell.cell in seen:
            raise ConfigError(
                f"options: {cell.group} {cell.value:g} stands twice; each value of a curve may stand once, "
                "told apart by six digits"
            )
        seen.add(cell.cell)
    return cells


def _arms(choices: Choices, sites: tuple[str, ...]) -> Iterator[CellPlan]:
    for seed in range(choices.seeds):
        for arm in choices.arms:
            yield _cell(choices, sites, group="arms", arm=arm, value=None, seed=seed)


def _curves(choices: Choices, sites: tuple[str, ...]) -> Iterator[CellPlan]:
    """Points other than the arms' own: those stand in group `arms`."""
    curves = choices.curves
    axes: tuple[tuple[Group, str, tuple[Arm, ...], tuple[float, ...]], ...] = (
        ("clip_norm", "clip_norm", ("dp-fl",), curves.clip_norms),
        ("percentile", "percentile", ("adp-fl",), curves.percentiles),
        ("noise", "nominal_epsilon", ("dp-fl", "adp-fl"), curves.nominal_epsilons),
        ("budget", "target_epsilon", ("rigorous",), curves.target_epsilons),
    )
    for group, key, arms, values in axes:
        for arm in arms:
            for value in values:
                if arm in choices.arms and value == getattr(choices, key):
                    continue
                for seed in range(curves.seeds):
                    changed = choices.model_copy(update={key: value})
                    yield _cell(changed, sites, group=group, arm=arm, value=value, seed=seed)


def _recipes(choices: Choices, sites: tuple[str, ...]) -> Iterator[CellPlan]:
    """Recipes for an honest budget, seed by seed."""
    if choices.utility is None:
        return
    for seed in range(choices.seeds):
        for recipe in recipes_for(choices.utility):
            name = f"utility-{recipe.key}-seed{seed}"
            privacy = _privacy(choices, recipe.arm)
            plan = _run_plan(choices, sites, name, seed, privacy)
            yield CellPlan(
                cell=name,
                group="utility",
                arm=recipe.key,
                label=recipe.label,
                seed=seed,
                plan=recipe.applied(plan, privacy, choices.utility.warm_start),
            )


def _cell(
    choices: Choices, sites: tuple[str, ...], *, group: Group, arm: Arm, value: float | None, seed: int
) -> CellPlan:
    name = f"{arm}-seed{seed}" if value is None else f"{arm}-{_slug(group)}-{_slug(f'{value:g}')}-seed{seed}"
    return CellPlan(
        cell=name,
        group=group,
        arm=arm,
        label=LABELS[arm],
        value=value,
        seed=seed,
        plan=_run_plan(choices, sites, name, seed, _privacy(choices, arm)),
    )


def _run_plan(
    choices: Choices, sites: tuple[str, ...], name: str, seed: int, privacy: PrivacyPlan
) -> RunPlan:
    return RunPlan(
        run=name,
        task=choices.task,
        network=NetworkPlan(architecture="unet", size=choices.network),
        image_size=choices.image_size,
        spacing_mm=choices.spacing_mm,
        rounds=choices.rounds,
        local=LocalPlan(steps=choices.steps, learning_rate=choices.learning_rate, momentum=choices.momentum),
        aggregation=AggregationPlan(strategy="fedavg", weights="patients"),
        cohort=CohortPlan(sites=sites, quorum=len(sites)),
        privacy=privacy,
        seed=seed,
    )


def _privacy(choices: Choices, arm: Arm) -> PrivacyPlan:

    return privacy_of_arm(
        arm,
        nominal_epsilon=choices.nominal_epsilon,
        reading=choices.reading,
        delta=choices.delta,
        unit=choices.unit,
        sampling=Sampling(mode="poisson", probability=choices.sampling_probability),
        fixed=FixedThreshold(method="fixed", clip_norm=choices.clip_norm),
        percentile=PercentileThreshold(method="percentile", percentile=choices.percentile),
        target_epsilon=choices.target_epsilon,
        total_steps=choices.rounds * choices.steps,
    )


def _slug(text: str) -> str:
    """A part of a cell's name: lower case letters, digits and dashes."""
    return text.replace("_", "-").replace(".", "p").replace("+", "")
