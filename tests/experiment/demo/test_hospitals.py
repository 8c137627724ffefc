"""Hospitals are generated apart, or dealt from one folder without sharing a patient."""

import pytest

from adpfl.errors import ConfigError
from adpfl.experiment.demo.configuration import DemoChoices
from adpfl.experiment.demo.folder import claimed
from adpfl.experiment.demo.hospitals import check_data_apart, furnish
from adpfl.tasks.registry import get_task


def patients(folder, site):
    return {case.patient for case in get_task("skin_lesion").read(folder.site_data(site))}


def test_generated_hospitals_then_dealt_out(tmp_path):
    generated = DemoChoices(sites=2, images=8)
    with claimed(tmp_path / "one") as folder:
        assert "generated 2 hospitals" in furnish(generated, folder)
        assert not patients(folder, "hospital1") & patients(folder, "hospital2")
        source = folder.site_data("hospital1")
        dealt = DemoChoices(sites=2, data=source)
        with claimed(tmp_path / "two") as other:
            assert "dealt 8 images" in furnish(dealt, other)
            first, second = patients(other, "hospital1"), patients(other, "hospital2")
            assert first
            assert second
            assert not first & second


def test_data_inside_the_folder_that_is_emptied_is_refused(tmp_path):
    with claimed(tmp_path / "demo") as folder, pytest.raises(ConfigError, match="must not lie in"):
        check_data_apart(DemoChoices(data=folder.site_data("hospital1")), folder)
