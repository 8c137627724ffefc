"""The command `adpfl`. Heavy imports stand inside the commands, so that help comes at once."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from adpfl.commandline import VersionOption, run_command
from adpfl.errors import ConfigError
from adpfl.experiment.audit_command import EXAMPLE as AUDIT_EXAMPLE
from adpfl.experiment.audit_command import audit
from adpfl.experiment.comparison.command import (
    COMPARE_EXAMPLE,
    SWEEP_EXAMPLE,
    UTILITY_EXAMPLE,
    compare,
    sweep,
    utility,
)
from adpfl.experiment.data_commands import CHECK_EXAMPLE, GENERATE_EXAMPLE, check, generate
from adpfl.experiment.figure_commands import CALIBRATE_EXAMPLE, EPSILON_EXAMPLE, calibrate, epsilon
from adpfl.experiment.pretrain_command import EXAMPLE as PRETRAIN_EXAMPLE
from adpfl.experiment.pretrain_command import pretrain

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

app = typer.Typer(
    name="adpfl",
    help="Federated training with differential privacy: try it, report it, know its figures.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=HELP,
    epilog="Start with: adpfl demo",
)
data_app = typer.Typer(
    help="Make data to try things on, and look data through.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=HELP,
)
app.add_typer(data_app, name="data")


@app.callback()
def adpfl(*, version: VersionOption = False) -> None:
    """What stands before a command."""


class ArmOption(StrEnum):
    """The arms of the published comparison, and one with a finite guarantee."""

    FL = "fl"
    DP_FL = "dp-fl"
    ADP_FL = "adp-fl"
    RIGOROUS = "rigorous"


class ReadingOption(StrEnum):
    """How a nominal epsilon becomes a noise scale."""

    MULTIPLIER = "multiplier"
    MULTIPLIER_MEAN = "multiplier_mean"
    BUDGET = "budget"
    BUDGET_N = "budget_n"


@app.command(
    short_help="Train at three hospitals on this machine.",
    epilog="Example: adpfl demo --arm dp-fl --rounds 5 --output demo",
)
def demo(
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of real images (ISIC 2017/2018 or HAM10000 layout) to deal to the hospitals."
        ),
    ] = None,
    arm: Annotated[
        ArmOption,
        typer.Option(
            help="fl, dp-fl, adp-fl: the arms of the published comparison; rigorous: a finite honest "
            "epsilon of 8, at its price."
        ),
    ] = ArmOption.ADP_FL,
    output: Annotated[
        Path, typer.Option(help="Folder to make; an earlier demonstration there is replaced.")
    ] = Path("demo"),
    rounds: Annotated[int, typer.Option(min=1, help="Federated rounds.")] = 30,
    steps: Annotated[int, typer.Option(min=1, help="Local steps a round.")] = 6,
    sites: Annotated[int, typer.Option(min=1, max=12, help="Hospitals.")] = 3,
    images: Annotated[int, typer.Option(min=8, help="Generated images a hospital, without --data.")] = 48,
    reading: Annotated[
        ReadingOption, typer.Option(help="dp-fl, adp-fl: how the nominal epsilon becomes noise.")
    ] = ReadingOption.MULTIPLIER,
    seed: Annotated[
        int, typer.Option(min=0, help="Of images, splits and initial weights; never of noise.")
    ] = 0,
) -> None:
    """Three hospitals on this machine train one model over mutual TLS, from nothing to a report.

    Generates the hospitals, makes a consortium, enrols each site, starts one aggregator and one agent a site,
    trains, and writes report.html and run.json. Everything lies in the output folder.
    """
    from rich.console import Console  # noqa: PLC0415 - help needs none of these

    from adpfl.experiment.demo.conduct import run_demo  # noqa: PLC0415
    from adpfl.experiment.demo.configuration import DemoChoices  # noqa: PLC0415
    from adpfl.experiment.demo.processes import ChildFailedError  # noqa: PLC0415
    from adpfl.experiment.summary import print_next_steps, print_summary  # noqa: PLC0415

    choices = DemoChoices(
        arm=arm.value,
        reading=reading.value,
        sites=sites,
        rounds=rounds,
        steps=steps,
        data=data,
        images=images,
        seed=seed,
    )
    console = Console()
    try:
        folder, run = run_demo(output, choices, console)
    except ChildFailedError as error:
        for line in error.log_tail:
            typer.echo(f"  {line}", err=True)
        raise
    print_summary(run.record, console)
    typer.echo(f"report: {folder.report} (open it in a browser)")
    typer.echo(f"record: {folder.record}")
    print_next_steps(run.record, console)


@app.command(
    short_help="Write the report of a run or of a comparison.",
    epilog="Example: adpfl report server/runs/demo state/hospital1 --output report.html",
)
def report(
    *,
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder with run.json, the aggregator's state folder, or the folder of a comparison."
        ),
    ],
    site_folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders with site.json, or sites' state folders that you may read."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The page to write [report.html]. A comparison's stands in its own folder."),
    ] = None,
    run: Annotated[str | None, typer.Option(help="Which run, where a state folder holds several.")] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Say that the images were generated and show no person.")
    ] = False,
) -> None:
    """Write a run's report: what the server saw, joined with the sites' private records that are given.

    Without a site's folder the page holds no score, threshold or picture: those stay at the sites. Of the
    folder of adpfl compare or adpfl sweep, the comparison's page, tables and record are written anew.
    """
    sites = tuple(site_folders or ())
    for name, place in (("FOLDER", folder), *(("SITE_FOLDERS", site) for site in sites)):
        if not place.is_dir():
            raise ConfigError(f"{name} is {place}; there is no such folder")
    if (folder / "comparison.json").is_file():
        given = {"SITE_FOLDERS": sites, "--output": output, "--run": run, "--synthetic": synthetic}
        if wrong := [name for name, value in given.items() if value]:
            raise ConfigError(
                f"{wrong[0]} has no meaning for {folder}, the folder of a comparison; must be absent"
            )
        _report_comparison(folder)
    else:
        _report_run(folder, sites, output or Path("report.html"), run=run, synthetic=synthetic)


def _report_comparison(folder: Path) -> None:
    from adpfl.experiment.report.comparison.page import PAGE_FILE, write_comparison  # noqa: PLC0415

    write_comparison(folder)
    typer.echo(f"report: {folder / PAGE_FILE}")


def _report_run(
    folder: Path, sites: tuple[Path, ...], output: Path, *, run: str | None, synthetic: bool
) -> None:
    from adpfl.experiment.report.page import write_page  # noqa: PLC0415 - brings matplotlib
    from adpfl.experiment.report.record import DataNote, load_run  # noqa: PLC0415

    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output is {output}; its folder does not exist")
    write_page(output, load_run(folder, sites, run=run, data_note=DataNote(synthetic=synthetic)))
    typer.echo(f"report: {output}")


@app.command(short_help="Which kernels are active.", epilog="Example: adpfl kernels --json")
def kernels(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Which implementation clips, sums and adds noise on this machine."""
    from adpfl.kernels import ops  # noqa: PLC0415 - brings torch

    backend = ops.active_backend()
    typer.echo(json.dumps({"backend": backend}) if as_json else f"active backend: {backend}")


app.command(short_help="Run the arms against each other, and report.", epilog=COMPARE_EXAMPLE)(compare)
app.command(short_help="Run curves over clip norms, percentiles and budgets.", epilog=SWEEP_EXAMPLE)(sweep)
app.command(short_help="Run what wins utility back at an honest budget.", epilog=UTILITY_EXAMPLE)(utility)
app.command(short_help="The honest epsilon of given noise.", epilog=EPSILON_EXAMPLE)(epsilon)
app.command(short_help="The least noise that keeps a target epsilon.", epilog=CALIBRATE_EXAMPLE)(calibrate)
app.command(short_help="Initial weights from generated images.", epilog=PRETRAIN_EXAMPLE)(pretrain)
app.command(short_help="Attack this installation's own privacy engine.", epilog=AUDIT_EXAMPLE)(audit)
data_app.command(short_help="Generate photographs, CT or MRI with masks.", epilog=GENERATE_EXAMPLE)(generate)
data_app.command(short_help="Look through a data folder, case by case.", epilog=CHECK_EXAMPLE)(check)


def main() -> None:
    """Run the command; errors become one line on stderr."""
    run_command(app)


if __name__ == "__main__":
    main()
