"""What kidney and brain have in common: from NIfTI to samples, predictions, masks and pictures."""

import os
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from adpfl.data.case import Case
from adpfl.data.grid import Grid
from adpfl.data.labels import CONVENTIONS, labels_of, structures_of
from adpfl.errors import DataError
from adpfl.learning.networks import build
from adpfl.learning.plan import NetworkPlan
from adpfl.tasks.brain_tumor import BrainTumor
from adpfl.tasks.kidney_tumor import KidneyTumor
from adpfl.tasks.task import Sample
from adpfl.tasks.volume_task import VolumeTask

Given = tuple[VolumeTask, Case]


@pytest.fixture(params=["kidney_tumor", "brain_tumor"])
def given(request: pytest.FixtureRequest) -> Given:
    task, folder = {
        "kidney_tumor": (KidneyTumor(), "ct_folder"),
        "brain_tumor": (BrainTumor(), "mr_folder"),
    }[request.param]
    (case,) = task.read(request.getfixturevalue(folder))
    return task, case


class _Oracle(nn.Module):
    """Marks every structure where a channel is above a level."""

    def __init__(self, channel: int, level: float, structures: int) -> None:
        super().__init__()
        self.channel, self.level, self.structures = channel, level, structures

    def forward(self, image: Tensor) -> Tensor:
        logits = 50.0 * (image[:, [self.channel]] - self.level)
        return logits.expand(-1, self.structures, -1, -1, -1)


def test_samples_are_the_content_at_the_grids_spacing(given: Given) -> None:
    task, case = given
    grid = Grid((8, 8, 8), (2.0, 2.0, 2.0))
    sample, image = task.load(case, grid), task.load_image(case, grid)
    assert image.dtype == torch.float32
    assert type(image) is Tensor
    assert sample.image.dtype == torch.float16
    assert sample.mask.dtype == torch.uint8
    assert sample.mask.shape == (len(task.structures), *sample.image.shape[1:])
    extent = {"kidney_tumor": (24, 40, 48), "brain_tumor": (12, 14, 16)}[task.name]
    assert tuple(image.shape) == (task.in_channels, *extent)
    content = {"kidney_tumor": (24, 32, 40), "brain_tumor": (9, 11, 13)}[task.name]
    assert all(abs(a - b) <= 1 for a, b in zip(sample.image.shape[1:], content, strict=True))


def test_without_a_spacing_the_tasks_own_is_used(given: Given) -> None:
    task, case = given
    own = task.load_image(case, Grid((8, 8, 8)))
    same = task.load_image(case, Grid((8, 8, 8), task.default_spacing_mm))
    assert torch.equal(own, same)


def test_structures_nest_and_survive_resampling(given: Given) -> None:
    task, case = given
    for mask in (task.reference(case).mask, task.load(case, Grid((8, 8, 8), (2.0, 2.0, 2.0))).mask):
        outer, inner, innermost = mask[:3].bool()
        assert bool(innermost.any())
        assert not bool((inner & ~outer).any())
        assert not bool((innermost & ~inner).any())


def test_a_crop_is_float32_of_the_grids_size(given: Given) -> None:
    task, case = given
    grid = Grid((16, 24, 16), (2.0, 2.0, 2.0))
    sample = task.load(case, grid)
    crop = task.crop(sample, grid, torch.Generator().manual_seed(0))
    assert crop.image.dtype == torch.float32
    assert tuple(crop.image.shape) == (task.in_channels, *grid.size)
    assert tuple(crop.mask.shape) == task.target_shape(grid)


def test_augmentation_mirrors_both_and_leaves_the_background(given: Given) -> None:
    task, case = given
    grid = Grid((16, 24, 16), (2.0, 2.0, 2.0))
    crop = task.crop(task.load(case, grid), grid, torch.Generator().manual_seed(0))
    before = crop.image.clone()
    variants = [task.augment(crop, torch.Generator().manual_seed(seed)) for seed in range(60)]
    assert torch.equal(crop.image, before)
    flips = [[axis for axis in (1, 2, 3) if code & (1 << axis - 1)] for code in range(8)]
    found = set()
    for variant in variants:
        codes = [
            code for code, axes in enumerate(flips) if _is_mirrored(crop, variant, axes, task.background)
        ]
        assert codes
        found.update(codes)
    assert found == set(range(8))
    assert len({variant.image.abs().sum().item() for variant in variants}) == 60


