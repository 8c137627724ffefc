"""The sites' images: generated, or a real data set dealt out patient by patient, once for all cells."""

from dataclasses import dataclass

from adpfl.data.case import Case
from adpfl.data.deal import deal
from adpfl.data.partition import split_held_out
from adpfl.data.site_folder import write_site_folder
from adpfl.data.synthetic.hospitals import PROFILES, is_generated, write_hospital
from adpfl.errors import DataError
from adpfl.experiment.comparison.choices import Choices
from adpfl.experiment.comparison.folder import ComparisonFolder
from adpfl.experiment.comparison.plan import DataDescription
from adpfl.experiment.comparison.task_settings import settings_of
from adpfl.experiment.demo.hospitals import patients_are
from adpfl.experiment.report.words import count
from adpfl.tasks.registry import get_task

_LEAST_PATIENTS = 3
"""At a site: two to train on and one held out."""


@dataclass(frozen=True)
class Share:
    """One site before anything is written: its name, and its cases where they are not yet to be generated."""

    site: str
    cases: tuple[Case, ...] = ()


def gather(choices: Choices) -> tuple[Share, ...]:
    """Read and deal out the given images, writing nothing: what is wrong with them is known before a start.

    Raises:
        DataError: the given folder cannot be read, or has too few patients for its sites.
    """
    if choices.data is None:
        return tuple(Share(f"site{number}") for number in range(1, (choices.sites or 1) + 1))
    try:
        cases = get_task(choices.task).read(choices.data)
    except DataError as error:
        raise DataError(f"--data: {error}") from error
    shares = deal(cases, choices.partition, choices.sites, choices.data_seed)
    for site, share in shares.items():
        patients = len({case.patient for case in share})
        if patients < _LEAST_PATIENTS:
            raise DataError(
                f"--data is {choices.data}: {site} would have {count(patients, 'patient')}; must have at "
                f"least {_LEAST_PATIENTS}, one of them held out"
            )
    return tuple(Share(site, share) for site, share in shares.items())


def furnish(shares: tuple[Share, ...], choices: Choices, folder: ComparisonFolder) -> DataDescription:
    """Give every site its images, and say what they are.

    Raises:
        DataError: a folder cannot be written, or has too few patients.
    """
    images = settings_of(choices.task).images
    for place, share in enumerate(shares):
        folder_of_site = folder.site_data(share.site)
        if share.cases:
            write_site_folder(share.cases, folder_of_site)
            continue
        another, profile = divmod(place, len(PROFILES))  # a second hospital of a profile has other patients
        seed = choices.data_seed + another
        write_hospital(images, folder_of_site, PROFILES[profile], cases=choices.cases, seed=seed)
    return describe(shares, choices, folder)


def describe(shares: tuple[Share, ...], choices: Choices, folder: ComparisonFolder) -> DataDescription:
    """Read every site's folder back and say what stands in it."""
    task = get_task(choices.task)
    training: dict[str, int] = {}
    held_out: dict[str, int] = {}
    everything: list[Case] = []
    for share in shares:
        cases = task.read(folder.site_data(share.site))
        split = split_held_out(cases, choices.held_out_fraction, choices.data_seed)
        training[share.site] = len({case.patient for case in split.training})
        held_out[share.site] = len({case.patient for case in split.held_out})
        everything += cases
    given = choices.data is not None
    return DataDescription(
        words=(
            f"{count(len(everything), 'case')} of {choices.data}"
            if given
            else f"{count(len(shares), 'imaginary hospital')} of {choices.cases} generated cases each"
        ),
        synthetic=not given or any(map(is_generated, everything)),
        patients_are=patients_are(everything),
        partition=_partition_words(choices),
        training_patients=training,
        held_out_patients=held_out,
        held_out_fraction=choices.held_out_fraction,
        split_seed=choices.data_seed,
    )


def _partition_words(choices: Choices) -> str:
    partition = choices.partition
    if choices.data is None:
        return "each site has its own devices, patients and habits of annotation"
    match partition.method:
        case "source":
            whose = "the data set" if partition.table is None else partition.table.name
            return f"a site for each institution that {whose} names"
        case "equal":
            return "patients dealt at random, equally many to each site"
        case "quantity":
            return f"patients dealt at random, sites of uneven size (Dirichlet, {partition.concentration:g})"
        case "dirichlet":
            what = "source" if partition.covariate == "source" else "size of the lesion"
            return f"patients dealt unevenly by {what} (Dirichlet, {partition.concentration:g})"
