"""The options that `adpfl compare` and `adpfl sweep` share, and how they become choices. Starts fast."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_type_hints

import typer

from adpfl.errors import ConfigError
from adpfl.tasks.registry import built_in_tasks

if TYPE_CHECKING:
    from adpfl.experiment.comparison.choices import Choices


class ReadingOption(StrEnum):
    """How a nominal epsilon becomes a noise scale."""

    MULTIPLIER = "multiplier"
    MULTIPLIER_MEAN = "multiplier_mean"
    BUDGET = "budget"
    BUDGET_N = "budget_n"


class PartitionOption(StrEnum):
    """How the patients of given data come to their sites."""

    EQUAL = "equal"
    SOURCE = "source"
    DIRICHLET = "dirichlet"
    QUANTITY = "quantity"


class CovariateOption(StrEnum):
    """What sites differ in under `dirichlet`."""

    SOURCE = "source"
    LESION_SIZE = "lesion_size"


class NetworkOption(StrEnum):
    """The sizes of network."""

    TINY = "tiny"
    SMALL = "small"
    FULL = "full"


class UnitOption(StrEnum):
    """Whose contribution is protected."""

    PATIENT = "patient"
    RECORD = "record"


class BackendOption(StrEnum):
    """Where workers run."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """The options that both commands have: a field's annotation is the option, its default the option's."""

    task: Annotated[str, typer.Option(help=f"One of: {', '.join(built_in_tasks())}.")] = "skin_lesion"
    data: Annotated[
        Path | None, typer.Option(help="Folder of real images to deal to the sites; generated ones without.")
    ] = None
    partition: Annotated[
        PartitionOption,
        typer.Option(
            help="How --data comes to the sites: in equal shares, by its sources (hospitals), or unevenly, "
            "by what lies in the images (dirichlet) or in numbers alone (quantity)."
        ),
    ] = PartitionOption.EQUAL
    concentration: Annotated[
        float, typer.Option(help="dirichlet, quantity: small is uneven, large is even.")
    ] = 0.5
    covariate: Annotated[CovariateOption, typer.Option(help="dirichlet: what sites differ in.")] = (
        CovariateOption.LESION_SIZE
    )
    partition_table: Annotated[
        Path | None, typer.Option(help="source: CSV or JSON table with a case and a site column.")
    ] = None
    site_column: Annotated[str | None, typer.Option(help="Which column of the table names the site.")] = None
    sites: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Hospitals [4; with source as many as there are].")
    ] = None
    cases: Annotated[int | None, typer.Option(min=4, help="Generated cases a hospital [by task].")] = None
    data_seed: Annotated[
        int, typer.Option(min=0, help="Of generated data, of the deal and of who is held out.")
    ] = 0
    held_out_fraction: Annotated[
        float, typer.Option(help="Of each site's patients, whom no model is trained on.")
    ] = 0.25
    rounds: Annotated[int | None, typer.Option(min=1, help="Federated rounds [by task].")] = None
    steps: Annotated[int | None, typer.Option(min=1, help="Local steps a round [by task].")] = None
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the local steps, in every arm [by task].")
    ] = None
    sampling_probability: Annotated[
        float | None, typer.Option(help="Of each patient in each step, in every arm [by task].")
    ] = None
    network: Annotated[NetworkOption, typer.Option(help="Size of the U-Net.")] = NetworkOption.TINY
    image_size: Annotated[
        str | None, typer.Option(metavar="N,N[,N]", help="What the network sees [by task].")
    ] = None
    spacing_mm: Annotated[
        str | None, typer.Option(metavar="MM,MM,MM", help="Of a voxel, for volumes [by task].")
    ] = None
    nominal_epsilon: Annotated[float, typer.Option(help="The paper's epsilon; no guarantee.")] = 0.001
    reading: Annotated[ReadingOption, typer.Option(help="How the nominal epsilon becomes noise.")] = (
        ReadingOption.MULTIPLIER
    )
    clip_norm: Annotated[
        float | None,
        typer.Option(help="DP-FL's fixed C [by task: mis-set, and the curve shows by how much]."),
    ] = None
    percentile: Annotated[float | None, typer.Option(help="ADP-FL's percentile of the norms [by task].")] = (
        None
    )
    target_epsilon: Annotated[float, typer.Option(help="What the rigorous arm may cost at --delta.")] = 8.0
    delta: Annotated[float, typer.Option(help="At which honest epsilons are stated.")] = 1e-5
    unit: Annotated[UnitOption, typer.Option(help="Whose contribution is protected.")] = UnitOption.PATIENT
    evaluate_every: Annotated[
        int | None,
        typer.Option(min=0, help="Rounds between two scorings; 0: the first and last model alone [by task]."),
    ] = None
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells at once, a process each [as many as processors].")
    ] = None
    backend: Annotated[
        BackendOption, typer.Option(help="local, or ray: many machines that share --output.")
    ] = BackendOption.LOCAL

    def choices(self, **beyond: Any) -> "Choices":
        """What was chosen, with the task's defaults where an option was not given.

        Args:
            beyond: what one command alone asks: arms, seeds, curves.

        Raises:
            ConfigError: an option breaks a rule, or the task is unknown.
        """
        from adpfl.config import parse  # noqa: PLC0415 - help needs none of these
        from adpfl.experiment.comparison.choices import Choices  # noqa: PLC0415
        from adpfl.experiment.comparison.task_settings import settings_of  # noqa: PLC0415

        settings = settings_of(self.task)
        document = {
            name: getattr(settings, name, None) if value is None else value
            for name, value in vars(self).items()
            if name not in _NO_CHOICES
        }
        document["momentum"] = settings.momentum
        document["partition"] = {
            "method": self.partition,
            "concentration": self.concentration,
            "covariate": self.covariate,
            "table": self.partition_table,
            "table_column": self.site_column,
        }
        if self.sites is None and self.partition is not PartitionOption.SOURCE:
            document["sites"] = _SITES
        if self.image_size is not None:
            sides = numbers("--image-size", self.image_size, int)
            if len(sides) != len(settings.image_size):
                raise ConfigError(
                    f"--image-size is {self.image_size!r}; must be {len(settings.image_size)} numbers for "
                    f"task {self.task}"
                )
            document["image_size"] = sides
        if self.spacing_mm is not None:
            document["spacing_mm"] = numbers("--spacing-mm", self.spacing_mm, float)
        return parse(document | beyond, Choices, source="options")


_SITES: Final = 4
_NO_CHOICES: Final = frozenset(
    {"workers", "backend", "concentration", "covariate", "partition_table", "site_column"}
)
"""Workers and backend decide no figure, and may change from one start to the next; the others are parts of
the partition."""


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the fields of `SharedOptions` as options of its own.

    Args:
        command: takes a `SharedOptions` as its keyword `shared`, and its own options beside it.
    """
    hints = get_type_hints(SharedOptions, include_extras=True)
    shared = [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name])
        for field in fields(SharedOptions)
    ]
    own = [one for name, one in signature(command).parameters.items() if name != "shared"]

    @wraps(command)
    def wrapped(**given: Any) -> None:
        taken = {parameter.name: given.pop(parameter.name) for parameter in shared}
        command(shared=SharedOptions(**taken), **given)

    parameters = [*own, *shared]
    vars(wrapped)["__signature__"] = Signature(parameters)
    wrapped.__annotations__ = {one.name: one.annotation for one in parameters}
    return wrapped


def numbers(option: str, text: str, kind: type[int] | type[float]) -> list[int] | list[float]:
    """Comma-separated numbers; an empty text gives none.

    Raises:
        ConfigError: a part is no number of the kind.
    """
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(f"{option} is {text!r}; must be numbers separated by commas") from error
