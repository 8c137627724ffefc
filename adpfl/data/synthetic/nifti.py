"""Writes NIfTI files whose bytes depend on their content alone, and marks them as generated."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from adpfl.errors import DataError

MARK = b"adpfl synthetic"
"""Begins the header's description of every generated file, which survives copying, linking and renaming."""

_COMPRESSION = 4


def write_nifti(
    array: NDArray[np.int16] | NDArray[np.uint8], affine: NDArray[np.float64], path: Path
) -> None:
    """Write `path` (.nii.gz) with the mark in its header and no time stamp.

    Args:
        array: (first, second, third axis) as on disk.
        affine: (4, 4), from voxel indices to mm in RAS+.
        path: overwritten where it exists.
    """
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = MARK
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=_COMPRESSION, mtime=0))


def is_marked(path: Path) -> bool:
    """Whether `write_nifti` wrote this file.

    Raises:
        DataError: the file cannot be read as NIfTI.
    """
    try:
        description = bytes(nib.load(path).header["descrip"])
    except (OSError, EOFError, KeyError, ImageFileError) as error:
        raise DataError(f"{path}: cannot be read as NIfTI: {error}") from error
    return description.startswith(MARK)
