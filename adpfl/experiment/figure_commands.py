"""`adpfl epsilon` and `adpfl calibrate`: their options and what they print."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from adpfl.errors import ConfigError

if TYPE_CHECKING:
    from adpfl.privacy.certificate import Certificate
    from adpfl.privacy.plan import AnyThreshold

EPSILON_EXAMPLE: Final = (
    "Example: adpfl epsilon --mechanism laplace_l2 --noise-multiplier 10 --dimension 1000000 "
    "--sampling poisson --sampling-probability 0.1 --steps 1000 --delta 1e-5 --json"
)
CALIBRATE_EXAMPLE: Final = (
    "Example: adpfl calibrate --target-epsilon 8 --delta 1e-5 --mechanism gaussian --dimension 1000000 "
    "--sampling poisson --sampling-probability 0.1 --steps 1000 --threshold noisy_bits"
)


_PARAMETERS: Final = frozenset(
    {
        "delta",
        "dimension",
        "epochs",
        "noise_multiplier",
        "records_per_patient",
        "sampling_probability",
        "steps",
        "target_epsilon",
        "threshold",
    }
)
"""Parameters whose options have their names, as messages begin with them."""


class MechanismOption(StrEnum):
    """Mechanisms whose figure can be asked for."""

    GAUSSIAN = "gaussian"
    LAPLACE_L2 = "laplace_l2"
    LAPLACE_L1 = "laplace_l1"


class SamplingOption(StrEnum):
    """How the units of a step are chosen."""

    POISSON = "poisson"
    PARTITION = "partition"
    FULL = "full"


class ThresholdOption(StrEnum):
    """How the clip norm C is chosen."""

    FIXED = "fixed"
    PERCENTILE = "percentile"
    NOISY_BITS = "noisy_bits"
    SLACK = "slack"
    EXPONENTIAL = "exponential"


Mechanism = Annotated[MechanismOption, typer.Option(help="What clips and adds noise.")]
NoiseMultiplier = Annotated[
    float, typer.Option(help="Noise scale over clip norm, sigma/C or b/C, on the sum of a step.")
]
Dimension = Annotated[int, typer.Option(help="Coordinates of a gradient.")]
SamplingMode = Annotated[
    SamplingOption, typer.Option(help="How the units of a step are chosen; poisson alone is credited.")
]
SamplingProbability = Annotated[
    float, typer.Option(help="Share of the units in a step; 1 with --sampling full.")
]
Steps = Annotated[int | None, typer.Option(help="Noised steps, composed; or give --epochs.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the units, in place of --steps.")]
Delta = Annotated[float, typer.Option(help="At which epsilon is wanted; above 0 and below 1.")]
RecordsPerPatient = Annotated[
    int,
    typer.Option(help="Above 1: records are clipped one by one, and the figure is a patient's of so many."),
]
Threshold = Annotated[ThresholdOption, typer.Option(help="How the clip norm is chosen.")]
Percentile = Annotated[
    float | None,
    typer.Option(help="Of the norms, that the clip norm follows; costs the same wherever it is."),
]
BitNoiseRatio = Annotated[
    float | None, typer.Option(help="noisy_bits: noise on the bits over the noise multiplier; 2.5.")
]
ThresholdEpsilon = Annotated[float | None, typer.Option(help="exponential: pure epsilon of one choice.")]
ThresholdRefreshSteps = Annotated[int | None, typer.Option(help="exponential: steps between two choices.")]
Units = Annotated[int | None, typer.Option(help="How many units there are; only checks that delta suits it.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]


def epsilon(
    *,
    mechanism: Mechanism,
    noise_multiplier: NoiseMultiplier,
    dimension: Dimension,
    delta: Delta,
    sampling: SamplingMode = SamplingOption.FULL,
    sampling_probability: SamplingProbability = 1.0,
    steps: Steps = None,
    epochs: Epochs = None,
    records_per_patient: RecordsPerPatient = 1,
    threshold: Threshold = ThresholdOption.FIXED,
    percentile: Percentile = None,
    bit_noise_ratio: BitNoiseRatio = None,
    threshold_epsilon: ThresholdEpsilon = None,
    threshold_refresh_steps: ThresholdRefreshSteps = None,
    units: Units = None,
    as_json: AsJson = False,
) -> None:
    """The honest epsilon of any one configuration, with everything that it refers to."""
    from adpfl.experiment.privacy_commands import epsilon_answer  # noqa: PLC0415 - brings scipy

    with told_as_typed():
        answer = epsilon_answer(
            noise_multiplier=noise_multiplier,
            mechanism=mechanism.value,
            dimension=dimension,
            sampling=sampling.value,
            sampling_probability=sampling_probability,
            delta=delta,
            steps=steps,
            epochs=epochs,
            records_per_patient=records_per_patient,
            threshold=_threshold(
                threshold, percentile, bit_noise_ratio, threshold_epsilon, threshold_refresh_steps
            ),
            unit_count=units,
        )
    _print(answer, as_json=as_json)


def calibrate(
    *,
    target_epsilon: Annotated[float, typer.Option(help="What the certified epsilon must not exceed.")],
    delta: Delta,
    dimension: Dimension,
    mechanism: Mechanism = MechanismOption.GAUSSIAN,
    sampling: SamplingMode = SamplingOption.FULL,
    sampling_probability: SamplingProbability = 1.0,
    steps: Steps = None,
    epochs: Epochs = None,
    records_per_patient: RecordsPerPatient = 1,
    threshold: Threshold = ThresholdOption.FIXED,
    percentile: Percentile = None,
    bit_noise_ratio: BitNoiseRatio = None,
    threshold_epsilon: ThresholdEpsilon = None,
    threshold_refresh_steps: ThresholdRefreshSteps = None,
    units: Units = None,
    as_json: AsJson = False,
) -> None:
    """The least noise multiplier whose certified epsilon does not exceed a target."""
    from adpfl.experiment.privacy_commands import calibration_answer  # noqa: PLC0415 - brings scipy

    with told_as_typed():
        answer = calibration_answer(
            target_epsilon=target_epsilon,
            mechanism=mechanism.value,
            dimension=dimension,
            sampling=sampling.value,
            sampling_probability=sampling_probability,
            delta=delta,
            steps=steps,
            epochs=epochs,
            records_per_patient=records_per_patient,
            threshold=_threshold(
                threshold, percentile, bit_noise_ratio, threshold_epsilon, threshold_refresh_steps
            ),
            unit_count=units,
        )
    _print(answer, as_json=as_json)


@contextmanager
def told_as_typed() -> Iterator[None]:
    """Errors that name a parameter name the option that was typed."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(_as_typed(str(error))) from error


