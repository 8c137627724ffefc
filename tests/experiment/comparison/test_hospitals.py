"""Sites' images are generated or dealt once, patient by patient, and described as they lie there."""

import pytest

from adpfl.data.synthetic.dermoscopy import write_clinic
from adpfl.errors import ConfigError, DataError
from adpfl.experiment.comparison.folder import ComparisonFolder
from adpfl.experiment.comparison.hospitals import furnish, gather
from adpfl.tasks.registry import get_task


@pytest.fixture
def clinic(tmp_path):
    folder = tmp_path / "clinic"
    write_clinic(folder, "A", images=16, seed=5)
    return folder


def test_generated_sites_differ_in_their_patients(tmp_path, choices_of):
    choices = choices_of(sites=5)
    folder = ComparisonFolder(tmp_path)
    data = furnish(gather(choices), choices, folder)
    assert data.sites == ("site1", "site2", "site3", "site4", "site5")
    assert data.synthetic
    first, fifth = (  # the same profile
        sorted(path.read_bytes() for path in folder.site_data(site).rglob("*.jpg"))
        for site in ("site1", "site5")
    )
    assert first != fifth


def test_given_images_are_dealt_so_that_no_patient_is_at_two_sites(tmp_path, choices_of, clinic):
    choices = choices_of(data=str(clinic))
    folder = ComparisonFolder(tmp_path / "out")
    data = furnish(gather(choices), choices, folder)
    task = get_task("skin_lesion")
    patients = [{case.patient for case in task.read(folder.site_data(site))} for site in data.sites]
    assert not patients[0] & patients[1]
    assert patients[0] | patients[1] == {case.patient for case in task.read(clinic)}
    for site, found in zip(data.sites, patients, strict=True):
        assert data.training_patients[site] + data.held_out_patients[site] == len(found)
    assert data.synthetic  # dealt out, generated images are still known as such


def test_sites_by_source_are_the_sources(tmp_path, choices_of, clinic):
    choices = choices_of(data=str(clinic), partition={"method": "source"}, sites=None)
    data = furnish(gather(choices), choices, ComparisonFolder(tmp_path / "out"))
    assert len(data.sites) == 1  # one clinic is one source
    assert data.partition == "a site for each institution that the data set names"


def test_a_partition_of_generated_data_is_refused(choices_of):
    with pytest.raises(ConfigError, match="partition is source; goes with data"):
        choices_of(partition={"method": "source"})


def test_too_few_patients_for_the_sites_are_named_before_anything_is_written(tmp_path, choices_of, clinic):
    with pytest.raises(DataError, match="must have at least 3"):
        gather(choices_of(data=str(clinic), sites=6))
    assert [path.name for path in tmp_path.iterdir()] == ["clinic"]


def test_data_that_cannot_be_read_are_named(tmp_path, choices_of):
    with pytest.raises(DataError, match="nowhere"):
        gather(choices_of(data=str(tmp_path / "nowhere")))
