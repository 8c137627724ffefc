"""Writes volumes of a site's share in the layout that they came in, by linking or copying their files."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from adpfl.data.brats import present_channels
from adpfl.data.case import Case
from adpfl.data.kits import IMAGE, mask_name
from adpfl.data.msd import CONVENTION, TABLE, dataset_table
from adpfl.data.volume_table import write_volume_table
from adpfl.errors import DataError


def fill_with_volumes(folder: Path, cases: Sequence[Case], *, link: bool) -> None:
    """Fill an empty folder with these cases and a `metadata.csv` that keeps patient, source and labels.

    Args:
        folder: exists and is empty.
        cases: of one data set, with masks.
        link: True makes symbolic links to the original files, False copies them.

    Raises:
        DataError: a case has no mask, or the cases are of different data sets.
    """
    conventions = sorted({case.labels or "photographs" for case in cases})
    if len(conventions) > 1:
        raise DataError(f"cases are of {' and '.join(conventions)}; a site folder holds one data set")
    for case in cases:
        if case.mask is None:
            raise DataError(f"{case.case} has no mask; a site folder needs one for every case")
        for original, name in _files(case, case.mask):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            place_file(original, folder / name, link=link)
    if conventions == [CONVENTION]:
        pairs = [(case.image.name, case.mask.name) for case in cases if case.mask is not None]
        document = json.dumps(dataset_table(pairs), indent=1)
        (folder / TABLE).write_text(document, encoding="utf-8")
    write_volume_table(cases, folder)


def place_file(original: Path, copy: Path, *, link: bool) -> None:
    """Link or copy one file; a link points to the original and not to another link."""
    if link:
        copy.symlink_to(original.resolve())
    else:
        shutil.copyfile(original, copy)


def _files(case: Case, mask: Path) -> list[tuple[Path, str]]:
    """A case's files, and what they are called in a folder of the case's layout."""
    assert case.labels is not None
    if case.labels == CONVENTION:
        return [(case.image, f"imagesTr/{case.image.name}"), (mask, f"labelsTr/{mask.name}")]
    if case.image.is_dir():
        return [(path, f"{case.case}/{path.name}") for path in (*present_channels(case), mask)]
    return [(case.image, f"{case.case}/{IMAGE}"), (mask, f"{case.case}/{mask_name(case.labels)}")]
