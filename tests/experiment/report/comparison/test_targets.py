"""Every aim can be reached, be missed, and be beyond what the runs can tell."""

import pytest

from adpfl.experiment.comparison.folder import CellTiming
from adpfl.experiment.report.comparison.headline import findings
from adpfl.experiment.report.comparison.metrics import DICE
from adpfl.experiment.report.comparison.statistics import center, paired_difference
from adpfl.experiment.report.comparison.summary import FigureSummary, SettingSummary, VariationSummary
from adpfl.experiment.report.comparison.targets import change_words, overhead, signed, targets

FL = (0.80, 0.82, 0.84)


def arm(name, label, values, *, patients=0.1, patients_ratio=None, runs_ratio=None):
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
        between_patients=patients,
        between_runs_ratio=runs_ratio,
        between_patients_ratio=patients_ratio,
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
    assert outcomes(fl, arm("dp-fl", "DP-FL", (0.40, 0.82, 0.80)))["fixed"] == "not reached"
    assert outcomes(fl, arm("dp-fl", "DP-FL", (0.795, 0.815, 0.835)))["fixed"] == "not reached"


def test_one_run_tells_no_interval_and_no_spread():
    fl, few = arm("fl", "FL", FL[:1]), arm("dp-fl", "DP-FL", (0.6,))
    assert outcomes(fl, few)["fixed"] == "cannot be told"
    assert outcomes(fl, arm("adp-fl", "ADP-FL", (0.79,)))["runs"] == "cannot be told"


@pytest.mark.parametrize(("ratio", "outcome"), [(1.19, "reached"), (1.21, "not reached")])
def test_variation_is_held_against_fls_own(ratio, outcome):
    adp_fl = arm("adp-fl", "ADP-FL", FL, patients_ratio=ratio, runs_ratio=ratio)
    found = outcomes(arm("fl", "FL", FL), adp_fl)
    assert (found["patients"], found["runs"]) == (outcome, outcome)


def test_overhead_is_everything_but_training_and_evaluation():
    def timing(coordination):
        return CellTiming(
            training_seconds=70.0,
            evaluation_seconds=30.0 - coordination,
            coordination_seconds=coordination,
            total_seconds=100.0,
        )

    assert overhead((timing(2.0), timing(6.0))) == pytest.approx(0.04)
    assert overhead(()) == 0.0
    for share, outcome in ((4.0, "reached"), (6.0, "not reached")):
        found = targets((), DICE, (timing(share),))
        assert [(target.key, target.outcome) for target in found] == [("overhead", outcome)]


def test_a_missed_aim_is_said_in_the_headline():
    arms = (arm("fl", "FL", FL), arm("adp-fl", "ADP-FL", (0.70, 0.72, 0.74)))
    told = findings(arms, DICE, targets(arms, DICE, ()))
    assert "12.2% under FL: more than the 2% that were aimed at: this aim was not reached." in told[1]


def test_an_interval_that_holds_the_limit_settles_nothing():
    arms = (arm("fl", "FL", FL), arm("adp-fl", "ADP-FL", (0.70, 0.82, 0.92)))
    aims = targets(arms, DICE, ())
    assert aims[0].outcome == "reached"
    assert "three pairs of runs do not settle it" in aims[0].found
    assert "do not settle it" in findings(arms, DICE, aims)[1]
    sure = (arm("fl", "FL", FL), arm("adp-fl", "ADP-FL", (0.801, 0.820, 0.841)))
    assert "settle" not in targets(sure, DICE, ())[0].found


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
