"""Writes a site's share of a data set as a folder of its own.

Photographs are laid out as ISIC 2017 does, volumes as the data set that they came from.
"""

import csv
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from adpfl.data.case import Case
from adpfl.data.image_pairs import MASK_SUFFIX
from adpfl.data.isic import PATIENT_COLUMN, SOURCE_COLUMN
from adpfl.data.volume_shares import fill_with_volumes, place_file
from adpfl.errors import DataError

IMAGES = "ISIC-2017_Training_Data"
MASKS = "ISIC-2017_Training_Part1_GroundTruth"
METADATA = "metadata.csv"


def write_site_folder(cases: Sequence[Case], folder: Path, *, link: bool = True) -> None:
    """Write these cases as a folder of their own with a `metadata.csv` that keeps patient and source.

    The folder appears whole or not at all.

    Args:
        cases: of one data set, with masks; at least one.
        folder: must not exist, or be empty.
        link: True makes symbolic links to the original files, False copies them.

    Raises:
        DataError: there is no case, a case has no mask, cases are of different data sets, the folder is not
            empty, or writing fails.
    """
    if not cases:
        raise DataError(f"{folder}: there are no cases to write")
    with staged_folder(folder) as staging:
        if all(case.labels is None for case in cases):
            _fill(staging, cases, link=link)
        else:
            fill_with_volumes(staging, cases, link=link)


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its name when the block ends well, else vanishes.

    Raises:
        DataError: `folder` is not empty, or writing fails.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists and is not empty; remove it or name another")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
        staging.mkdir()
        try:
            yield staging
            staging.replace(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error


def write_metadata(cases: Sequence[Case], path: Path) -> None:
    """Write the table that `adpfl.data.isic` reads patients and sources from.

    An image that is its own patient for want of a better one keeps an empty cell, and is read back as such.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image_id", PATIENT_COLUMN, SOURCE_COLUMN])
        table.writerows([case.case, _known_patient(case), case.source or ""] for case in cases)


def _known_patient(case: Case) -> str:
    return "" if case.patient_is == "image" and case.patient == case.case else case.patient


def _fill(folder: Path, cases: Sequence[Case], *, link: bool) -> None:
    (folder / IMAGES).mkdir()
    (folder / MASKS).mkdir()
    for case in cases:
        if case.mask is None:
            raise DataError(f"{case.case} has no mask; a site folder needs one for every case")
        place_file(case.image, folder / IMAGES / f"{case.case}{case.image.suffix}", link=link)
        place_file(case.mask, folder / MASKS / f"{case.case}{MASK_SUFFIX}.png", link=link)
    write_metadata(cases, folder / METADATA)
