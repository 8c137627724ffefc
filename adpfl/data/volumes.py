"""NIfTI volumes as arrays in one fixed orientation, with one clear `DataError` for whatever is wrong.

Arrays are (slices, rows, columns): slices run from superior to inferior, rows from anterior to posterior,
columns from the patient's right to left (nibabel's axis codes I, P, L). An axial slice is then drawn as
radiologists look at it; KiTS is stored so. Spacing is in mm in the same order. Channels of a four-dimensional
file come first.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import nibabel
import numpy as np
from nibabel import orientations
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError
from numpy.typing import DTypeLike, NDArray

from adpfl.errors import DataError

ORIENTATION: Final = "IPL"
"""Where the three axes of every array point."""
SUFFIXES: Final = (".nii.gz", ".nii")

_MAXIMUM_VOXELS: Final = 2**30
"""Of one file; the largest CT of KiTS has 2**28.1. A header that announces more is corrupt or hostile."""
_HEADER_BYTES: Final = {348: nibabel.Nifti1Image, 540: nibabel.Nifti2Image}
_UNREADABLE: Final = (
    OSError,  # of the disk, and of gzip
    EOFError,
    zlib.error,
    ValueError,  # of a header whose fields contradict one another
    OverflowError,  # of a header whose fields are beyond all bounds
    ImageFileError,
    HeaderDataError,
)
_DRAIN_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """What a volume's header says, as it is stored.

    Attributes:
        shape: of the file's own array, three or four axes.
        affine: (4, 4) float64, from the file's voxel indices to mm in RAS+.
        orientation: where the file's first three axes point, as "LPS" or "IPL".
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    orientation: str

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels in the fixed orientation (slices, rows, columns)."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        first, second, third = (float(sizes[axis]) for axis in _order(self.affine))
        return first, second, third

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along (slices, rows, columns) in the fixed orientation."""
        first, second, third = (self.shape[axis] for axis in _order(self.affine))
        return first, second, third


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume in the fixed orientation.

    Attributes:
        array: (slices, rows, columns), or (channels, slices, rows, columns) of a four-dimensional file.
        spacing_mm: (slices, rows, columns).
        affine: (4, 4) from the array's indices to mm in RAS+.
        orientation: of the file, before it was turned.
    """

    array: NDArray[Any]
    spacing_mm: tuple[float, float, float]
    affine: NDArray[np.float64]
    orientation: str