def _as_typed(message: str) -> str:
    if message.startswith("steps and epochs:"):
        return message.replace("steps and epochs:", "--steps and --epochs:", 1)
    parameter, blank, rest = message.partition(" ")
    if parameter in _PARAMETERS:
        message = f"--{parameter.replace('_', '-')}{blank}{rest}"
    return message.replace(" with sampling full", " with --sampling full")


def _threshold(
    method: ThresholdOption,
    percentile: float | None,
    bit_noise_ratio: float | None,
    epsilon_of_choice: float | None,
    refresh_steps: int | None,
) -> "AnyThreshold":
    from adpfl.experiment.privacy_commands import threshold_of  # noqa: PLC0415 - brings scipy

    return threshold_of(
        method.value,
        percentile=percentile,
        bit_noise_ratio=bit_noise_ratio,
        threshold_epsilon=epsilon_of_choice,
        refresh_steps=refresh_steps,
    )


def _print(answer: "Certificate", *, as_json: bool) -> None:
    if as_json:
        typer.echo(answer.model_dump_json())
        return
    from rich.console import Console  # noqa: PLC0415 - help needs none of these
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from adpfl.experiment.privacy_commands import answer_rows  # noqa: PLC0415

    table = Table.grid(padding=(0, 2))
    for name, value in answer_rows(answer):
        table.add_row(Text(name, style="dim"), Text(value, style="bold" if name == "epsilon" else ""))
    Console().print(table)
