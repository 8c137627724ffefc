"""The commands under `adpfl data`: make data to try things on, and look through data that is there."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adpfl.errors import ConfigError, DataError
from adpfl.tasks import registry

if TYPE_CHECKING:
    from adpfl.data.folder_survey import Finder, FolderSurvey

GENERATE_EXAMPLE = (
    "Example: adpfl data generate hospital-a --task kidney_tumor --profile A --cases 16 --seed 1"
)
CHECK_EXAMPLE = "Example: adpfl data check kits19/data --task kidney_tumor --partition hospitals.csv"


def generate(
    *,
    folder: Annotated[Path, typer.Argument(help="Folder to make; must be absent or empty.")],
    task: Annotated[
        str, typer.Option(help=f"Whose images: {', '.join(registry.built_in_tasks())}.")
    ] = "skin_lesion",
    profile: Annotated[
        str | None, typer.Option(help="Which site's machines, patients and habits: A (the default) to D.")
    ] = None,
    cases: Annotated[
        int | None,
        typer.Option(min=1, help="How many images. Default: 60 photographs, 16 volumes, all masks."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="kidney_tumor: real KiTS19 masks (.npz, .json beside it) to paint CT on."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other patients.")] = 0,
) -> None:
    """Generate images with masks: photographs in the layout of ISIC 2017, CT of KiTS23, MRI of BraTS 2023.

    With --masks each real patient gets a CT in the manner of the hospital that the table names, and
    metadata.csv keeps the hospitals, so that --partition source deals by them.
    """
    from adpfl.data.synthetic.hospitals import (  # noqa: PLC0415 - brings numpy and scipy
        PROFILES,
        write_hospital,
    )

    if masks is not None:
        if task != "kidney_tumor" or profile is not None:
            raise ConfigError("--masks goes with --task kidney_tumor, and without --profile")
        _paint_masks(folder, masks, cases, seed)
        return
    chosen = profile or PROFILES[0]
    if chosen not in PROFILES:
        raise ConfigError(f"--profile is {profile!r}; must be one of {', '.join(PROFILES)}")
    count = cases or (60 if task.startswith("skin_lesion") else 16)
    written = write_hospital(task, folder, chosen, cases=count, seed=seed)
    patients = len({case.patient for case in written})
    typer.echo(f"{folder}: {len(written)} images of {patients} patients, profile {chosen}, seed {seed}")


def _paint_masks(folder: Path, path: Path, cases: int | None, seed: int) -> None:
    """The first `cases` masks, or all."""
    from adpfl.data.synthetic.ct_on_masks import write_painted  # noqa: PLC0415 - brings numpy and scipy
    from adpfl.data.synthetic.kidney_masks import read_masks  # noqa: PLC0415

    masks = read_masks(path)
    if cases is not None and cases > len(masks):
        raise ConfigError(f"--cases is {cases}; {path} holds {len(masks)} masks")
    written = write_painted(folder, masks[:cases], seed=seed)
    hospitals = len({case.source for case in written})
    typer.echo(f"{folder}: {len(written)} images on real masks of {hospitals} hospitals, seed {seed}")


def check(
    *,
    folder: Annotated[Path, typer.Argument(help="Folder in a layout that the task reads.")],
    task: Annotated[
        str,
        typer.Option(help=f"Whose data it is: {', '.join(registry.known_tasks())}."),
    ],
    partition: Annotated[
        Path | None,
        typer.Option(help="CSV or JSON table with a case and a site column, as FeTS's partitioning_1.csv."),
    ] = None,
    site_column: Annotated[str | None, typer.Option(help="Which column of the table names the site.")] = None,
    masks: Annotated[
        bool, typer.Option("--masks/--no-masks", help="Whether every case must have a reference mask.")
    ] = True,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Cases read at once.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, also on a terminal.")] = False,
) -> None:
    """Read every voxel and pixel of a data folder: what each case holds, what there is in all, what is wrong.

    All problems are listed before the command ends with 1. A table on a terminal, JSON lines otherwise: one
    object a case, then one a problem, then the summary.
    """
    from rich.console import Console  # noqa: PLC0415 - help needs none of these

    from adpfl.data.folder_survey import survey  # noqa: PLC0415

    if site_column is not None and partition is None:
        raise ConfigError(f"--site-column is {site_column!r}; goes with --partition")
    found = survey(_finder(task), folder, with_masks=masks, table=partition, table_column=site_column)
    if as_json or not (console := Console()).is_terminal:
        _print_lines(found, workers)
    else:
        from adpfl.experiment.data_tables import print_survey  # noqa: PLC0415

        print_survey(found, console, workers)
    if found.problems:
        count = len(found.problems)
        raise DataError(f"{folder}: {count} {'problem' if count == 1 else 'problems'}")
    if not found.cases:
        raise DataError(f"{folder}: holds no images")


def _finder(task: str) -> "Finder":
    """What finds a task's cases; that of a task from another package says what is wrong in one line."""
    from adpfl.data.folder_survey import FINDERS  # noqa: PLC0415 - help needs no numpy

    if task in FINDERS:
        return FINDERS[task]
    if task not in registry.known_tasks():
        raise ConfigError(
            f"--task is {task!r}; must be one of {', '.join(sorted({*FINDERS, *registry.known_tasks()}))}"
        )
    read = registry.get_task(task).read
    return lambda folder, *, with_masks: (read(folder, with_masks=with_masks), [])


def _print_lines(found: "FolderSurvey", workers: int) -> None:
    for finding in found.findings(workers=workers):
        typer.echo(json.dumps({"event": "case", **asdict(finding)}))
    for problem in found.problems:
        typer.echo(json.dumps({"event": "problem", "problem": problem}))
    typer.echo(json.dumps({"event": "summary", **asdict(found.summary())}))
