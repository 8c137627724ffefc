"""Figures derived from records, checked by hand on a few patients."""

import pytest

from adpfl.experiment.report.results import (
    clip_norm_range,
    clipped_share,
    mean_over_sites,
    scores_by_structure,
    scores_of,
    site_results,
    spread,
)
from adpfl.federated.records import CaseScore, EvaluationRecord


def score(case, dice, hd95, structure="lesion", patient=None):
    return CaseScore(
        case=case, patient=patient or case, structure=structure, dice=dice, hd95=hd95, hd95_unit="mm"
    )


def test_spread_of_four():
    found = spread([0.4, 0.1, 0.2, 0.3])
    assert found.values == (0.1, 0.2, 0.3, 0.4)
    assert found.mean == pytest.approx(0.25)
    assert found.deviation == pytest.approx(0.12909944)
    assert found.quartiles == pytest.approx((0.175, 0.25, 0.325))


def test_spread_of_one_and_of_none():
    assert spread([]) is None
    assert spread([0.7]).deviation == 0.0
    assert spread([0.7]).quartiles == (0.7, 0.7, 0.7)


def test_a_case_counts_once_and_a_missing_distance_is_counted():
    evaluation = EvaluationRecord(
        round=3,
        mean_dice=0.6,
        scores=(
            score("a", 0.8, 2.0, "kidney"),
            score("a", 0.6, 4.0, "tumour"),
            score("b", 0.0, None, "kidney"),
            score("b", 0.4, None, "tumour"),
        ),
    )
    found = scores_of(evaluation)
    assert found.dice.values == pytest.approx((0.2, 0.7))
    assert found.hd95.values == pytest.approx((3.0,))
    assert (found.hd95_undefined, found.hd95_unit) == (1, "mm")
    (kidney, of_kidney), (tumour, of_tumour) = scores_by_structure(evaluation)
    assert (kidney, tumour) == ("kidney", "tumour")
    assert (of_kidney.value, of_tumour.value) == pytest.approx((0.4, 0.5))
    assert of_tumour.hd95.values == (4.0,)


def test_a_patient_with_two_images_counts_once():
    evaluation = EvaluationRecord(
        round=1,
        mean_dice=0.6,
        scores=(score("a", 0.9, 1.0, patient="p"), score("b", 0.7, 3.0, patient="p"), score("c", 0.4, None)),
    )
    found = scores_of(evaluation)
    assert found.dice.values == pytest.approx((0.4, 0.8))
    assert found.hd95.values == pytest.approx((2.0,))
    assert found.hd95_undefined == 1


def test_sites_count_equally(plan_of, server_of, site_of):
    plan = plan_of("adp-fl")
    results = site_results(server_of(plan), [site_of(plan, name) for name in plan.cohort.sites])
    finals = [result.final.value for result in results]
    assert mean_over_sites(results, lambda result: result.final) == pytest.approx(sum(finals) / 3)
    assert mean_over_sites([], lambda result: result.final) is None


def test_thresholds_of_the_arms(plan_of, site_of):
    assert clip_norm_range(site_of(plan_of("dp-fl"), "hospital1")) == (1.0, 1.0)
    assert clip_norm_range(site_of(plan_of("fl"), "hospital1")) is None
    assert clipped_share(site_of(plan_of("fl"), "hospital1")) is None
    low, high = clip_norm_range(site_of(plan_of("adp-fl"), "hospital1"))
    assert low < high
    assert clipped_share(site_of(plan_of("adp-fl"), "hospital1")) == pytest.approx(0.5)
