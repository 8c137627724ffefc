from collections.abc import Callable

import pytest

from adpfl.privacy.noise import noise_multiplier, paper_noise
from adpfl.privacy.plan import PaperPrivacy, Sampling

Plans = Callable[..., PaperPrivacy]


@pytest.mark.parametrize(
    ("reading", "on_the_mean_over_c"),
    [
        ("multiplier", 0.001 / 50),  # epsilon * C on the sum of 50
        ("multiplier_mean", 0.001),  # epsilon * C on the mean
        ("budget", 1000 / 50),  # C / epsilon on the sum of 50
        ("budget_n", 1000 / 500),  # C / (n * epsilon) on the mean
    ],
)
def test_each_reading_puts_its_noise_where_it_says(
    paper_plan: Plans, reading: str, on_the_mean_over_c: float
) -> None:
    plan = paper_plan(
        nominal_epsilon=0.001, reading=reading, sampling=Sampling(mode="poisson", probability=0.1)
    )
    expected_batch = 0.1 * 500
    assert noise_multiplier(plan, 500) / expected_batch == pytest.approx(on_the_mean_over_c, rel=1e-12)


@pytest.mark.parametrize("reading", ["multiplier", "multiplier_mean", "budget", "budget_n"])
def test_noise_drawn_is_never_below_the_noise_asked_for(paper_plan: Plans, reading: str) -> None:
    plan = paper_plan(
        nominal_epsilon=0.0137, reading=reading, sampling=Sampling(mode="poisson", probability=0.3)
    )
    asked = noise_multiplier(plan, 77)
    drawn = paper_noise(plan, 77).scale(clip_norm=2.0) / 2.0
    assert asked <= drawn < asked * 1.001