def _is_mirrored(crop: Sample, variant: Sample, axes: list[int], background: float) -> bool:
    mirrored = crop.image.flip(axes) - background
    scale = (variant.image - background).flatten(1).norm(dim=1) / mirrored.flatten(1).norm(dim=1)
    if not torch.equal(variant.mask, crop.mask.flip(axes)):
        return False
    if not torch.allclose(variant.image - background, mirrored * scale[:, None, None, None], atol=1e-3):
        return False
    assert bool(((scale > 0.89) & (scale < 1.11)).all())
    return True


def test_windows_cover_the_volume_and_answer_at_the_size_asked_for(given: Given) -> None:
    """The oracle reads one voxel at a time, so that windows of any size must give the same mask."""
    task, case = given
    reference = task.reference(case)
    # A kidney is above 120 HU; only enhancing tumour is bright in T1 with contrast.
    channel, level, structure = {"kidney_tumor": (0, 0.24, 0), "brain_tumor": (1, 3.0, 2)}[task.name]
    model = _Oracle(channel, level, len(task.structures))
    size = tuple(reference.mask.shape[1:])
    for grid in (Grid((8, 8, 8), reference.spacing), Grid((32, 64, 64), reference.spacing)):
        found = task.predict(model, task.load_image(case, grid), grid, size=size)
        assert found.dtype == torch.uint8
        assert found.shape == reference.mask.shape
        score = task.score(found, reference.mask, reference.spacing)[structure]
        assert score.dice > 0.9
        assert score.hd95 is not None
    coarse = Grid((8, 8, 8), tuple(2 * size for size in reference.spacing))
    native = task.predict(model, task.load_image(case, coarse), coarse)
    assert tuple(native.shape[1:]) == tuple(task.load_image(case, coarse).shape[1:])


def test_an_empty_volume_cannot_be_trained_on(ct_folder: Path) -> None:
    (case,) = KidneyTumor().read(ct_folder)
    air = np.full((12, 40, 48), -1000, dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(air, nibabel.load(case.image).affine), case.image)
    with pytest.raises(DataError, match="case_00000: the image is empty"):
        KidneyTumor().load(case, Grid((8, 8, 8)))


def test_nothing_is_predicted_where_there_is_nothing(given: Given) -> None:
    task, _ = given
    grid = Grid((8, 8, 8))
    image = torch.full((task.in_channels, 10, 10, 10), task.background)
    answer = task.predict(_Oracle(0, -100.0, len(task.structures)), image, grid, size=(5, 5, 5))
    assert answer.shape == (len(task.structures), 5, 5, 5)
    assert not bool(answer.any())


def test_the_networks_of_the_tasks_take_their_patches(given: Given) -> None:
    task, _ = given
    model = build(
        NetworkPlan(),
        spatial_dims=3,
        in_channels=task.in_channels,
        out_channels=len(task.structures),
        seed=0,
    ).eval()
    image = torch.randn(task.in_channels, 20, 18, 22, generator=torch.Generator().manual_seed(0))
    grid = Grid((16, 16, 16))
    answer = task.predict(model, image, grid, size=(11, 12, 13))
    assert answer.shape == (len(task.structures), 11, 12, 13)


def test_a_written_prediction_lies_over_the_image_with_the_data_sets_labels(
    given: Given, tmp_path: Path
) -> None:
    task, case = given
    path = task.write_prediction(task.reference(case).mask, case, tmp_path)
    assert path == tmp_path / f"{case.case}.nii.gz"
    assert case.mask is not None
    written, original = nibabel.load(path), nibabel.load(case.mask)
    assert np.array_equal(np.asarray(written.dataobj), np.asarray(original.dataobj))
    assert np.array_equal(written.affine, original.affine)
    assert written.get_data_dtype() == np.uint8


