"""The demonstration's hospitals: generated, or a real data set dealt out patient by patient."""

from collections.abc import Sequence
from dataclasses import dataclass

from adpfl.data.case import Case
from adpfl.data.partition import deal_to_sites
from adpfl.data.site_folder import write_site_folder
from adpfl.data.synthetic.dermoscopy import is_generated, write_clinic
from adpfl.data.synthetic.dermoscopy_sites import PROFILES
from adpfl.errors import ConfigError, DataError
from adpfl.experiment.demo.configuration import LEAST_PATIENTS, TASK, DemoChoices
from adpfl.experiment.demo.folder import DemoFolder
from adpfl.experiment.report.data_words import unit_words
from adpfl.experiment.report.record import DataNote, PatientsAre
from adpfl.tasks.registry import get_task


@dataclass(frozen=True)
class Hospitals:
    """What the hospitals hold, before anything is written.

    Attributes:
        words: where the images come from, for the person who watches.
        note: what the report must say of them.
        shares: the cases of each hospital; empty where they are still to be generated.
    """

    words: str
    note: DataNote
    shares: tuple[tuple[Case, ...], ...] = ()


def check_data_apart(choices: DemoChoices, folder: DemoFolder) -> None:
    """Refuse a data folder that lies in the demonstration's own, which is emptied at every start.

    Raises:
        ConfigError: it does.
    """
    if choices.data is not None and choices.data.resolve().is_relative_to(folder.root.resolve()):
        raise ConfigError(
            f"--data is {choices.data}; must not lie in the demonstration's own folder {folder.root}"
        )


def gather(choices: DemoChoices) -> Hospitals:
    """Read and deal out the given images, writing nothing: what is wrong with them is known before a start.

    Raises:
        DataError: the given folder cannot be read, or has too few patients.
    """
    if choices.data is None:
        told = f"{choices.sites} hospitals of {choices.images} synthetic images, each in its own manner"
        return Hospitals(words=told, note=DataNote(synthetic=True))
    try:
        cases = get_task(TASK).read(choices.data)
    except DataError as error:
        raise DataError(f"--data: {error}") from error
    patients = len({case.patient for case in cases})
    if patients < choices.sites * LEAST_PATIENTS:
        raise DataError(
            f"--data is {choices.data}, with {patients} patients; must have at least "
            f"{choices.sites * LEAST_PATIENTS}: {LEAST_PATIENTS} for each of --sites {choices.sites}"
        )
    note = DataNote(synthetic=any(map(is_generated, cases)), patients_are=patients_are(cases))
    makeshift = unit_words(note)
    told = (
        f"{choices.sites} hospitals of {len(cases)} images of {patients} patients in all, no patient in two"
        if makeshift is None
        else f"{choices.sites} hospitals of {len(cases)} images in all; {makeshift}"
    )
    return Hospitals(words=told, note=note, shares=deal_to_sites(cases, choices.sites, choices.seed))


def furnish(hospitals: Hospitals, choices: DemoChoices, folder: DemoFolder) -> None:
    """Give every hospital its images.

    Raises:
        DataError: a folder cannot be written.
    """
    for site, share in zip(choices.site_names, hospitals.shares, strict=False):
        write_site_folder(share, folder.site_data(site))
    if hospitals.shares:
        return
    profiles = tuple(PROFILES)
    for place, site in enumerate(choices.site_names):
        profile = profiles[place % len(profiles)]
        seed = choices.seed + place // len(profiles)
        write_clinic(folder.site_data(site), profile, images=choices.images, seed=seed)


def patients_are(cases: Sequence[Case]) -> PatientsAre:
    """The weakest kind of grouping that stands for a patient anywhere in these cases."""
    bases = {case.patient_is for case in cases}
    if "image" in bases:
        return "images" if bases == {"image"} else "some_images"
    return "lesions" if "lesion" in bases else "patients"
