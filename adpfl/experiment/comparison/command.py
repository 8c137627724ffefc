"""The commands `adpfl compare` and `adpfl sweep`. Heavy imports stand inside, so that help comes at once."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from adpfl.errors import ConfigError
from adpfl.experiment.comparison.options import SharedOptions, numbers, with_shared_options

if TYPE_CHECKING:
    from adpfl.experiment.comparison.choices import Choices

COMPARE_EXAMPLE: Final = (
    "Example: adpfl compare --task skin_lesion --arms fl,dp-fl,adp-fl --seeds 3 --output comparison"
)
SWEEP_EXAMPLE: Final = "Example: adpfl sweep --task skin_lesion --over clip-norm,noise --output sweep"

UTILITY_EXAMPLE: Final = (
    "Example: adpfl utility --task skin_lesion --initial-model warm.safetensors --output utility"
)

_AXES: Final = ("clip-norm", "percentile", "noise", "budget")

Output = Annotated[
    Path, typer.Option(help="Folder to write. Asked for the same again, the comparison there goes on.")
]
Arms = Annotated[str, typer.Option(help="Which of fl, dp-fl, adp-fl and rigorous.")]
Seeds = Annotated[int, typer.Option(min=1, max=1000, help="Runs of each arm.")]


@with_shared_options
def compare(
    *,
    shared: SharedOptions,
    arms: Arms = "fl,dp-fl,adp-fl",
    seeds: Seeds = 3,
    curves: Annotated[
        bool, typer.Option(help="Also DP-FL over several C, one run each: its C decides what it can do.")
    ] = True,
    output: Output = Path("comparison"),
) -> None:
    """Run the published experiment: each arm on the same data, seeds and rounds, and a report of all.

    Arms differ in their privacy plan and in nothing else. The same command on the same folder goes on where
    it was stopped or killed. Exits with 1 where a cell failed.
    """
    from adpfl.experiment.comparison.task_settings import settings_of  # noqa: PLC0415 - brings the models

    names = _names(arms)
    wanted = curves and "dp-fl" in names
    values = list(settings_of(shared.task).clip_norms) if wanted else []
    _run(shared, shared.choices(arms=names, seeds=seeds, curves={"clip_norms": values}), output)


@with_shared_options
def sweep(
    *,
    shared: SharedOptions,
    over: Annotated[str, typer.Option(help=f"Which of {', '.join(_AXES)}.")] = ",".join(_AXES),
    arms: Annotated[str, typer.Option(help="Run once more at their own settings, as a reference.")] = (
        "fl,dp-fl,adp-fl"
    ),
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each point.")] = 1,
    clip_norms: Annotated[str | None, typer.Option(help="clip-norm: DP-FL's C [by task].")] = None,
    percentiles: Annotated[str, typer.Option(help="percentile: ADP-FL's.")] = "10,25,50,75,90",
    nominal_epsilons: Annotated[
        str, typer.Option(help="noise: nominal epsilons of DP-FL and ADP-FL, under --reading.")
    ] = "0.001,0.01,0.1,1",
    target_epsilons: Annotated[
        str, typer.Option(help="budget: honest epsilons of the rigorous arm, at --delta.")
    ] = "1,8,64",
    output: Output = Path("sweep"),
) -> None:
    """Run curves: DP-FL over C, ADP-FL over percentiles, both over their noise, and honest budgets.

    The same command on the same folder goes on where it was stopped or killed. Exits with 1 where a cell
    failed.
    """
    from adpfl.experiment.comparison.task_settings import settings_of  # noqa: PLC0415 - brings the models

    axes = _names(over)
    for axis in axes:
        if axis not in _AXES:
            raise ConfigError(f"--over names {axis!r}; must be of {', '.join(_AXES)}")
    texts = {
        "clip_norms": ("clip-norm", clip_norms),
        "percentiles": ("percentile", percentiles),
        "nominal_epsilons": ("noise", nominal_epsilons),
        "target_epsilons": ("budget", target_epsilons),
    }
    values: dict[str, object] = {
        key: (
            list(settings_of(shared.task).clip_norms)
            if text is None
            else numbers(f"--{key.replace('_', '-')}", text, float)
        )
        for key, (axis, text) in texts.items()
        if axis in axes
    }
    choices = shared.choices(arms=_names(arms), seeds=seeds, curves={**values, "seeds": seeds})
    _run(shared, choices, output)


@with_shared_options
def utility(
    *,
    shared: SharedOptions,
    initial_model: Annotated[
        Path | None,
        typer.Option(help="Weights of `adpfl pretrain`, for the recipes that start warm."),
    ] = None,
    seeds: Seeds = 3,
    output: Output = Path("utility"),
) -> None:
    """Run recipes for an honest budget: what a finite epsilon costs, and what wins it back.

    FL without privacy, and the rigorous arm at --target-epsilon: plain; with several views of each image and
    an average of the models; started from --initial-model with all weights, or with few of them trained.
    Large Poisson batches and few steps, the same for all. The same command on the same folder goes on where
    it was stopped or killed. Exits with 1 where a cell failed.
    """
    from adpfl.experiment.comparison.recipes import SETTINGS  # noqa: PLC0415 - help needs none of these
    from adpfl.wire.safetensors_file import read_warm_start  # noqa: PLC0415

    chosen = {name: value for name, value in SETTINGS.items() if getattr(shared, name, None) is None}
    start = None if initial_model is None else read_warm_start(initial_model).model_dump(mode="json")
    choices = shared.choices(arms=["fl"], seeds=seeds, utility={"warm_start": start}, **chosen)
    _run(shared, choices, output, initial_model=initial_model)


def _run(
    shared: SharedOptions, choices: "Choices", output: Path, *, initial_model: Path | None = None
) -> None:
    from rich.console import Console  # noqa: PLC0415 - help needs none of these

    from adpfl.experiment.comparison.conduct import Power, run_comparison  # noqa: PLC0415
    from adpfl.experiment.comparison.ending import print_ending  # noqa: PLC0415

    console = Console()
    power = Power(workers=shared.workers or len(os.sched_getaffinity(0)), backend=shared.backend.value)
    command = shlex.join(["adpfl", *sys.argv[1:]])
    try:
        comparison, outcomes = run_comparison(
            output, choices, command=command, power=power, console=console, initial_model=initial_model
        )
    except KeyboardInterrupt:
        typer.echo(f"interrupted; the same command goes on in {output}", err=True)
        raise typer.Exit(130) from None
    print_ending(comparison, outcomes, console)
    if comparison.runs and console.is_terminal:
        typer.echo(f"report: {output / 'report.html'} (open it in a browser)")
    if comparison.failed or comparison.unfinished:
        raise typer.Exit(1)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
