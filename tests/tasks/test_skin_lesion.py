"""The skin task from files to scores."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from adpfl.data.case import Case
from adpfl.data.grid import Grid
from adpfl.errors import DataError
from adpfl.tasks.skin_lesion import SkinLesion
from adpfl.tasks.task import Sample

TASK = SkinLesion()
GRID = Grid((32, 32))


class _DarkIsLesion(nn.Module):
    """A network that marks what is darker than the image's mean: right on the case of these tests."""

    def forward(self, image: Tensor) -> Tensor:
        return -10.0 * image.mean(dim=1, keepdim=True)


def test_a_sample_is_normalised_and_binary(lesion_case: Case) -> None:
    sample = TASK.load(lesion_case, Grid((32, 48)))
    assert sample.image.shape == (3, 32, 48)
    assert sample.image.dtype == torch.float32
    assert type(sample.image) is Tensor
    assert torch.allclose(sample.image.mean(dim=(1, 2)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(sample.image.std(dim=(1, 2), correction=0), torch.ones(3), atol=1e-3)
    assert sample.mask.shape == (1, 32, 48)
    assert sample.mask.dtype == torch.uint8
    assert sample.mask.unique().tolist() == [0, 1]


def test_image_and_mask_stay_together_when_resized(lesion_case: Case) -> None:
    sample = TASK.load(lesion_case, Grid((80, 120)))
    dark = sample.image.mean(dim=0) < 0
    disagreement = (dark != sample.mask[0].bool()).float().mean()
    assert disagreement < 0.02
    assert sample.mask.float().mean().item() == pytest.approx(16 * 24 / (40 * 60), abs=0.01)


def test_an_image_of_one_colour_has_no_nan(lesion_case: Case) -> None:
    Image.new("RGB", (60, 40), (120, 120, 120)).save(lesion_case.image)
    assert TASK.load(lesion_case, Grid((16, 16))).image.isfinite().all()


def test_the_reference_is_the_mask_as_drawn(lesion_case: Case) -> None:
    reference = TASK.reference(lesion_case)
    assert reference.mask.shape == (1, 40, 60)
    assert int(reference.mask.sum()) == 16 * 24
    assert reference.spacing == (1.0, 1.0)


def test_a_case_without_mask_loads_an_image_alone(lesion_case: Case) -> None:
    bare = replace(lesion_case, mask=None)
    assert TASK.load_image(bare, Grid((16, 16))).shape == (3, 16, 16)
    for load in (lambda: TASK.load(bare, Grid((16, 16))), lambda: TASK.reference(bare)):
        with pytest.raises(DataError, match="ISIC_1 has no mask"):
            load()


@pytest.mark.parametrize(("size", "views"), [((8, 8), 8), ((6, 8), 4)])
def test_augmentation_visits_every_symmetry_evenly(size: tuple[int, int], views: int) -> None:
    """800 draws; 5 standard deviations of the binomial count."""
    image = torch.arange(3 * size[0] * size[1], dtype=torch.float32).reshape(3, *size)
    sample = Sample(image, (image[:1] % 2).to(torch.uint8))
    generator = torch.Generator().manual_seed(0)
    seen: Counter[bytes] = Counter()
    for _ in range(800):
        variant = TASK.augment(sample, generator)
        assert variant.image.shape == sample.image.shape
        assert torch.equal(variant.image[:1] % 2, variant.mask.float())
        seen[variant.image.numpy().tobytes()] += 1
    assert len(seen) == views
    spread = 5 * (800 / views * (1 - 1 / views)) ** 0.5
    assert all(abs(count - 800 / views) < spread for count in seen.values())


def test_augmentation_follows_its_generator_and_leaves_the_sample_alone(lesion_case: Case) -> None:
    sample = TASK.load(lesion_case, Grid((16, 16)))
    before = sample.image.clone()
    torch.manual_seed(0)
    first = [TASK.augment(sample, torch.Generator().manual_seed(seed)).image for seed in range(6)]
    torch.manual_seed(1)
    again = [TASK.augment(sample, torch.Generator().manual_seed(seed)).image for seed in range(6)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    for variant in first:
        variant.zero_()
    assert torch.equal(sample.image, before)


def test_predictions_come_at_the_size_asked_for(lesion_case: Case) -> None:
    image = TASK.load_image(lesion_case, GRID)
    small = TASK.predict(_DarkIsLesion(), image, GRID)
    large = TASK.predict(_DarkIsLesion(), image, GRID, size=TASK.original_size(lesion_case))
    assert small.shape == (1, 32, 32)
    assert large.shape == (1, 40, 60)
    assert large.dtype == torch.uint8
    assert large.unique().tolist() == [0, 1]


def test_a_right_prediction_scores_high_and_a_wrong_one_low(lesion_case: Case) -> None:
    reference = TASK.reference(lesion_case)
    prediction = TASK.predict(_DarkIsLesion(), TASK.load_image(lesion_case, GRID), GRID, size=(40, 60))
    (score,) = TASK.score(prediction, reference.mask, reference.spacing)
    assert score.structure == "lesion"
    assert score.dice > 0.9  # an outline one pixel inside all around has 0.89
    assert score.hd95 is not None
    assert score.hd95 <= 1.5
    (miss,) = TASK.score(1 - prediction, reference.mask, reference.spacing)
    assert miss.dice < 0.05


def test_a_written_prediction_reads_back(lesion_case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    prediction = TASK.reference(lesion_case).mask
    path = TASK.write_prediction(prediction, lesion_case, folder)
    assert path == folder / "ISIC_1_segmentation.png"
    assert np.array_equal(np.asarray(Image.open(path)) > 0, prediction[0].numpy() > 0)


def test_an_overlay_is_a_png_of_the_image(lesion_case: Case, tmp_path: Path) -> None:
    path = tmp_path / "overlay.png"
    TASK.write_overlay(torch.zeros(1, 40, 60, dtype=torch.uint8), lesion_case, path)
    with Image.open(path) as picture:
        assert picture.size == (60, 40)


def test_a_file_that_vanished_is_named(lesion_case: Case) -> None:
    lesion_case.image.unlink()
    with pytest.raises(DataError, match=r"ISIC_1\.png does not exist"):
        TASK.load(lesion_case, Grid((16, 16)))


@pytest.mark.real_data
def test_real_images_load_and_their_lesions_are_darker() -> None:
    root = os.environ.get("ADPFL_TEST_DATA")
    if not root:
        pytest.skip("ADPFL_TEST_DATA is not set")
    cases = TASK.read(Path(root) / "isic2017")
    darker = []
    for case in cases:
        sample = TASK.load(case, Grid((64, 64)))
        inside = sample.mask[0].bool()
        assert inside.any()
        darker.append(bool(sample.image[1][inside].mean() < sample.image[1][~inside].mean()))
    assert sum(darker) > 0.9 * len(darker)
