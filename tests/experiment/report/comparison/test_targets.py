"""Every aim can be reached, be missed, and be beyond what the runs can tell."""

import pytest

from adpfl.experiment.comparison.folder import CellTiming
from adpfl.experiment.report.comparison.headline import findings
from adpfl.experiment.report.comparison.metrics import DICE
from adpfl.experiment.report.comparison.statistics import Interval, center, paired_difference, ratio_interval
from adpfl.experiment.report.comparison.summary import FigureSummary, SettingSummary, VariationSummary
from adpfl.experiment.report.comparison.targets import (
    all_but_training,
    change_words,
    overhead,
    signed,
    targets,
)

FL = (0.80, 0.82, 0.84)


def arm(name, label, values, *, patients_ratio=None, patients_interval=None, runs_ratio=None):
    by_seed = dict(enumerate(values))
    difference = None if name == "fl" else paired_difference(by_seed, dict(enumerate(FL)))
    figure = FigureSummary(
        metric="dice",
        structure=None,
        by_seed=by_seed,
        center=center(values),
        sites={},
        patients=30,
        patients_missing=0,
        difference=difference,
        reference=None if difference is None else 0.82,
        relative_difference=None if difference is None else difference.mean / 0.82,
    )
    variation = VariationSummary(
        between_runs=center(values).variation,
        between_patients=0.1,
        between_runs_ratio=runs_ratio,
        between_patients_ratio=patients_ratio,
        between_runs_interval=ratio_interval(runs_ratio, len(values), len(values)),
        between_patients_interval=patients_interval,
    )
    return SettingSummary(
        group="arms",
        arm=name,
        label=label,
        value=None,
        cells=(),
        planned=3,
        figures=(figure,),
        variation=variation,
    )


def outcomes(*arms, **options):
    return {target.key: target.outcome for target in targets(arms, DICE, (), **options)}


def test_within_two_per_cent_or_not():
    fl = arm("fl", "FL", FL)
    assert outcomes(fl, arm("adp-fl", "ADP-FL", (0.79, 0.81, 0.83)))["loss"] == "reached"
    assert outcomes(fl, arm("adp-fl", "ADP-FL", (0.78, 0.80, 0.82)))["loss"] == "not reached"
    assert outcomes(fl, arm("adp-fl", "ADP-FL", (0.81, 0.83, 0.85)))["loss"] == "reached"


def test_clearly_under_needs_the_whole_interval():
    fl = arm("fl", "FL", FL)
    assert outcomes(fl, arm("dp-fl", "DP-FL", (0.60, 0.63, 0.62)))["fixed"] == "reached"
    assert outcomes(fl, arm("dp-fl", "DP-FL", (0.40, 0.82, 0.80)))["fixed"] == "cannot be told"
    assert outcomes(fl, arm("dp-fl", "DP-FL", (0.795, 0.815, 0.835)))["fixed"] == "not reached"


def test_one_run_tells_no_interval_and_no_spread():
    fl, few = arm("fl", "FL", FL[:1]), arm("dp-fl", "DP-FL", (0.6,))
    assert outcomes(fl, few)["fixed"] == "cannot be told"
    for value in (0.60, 0.79, 0.90):
        alone = arm("adp-fl", "ADP-FL", (value,))
        assert outcomes(fl, alone)["loss"] == "cannot be told"
    aims = targets((fl, alone), DICE, ())
    assert "one run does not settle it" in aims[0].found
    assert "the estimate lies within it" in findings((fl, alone), DICE, aims)[1]
    assert outcomes(fl, arm("adp-fl", "ADP-FL", (0.79,)))["runs"] == "cannot be told"


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.9, 1.1, "reached"), (1.1, 1.3, "cannot be told"), (1.3, 1.5, "not reached")],
)
def test_variation_between_patients_is_told_by_its_whole_interval(low, high, outcome):
    interval = Interval(low=low, high=high)
    arms = (
        arm("fl", "FL", FL),
        arm("adp-fl", "ADP-FL", FL, patients_ratio=(low + high) / 2, patients_interval=interval),
    )
    aims = {aim.key: aim for aim in targets(arms, DICE, ())}
    assert aims["patients"].outcome == outcome
    assert f"95% interval {low:.2f} to {high:.2f} times" in aims["patients"].found
    verdict = {"reached": ", within the", "not reached": ", above the"}.get(outcome, "cannot be told")
    assert verdict in findings(arms, DICE, tuple(aims.values()))[-1]


