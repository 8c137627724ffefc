"""The folders of the BraTS challenges from 2020 to 2024, and of FeTS: gliomas in four MR sequences.

One folder a case, the sequences and the mask in it:

| convention | case | sequences | labels |
| --- | --- | --- | --- |
| `brats2020` | `BraTS20_Training_001` | `_t1 _t1ce _t2 _flair`, mask `_seg` | 1 core, 2 oedema, 4 enhancing |
| `brats2021` | `BraTS2021_00000` | the same | the same |
| `fets2021`, `fets2022` | `FeTS21_Training_001`, `FeTS2022_00000` | the same | the same |
| `brats2023` | `BraTS-GLI-00000-000` | `-t1n -t1c -t2w -t2f`, mask `-seg` | 1 core, 2 oedema, 3 enhancing |
| `brats2024` | `BraTS-GLI-00000-100` | the same | the same, and 4 resection cavity |

From 2023 on a name holds patient and time point: `00000-100` and `00000-101` are one patient. Time points
from 100 up are scans after treatment, the task of 2024. The resection cavity belongs to no tumour structure.
GLI, SSA (Africa) and GoAT share these labels; other tasks of the challenge (PED, MET, MEN) do not, or show
no glioma, and are refused.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from adpfl.data.case import Case
from adpfl.data.case_years import common_convention, strangers
from adpfl.data.fets import PARTITIONING, read_institutions
from adpfl.data.geometry import check_geometry
from adpfl.data.msd import is_msd_case, read_msd_image
from adpfl.data.site_table import place_cases
from adpfl.data.volume_table import read_volume_table, with_origins
from adpfl.data.volumes import SUFFIXES, Volume, is_volume, read_volume
from adpfl.errors import DataError

BRAIN_CHANNELS: Final = ("t1", "t1c", "t2", "flair")
"""The order of the channels, whatever a data set's own."""

_BEFORE_2023 = dict(zip(BRAIN_CHANNELS, ("_t1", "_t1ce", "_t2", "_flair"), strict=True)) | {"mask": "_seg"}
_SINCE_2023 = dict(zip(BRAIN_CHANNELS, ("-t1n", "-t1c", "-t2w", "-t2f"), strict=True)) | {"mask": "-seg"}
_ANOTHER_TASK = re.compile(r"BraTS-(PED|MET|MEN|MEN-RT)-.+")
_MISNAMED_MASK = re.compile(r"W39_1998\.09\.19_Segm\.nii(\.gz)?")
"""How the mask of BraTS20_Training_355 is called in the data set as published."""
_AFTER_TREATMENT = 100
"""Time points from this number up are scans of 2024."""


@dataclass(frozen=True, slots=True)
class _Name:
    """What a case's name tells."""

    convention: str
    patient: str

    @property
    def endings(self) -> dict[str, str]:
        return _SINCE_2023 if self.convention in {"brats2023", "brats2024"} else _BEFORE_2023


def is_brats(folder: Path) -> bool:
    """Whether the folder holds at least one case of BraTS or FeTS."""
    return any(path.is_dir() and _told(path.name) for path in folder.iterdir())


