"""One door for all tasks: what it writes, the task's reader reads."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from adpfl.data.brain_layouts import read_brain_folder
from adpfl.data.case import Case
from adpfl.data.kidney_layouts import read_kidney_folder
from adpfl.data.skin_layouts import read_skin_folder
from adpfl.data.synthetic import ct_sites, dermoscopy_sites, mri_sites
from adpfl.data.synthetic.hospitals import PROFILES, is_generated, write_hospital
from adpfl.errors import ConfigError
from adpfl.tasks.registry import built_in_tasks

READERS: dict[str, Callable[[Path], list[Case]]] = {
    "skin_lesion": read_skin_folder,
    "kidney_tumor": read_kidney_folder,
    "brain_tumor": read_brain_folder,
}


@pytest.mark.parametrize("task", sorted(READERS))
def test_the_tasks_reader_reads_it_and_it_is_known_as_generated(tmp_path: Path, task: str) -> None:
    written = write_hospital(task, tmp_path / "site", "A", cases=2, seed=0)
    assert READERS[task](tmp_path / "site") == written
    assert all(is_generated(case) for case in written)


def test_every_modality_has_the_same_profiles() -> None:
    for module in (dermoscopy_sites, ct_sites, mri_sites):
        assert tuple(sorted(module.PROFILES)) == PROFILES


def test_real_cases_are_not_taken_for_generated(tmp_path: Path) -> None:
    folder = tmp_path / "BraTS-GLI-00001-000"
    folder.mkdir()
    for path in (folder / f"{folder.name}-t1n.nii.gz", tmp_path / "imaging.nii.gz"):
        nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.eye(4)), path)
    older = tmp_path / "BraTS20_Training_001"
    older.mkdir()
    for name, image in (("a", folder), ("b", tmp_path / "imaging.nii.gz"), ("c", older)):
        assert not is_generated(Case(name, name, image, None))
    assert not is_generated(Case("ISIC_0000000", "p", tmp_path / "ISIC_0000000.jpg", None))


def test_an_unknown_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"'lung'; must be one of {', '.join(built_in_tasks())}$"):
        write_hospital("lung", tmp_path / "x", "A", cases=1, seed=0)
