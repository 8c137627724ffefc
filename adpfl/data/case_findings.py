"""What one case holds, voxel by voxel, and what is wrong with it.

One volume is in memory at a time for each worker, whatever the size of the data set.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from adpfl.data.brats import BRAIN_CHANNELS, present_channels
from adpfl.data.case import Case, PatientBasis
from adpfl.data.images import IMAGE_SUFFIXES, check_photograph, read_mask, read_size
from adpfl.data.labels import CONVENTIONS, label_voxels
from adpfl.data.volumes import Volume, is_volume, read_label_volume, read_volume, shown
from adpfl.errors import DataError

_AHEAD = 2
"""Cases handed out for each worker before the oldest is taken back."""


@dataclass(frozen=True, slots=True)
class CaseFinding:
    """One case as it lies on disk.

    Attributes:
        case: its name.
        patient: whose it is.
        patient_is: what `patient` tells apart.
        source: where it came from; None where nothing says so.
        labels: the convention of its mask; None for photographs.
        size: (slices, rows, columns) in the fixed orientation, (rows, columns) of a photograph; None where
            the file cannot be read.
        spacing_mm: in the same order; None for photographs.
        orientation: of the file as stored; None for photographs.
        structures: by what the mask's labels mean: ml in a volume, share of the image in a photograph; None
            without a mask.
        problems: what is wrong, each naming the case.
        digest: of the image's content, to find one image under two names; None where not all of it
            can be read.
    """

    case: str
    patient: str
    patient_is: PatientBasis
    source: str | None
    labels: str | None
    size: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    orientation: str | None = None
    structures: dict[str, float] | None = None
    problems: tuple[str, ...] = ()
    digest: str | None = field(default=None, repr=False)


def inspect_cases(cases: Iterable[Case], *, workers: int = 2) -> Iterator[CaseFinding]:
    """Read every voxel and pixel of these cases, and give what was found in their order.

    Args:
        cases: of one data set; nothing of a case is kept but its finding.
        workers: how many cases are in memory at once.
    """
    remaining = iter(cases)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        waiting = deque(pool.submit(inspect_case, case) for case in islice(remaining, _AHEAD * workers))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(inspect_case, case) for case in islice(remaining, 1))


def inspect_case(case: Case) -> CaseFinding:
    """Read every voxel or pixel of one case; what is wrong stands in `problems`.

    A case that is neither a photograph nor of a known convention, as a task of another package may have, is
    told of as it stands.
    """
    known = CaseFinding(case.case, case.patient, case.patient_is, case.source, case.labels)
    if case.labels is not None:
        return _volumes(case, known)
    return _photograph(case, known) if case.image.suffix.lower() in IMAGE_SUFFIXES else known


def _photograph(case: Case, known: CaseFinding) -> CaseFinding:
    problems = check_photograph(case)
    if problems:
        return replace(known, problems=tuple(problems))
    structures = None if case.mask is None else {"lesion": float(read_mask(case.mask).mean())}
    digest = hashlib.sha256(case.image.read_bytes()).hexdigest()
    return replace(known, size=read_size(case.image), structures=structures, digest=digest)


def _volumes(case: Case, known: CaseFinding) -> CaseFinding:
    problems: list[str] = []
    digest = hashlib.sha256()
    try:
        paths = _image_files(case)
    except DataError as error:
        paths = []
        problems.append(str(error))
    unread = _files_of_an_image(case) - len(paths)
    for path in paths:
        try:
            volume = read_volume(path)
        except DataError as error:
            problems.append(str(error))
            unread += 1
            continue
        problems += _blank(volume, path)
        digest.update(volume.array.data)
        known = replace(
            known,
            size=volume.array.shape[-3:],
            spacing_mm=volume.spacing_mm,
            orientation=volume.orientation,
        )
        del volume
    structures = None
    if case.mask is not None and case.mask.is_file():
        try:
            structures = _structures(case, case.mask)
        except DataError as error:
            problems.append(str(error))
    content = None if unread else digest.hexdigest()
    return replace(known, structures=structures, problems=tuple(problems), digest=content)


def _image_files(case: Case) -> list[Path]:
    """What holds the image and is there; the layout's reader tells of what is not."""
    if _files_of_an_image(case) == 1:
        return [case.image] if case.image.is_file() else []
    return present_channels(case)


def _files_of_an_image(case: Case) -> int:
    """How many a sound image has: a folder that is named as a file stands where a file should be."""
    return len(BRAIN_CHANNELS) if case.image.is_dir() and not is_volume(case.image) else 1


def _blank(volume: Volume, path: Path) -> list[str]:
    """A problem for each channel whose voxels are all alike, which normalisation cannot divide by."""
    channels = volume.array if volume.array.ndim == 4 else volume.array[None]
    return [
        f"{shown(path)} holds {channel.flat[0]:g} in every voxel of channel {place}; it must have contrast"
        for place, channel in enumerate(channels)
        if channel.min() == channel.max()
    ]


def _structures(case: Case, mask: Path) -> dict[str, float]:
    """Each label in ml, by what it means."""
    assert case.labels is not None
    volume = read_label_volume(mask)
    millilitres = float(np.prod(volume.spacing_mm)) / 1000.0
    meanings = CONVENTIONS[case.labels].meanings
    try:
        found = label_voxels(volume.array, case.labels)
    except DataError as error:
        raise DataError(f"{case.case}: {error}") from error
    return {meaning: found.get(label, 0) * millilitres for label, meaning in meanings.items()}