def is_volume(path: Path) -> bool:
    """Whether a name ends as a NIfTI file's does, and is not one of the hidden files archive tools leave."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """The name without `.nii` or `.nii.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def shown(path: Path) -> str:
    """A file as messages name it: with its folder, since many cases' files have the same name."""
    return f"{path.parent.name}/{path.name}"


def by(shape: tuple[int, ...]) -> str:
    """A shape as messages name it."""
    return "x".join(map(str, shape))


def read_header(path: Path) -> Header:
    """Shape, affine and orientation without the voxels.

    Raises:
        DataError: the file is absent or no NIfTI file, or its header makes no sense.
    """
    with _opened(path) as (image, _):
        return _header(image, path)


def read_volume(path: Path, *, dtype: DTypeLike = np.float32) -> Volume:
    """Every voxel, scaled as the header says, in the fixed orientation.

    Args:
        path: a `.nii` or `.nii.gz` file of three or four dimensions.
        dtype: of the array.

    Raises:
        DataError: the file cannot be read to its last byte, or holds NaN or infinite voxels.
    """
    with _opened(path) as (image, stream):
        header = _header(image, path)
        voxels = np.asarray(image.dataobj, dtype=np.float32)
        _drain(stream)
    if not np.isfinite(voxels).all():
        raise DataError(f"{shown(path)} holds NaN or infinite voxels; all must be finite")
    return _turned(voxels.astype(dtype, copy=False), header)


def read_label_volume(path: Path) -> Volume:
    """A mask's labels as uint8 (slices, rows, columns) in the fixed orientation.

    Raises:
        DataError: the file cannot be read, has other than three dimensions, or holds values that are no
            whole numbers from 0 to 255.
    """
    with _opened(path) as (image, stream):
        header = _header(image, path)
        if len(header.shape) != 3:
            raise DataError(f"{shown(path)} has {len(header.shape)} dimensions; a mask must have 3")
        voxels = np.asanyarray(image.dataobj)
        _drain(stream)
    if voxels.dtype != np.uint8:
        with np.errstate(invalid="ignore"):
            labels = voxels.astype(np.uint8)
        if not np.array_equal(labels, voxels):
            raise DataError(f"{shown(path)} holds values that are no whole numbers from 0 to 255")
        voxels = labels
    return _turned(voxels, header)


def write_label_volume(labels: NDArray[np.uint8], like: Path, path: Path) -> None:
    """Write labels in the orientation and place of another file, so that viewers lay them over it.

    Args:
        labels: (slices, rows, columns) in the fixed orientation.
        like: the image that was segmented.
        path: of the `.nii.gz` or `.nii` file to write.

    Raises:
        DataError: `like` cannot be read, is of another size, or writing fails.
    """
    header = read_header(like)
    if labels.shape != header.size:
        raise DataError(f"{shown(path)}: labels are {by(labels.shape)}; {shown(like)} is {by(header.size)}")
    turn = orientations.ornt_transform(
        orientations.axcodes2ornt(ORIENTATION), orientations.io_orientation(header.affine)
    )
    stored = np.ascontiguousarray(orientations.apply_orientation(labels, turn), dtype=np.uint8)
    image = nibabel.Nifti1Image(stored, header.affine)
    image.header.set_xyzt_units("mm")
    try:
        nibabel.save(image, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_volume(volume: NDArray[Any], affine: NDArray[np.float64], path: Path) -> None:
    """Write an array as it stands, its own axes first to last, with its affine.

    Raises:
        DataError: writing fails.
    """
    image = nibabel.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    try:
        nibabel.save(image, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def fixed_affine(spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """The affine of an array in the fixed orientation whose first voxel lies at the origin."""
    slices, rows, columns = spacing_mm
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = -slices, -rows, -columns, 1.0
    return affine


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, IO[bytes]]]:
    """The image over an open stream: its header is read, its voxels are not yet."""
    if not path.name.lower().endswith(SUFFIXES):
        raise DataError(f"{shown(path)} is no NIfTI file; its name must end in {' or '.join(SUFFIXES)}")
    opener: Callable[[Path, str], Any] = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as stream:
            holder = FileHolder(fileobj=stream)
            places = {"header": holder, "image": holder}
            yield _kind_of(stream, path).from_file_map(places, mmap=False), stream
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{shown(path)} does not exist") from error
    except _UNREADABLE as error:
        raise DataError(f"{shown(path)} cannot be read: {error}") from error


def _kind_of(stream: IO[bytes], path: Path) -> Any:
    """The class for the stream's version of NIfTI, told by the first four bytes, its header's size."""
    first = stream.read(4)
    stream.seek(0)
    for size in (int.from_bytes(first, "little"), int.from_bytes(first, "big")):
        kind = _HEADER_BYTES.get(size)
        if kind is not None:
            return kind
    raise DataError(f"{shown(path)} is no NIfTI file")


def _header(image: Any, path: Path) -> Header:
    shape = tuple(int(length) for length in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in {3, 4}:
        raise DataError(f"{shown(path)} has {len(shape)} dimensions; a volume must have 3 or 4")
    if min(shape) < 1 or np.prod(shape, dtype=object) > _MAXIMUM_VOXELS:
        raise DataError(f"{shown(path)} is {by(shape)}; must have 1 to {_MAXIMUM_VOXELS} voxels")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(f"{shown(path)} has an affine that maps voxels to no place; it must be invertible")
    codes = orientations.aff2axcodes(affine)
    if None in codes:
        raise DataError(f"{shown(path)} has an affine that tells no orientation; its axes must differ")
    return Header(shape, affine, "".join(codes))


def _order(affine: NDArray[np.float64]) -> list[int]:
    """Which of the file's axes become slices, rows and columns."""
    turn = orientations.ornt_transform(
        orientations.io_orientation(affine), orientations.axcodes2ornt(ORIENTATION)
    )
    return [int(axis) for axis in np.argsort(turn[:, 0])]


def _turned(voxels: NDArray[Any], header: Header) -> Volume:
    voxels = voxels.reshape(header.shape)
    turn = orientations.ornt_transform(
        orientations.io_orientation(header.affine), orientations.axcodes2ornt(ORIENTATION)
    )
    array = orientations.apply_orientation(voxels, turn)
    if array.ndim == 4:
        array = np.moveaxis(array, -1, 0)
    affine = header.affine @ orientations.inv_ornt_aff(turn, header.shape[:3])
    return Volume(np.ascontiguousarray(array), header.spacing_mm, affine, header.orientation)


def _drain(stream: IO[bytes]) -> None:
    """Read what follows the voxels, so that a compressed file's checksum is compared."""
    while stream.read(_DRAIN_BYTES):
        pass
