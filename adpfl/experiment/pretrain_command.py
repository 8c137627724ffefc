"""`adpfl pretrain`: weights to start a run from, trained without protection on images that need none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from adpfl.errors import ConfigError
from adpfl.experiment.comparison.options import numbers
from adpfl.tasks.registry import built_in_tasks

EXAMPLE: Final = "Example: adpfl pretrain --task skin_lesion --output warm.safetensors"

_STATEMENT_LIMIT: Final = 300


def pretrain(
    *,
    task: Annotated[str, typer.Option(help=f"One of: {', '.join(built_in_tasks())}.")] = "skin_lesion",
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write.")],
    profiles: Annotated[
        str, typer.Option(help="Whose images to generate: letters of sites, separated by commas.")
    ] = "A,B,C,D",
    cases: Annotated[int, typer.Option(min=8, help="Images to generate, over all profiles.")] = 400,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of 16 images.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Of images, weights and order.")] = 0,
    network: Annotated[str, typer.Option(help="Architecture and size, as unet:tiny.")] = "unet:tiny",
    image_size: Annotated[
        str | None, typer.Option(metavar="N,N[,N]", help="What the network sees [by task].")
    ] = None,
    spacing_mm: Annotated[
        str | None, typer.Option(metavar="MM,MM,MM", help="Of a voxel, for volumes [by task].")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Train on this folder instead of generating one.")] = None,
    public_data: Annotated[
        str | None,
        typer.Option(
            metavar="STATEMENT",
            help="With --data: who states that the folder is public, and why. NOTHING PROTECTS THE PATIENTS "
            "IN IT: the statement is written into the file and shown to every site.",
        ),
    ] = None,
) -> None:
    """Train a network WITHOUT privacy on generated images, as the initial model of a run.

    Name the file as `initial_model` in the server's configuration. The run's plan then says what its weights
    were trained on, and each site checks that it starts from them. A folder of other images is refused unless
    a person states that they are public.
    """
    import tempfile  # noqa: PLC0415 - help needs none of these

    from adpfl.config import parse  # noqa: PLC0415
    from adpfl.experiment.comparison.task_settings import settings_of  # noqa: PLC0415
    from adpfl.experiment.pretraining import (  # noqa: PLC0415
        generate_images,
        read_images,
        write_pretrained,
    )
    from adpfl.learning.plan import NetworkPlan  # noqa: PLC0415
    from adpfl.learning.unsafe_pretraining import pretraining_plan  # noqa: PLC0415
    from adpfl.tasks.registry import get_task  # noqa: PLC0415

    if public_data is not None:
        _check_statement(data, public_data)
    settings = settings_of(task)
    architecture, _, network_size = network.partition(":")
    plan = pretraining_plan(
        task,
        parse({"architecture": architecture, "size": network_size}, NetworkPlan, source="--network"),
        image_size=settings.image_size if image_size is None else _sizes(image_size),
        spacing_mm=settings.spacing_mm if spacing_mm is None else _spacing(spacing_mm),
        steps=steps,
        seed=seed,
    )
    with tempfile.TemporaryDirectory(prefix="adpfl-pretrain-") as folder:
        images = (
            generate_images(Path(folder) / "images", task, profiles.split(","), cases=cases, seed=seed)
            if data is None
            else read_images(data, get_task(task), public_data)
        )
        with _progress() as tell:
            outcome = write_pretrained(output, plan, images, progress=tell)
    typer.echo(f"{output}: {outcome.words}")
    value = outcome.held_out.value
    typer.echo(
        f"loss {outcome.training_loss:.3f} at the end; {outcome.held_out.metric} "
        f"{'undefined' if value is None else f'{value:.3f}'} on a tenth of the patients, who were held out"
    )


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in numbers("--image-size", text, int))


def _spacing(text: str) -> tuple[float, ...]:
    return tuple(float(size) for size in numbers("--spacing-mm", text, float))


def _check_statement(data: Path | None, statement: str) -> None:
    if data is None:
        raise ConfigError("--public-data goes with --data; generated images need no statement")
    if not (10 <= len(statement.strip()) <= _STATEMENT_LIMIT and statement.isprintable()):
        raise ConfigError(
            f"--public-data is {statement!r}; must say in 10 to {_STATEMENT_LIMIT} characters, on one line, "
            "who states that the images are public, and why"
        )


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console  # noqa: PLC0415 - help needs none of these
    from rich.progress import Progress  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(console=console) as bar:
        place = bar.add_task("training without privacy")
        yield lambda done, total: bar.update(place, completed=done, total=total)
