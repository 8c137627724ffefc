"""NIfTI files as arrays in one orientation, and every way in which a file can be broken."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adpfl.data.volumes import (
    by,
    fixed_affine,
    is_volume,
    read_header,
    read_label_volume,
    read_volume,
    stem,
    write_label_volume,
    write_volume,
)
from adpfl.errors import DataError

Writer = Callable[..., Path]

ORIENTATIONS = ("IPL", "LPS", "RAS", "ASL", "PIR", "SRA")


def stored_as(codes: str, array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same voxels in the same places, stored along other axes."""
    image = nibabel.Nifti1Image(array, affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(turn)
    return np.asarray(turned.dataobj), turned.affine


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_orientation_reads_as_the_same_array(tmp_path: Path, write_nifti: Writer, codes: str) -> None:
    array = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    affine = fixed_affine((5.0, 0.7, 0.8))
    path = write_nifti(tmp_path / "a.nii.gz", *stored_as(codes, array, affine))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.spacing_mm, (5.0, 0.7, 0.8), rtol=1e-6)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert volume.array.dtype == np.float32
    assert volume.orientation == codes
    header = read_header(path)
    assert (header.orientation, header.size) == (codes, (2, 3, 4))
    np.testing.assert_allclose(header.spacing_mm, volume.spacing_mm)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_written_labels_lie_over_the_image(tmp_path: Path, write_nifti: Writer, codes: str) -> None:
    labels = np.random.default_rng(0).integers(0, 4, (3, 4, 5)).astype(np.uint8)
    stored, affine = stored_as(codes, labels, fixed_affine((3.0, 1.0, 2.0)))
    image = write_nifti(tmp_path / "image.nii.gz", stored.astype(np.int16), affine)
    write_label_volume(labels, image, tmp_path / "labels.nii.gz")
    written = nibabel.load(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), stored)
    np.testing.assert_allclose(written.affine, affine)
    np.testing.assert_array_equal(read_label_volume(tmp_path / "labels.nii.gz").array, labels)


def test_channels_come_first(tmp_path: Path, write_nifti: Writer) -> None:
    array = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    volume = read_volume(write_nifti(tmp_path / "a.nii", array, fixed_affine((1.0, 1.0, 1.0))))
    np.testing.assert_array_equal(volume.array, np.moveaxis(array, -1, 0))


def test_scaled_values_are_unscaled(tmp_path: Path) -> None:
    raw = bytearray(nibabel.Nifti1Image(np.full((2, 2, 2), 8, np.int16), np.eye(4)).to_bytes())
    raw[112:120] = np.array([2.0, -1024.0], "<f4").tobytes()  # scl_slope and scl_inter of NIfTI-1
    (tmp_path / "a.nii").write_bytes(raw)
    assert read_volume(tmp_path / "a.nii").array.tolist() == np.full((2, 2, 2), -1008.0).tolist()


def test_an_oblique_file_goes_to_the_nearest_axes(tmp_path: Path, write_nifti: Writer) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    path = write_nifti(
        tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.int16), turn @ fixed_affine((5.0, 1.0, 2.0))
    )
    np.testing.assert_allclose(read_header(path).spacing_mm, (5.0, 1.0, 2.0), rtol=1e-5)


