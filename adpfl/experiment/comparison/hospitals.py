"""The sites' images: generated, or a real data set dealt out patient by patient, once for all cells."""

from dataclasses import dataclass

from adpfl.data.case import Case
from adpfl.data.partition import deal_by_source, deal_to_sites, split_held_out
from adpfl.data.site_folder import write_site_folder
from adpfl.data.synthetic.dermoscopy import is_generated
from adpfl.errors import ConfigError, DataError
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
        ConfigError: the choices contradict each other.
        DataError: the given folder cannot be read, or has too few patients for its sites.
    """
    names = tuple(f"site{number}" for number in range(1, choices.sites + 1))
    if choices.data is None:
        if choices.partition != "equal":
            raise ConfigError(f"--partition is {choices.partition}; goes with --data")
        return tuple(Share(name) for name in names)
    cases = get_task(choices.task).read(choices.data)
    if choices.partition == "source":
        by_source = deal_by_source(cases)
        shares = tuple(
            Share(f"site{number}", dealt) for number, dealt in enumerate(by_source.values(), start=1)
        )
    else:
        dealt = deal_to_sites(cases, choices.sites, choices.data_seed)
        shares = tuple(Share(name, share) for name, share in zip(names, dealt, strict=True))
    for share in shares:
        patients = len({case.patient for case in share.cases})
        if patients < _LEAST_PATIENTS:
            raise DataError(
                f"--data is {choices.data}: {share.site} would have {count(patients, 'patient')}; "
                f"must have at least {_LEAST_PATIENTS}"
            )
    return shares


def furnish(shares: tuple[Share, ...], choices: Choices, folder: ComparisonFolder) -> DataDescription:
    """Give every site its images, and say what they are.

    Raises:
        DataError: a folder cannot be written, or has too few patients.
    """
    settings = settings_of(choices.task)
    for place, share in enumerate(shares):
        if share.cases:
            write_site_folder(share.cases, folder.site_data(share.site))
            continue
        profile = settings.profiles[place % len(settings.profiles)]
        another = place // len(settings.profiles)  # a second hospital of a profile has other patients
        settings.generate(folder.site_data(share.site), profile, choices.cases, choices.data_seed + another)
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
    if choices.data is None:
        return "each site has its own devices, patients and habits of annotation"
    if choices.partition == "source":
        return "a site for each source that the data set names"
    return "patients dealt equally at random"