@pytest.mark.parametrize(
    ("ratio", "side"), [(0.5, "within"), (1.19, "within"), (1.21, "beyond"), (5.0, "beyond")]
)
def test_three_runs_do_not_tell_the_variation_between_runs(ratio, side):
    arms = (arm("fl", "FL", FL), arm("adp-fl", "ADP-FL", FL, runs_ratio=ratio))
    aim = {aim.key: aim for aim in targets(arms, DICE, ())}["runs"]
    assert aim.outcome == "cannot be told"
    assert "ratios up to 6.2 of equal spreads" in aim.found
    assert f"the estimate lies {side} it" in aim.found
    assert f"cannot be told: the estimate alone lies {side}" in findings(arms, DICE, (aim,))[-1]


def test_many_runs_tell_the_variation_between_runs():
    many = tuple(0.8 + 0.001 * number for number in range(60))
    for ratio, outcome in ((0.8, "reached"), (1.2, "cannot be told"), (2.0, "not reached")):
        found = outcomes(arm("fl", "FL", many), arm("adp-fl", "ADP-FL", many, runs_ratio=ratio))
        assert found["runs"] == outcome


def test_overhead_is_everything_but_training_and_evaluation():
    def timing(coordination):
        return CellTiming(
            training_seconds=70.0,
            evaluation_seconds=30.0 - coordination,
            coordination_seconds=coordination,
            total_seconds=100.0,
        )

    assert overhead((timing(2.0), timing(6.0))) == pytest.approx(0.04)
    assert all_but_training((timing(2.0), timing(6.0))) == pytest.approx(0.3)
    assert overhead(()) == all_but_training(()) == 0.0
    for share, outcome in ((4.0, "reached"), (6.0, "not reached")):
        found = targets((), DICE, (timing(share),))
        assert [(target.key, target.outcome) for target in found] == [("overhead", outcome)]
        assert "everything but local training and the scoring" in found[0].aim
        assert f"coordination alone {share:.1f}%" in found[0].found
        assert "scoring included, 30.0%" in found[0].found
        assert "start-up" in found[0].found


def test_a_missed_aim_is_said_in_the_headline():
    arms = (arm("fl", "FL", FL), arm("adp-fl", "ADP-FL", (0.70, 0.72, 0.74)))
    told = findings(arms, DICE, targets(arms, DICE, ()))
    assert "12.2% under FL: more than the 2% that were aimed at: this aim was not reached." in told[1]


def test_an_interval_that_holds_the_limit_settles_nothing():
    arms = (arm("fl", "FL", FL), arm("adp-fl", "ADP-FL", (0.70, 0.82, 0.92)))
    aims = targets(arms, DICE, ())
    assert aims[0].outcome == "cannot be told"
    assert "the interval holds the limit, 2% under FL; the estimate lies within it" in aims[0].found
    assert "cannot be told (the interval holds the limit" in findings(arms, DICE, aims)[1]
    sure = (arm("fl", "FL", FL), arm("adp-fl", "ADP-FL", (0.801, 0.820, 0.841)))
    assert targets(sure, DICE, ())[0].outcome == "reached"
    assert "estimate" not in targets(sure, DICE, ())[0].found


def test_dp_fl_is_judged_by_the_same_rule():
    arms = (arm("fl", "FL", FL), arm("dp-fl", "DP-FL", (0.40, 0.82, 0.80)))
    told = findings(arms, DICE, targets(arms, DICE, ()))
    assert (
        "cannot be told (the interval holds the limit, 2% under FL; the estimate lies beyond it)" in told[1]
    )


def test_a_harmless_fixed_threshold_is_said_to_be_harmless():
    arms = (arm("fl", "FL", FL), arm("dp-fl", "DP-FL", (0.80, 0.82, 0.84)))
    told = findings(
        arms, DICE, targets(arms, DICE, ()), fixed_at="C = 10", best_fixed="at C = 10, the best, 0.820"
    )
    assert "level with FL, so here a fixed threshold costs nothing; at C = 10, the best, 0.820." in told[1]


def test_changes_in_words():
    assert change_words(-0.0124) == "1.2% under"
    assert change_words(0.02) == "2.0% over"
    assert change_words(0.0001) == "level with"
    assert signed(-0.0125) == "\N{MINUS SIGN}0.013"