def test_a_trailing_axis_of_one_is_no_axis(tmp_path: Path, write_nifti: Writer) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", np.ones((2, 3, 4, 1), np.uint8))
    assert read_label_volume(path).array.ndim == 3


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_both_versions_of_the_format_are_read(tmp_path: Path, kind: type) -> None:
    nibabel.save(kind(np.ones((2, 3, 4), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    assert read_volume(tmp_path / "a.nii.gz").array.sum() == 24


def broken(tmp_path: Path, content: bytes, name: str = "case_1/imaging.nii.gz") -> Path:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def sound(tmp_path: Path, write_nifti: Writer) -> bytes:
    noise = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    return write_nifti(tmp_path / "sound.nii.gz", noise).read_bytes()


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9, 0.999])
def test_a_truncated_archive_is_named(tmp_path: Path, sound: bytes, kept: float) -> None:
    path = broken(tmp_path, sound[: int(kept * len(sound))])
    with pytest.raises(DataError, match=r"^case_1/imaging\.nii\.gz (cannot be read|is no NIfTI file)"):
        read_volume(path)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path, write_nifti: Writer) -> None:
    """Stored without compression, a flipped voxel breaks nothing but the checksum at the end."""
    raw = nibabel.Nifti1Image(np.arange(27, dtype=np.int16).reshape(3, 3, 3), np.eye(4)).to_bytes()
    content = bytearray(gzip.compress(raw, compresslevel=0))
    content[-20] ^= 1
    with pytest.raises(DataError, match="cannot be read: CRC check failed"):
        read_volume(broken(tmp_path, bytes(content)))


