"""Cases to patients to sites to a run, by hand on a few numbers."""

import math

import pytest

from adpfl.experiment.report.comparison.metrics import DICE, HD95, metrics_of
from adpfl.experiment.report.comparison.reduction import (
    rounds_of,
    run_figure,
    site_figure,
    structures_of,
)
from adpfl.federated.records import CaseScore, EvaluationRecord


def score(patient, case, dice, hd95=None, structure="lesion"):
    return CaseScore(case=case, patient=patient, structure=structure, dice=dice, hd95=hd95, hd95_unit="mm")


def evaluation(*scores, number=1):
    return EvaluationRecord(round=number, mean_dice=0.0, scores=scores)


@pytest.fixture
def sites(site_of, plan_of):
    def make(**evaluations):
        plan = plan_of("fl")
        return [
            site_of(plan, name).model_copy(update={"evaluations": found})
            for name, found in evaluations.items()
        ]

    return make


def test_cases_then_patients_then_sites(sites):
    # Patient a: (0.2 + 0.4) / 2 = 0.3; site 1: (0.3 + 0.9) / 2 = 0.6; site 2: 0.8; run: 0.7.
    first = evaluation(score("a", "a1", 0.2), score("a", "a2", 0.4), score("b", "b1", 0.9))
    second = evaluation(score("a", "x", 0.8))
    found = run_figure(sites(hospital1=(first,), hospital2=(second,)), DICE)
    assert found.sites["hospital1"].patients == pytest.approx({"a": 0.3, "b": 0.9})
    assert found.sites["hospital1"].value == pytest.approx(0.6)
    assert found.value == pytest.approx(0.7)
    assert sorted(found.patients) == pytest.approx([0.3, 0.8, 0.9])


def test_the_spread_between_patients_is_over_all_sites(sites):
    first, second = evaluation(score("a", "a", 0.6)), evaluation(score("a", "a", 0.8))
    found = run_figure(sites(hospital1=(first,), hospital2=(second,)), DICE)
    assert found.patient_variation == pytest.approx(math.sqrt(0.02) / 0.7)
    assert run_figure(sites(hospital1=(first,)), DICE).patient_variation is None


def test_a_missing_distance_is_left_out_and_counted(sites):
    one = evaluation(score("a", "a1", 0.0), score("a", "a2", 0.5, 4.0), score("b", "b1", 0.0))
    none = evaluation(score("c", "c1", 0.0))
    found = run_figure(sites(hospital1=(one,), hospital2=(none,)), HD95)
    assert found.sites["hospital1"].patients == {"a": 4.0, "b": None}
    assert found.sites["hospital2"].value is None
    assert found.value == 4.0
    assert found.patients_missing == 2


def test_one_structure_or_all_of_them():
    both = evaluation(
        score("a", "a", 0.4, 2.0, "kidney"),
        score("a", "a", 0.8, None, "tumour"),
    )
    assert site_figure(both, DICE).value == pytest.approx(0.6)
    assert site_figure(both, DICE, "tumour").value == pytest.approx(0.8)
    assert site_figure(both, HD95, "tumour").missing == 1


def test_structures_in_the_records_order(sites):
    found = evaluation(score("a", "a", 0.4, None, "kidney"), score("a", "a", 0.8, None, "tumour"))
    assert structures_of(sites(hospital1=(found,))) == ("kidney", "tumour")


def test_only_rounds_that_every_site_evaluated_make_the_curve(sites):
    first = tuple(evaluation(score("a", "a", 0.1 * n), number=n) for n in (0, 1, 2))
    second = tuple(evaluation(score("a", "a", 0.3 * n), number=n) for n in (0, 2))
    found = rounds_of(sites(hospital1=first, hospital2=second, hospital3=()), DICE)
    assert found == pytest.approx({0: 0.0, 2: 0.4})


def test_figures_are_those_that_the_records_hold(sites):
    without = evaluation(score("a", "a", 0.4))
    withal = evaluation(score("a", "a", 0.4, 3.0))
    assert [metric.key for metric in metrics_of(sites(hospital1=(without,)))] == ["dice"]
    assert [metric.key for metric in metrics_of(sites(hospital1=(withal,)))] == ["dice", "hd95"]
