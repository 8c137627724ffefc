"""Settings and their summaries, on a comparison whose scores are set by hand."""

import pytest

from adpfl.experiment.comparison.folder import load_comparison
from adpfl.experiment.report.comparison.contents import Contents
from adpfl.experiment.report.comparison.metrics import DICE, HD95
from adpfl.experiment.report.comparison.settings import Settings, own_value
from adpfl.experiment.report.record import read_record, write_record
from adpfl.federated.records import CaseScore, EvaluationRecord, SiteRunRecord


def set_scores(builder, cell, by_site, *, hd95=3.0):
    """Give each site of a cell one last evaluation with these Dice, a patient each."""
    for site, scores in by_site.items():
        path = builder.folder.cell(cell).site(site) / "site.json"
        record = read_record(path, SiteRunRecord)
        cases = tuple(
            CaseScore(
                case=f"c{n}",
                patient=f"p{n}",
                structure="lesion",
                dice=dice,
                hd95=None if dice == 0 else hd95,
                hd95_unit="mm",
            )
            for n, dice in enumerate(scores)
        )
        evaluation = EvaluationRecord(round=8, mean_dice=sum(scores) / len(scores), scores=cases)
        write_record(path, record.model_copy(update={"evaluations": (evaluation,)}))


@pytest.fixture
def by_hand(builder):
    """FL 0.80, 0.82, 0.84; DP-FL 0.50, 0.60, 0.70 with one patient missed; ADP-FL 0.79, 0.82, 0.82."""
    made = builder().arms("fl", "dp-fl", "adp-fl")
    made.write()
    levels = {"fl": (0.80, 0.82, 0.84), "dp-fl": (0.50, 0.60, 0.70), "adp-fl": (0.79, 0.82, 0.82)}
    for arm, values in levels.items():
        for seed, value in enumerate(values):
            scores = dict.fromkeys(made.plan().data.sites, (value - 0.1, value + 0.1))
            if arm == "dp-fl":
                scores["hospital4"] = (0.0, 2 * value)
            set_scores(made, f"arms-{arm}-s{seed}", scores)
    return Contents(load_comparison(made.folder.root))


def of_arm(contents, arm):
    return next(summary for summary in contents.arm_summaries if summary.arm == arm)


def test_means_over_patients_then_sites_then_runs(by_hand):
    fl = of_arm(by_hand, "fl").figure(DICE)
    assert fl.by_seed == pytest.approx({0: 0.80, 1: 0.82, 2: 0.84})
    assert (fl.center.mean, fl.center.deviation) == pytest.approx((0.82, 0.02))
    assert fl.sites["hospital3"].mean == pytest.approx(0.82)
    assert (fl.patients, fl.patients_missing, fl.difference) == (24, 0, None)


def test_differences_to_fl_pair_the_seeds(by_hand):
    adp_fl = of_arm(by_hand, "adp-fl").figure(DICE)
    assert adp_fl.difference.mean == pytest.approx(-0.01)  # -0.01, 0, -0.02
    assert adp_fl.relative_difference == pytest.approx(-0.01 / 0.82)
    assert adp_fl.difference.interval.low == pytest.approx(-0.01 - 4.302653 * 0.01 / 3**0.5, abs=1e-6)


def test_variation_between_runs_and_patients_and_over_fls(by_hand):
    fl, dp_fl = of_arm(by_hand, "fl").variation, of_arm(by_hand, "dp-fl").variation
    assert fl.between_runs == pytest.approx(0.02 / 0.82)
    assert dp_fl.between_runs_ratio == pytest.approx((0.1 / 0.6) / (0.02 / 0.82))
    # Eight patients of a run, four at value - 0.1 and four at value + 0.1: deviation 0.1 * sqrt(8 / 7).
    expected = sum(0.1 * (8 / 7) ** 0.5 / value for value in (0.80, 0.82, 0.84)) / 3
    assert fl.between_patients == pytest.approx(expected)
    assert fl.between_patients_ratio is None


def test_missed_patients_are_counted_once_a_run(by_hand):
    dp_fl = of_arm(by_hand, "dp-fl").figure(HD95)
    assert (dp_fl.patients, dp_fl.patients_missing) == (24, 3)
    assert dp_fl.center.mean == pytest.approx(3.0)


def test_unfinished_and_failed_cells_are_no_runs(builder):
    made = builder(rounds=2).arms("fl", "adp-fl")
    made.unfinished = {"arms-adp-fl-s1"}
    made.failed = {"arms-adp-fl-s2": "failed in round 2: not finite"}
    contents = Contents(load_comparison(made.write()))
    adp_fl = of_arm(contents, "adp-fl")
    assert (adp_fl.cells, adp_fl.planned) == (("arms-adp-fl-s0",), 3)
    assert adp_fl.figure(DICE).difference.n == 1


def test_a_curve_has_the_arms_own_point_and_says_which(builder):
    made = builder(rounds=2).arms("fl", "dp-fl", "adp-fl").curves()
    settings = Settings(load_comparison(made.write()))
    points = settings.curve("clip_norm")
    assert [(point.value, len(point.runs)) for point in points] == [(0.01, 1), (0.1, 1), (1.0, 3), (10.0, 1)]
    assert own_value(settings, "clip_norm", "dp-fl") == 1.0
    assert own_value(settings, "percentile", "adp-fl") == 50.0
    assert own_value(settings, "clip_norm", "adp-fl") is None
    assert [point.value for point in settings.curve("budget")] == [2.0, 8.0, 32.0]
    assert settings.reference("budget").arm == "fl"


def test_several_structures_are_summarised_apart_and_together(builder):
    made = builder(task="kidney_tumor", seeds=2, rounds=2).arms("fl", "adp-fl")
    contents = Contents(load_comparison(made.write()))
    fl = of_arm(contents, "fl")
    assert {figure.structure for figure in fl.figures} == {None, "kidney_and_masses", "masses", "tumor"}
    parts = [fl.figure(DICE, name).center.mean for name in contents.structures]
    assert fl.figure(DICE).center.mean == pytest.approx(sum(parts) / 3)
    assert contents.unit == "mm"


def test_ratios_of_variation_have_intervals_where_there_are_runs_enough(builder):
    made = Contents(load_comparison(builder(rounds=2).arms("fl", "adp-fl").write()))
    found = of_arm(made, "adp-fl").variation
    for name in ("runs", "patients"):
        interval = getattr(found, f"between_{name}_interval")
        assert interval.low <= getattr(found, f"between_{name}_ratio") <= interval.high
    assert found.between_runs_interval.high / found.between_runs_ratio == pytest.approx(39**0.5)
    assert of_arm(made, "fl").variation.between_runs_interval is None


def test_one_run_leaves_no_interval_of_ratios(builder):
    made = Contents(load_comparison(builder(rounds=2, seeds=1).arms("fl", "adp-fl").write()))
    found = of_arm(made, "adp-fl").variation
    assert (found.between_runs_interval, found.between_patients_interval) == (None, None)
