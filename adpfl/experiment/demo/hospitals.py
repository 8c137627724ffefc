"""The demonstration's hospitals: generated, or a real data set dealt out patient by patient."""

from adpfl.data.partition import deal_to_sites
from adpfl.data.site_folder import write_site_folder
from adpfl.data.synthetic.dermoscopy import write_clinic
from adpfl.data.synthetic.dermoscopy_sites import PROFILES
from adpfl.errors import ConfigError
from adpfl.experiment.demo.configuration import TASK, DemoChoices
from adpfl.experiment.demo.folder import DemoFolder
from adpfl.tasks.registry import get_task


def check_data_apart(choices: DemoChoices, folder: DemoFolder) -> None:
    """Refuse a data folder that lies in the demonstration's own, which is emptied at every start.

    Raises:
        ConfigError: it does.
    """
    if choices.data is not None and choices.data.resolve().is_relative_to(folder.root.resolve()):
        raise ConfigError(
            f"--data is {choices.data}; must not lie in the demonstration's own folder {folder.root}"
        )


def furnish(choices: DemoChoices, folder: DemoFolder) -> str:
    """Give every hospital its images.

    Returns:
        What was done, in words.

    Raises:
        DataError: the given folder cannot be read, or has too few patients.
    """
    if choices.data is None:
        profiles = tuple(PROFILES)
        for place, site in enumerate(choices.site_names):
            profile = profiles[place % len(profiles)]
            seed = choices.seed + place // len(profiles)
            write_clinic(folder.site_data(site), profile, images=choices.images, seed=seed)
        return f"generated {choices.sites} hospitals of {choices.images} images, each in its own manner"
    cases = get_task(TASK).read(choices.data)
    for site, share in zip(
        choices.site_names, deal_to_sites(cases, choices.sites, choices.seed), strict=True
    ):
        write_site_folder(share, folder.site_data(site))
    patients = len({case.patient for case in cases})
    return f"dealt {len(cases)} images of {patients} patients to {choices.sites} hospitals, no patient to two"
