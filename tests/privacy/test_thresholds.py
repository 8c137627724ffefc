import numpy as np
import pytest

from adpfl.privacy.plan import FixedThreshold, PercentileThreshold
from adpfl.privacy.thresholds import ThresholdState, choose_clip_norm, needs_norms_first

EMPTY = np.zeros(0)


def percentile(**keys: float) -> PercentileThreshold:
    return PercentileThreshold(method="percentile", **keys)


def test_fixed_looks_at_nothing() -> None:
    threshold = FixedThreshold(method="fixed", clip_norm=0.5)
    assert not needs_norms_first(threshold)
    assert choose_clip_norm(threshold, np.array([9.0]), ThresholdState()) == (0.5, ThresholdState())


@pytest.mark.parametrize(
    ("p", "expected"), [(0, 1.0), (25, 1.0), (26, 2.0), (50, 2.0), (75, 3.0), (100, 4.0)]
)
def test_percentile_is_the_nearest_rank(p: float, expected: float) -> None:
    threshold = percentile(percentile=p)
    assert needs_norms_first(threshold)
    assert choose_clip_norm(threshold, np.array([4.0, 1.0, 3.0, 2.0]), ThresholdState())[0] == expected


def test_nonfinite_norms_are_not_ranked() -> None:
    norms = np.array([np.nan, np.inf, 3.0, 5.0])
    assert choose_clip_norm(percentile(percentile=100), norms, ThresholdState())[0] == 5.0


def test_initial_clip_norm_serves_until_a_finite_norm_exists_and_then_the_last_does() -> None:
    threshold = percentile(initial_clip_norm=7.0)
    clip_norm, state = choose_clip_norm(threshold, np.array([np.nan]), ThresholdState())
    assert clip_norm == 7.0
    clip_norm, state = choose_clip_norm(threshold, np.array([2.0]), state)
    assert clip_norm == 2.0
    assert choose_clip_norm(threshold, EMPTY, state)[0] == 2.0


def test_window_ranks_earlier_norms_with_these_and_forgets_older_ones() -> None:
    threshold = percentile(percentile=100, window_steps=2)
    state = ThresholdState()
    found = []
    for norms in ([9.0], [1.0], [2.0], [3.0]):
        clip_norm, state = choose_clip_norm(threshold, np.array(norms), state)
        found.append(clip_norm)
    assert found == [9.0, 9.0, 9.0, 3.0]
    assert ThresholdState.model_validate_json(state.model_dump_json()) == state


def test_clip_norm_never_falls_under_its_least() -> None:
    clip_norm, state = choose_clip_norm(percentile(min_clip_norm=0.1), np.zeros(3), ThresholdState())
    assert clip_norm == 0.1
    assert state.last_clip_norm == 0.1
