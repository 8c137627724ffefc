"""No infinite epsilon without its meaning, and no finite one that promises more than it holds."""

import pytest

from adpfl.experiment.report.explanation import explanation, verdict
from adpfl.privacy.plan import UnsafeNonePrivacy


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
    assert "%" not in text, "a share that nobody measured here"


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


def test_a_rigorous_run_has_a_finite_guarantee_and_its_price(plan_of, site_of):
    plan = plan_of("rigorous")
    site = site_of(plan, "hospital1")
    assert 7.9 < site.guarantee.epsilon <= 8.0
    box = explanation(plan, [site])
    text = " ".join(box.paragraphs)
    assert verdict(plan, [site]).words == "a finite guarantee"
    assert box.heading == "A finite guarantee: ε at most 8 at every site"
    assert not box.grave
    assert "one patient's contribution" in text
    assert "The price is accuracy" in text
    assert "everyone outside the site" in text
    assert box.paragraphs[-1].startswith("Not covered: the people at the site who hold the images;")
    assert "held-out patients" in box.paragraphs[-1]
    assert "Further runs on the same patients add to this ε" in box.paragraphs[-1]
    assert "nominal" not in text
    assert "accept_unbounded" not in text


def test_a_rigorous_plan_alone_says_what_its_noise_aims_at(plan_of):
    plan = plan_of("rigorous")
    assert verdict(plan, []).words == "kept by the sites"
    assert "at 8 or below at δ = 10⁻⁵" in " ".join(explanation(plan, []).paragraphs)


def test_a_rigorous_run_with_too_little_noise_is_not_called_protection(plan_of, site_of):
    plan = plan_of("rigorous")
    site = site_of(plan, "hospital1")
    weak = site.model_copy(update={"guarantee": site.guarantee.model_copy(update={"epsilon": 321.4})})
    box = explanation(plan, [weak])
    assert box.grave
    assert "An honest ε of 322" in box.paragraphs[0], "a bound is rounded up"
    assert "nominal" not in " ".join(box.paragraphs)


def test_a_guarantee_of_images_is_not_told_as_one_of_patients(plan_of, site_of):
    plan = plan_of("rigorous")
    by_image = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"unit": "record"})})
    assert "one image's contribution" in explanation(by_image, [site_of(plan, "hospital1")]).paragraphs[0]


def test_a_mechanism_without_a_claim_is_not_told_as_none(plan_of, site_of):
    plan = plan_of("fl")
    privacy = UnsafeNonePrivacy(
        mode="none",
        mechanism="registered:staircase",
        noise_multiplier=1.0,
        clip_norm=1.0,
        sampling=plan.privacy.sampling,
    )
    box = explanation(plan.model_copy(update={"privacy": privacy}), [site_of(plan, "hospital1")])
    assert box.grave
    assert "registered:staircase" in box.paragraphs[0]
    assert "neither clips nor adds noise" not in box.paragraphs[0]