def test_a_prediction_needs_no_mask(given: Given, tmp_path: Path) -> None:
    task, case = given
    assert case.mask is not None
    case.mask.unlink()
    (bare,) = task.read(case.mask.parents[1], with_masks=False)
    answer = torch.zeros(len(task.structures), *task.original_size(bare), dtype=torch.uint8)
    assert task.write_prediction(answer, bare, tmp_path).is_file()
    with pytest.raises(DataError, match=f"{case.case} has no mask"):
        task.load(bare, Grid((8, 8, 8)))


def test_an_overlay_shows_the_slice_where_the_smallest_structure_is_largest(
    given: Given, tmp_path: Path
) -> None:
    task, case = given
    mask = task.reference(case).mask
    path = tmp_path / "overlay.png"
    task.write_overlay(mask, case, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        shown = np.asarray(picture.convert("RGB"))
    left, right = shown[:, : shown.shape[1] // 2], shown[:, shown.shape[1] // 2 :]
    for half in (left, right):  # orange, the colour of the tumour and of the enhancing tumour
        assert ((half == (255, 106, 40)).all(axis=2)).sum() > 20
    task.write_overlay(torch.zeros_like(mask), case, path)


def test_an_unknown_label_is_named_with_its_case(given: Given) -> None:
    task, case = given
    assert case.mask is not None
    image = nibabel.load(case.mask)
    labels = np.asarray(image.dataobj).copy()
    labels[0, 0, 0] = 9
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), case.mask)
    with pytest.raises(DataError, match=f"{case.case}.*label 9"):
        task.load(case, Grid((8, 8, 8)))
    with pytest.raises(DataError, match="does not say which labels"):
        task.reference(replace(case, labels=None))


@pytest.mark.parametrize("convention", sorted(CONVENTIONS))
def test_labels_become_structures_and_labels_again(convention: str) -> None:
    known = [label for label, meaning in CONVENTIONS[convention].meanings.items() if "cavity" not in meaning]
    labels = np.array([0, *known], dtype=np.uint8).reshape(1, 1, -1)
    assert np.array_equal(labels_of(structures_of(labels, convention), convention), labels)


def test_contradicting_structures_yield_the_most_special_label() -> None:
    everything = np.ones((4, 1, 1, 1), dtype=np.uint8)
    assert labels_of(everything, "brats2021").item() == 4
    assert labels_of(everything, "msd_task01").item() == 3
    assert labels_of(everything[:3], "kits19").item() == 2
    cyst = np.array([0, 1, 0], dtype=np.uint8).reshape(3, 1, 1, 1)
    assert labels_of(cyst, "kits23").item() == 3
    assert labels_of(cyst, "kits19").item() == 1


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("task", "folder", "channel", "level"),
    [(KidneyTumor(), "kits_layout", 0, -2.0), (BrainTumor(), "brats_layout", 3, -50.0)],
)
def test_real_volumes_load_and_go_back(
    task: VolumeTask, folder: str, channel: int, level: float, tmp_path: Path
) -> None:
    root = os.environ.get("ADPFL_TEST_DATA")
    if not root:
        pytest.skip("ADPFL_TEST_DATA is not set")
    (case,) = task.read(Path(root) / folder)
    grid = Grid((48, 48, 48), (3.0, 3.0, 3.0))
    sample = task.load(case, grid)
    assert sample.image.isfinite().all()
    outer = sample.mask[0].bool()
    inside, outside = (sample.image[:, area].float().mean() for area in (outer, ~outer))
    assert inside > outside  # a kidney with contrast, a tumour in T2 and FLAIR
    reference = task.reference(case)
    image = task.load_image(case, grid)
    everything = task.predict(
        _Oracle(channel, level, len(task.structures)), image, grid, size=reference.mask.shape[1:]
    )
    assert everything.shape == reference.mask.shape
    assert float((reference.mask[0].bool() & ~everything[0].bool()).float().mean()) < 1e-3
    path = task.write_prediction(reference.mask, case, tmp_path)
    assert case.mask is not None
    assert np.array_equal(np.asarray(nibabel.load(path).dataobj), np.asarray(nibabel.load(case.mask).dataobj))
    task.write_overlay(everything, case, tmp_path / "overlay.png")
