"""Intervals and spreads against values worked out by hand or taken from printed tables."""

import math

import pytest

from adpfl.experiment.report.comparison.statistics import (
    Center,
    center,
    chance_ratio,
    paired_difference,
    ratio,
)


def test_the_center_of_three_runs():
    found = center([0.80, 0.84, 0.88])
    assert found.mean == pytest.approx(0.84)
    assert found.deviation == pytest.approx(0.04)
    assert found.n == 3
    assert found.variation == pytest.approx(0.04 / 0.84)


def test_one_run_has_no_spread_and_none_has_no_center():
    alone = center([0.7])
    assert (alone.mean, alone.deviation, alone.variation) == (0.7, None, None)
    assert center([]) is None


def test_a_mean_of_zero_has_no_coefficient_of_variation():
    assert Center(mean=0.0, deviation=0.1, n=3).variation is None


def test_differences_are_paired_by_seed_and_use_the_printed_t_of_two_degrees():
    # Differences -0.01, -0.03, -0.02: mean -0.02, deviation 0.01, t(2) = 4.3027.
    found = paired_difference({0: 0.80, 1: 0.90, 2: 0.70}, {2: 0.72, 1: 0.93, 0: 0.81})
    assert found.mean == pytest.approx(-0.02)
    assert found.n == 3
    reach = 4.302653 * 0.01 / math.sqrt(3)
    assert found.interval.low == pytest.approx(-0.02 - reach, abs=1e-7)
    assert found.interval.high == pytest.approx(-0.02 + reach, abs=1e-7)


def test_only_seeds_of_both_sides_count():
    found = paired_difference({0: 0.5, 1: 0.6, 7: 0.9}, {0: 0.4, 1: 0.6, 8: 0.1})
    assert (found.mean, found.n) == (pytest.approx(0.05), 2)
    # t(1) = 12.7062, deviation of (0.1, 0.0) = 0.0707107.
    assert found.interval.high - found.mean == pytest.approx(12.706205 * 0.0707107 / math.sqrt(2), abs=1e-5)


def test_one_pair_has_no_interval_and_none_no_difference():
    assert paired_difference({0: 0.5}, {0: 0.4}).interval is None
    assert paired_difference({0: 0.5}, {1: 0.4}) is None


def test_ratios_are_none_where_they_mean_nothing():
    assert ratio(0.06, 0.05) == pytest.approx(1.2)
    assert ratio(None, 0.05) is None
    assert ratio(0.06, 0.0) is None


def test_what_chance_alone_does_to_two_spreads_of_three_runs():
    assert chance_ratio(3, 3) == pytest.approx(math.sqrt(39.0))  # F(2, 2) at 0.975 is 39.00 in print
    assert chance_ratio(5, 5) == pytest.approx(math.sqrt(9.6045), abs=1e-4)
    assert chance_ratio(1, 3) is None
