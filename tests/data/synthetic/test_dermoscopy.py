"""Generated clinics: readable, reproducible, different from each other."""

from pathlib import Path

import numpy as np
import pytest

from adpfl.data.images import read_mask, read_rgb
from adpfl.data.skin_layouts import read_skin_folder
from adpfl.data.synthetic.dermoscopy import photograph, write_clinic
from adpfl.data.synthetic.dermoscopy_sites import PROFILES
from adpfl.data.synthetic.skin import draw_lesion
from adpfl.errors import ConfigError, DataError

SIZE = (48, 64)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_clinic_reads_back_as_it_was_written(tmp_path: Path) -> None:
    written = write_clinic(tmp_path / "site", "A", images=30, seed=0, size=SIZE)
    assert read_skin_folder(tmp_path / "site") == written
    assert len(written) == 30
    assert read_rgb(written[0].image).shape == (*SIZE, 3)


def test_some_patients_have_two_images_and_the_table_says_so(tmp_path: Path) -> None:
    write_clinic(tmp_path / "site", "B", images=60, seed=0, size=SIZE)
    images_of: dict[str, int] = {}
    for case in read_skin_folder(tmp_path / "site"):
        images_of[case.patient] = images_of.get(case.patient, 0) + 1
    assert set(images_of.values()) == {1, 2}
    assert 4 <= sum(count == 2 for count in images_of.values()) <= 20


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_clinic(tmp_path / name, "C", images=3, seed=seed, size=SIZE)
    assert _contents(tmp_path / "a") == _contents(tmp_path / "b")
    assert _contents(tmp_path / "a") != _contents(tmp_path / "c")


def test_a_longer_data_set_begins_with_the_shorter_one(tmp_path: Path) -> None:
    short = write_clinic(tmp_path / "short", "D", images=4, seed=0, size=SIZE)
    long = write_clinic(tmp_path / "long", "D", images=9, seed=0, size=SIZE)
    assert [case.image.read_bytes() for case in short] == [case.image.read_bytes() for case in long[:4]]


@pytest.mark.parametrize("site", sorted(PROFILES))
def test_lesions_differ_from_the_skin_around_them(tmp_path: Path, site: str) -> None:
    """Melanin and blood both absorb green light: nearly every lesion is darker in it than the rest."""
    darker = []
    for case in write_clinic(tmp_path / site, site, images=20, seed=3, size=(96, 128)):
        assert case.mask is not None
        mask = read_mask(case.mask).astype(bool)
        assert 0.005 < mask.mean() < 0.9
        green = read_rgb(case.image)[..., 1].astype(float)
        darker.append(np.median(green[mask]) < np.median(green[~mask]))
    assert np.mean(darker) >= 0.9


def test_clinics_differ_in_colour_and_in_annotation(tmp_path: Path) -> None:
    mean_color = {}
    for site in PROFILES:
        cases = write_clinic(tmp_path / site, site, images=15, seed=0, size=SIZE)
        mean_color[site] = np.mean([read_rgb(case.image).mean(axis=(0, 1)) for case in cases], axis=0)
    pairs = [(first, second) for first in PROFILES for second in PROFILES if first < second]
    assert all(np.abs(mean_color[first] - mean_color[second]).max() > 8 for first, second in pairs)


def test_the_annotator_of_b_draws_wider_than_the_one_of_c() -> None:
    lesion = draw_lesion(PROFILES["A"], np.random.default_rng(0))
    area = {
        site: np.mean(
            [
                photograph(PROFILES[site], lesion, np.random.default_rng(seed), (96, 128)).mask.mean()
                for seed in range(30)
            ]
        )
        for site in "BC"
    }
    assert area["B"] > 1.1 * area["C"]


def test_a_photograph_has_the_size_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    made = photograph(PROFILES["B"], draw_lesion(PROFILES["B"], rng), rng, (50, 70))
    assert made.image.shape == (50, 70, 3)
    assert made.image.dtype == made.mask.dtype == np.uint8
    assert set(np.unique(made.mask)) == {0, 1}


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="synthetic site is 'Z'; must be one of A, B, C, D"):
        write_clinic(tmp_path / "x", "Z", images=1, seed=0)
    with pytest.raises(ConfigError, match="images is 0; must be >= 1"):
        write_clinic(tmp_path / "x", "A", images=0, seed=0)
    with pytest.raises(ConfigError, match="each side must be >= 32"):
        write_clinic(tmp_path / "x", "A", images=1, seed=0, size=(16, 64))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "note").write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        write_clinic(tmp_path, "A", images=1, seed=0, size=SIZE)
