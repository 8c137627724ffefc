"""Sequences and regions of the brain task."""

from pathlib import Path

import pytest
import torch

from adpfl.data.grid import Grid
from adpfl.tasks.brain_tumor import BrainTumor

TASK = BrainTumor()
GRID = Grid((8, 8, 8))


def test_each_sequence_is_scaled_over_its_brain_and_nothing_else(mr_folder: Path) -> None:
    (case,) = TASK.read(mr_folder)
    image = TASK.load_image(case, GRID)
    assert image.shape == (4, 24, 28, 32)
    brain = image[0] != 0
    assert int(brain.sum()) == 26 * 22 * 18
    for sequence in image:
        assert not bool(sequence[~brain].any())
        assert sequence[brain].mean().item() == pytest.approx(0.0, abs=1e-4)
        assert sequence[brain].std(correction=0).item() == pytest.approx(1.0, abs=1e-3)


def test_regions_are_the_challenges(mr_folder: Path) -> None:
    (case,) = TASK.read(mr_folder)
    whole, core, enhancing, non_enhancing = (int(one.sum()) for one in TASK.reference(case).mask)
    assert (whole, core, enhancing, non_enhancing) == (10**3, 6**3, 4**3, 6**3 - 4**3)


def test_only_the_contrast_agent_shows_the_enhancing_tumour(mr_folder: Path) -> None:
    """The channels are T1, T1 with contrast, T2, FLAIR, however the data set names and stores them."""
    (case,) = TASK.read(mr_folder)
    enhancing = TASK.reference(case).mask[2].bool()
    image = TASK.load_image(case, GRID)
    brightest = torch.stack([sequence[enhancing].mean() for sequence in image]).argmax()
    assert int(brightest) == 1


def test_two_sequences_are_drawn(mr_folder: Path) -> None:
    (case,) = TASK.read(mr_folder)
    shown = TASK.display(TASK.read_volume(case).array, 12)
    assert list(shown) == ["T1 with contrast", "FLAIR"]
    assert all(picture.shape == (28, 32) and picture[0, 0] == 0.0 for picture in shown.values())