def test_a_truncated_plain_file_is_named(tmp_path: Path, sound: bytes) -> None:
    path = broken(tmp_path, gzip.decompress(sound)[:-100], "case_1/imaging.nii")
    with pytest.raises(DataError, match=r"case_1/imaging\.nii cannot be read"):
        read_volume(path)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "a/a.nii"),
        (b"\xff\xd8\xff\xe0 JPEG", "a/a.nii"),
        (b"PK\x03\x04 no gzip", "a/a.nii.gz"),
        (gzip.compress(b"no NIfTI in here"), "a/a.nii.gz"),
        (b"\x5c\x01\x00\x00" + b"\xff" * 400, "a/a.nii"),
        (b"anything", "a/a.mha"),
    ],
    ids=["empty", "jpeg", "zip", "text", "header of nothing", "another format"],
)
def test_what_is_no_nifti_is_named(tmp_path: Path, content: bytes, name: str) -> None:
    path = broken(tmp_path, content, name)
    for read in (read_header, read_volume, read_label_volume):
        with pytest.raises(DataError, match=r"^a/a\.\w+(\.gz)? (is no NIfTI file|cannot be read)"):
            read(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/gone\.nii\.gz does not exist"):
        read_header(tmp_path / "gone.nii.gz")
    (tmp_path / "a.nii").mkdir()
    with pytest.raises(DataError, match=r"cannot be read: .*directory"):
        read_volume(tmp_path / "a.nii")


def test_a_header_that_announces_a_giant_is_refused_unread(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape((32_000, 32_000, 32_000))
    header.set_data_dtype(np.float64)
    with pytest.raises(DataError, match=r"is 32000x32000x32000; must have 1 to \d+ voxels"):
        read_volume(broken(tmp_path, header.binaryblock + b"\0" * 100, "a/a.nii"))


@pytest.mark.parametrize("offset", [1e30, 1e15, 1e5])
def test_voxels_beyond_the_end_are_refused(tmp_path: Path, offset: float) -> None:
    raw = bytearray(nibabel.Nifti1Image(np.ones((3, 3, 3), np.int16), np.eye(4)).to_bytes())
    raw[108:112] = np.float32(offset).tobytes()  # vox_offset of NIfTI-1
    for name, content in (("a/a.nii", bytes(raw)), ("a/a.nii.gz", gzip.compress(bytes(raw)))):
        with pytest.raises(DataError, match=r"^a/a\.nii(\.gz)? cannot be read"):
            read_volume(broken(tmp_path, content, name))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_refused(tmp_path: Path, write_nifti: Writer, value: float) -> None:
    array = np.zeros((3, 3, 3), np.float32)
    array[1, 2, 0] = value
    path = write_nifti(tmp_path / "a.nii.gz", array)
    with pytest.raises(DataError, match="holds NaN or infinite voxels; all must be finite"):
        read_volume(path)
    with pytest.raises(DataError, match="no whole numbers from 0 to 255"):
        read_label_volume(path)


@pytest.mark.parametrize("value", [0.5, -1.0, 256.0])
def test_a_mask_holds_labels_alone(tmp_path: Path, write_nifti: Writer, value: float) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", np.full((2, 2, 2), value, np.float32))
    with pytest.raises(DataError, match="no whole numbers from 0 to 255"):
        read_label_volume(path)


def test_labels_stored_as_floats_are_read(tmp_path: Path, write_nifti: Writer) -> None:
    labels = read_label_volume(write_nifti(tmp_path / "a.nii.gz", np.full((2, 2, 2), 4.0, np.float64)))
    assert labels.array.dtype == np.uint8
    assert labels.array.max() == 4


def test_dimensions_are_checked(tmp_path: Path, write_nifti: Writer) -> None:
    with pytest.raises(DataError, match="has 2 dimensions; a volume must have 3 or 4"):
        read_volume(write_nifti(tmp_path / "a.nii.gz", np.zeros((2, 2), np.int16)))
    with pytest.raises(DataError, match="has 4 dimensions; a mask must have 3"):
        read_label_volume(write_nifti(tmp_path / "b.nii.gz", np.zeros((2, 2, 2, 2), np.uint8)))


@pytest.mark.parametrize(
    ("affine", "told"),
    [
        (np.diag([0.0, 1.0, 1.0, 1.0]), "maps voxels to no place; it must be invertible"),
        (np.diag([np.nan, 1.0, 1.0, 1.0]), "maps voxels to no place"),
        (np.eye(4) + 1e15 * np.eye(4, k=-2), "tells no orientation; its axes must differ"),
    ],
    ids=["flat", "not a number", "two axes alike"],
)
def test_an_affine_must_map_somewhere(
    tmp_path: Path, write_nifti: Writer, affine: np.ndarray, told: str
) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", np.zeros((2, 2, 2), np.int16))
    image = bytearray(gzip.decompress(path.read_bytes()))
    image[280:328] = affine[:3].astype("<f4").tobytes()  # srow_x, srow_y, srow_z of NIfTI-1
    path.write_bytes(gzip.compress(bytes(image)))
    with pytest.raises(DataError, match=f"has an affine that {told}"):
        read_header(path)


def test_writing_says_what_is_wrong(tmp_path: Path, write_nifti: Writer) -> None:
    image = write_nifti(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.int16), fixed_affine((1.0, 1.0, 1.0)))
    with pytest.raises(DataError, match=r"labels are 4x3x2; .*a\.nii\.gz is 2x3x4"):
        write_label_volume(np.zeros((4, 3, 2), np.uint8), image, tmp_path / "b.nii.gz")
    for write in (
        lambda path: write_label_volume(np.zeros((2, 3, 4), np.uint8), image, path),
        lambda path: write_volume(np.zeros((2, 3, 4), np.int16), np.eye(4), path),
    ):
        with pytest.raises(DataError, match="cannot be written: No such file or directory"):
            write(tmp_path / "gone" / "b.nii.gz")


def test_names() -> None:
    assert [is_volume(Path(name)) for name in ("a.nii", "a.NII.GZ", "._a.nii.gz", "a.nii.txt")] == [
        *(True, True, False, False)
    ]
    assert stem(Path("x/BRATS_001.nii.gz")) == stem(Path("BRATS_001.nii")) == "BRATS_001"
    assert by((2, 3)) == "2x3"


@settings(max_examples=150, deadline=None)
@given(damage=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_header_is_read_or_refused_in_one_line(
    damage: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = bytearray(nibabel.Nifti1Image(np.ones((3, 4, 5), np.int16), np.eye(4)).to_bytes())
    for place, value in damage:
        raw[place % len(raw)] = value
    path = tmp_path_factory.mktemp("fuzz") / "a.nii"
    path.write_bytes(raw)
    for read in (read_header, read_volume, read_label_volume):
        try:
            read(path)
        except DataError as error:
            assert str(error).startswith(path.parent.name)  # noqa: PT017 - either outcome is right
