"""No figure without its terms, and no caveat that is not a sentence."""

import pytest

from adpfl.experiment.report.explanation import verdict
from adpfl.experiment.report.privacy_words import caveats, facts, plan_facts, wasted
from adpfl.experiment.report.words import capital
from adpfl.privacy.accounting import guarantee
from adpfl.privacy.plan import RigorousPrivacy, UnsafeNonePrivacy
from adpfl.privacy.registry import ResearchMechanism, register


def test_the_terms_name_everything_that_a_figure_needs(plan_of, site_of):
    plan = plan_of("adp-fl")
    guarantees = [(name, site_of(plan, name).guarantee) for name in plan.cohort.sites]
    told = {fact.term: fact.value for fact in facts(guarantees)}
    assert told["Unit of privacy"].startswith("patient")
    assert told["Neighbouring relation"].startswith("zero-out")
    assert "probability 0.25" in told["Sampling"]
    assert "Laplace" in told["Mechanism"]
    assert told["Steps, composed"] == "60"
    assert told["δ"] == "10⁻⁵"


def test_terms_that_differ_are_told_by_site(plan_of, site_of):
    plan = plan_of("adp-fl")
    first = site_of(plan, "hospital1").guarantee
    told = {
        fact.term: fact.value for fact in facts([("a", first), ("b", first.model_copy(update={"steps": 66}))])
    }
    assert told["Steps, composed"] == "a: 60; b: 66"
    assert "a:" not in told["Mechanism"]


def test_a_caveat_of_one_site_names_it(plan_of, site_of):
    guarantee = site_of(plan_of("adp-fl"), "hospital1").guarantee
    lone = guarantee.model_copy(update={"caveats": (*guarantee.caveats, "delta too large")})
    common, of_one = caveats([("a", guarantee), ("b", lone)])
    assert "protects nobody meaningfully" in common
    assert of_one == "b: Delta too large."


def test_the_terms_of_a_rigorous_run(plan_of, site_of):
    plan = plan_of("rigorous")
    told = {fact.term: fact.value for fact in facts([("a", site_of(plan, "hospital1").guarantee)])}
    assert told["Mechanism"].startswith("Gaussian noise")
    assert told["Clipping threshold C"].startswith("follows noisy bits")
    assert told["Noise multiplier"].endswith("times C, on the sum of a step's gradients")
    assert told["Target ε of the noise"] == "8"
    assert told["Accountant"].startswith("privacy loss distributions")
    assert not any("nominal" in term for term in told)
    planned = {fact.term: fact.value for fact in plan_facts(plan)}
    assert {"Mechanism", "Clipping threshold C", "Target ε of the noise", "δ"} <= planned.keys()
    assert planned["Mechanism"] == told["Mechanism"]


@pytest.mark.parametrize(
    ("method", "words"), [("slack", "noisy slack"), ("exponential", "exponential mechanism")]
)
def test_every_threshold_is_told(plan_of, site_of, method, words):
    found = site_of(plan_of("rigorous"), "hospital1").guarantee.model_copy(update={"threshold": method})
    assert words in {fact.term: fact.value for fact in facts([("a", found)])}["Clipping threshold C"]


def test_a_record_unit_tells_the_patients_own_figure():
    plan = RigorousPrivacy.model_validate(
        {
            "mode": "rigorous",
            "noise_multiplier": 4.0,
            "unit": "record",
            "records_per_patient": 3,
            "sampling": {"mode": "full"},
        }
    )
    found = guarantee(plan, unit_count=40, dimension=1000, steps=10)
    told = {fact.term: fact.value for fact in facts([("a", found)])}
    assert told["ε of a whole patient"].endswith("for one with at most 3 images")
    assert float(told["ε of a whole patient"].split(",")[0]) >= found.epsilon_per_patient > found.epsilon


def test_every_caveat_of_the_accountant_is_a_sentence(plan_of):
    strong = plan_of("adp-fl").privacy.model_copy(update={"nominal_epsilon": 2.0**29, "delta": 0.1})
    paper = [plan_of(arm).privacy for arm in ("adp-fl", "dp-fl", "fl")]
    by_record = RigorousPrivacy(
        mode="rigorous", noise_multiplier=4.0, unit="record", sampling=paper[0].sampling
    )
    register(ResearchMechanism("unclaimed-in-report", clip_order=2, perturb=lambda total, **_: total))
    unclaimed = UnsafeNonePrivacy(
        mode="none",
        mechanism="registered:unclaimed-in-report",
        noise_multiplier=1.0,
        clip_norm=1.0,
        sampling=paper[0].sampling,
    )
    for plan in (strong, *paper, by_record, unclaimed):
        found = guarantee(plan, unit_count=40, dimension=100_000, steps=60)
        told = caveats([("a", found)])
        assert len(told) == len(found.caveats) > 0
        for line, raw in zip(told, found.caveats, strict=True):
            assert line.endswith(".")
            assert line != f"{capital(raw)}.", "told as it stands"


def test_steps_lost_in_a_crash_are_told(plan_of, site_of):
    plan = plan_of("adp-fl")
    guarantee = site_of(plan, "hospital1").guarantee
    (line,) = wasted(plan, [("a", guarantee), ("b", guarantee.model_copy(update={"steps": 66}))])
    assert line.startswith("b was charged 66 steps, the plan has 60")


def test_the_server_alone_knows_the_plans_terms(plan_of):
    terms = [fact.term for fact in plan_facts(plan_of("dp-fl"))]
    assert {"Unit of privacy", "Neighbouring relation", "Sampling", "Mechanism"} <= set(terms)
    assert verdict(plan_of("dp-fl"), []).words == "kept by the sites"
