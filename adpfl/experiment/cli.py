"""The command `adpfl`. Heavy imports stand inside the commands, so that help comes at once."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from adpfl.commandline import run_command
from adpfl.errors import ConfigError

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
    help="Make data to try things on.", no_args_is_help=True, rich_markup_mode=None, context_settings=HELP
)
app.add_typer(data_app, name="data")


class ArmOption(StrEnum):
    """The arms of the published comparison."""

    FL = "fl"
    DP_FL = "dp-fl"
    ADP_FL = "adp-fl"


class ReadingOption(StrEnum):
    """How a nominal epsilon becomes a noise scale."""

    MULTIPLIER = "multiplier"
    MULTIPLIER_MEAN = "multiplier_mean"
    BUDGET = "budget"
    BUDGET_N = "budget_n"


class MechanismOption(StrEnum):
    """Mechanisms whose figure can be asked for."""

    LAPLACE_L2 = "laplace_l2"


class SamplingOption(StrEnum):
    """How the units of a step are chosen."""

    POISSON = "poisson"
    PARTITION = "partition"
    FULL = "full"


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
        ArmOption, typer.Option(help="Which arm of the published comparison to run.")
    ] = ArmOption.ADP_FL,
    output: Annotated[
        Path, typer.Option(help="Folder to make; an earlier demonstration there is replaced.")
    ] = Path("demo"),
    rounds: Annotated[int, typer.Option(min=1, help="Federated rounds.")] = 30,
    steps: Annotated[int, typer.Option(min=1, help="Local steps a round.")] = 6,
    sites: Annotated[int, typer.Option(min=1, max=12, help="Hospitals.")] = 3,
    images: Annotated[int, typer.Option(min=8, help="Generated images a hospital, without --data.")] = 48,
    reading: Annotated[
        ReadingOption, typer.Option(help="How the nominal epsilon becomes noise.")
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
    from adpfl.experiment.summary import print_summary  # noqa: PLC0415

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
    typer.echo(f"report: {folder.report}")
    typer.echo(f"record: {folder.record}")


@app.command(
    short_help="Write a run's report.",
    epilog="Example: adpfl report server/runs/demo state/hospital1 --output report.html",
)
def report(
    server_folder: Annotated[
        Path, typer.Argument(help="Folder with run.json, or the aggregator's state folder.")
    ],
    site_folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders with site.json, or sites' state folders that you may read."),
    ] = None,
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    run: Annotated[str | None, typer.Option(help="Which run, where a state folder holds several.")] = None,
) -> None:
    """Write a run's report: what the server saw, joined with the sites' private records that are given.

    Without a site's folder the page holds no score, threshold or picture: those stay at the sites.
    """
    from adpfl.experiment.report.page import write_page  # noqa: PLC0415 - brings matplotlib
    from adpfl.experiment.report.record import load_run  # noqa: PLC0415

    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output is {output}; its folder does not exist")
    write_page(output, load_run(server_folder, tuple(site_folders or ()), run=run))
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


@app.command(
    short_help="The honest epsilon of given noise.",
    epilog="Example: adpfl epsilon --mechanism laplace_l2 --noise-multiplier 10 --dimension 1000000 "
    "--sampling poisson --sampling-probability 0.1 --steps 1000 --delta 1e-5 --json",
)
def epsilon(
    *,
    mechanism: Annotated[MechanismOption, typer.Option(help="What clips and adds noise.")],
    noise_multiplier: Annotated[float, typer.Option(help="Noise scale over clip norm, b/C, on the sum.")],
    dimension: Annotated[int, typer.Option(min=1, help="Coordinates of a gradient.")],
    sampling: Annotated[SamplingOption, typer.Option(help="How the units of a step are chosen.")],
    steps: Annotated[int, typer.Option(min=1, help="Noised steps, composed.")],
    delta: Annotated[float, typer.Option(help="At which epsilon is wanted; above 0 and below 1.")],
    sampling_probability: Annotated[
        float, typer.Option(help="Share of the units in a step; 1 with --sampling full.")
    ] = 1.0,
    units: Annotated[
        int | None, typer.Option(min=1, help="How many units there are; checks that delta suits it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """The honest epsilon of noise with a threshold fixed in advance, with everything it refers to."""
    from adpfl.experiment.figures_of_noise import guarantee_of_noise  # noqa: PLC0415 - brings torch

    found = guarantee_of_noise(
        mechanism=mechanism.value,
        noise_multiplier=noise_multiplier,
        dimension=dimension,
        sampling_mode=sampling.value,
        sampling_probability=sampling_probability,
        steps=steps,
        delta=delta,
        unit_count=units,
    )
    if as_json:
        typer.echo(found.model_dump_json())
        return
    typer.echo(f"epsilon {found.epsilon:.6g} at delta {found.delta:g}")
    terms = (
        f"mechanism {found.mechanism}, noise multiplier {noise_multiplier:g}, {dimension} coordinates",
        f"sampling {found.sampling}; {found.steps} steps; accountant {found.accountant}",
        f"unit {found.unit}, neighbouring relation {found.neighboring_relation}",
        *found.caveats,
    )
    for term in terms:
        typer.echo(f"  {term}")


@data_app.command(
    short_help="Generate dermoscopic photographs.",
    epilog="Example: adpfl data generate clinic-a --profile A --images 60 --seed 1",
)
def generate(
    folder: Annotated[Path, typer.Argument(help="Folder to make; must be absent or empty.")],
    profile: Annotated[
        str, typer.Option(help="Which clinic's cameras, patients and habits: A, B, C or D.")
    ] = "A",
    images: Annotated[int, typer.Option(min=1, help="How many photographs.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other patients.")] = 0,
) -> None:
    """Generate dermoscopic photographs with masks, in the layout of ISIC 2017."""
    from adpfl.data.synthetic.dermoscopy import write_clinic  # noqa: PLC0415 - brings numpy and scipy

    cases = write_clinic(folder, profile, images=images, seed=seed)
    patients = len({case.patient for case in cases})
    typer.echo(f"{folder}: {len(cases)} images of {patients} patients, profile {profile}, seed {seed}")


def main() -> None:
    """Run the command; errors become one line on stderr."""
    run_command(app)


if __name__ == "__main__":
    main()
