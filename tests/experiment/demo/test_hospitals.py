"""Hospitals are generated apart, or dealt from one folder without sharing a patient."""

import pytest

from adpfl.data.synthetic.dermoscopy import write_clinic
from adpfl.errors import ConfigError, DataError
from adpfl.experiment.demo.configuration import DemoChoices
from adpfl.experiment.demo.folder import claimed
from adpfl.experiment.demo.hospitals import check_data_apart, furnish, gather
from adpfl.tasks.registry import get_task


def patients(folder, site):
    return {case.patient for case in get_task("skin_lesion").read(folder.site_data(site))}


def test_generated_hospitals_then_dealt_out(tmp_path):
    generated = DemoChoices(sites=2, images=8)
    with claimed(tmp_path / "one") as folder:
        hospitals = gather(generated)
        assert hospitals.words.startswith("2 hospitals of 8 synthetic images")
        assert hospitals.note.synthetic
        furnish(hospitals, generated, folder)
        assert not patients(folder, "hospital1") & patients(folder, "hospital2")
        source = folder.site_data("hospital1")
        dealt = DemoChoices(sites=2, data=source)
        with claimed(tmp_path / "two") as other:
            furnish(gather(dealt), dealt, other)
            first, second = patients(other, "hospital1"), patients(other, "hospital2")
            assert first
            assert second
            assert not first & second


def test_data_inside_the_folder_that_is_emptied_is_refused(tmp_path):
    with claimed(tmp_path / "demo") as folder, pytest.raises(ConfigError, match="must not lie in"):
        check_data_apart(DemoChoices(data=folder.site_data("hospital1")), folder)


@pytest.fixture
def clinic(tmp_path):
    """Generated images that look as if somebody had brought them."""
    write_clinic(tmp_path / "clinic", "A", images=10, seed=0, size=(32, 32))
    for path in [*(tmp_path / "clinic").rglob("*.jpg"), *(tmp_path / "clinic").rglob("*.png")]:
        path.rename(path.with_name(path.name.replace("ISIC_synthetic_A", "ISIC_")))
    table = tmp_path / "clinic" / "metadata.csv"
    table.write_text(table.read_text().replace("ISIC_synthetic_A", "ISIC_"))
    return tmp_path / "clinic"


def test_generated_images_are_known_again_when_they_are_given(tmp_path):
    write_clinic(tmp_path / "clinic", "A", images=10, seed=0, size=(32, 32))
    assert gather(DemoChoices(sites=2, data=tmp_path / "clinic")).note.synthetic


def test_what_stands_for_a_patient_is_told(clinic):
    hospitals = gather(DemoChoices(sites=2, data=clinic))
    assert (hospitals.note.synthetic, hospitals.note.patients_are) == (False, "patients")
    assert "no patient in two" in hospitals.words
    table = clinic / "metadata.csv"
    header, first, *rest = table.read_text().splitlines()
    table.write_text("\n".join((header, f"{first.split(',')[0]},,", *rest)))
    assert gather(DemoChoices(sites=2, data=clinic)).note.patients_are == "some_images"
    table.unlink()
    hospitals = gather(DemoChoices(sites=2, data=clinic))
    assert hospitals.note.patients_are == "images"
    assert hospitals.words == (
        "2 hospitals of 10 images in all; "
        "no patient table: every image counts as its own patient; the protection is per image"
    )


def test_too_few_patients_for_so_many_sites_are_known_before_the_start(clinic):
    with pytest.raises(DataError, match="must have at least 36: 3 for each of --sites 12"):
        gather(DemoChoices(sites=12, data=clinic))