def read_brats(folder: Path, *, with_masks: bool = True) -> tuple[list[Case], list[str]]:
    """All cases, sound or not, ordered by case, and what is wrong; headers are compared, voxels are not read.

    Raises:
        DataError: a `metadata.csv` or `partitioning_1.csv` in the folder cannot be read; see
            `adpfl.data.volume_table` and `adpfl.data.fets`.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    problems = [
        f"{place.name} is from another task of the challenge; must be GLI, SSA or GoAT"
        for place in folders
        if _ANOTHER_TASK.fullmatch(place.name)
    ]
    names = {place: name for place in folders if (name := _told(place.name)) is not None}
    told = {place.name: (name.convention,) for place, name in names.items()}
    common = common_convention(told, otherwise="brats2023")
    problems += strangers(told, common)
    cases: list[Case] = []
    for place, name in names.items():
        found, wrong = _files(place, name, with_masks=with_masks)
        problems += [*wrong, *check_geometry(list(found.values()))]
        cases.append(Case(place.name, name.patient, place, found.get("mask"), labels=name.convention))
    institutions = read_institutions(folder)
    if institutions is not None:
        sites, contested = institutions
        cases, wrong = place_cases(cases, sites, PARTITIONING)
        problems += [*contested, *wrong]
    cases, wrong = with_origins(cases, read_volume_table(folder))
    return cases, problems + wrong


def brain_channels(case: Case) -> tuple[Path, Path, Path, Path]:
    """The files of `BRAIN_CHANNELS` of a case whose image is a folder.

    Raises:
        DataError: the case's name is no BraTS name, or a sequence is missing.
    """
    found, wrong = _channels(case)
    if wrong:
        raise DataError("; ".join(wrong))
    t1, t1c, t2, flair = (found[channel] for channel in BRAIN_CHANNELS)
    return t1, t1c, t2, flair


def present_channels(case: Case) -> list[Path]:
    """Those files of `BRAIN_CHANNELS` that are there.

    Raises:
        DataError: the case's name is no BraTS name.
    """
    return list(_channels(case)[0].values())


def read_brain_image(case: Case) -> Volume:
    """All four sequences, float32 (4, slices, rows, columns), in the order of `BRAIN_CHANNELS`.

    Raises:
        DataError: a sequence is missing or cannot be read, or sequences differ in size.
    """
    if is_msd_case(case):
        return read_msd_image(case)
    volumes = [read_volume(path) for path in brain_channels(case)]
    shapes = {volume.array.shape for volume in volumes}
    if len(shapes) != 1 or volumes[0].array.ndim != 3:
        raise DataError(f"{case.case}: sequences are of shapes {sorted(shapes)}; must be 3D and alike")
    first = volumes[0]
    array = np.stack([volume.array for volume in volumes])
    return Volume(array, first.spacing_mm, first.affine, first.orientation)


def _channels(case: Case) -> tuple[dict[str, Path], list[str]]:
    name = _told(case.image.name)
    if name is None:
        raise DataError(f"{case.case}: {case.image.name} is no case of BraTS or FeTS")
    return _files(case.image, name, with_masks=False)


def _told(name: str) -> _Name | None:
    if re.fullmatch(r"BraTS20_(Training|Validation)_\w+", name):
        return _Name("brats2020", name)
    if re.fullmatch(r"BraTS2021_\w+", name):
        return _Name("brats2021", name)
    if match := re.fullmatch(r"FeTS(?:20)?(21|22)_\w+", name):
        return _Name(f"fets20{match[1]}", name)
    if match := re.fullmatch(r"(BraTS-(?:GLI|SSA|GoAT)-[0-9A-Za-z]+)(?:-(\d{3}))?", name):
        after = match[2] is not None and int(match[2]) >= _AFTER_TREATMENT
        return _Name("brats2024" if after else "brats2023", match[1])
    return None


def _files(place: Path, name: _Name, *, with_masks: bool) -> tuple[dict[str, Path], list[str]]:
    """The case's files by channel, the mask last, and what is missing or doubled."""
    present: dict[str, Path] = {path.name: path for path in sorted(place.iterdir()) if is_volume(path)}
    found: dict[str, Path] = {}
    problems: list[str] = []
    for channel, ending in name.endings.items():
        if channel == "mask" and not with_masks:
            continue
        paths = [
            present[f"{place.name}{ending}{s}"] for s in SUFFIXES if f"{place.name}{ending}{s}" in present
        ]
        if channel == "mask" and not paths:
            paths = [path for file, path in present.items() if _MISNAMED_MASK.fullmatch(file)]
        if len(paths) > 1:
            problems.append(f"{place.name} has both {paths[0].name} and {paths[1].name}; must have one")
        elif paths:
            found[channel] = paths[0]
        else:
            problems.append(f"{place.name} has no {place.name}{ending}.nii.gz ({channel})")
    return found, problems
