"""The noise of a plan in one sentence, without passing a parameter off as a guarantee."""

import pytest

from adpfl.experiment.report.mechanism_words import noise_sentence, threshold_sentence
from adpfl.privacy.plan import PercentileThreshold, RigorousPrivacy


@pytest.mark.parametrize(
    ("arm", "parts"),
    [
        ("fl", ("adds no noise",)),
        ("dp-fl", ("b = ε·C", "0.001", "C is 1 at every site")),
        ("adp-fl", ("b = ε·C", "the median of the site's own gradient norms")),
        (
            "rigorous",
            (
                "Gaussian noise of deviation at least z·C",
                "ε at most 8 at δ = 10⁻⁵ over 60 steps",
                "noisy bits",
            ),
        ),
    ],
)
def test_every_arm(plan_of, arm, parts):
    sentence = noise_sentence(plan_of(arm))
    for part in parts:
        assert part in sentence
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    ("threshold", "told"),
    [
        ({"method": "fixed", "clip_norm": 0.25}, "C is 0.25 at every site"),
        (
            {"method": "slack", "percentile": 40},
            "towards the 40th percentile of the gradient norms by noisy slack",
        ),
        (
            {"method": "exponential", "epsilon": 0.1, "refresh_steps": 6},
            "every 6 steps C is chosen privately",
        ),
    ],
)
def test_a_given_multiplier_and_every_threshold(plan_of, threshold, told):
    privacy = RigorousPrivacy.model_validate(
        {
            "mode": "rigorous",
            "mechanism": "laplace_l1",
            "noise_multiplier": 2.5,
            "threshold": threshold,
            "sampling": {"mode": "full"},
        }
    )
    sentence = noise_sentence(plan_of("fl").model_copy(update={"privacy": privacy}))
    assert "Laplace noise of scale at least z·C" in sentence
    assert "with z = 2.5;" in sentence
    assert told in sentence


@pytest.mark.parametrize(
    ("rank", "spoken"),
    [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (11, "11th"),
        (12, "12th"),
        (75, "75th"),
        (91, "91st"),
        (99.5, "99.5th"),
    ],
)
def test_a_percentile_is_an_ordinal(rank, spoken):
    threshold = PercentileThreshold(method="percentile", percentile=rank)
    assert threshold_sentence(threshold).startswith(f"C is the {spoken} percentile of the site's own")


def test_the_nominal_epsilon_is_called_nominal(plan_of):
    assert "with the nominal ε = 0.001" in noise_sentence(plan_of("adp-fl"))
