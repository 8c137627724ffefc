"""No figure without its terms; no infinite epsilon without its meaning."""

import pytest

from adpfl.experiment.report.privacy_words import caveats, explanation, facts, plan_facts, verdict, wasted


def test_a_percentile_run_says_why_its_epsilon_is_infinite(plan_of, site_of):
    plan = plan_of("adp-fl")
    box = explanation(plan, [site_of(plan, "hospital1")])
    text = " ".join(box.paragraphs)
    assert box.grave
    assert "infinite" in box.heading
    for part in (
        "percentile",
        "not a guarantee of this run",
        "nominal",
        "accept_unbounded",
        "a reason",
        "ledger marks",
    ):
        assert part in text


def test_no_mechanism_is_called_unsafe(plan_of, site_of):
    plan = plan_of("fl")
    assert "unsafe" in " ".join(explanation(plan, [site_of(plan, "hospital1")]).paragraphs)


@pytest.mark.parametrize(
    ("epsilon", "words", "grave"), [(3.7e7, "no meaningful", True), (1.3, "a finite", False)]
)
def test_a_finite_epsilon_is_judged_by_its_size(plan_of, site_of, epsilon, words, grave):
    plan = plan_of("dp-fl")
    site = site_of(plan, "hospital1")
    site = site.model_copy(update={"guarantee": site.guarantee.model_copy(update={"epsilon": epsilon})})
    assert verdict(plan, [site]).words.startswith(words)
    assert verdict(plan, [site]).grave is explanation(plan, [site]).grave is grave


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
    assert caveats([("a", guarantee), ("b", lone)]) == (
        "ideal sampler; no meaningful protection",
        "b: delta too large",
    )


def test_steps_lost_in_a_crash_are_told(plan_of, site_of):
    plan = plan_of("adp-fl")
    guarantee = site_of(plan, "hospital1").guarantee
    (line,) = wasted(plan, [("a", guarantee), ("b", guarantee.model_copy(update={"steps": 66}))])
    assert line.startswith("b was charged 66 steps, the plan has 60")


def test_the_server_alone_knows_the_plans_terms(plan_of):
    terms = [fact.term for fact in plan_facts(plan_of("dp-fl"))]
    assert {"Unit of privacy", "Neighbouring relation", "Sampling", "Mechanism"} <= set(terms)
    assert verdict(plan_of("dp-fl"), []).words == "kept by the sites"
