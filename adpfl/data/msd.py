"""Task01_BrainTumour of the Medical Segmentation Decathlon: 484 labelled gliomas, four sequences in one file.

`dataset.json` lists the cases as pairs `./imagesTr/BRATS_001.nii.gz`, `./labelsTr/BRATS_001.nii.gz`, names
the sequences (FLAIR, T1w, t1gd, T2w, in that order along the image's fourth axis) and the labels (1 edema,
2 non-enhancing tumor, 3 enhancing tumour). One case is one patient.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from adpfl.data.case import Case
from adpfl.data.geometry import check_geometry
from adpfl.data.volume_table import read_volume_table, with_origins
from adpfl.data.volumes import Volume, is_volume, read_volume, stem
from adpfl.errors import DataError

TABLE: Final = "dataset.json"
CONVENTION: Final = "msd_task01"
MODALITIES: Final = ("flair", "t1w", "t1gd", "t2w")
"""Of the image's fourth axis, lower case."""

_LABELS = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
_CHANNEL_ORDER: Final = tuple(MODALITIES.index(name) for name in ("t1w", "t1gd", "t2w", "flair"))
_MAXIMUM_BYTES: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class _Listed:
    """One entry of the table: paths in the folder."""

    image: Path
    mask: Path | None

    @property
    def case(self) -> str:
        return stem(self.image)


def is_msd(folder: Path) -> bool:
    """Whether the folder holds a decathlon's table."""
    return (folder / TABLE).is_file()


def is_msd_case(case: Case) -> bool:
    """Whether a case's image is one four-dimensional file of the decathlon."""
    return case.labels == CONVENTION


def read_msd(folder: Path, *, with_masks: bool = True) -> tuple[list[Case], list[str]]:
    """All cases, sound or not, ordered by case, and what is wrong; headers are compared, voxels are not read.

    With masks, the table's training cases; without, its test cases too.

    Raises:
        DataError: the table cannot be read, or is of another task.
    """
    path = folder / TABLE
    table = _table(path)
    problems: list[str] = []
    cases: dict[str, Case] = {}
    entries = _listed(folder, table, path, with_masks=with_masks)
    for entry in entries:
        if entry.case in cases:
            problems.append(f"{entry.case} stands twice in {TABLE}")
            continue
        problems += _check(entry)
        cases[entry.case] = Case(entry.case, entry.case, entry.image, entry.mask, labels=CONVENTION)
    listed = {entry.image for entry in entries}
    places = (folder / "imagesTr",) if with_masks else (folder / "imagesTr", folder / "imagesTs")
    problems += [
        f"{stem(image)} lies in {place.name} and is not listed in {TABLE}"
        for place in places
        if place.is_dir()
        for image in sorted(place.iterdir())
        if is_volume(image) and image not in listed
    ]
    ordered, wrong = with_origins([cases[name] for name in sorted(cases)], read_volume_table(folder))
    return ordered, problems + wrong


def read_msd_image(case: Case) -> Volume:
    """The four sequences, float32 (4, slices, rows, columns), reordered to T1, contrast T1, T2, FLAIR.

    Raises:
        DataError: the file cannot be read or has other than four channels.
    """
    volume = read_volume(case.image)
    if volume.array.ndim != 4 or volume.array.shape[0] != len(MODALITIES):
        raise DataError(f"{case.case}: {case.image.name} must have {len(MODALITIES)} channels")
    array = np.ascontiguousarray(volume.array[list(_CHANNEL_ORDER)])
    return Volume(array, volume.spacing_mm, volume.affine, volume.orientation)


def dataset_table(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The content of a `dataset.json` that lists these pairs of image and label file for training."""
    training = [{"image": f"./imagesTr/{image}", "label": f"./labelsTr/{mask}"} for image, mask in pairs]
    return {
        "name": "BRATS",
        "tensorImageSize": "4D",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": _LABELS,
        "numTraining": len(training),
        "numTest": 0,
        "training": training,
        "test": [],
    }


def _check(entry: _Listed) -> list[str]:
    paths = [entry.image] if entry.mask is None else [entry.image, entry.mask]
    absent = [
        f"{entry.case} is listed in {TABLE}, but {path.parent.name}/{path.name} is absent"
        for path in paths
        if not path.is_file()
    ]
    return absent or check_geometry(paths, dimensions=4)


def _table(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _MAXIMUM_BYTES:
            raise DataError(f"{path}: is larger than {_MAXIMUM_BYTES} bytes")
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(table, dict):
        raise DataError(f"{path}: must be an object with modality, labels and training")
    modality = _texts(table.get("modality"))
    if [modality.get(str(index), "").lower() for index in range(len(modality))] != list(MODALITIES):
        raise DataError(f"{path}: modality is {modality}; must be FLAIR, T1w, t1gd, T2w from 0 to 3")
    labels = _texts(table.get("labels"))
    if labels != _LABELS:
        raise DataError(f"{path}: labels is {labels}; must be {_LABELS}")
    return table


def _texts(value: object) -> dict[str, str]:
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}


def _listed(folder: Path, table: Mapping[str, Any], path: Path, *, with_masks: bool) -> Sequence[_Listed]:
    entries: list[_Listed] = []
    for entry in _list(table.get("training"), path, "training"):
        pair = entry if isinstance(entry, dict) else {}
        image = _inside(folder, pair.get("image"), path)
        entries.append(_Listed(image, _inside(folder, pair.get("label"), path) if with_masks else None))
    if not with_masks:
        tests = _list(table.get("test", []), path, "test")
        entries += [_Listed(_inside(folder, entry, path), None) for entry in tests]
    return entries


def _list(value: object, path: Path, key: str) -> list[object]:
    if not isinstance(value, list):
        raise DataError(f"{path}: {key} must be a list of cases")
    return value


def _inside(folder: Path, name: object, path: Path) -> Path:
    """A listed file's place, or its unpacked twin's; the table may name nothing outside the folder."""
    place = PurePosixPath(name) if isinstance(name, str) else PurePosixPath("/")
    if place.is_absolute() or ".." in place.parts or not place.name:
        raise DataError(
            f"{path}: lists {name!r}; must be a file in the folder, as ./imagesTr/BRATS_001.nii.gz"
        )
    listed = folder / place
    unpacked = listed.with_name(stem(listed) + ".nii")
    return unpacked if not listed.exists() and unpacked.exists() else listed
