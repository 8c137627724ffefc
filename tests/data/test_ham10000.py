"""HAM10000 folders: lesions as patients, sources from the table, masks by Tschandl."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adpfl.data.skin_layouts import read_skin_folder
from adpfl.errors import DataError

ROWS = ("HAM_1,ISIC_1,nv,vidir_modern", "HAM_1,ISIC_2,nv,vidir_modern", "HAM_2,ISIC_3,mel,rosendahl")
HEADER = "lesion_id,image_id,dx,dataset"
MASKS = "HAM10000_segmentations_lesion_tschandl"


@pytest.fixture
def ham_folder(
    tmp_path: Path, write_image: Callable[..., None], write_mask_file: Callable[..., None]
) -> Path:
    (tmp_path / "HAM10000_metadata.csv").write_text("\n".join((HEADER, *ROWS, "HAM_9,ISIC_9,nv,rosendahl")))
    for name, part in (("ISIC_1", 1), ("ISIC_2", 2), ("ISIC_3", 2)):
        write_image(tmp_path / f"HAM10000_images_part_{part}" / f"{name}.jpg")
        write_mask_file(tmp_path / MASKS / f"{name}_segmentation.png")
    return tmp_path


def test_both_parts_are_read_with_lesions_as_patients(ham_folder: Path) -> None:
    cases = read_skin_folder(ham_folder)
    assert {case.patient_is for case in cases} == {"lesion"}
    assert [(case.case, case.patient, case.source) for case in cases] == [
        ("ISIC_1", "HAM_1", "vidir_modern"),
        ("ISIC_2", "HAM_1", "vidir_modern"),
        ("ISIC_3", "HAM_2", "rosendahl"),
    ]


def test_a_plain_image_folder_and_a_table_without_suffix_or_source_serve(ham_folder: Path) -> None:
    (ham_folder / "images").mkdir()
    for part in (1, 2):
        place = ham_folder / f"HAM10000_images_part_{part}"
        for image in list(place.iterdir()):
            image.rename(ham_folder / "images" / image.name)
        place.rmdir()
    (ham_folder / "HAM10000_metadata.csv").unlink()
    rows = [row.rpartition(",")[0] for row in (HEADER, *ROWS)]
    (ham_folder / "HAM10000_metadata").write_text("\n".join(rows))
    assert [case.source for case in read_skin_folder(ham_folder)] == [None, None, None]


def test_an_image_without_lesion_is_a_problem(ham_folder: Path) -> None:
    (ham_folder / "HAM10000_metadata.csv").write_text("\n".join((HEADER, *ROWS[:2])))
    with pytest.raises(DataError, match=r"ISIC_3 has no lesion_id in HAM10000_metadata\.csv"):
        read_skin_folder(ham_folder)


def test_a_table_without_lesions_is_refused(ham_folder: Path) -> None:
    (ham_folder / "HAM10000_metadata.csv").write_text("image_id,dx\nISIC_1,nv\n")
    with pytest.raises(DataError, match="must have the columns image_id and lesion_id"):
        read_skin_folder(ham_folder)


def test_missing_masks_are_named(ham_folder: Path) -> None:
    (ham_folder / MASKS / "ISIC_2_segmentation.png").unlink()
    with pytest.raises(DataError, match=r"ISIC_2\.jpg has no mask"):
        read_skin_folder(ham_folder)


def test_a_missing_mask_folder_is_named(ham_folder: Path) -> None:
    for mask in (ham_folder / MASKS).iterdir():
        mask.unlink()
    (ham_folder / MASKS).rmdir()
    with pytest.raises(DataError, match=f"has no {MASKS}$"):
        read_skin_folder(ham_folder)
    assert len(read_skin_folder(ham_folder, with_masks=False)) == 3


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "HAM10000_metadata.csv").write_text(HEADER)
    with pytest.raises(DataError, match="has no folder of images"):
        read_skin_folder(tmp_path)
