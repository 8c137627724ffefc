"""The three arms of the published comparison and a fourth with a guarantee, as privacy plans.

They differ only where they claim to. DP-FL and ADP-FL share mechanism, reading, delta, unit and sampling:
only the threshold differs. FL and the rigorous arm share unit and sampling with both.
"""

from typing import Literal

from adpfl.privacy.plan import (
    FixedThreshold,
    NoisyBitsThreshold,
    PaperPrivacy,
    PercentileThreshold,
    PrivacyPlan,
    Reading,
    RigorousPrivacy,
    Sampling,
    Unit,
    UnsafeNonePrivacy,
)

Arm = Literal["fl", "dp-fl", "adp-fl", "rigorous"]
PUBLISHED_ARMS: tuple[Arm, ...] = ("fl", "dp-fl", "adp-fl")
ARMS: tuple[Arm, ...] = (*PUBLISHED_ARMS, "rigorous")

DEFAULT_SAMPLING = Sampling(mode="poisson", probability=0.3)
DEFAULT_FIXED = FixedThreshold(method="fixed", clip_norm=1.0)
DEFAULT_PERCENTILE = PercentileThreshold(method="percentile", percentile=50.0, window_steps=0)
DEFAULT_NOISY_BITS = NoisyBitsThreshold(method="noisy_bits")
DEFAULT_TARGET_EPSILON = 8.0
"""All that a site's policy allows by default, over all runs."""


def privacy_of_arm(
    arm: Arm,
    *,
    nominal_epsilon: float = 0.001,
    reading: Reading = "multiplier",
    delta: float = 1e-5,
    unit: Unit = "patient",
    sampling: Sampling = DEFAULT_SAMPLING,
    fixed: FixedThreshold = DEFAULT_FIXED,
    percentile: PercentileThreshold = DEFAULT_PERCENTILE,
    target_epsilon: float = DEFAULT_TARGET_EPSILON,
    total_steps: int | None = None,
) -> PrivacyPlan:
    """The privacy plan of one arm.

    Args:
        arm: `fl` neither clips nor adds noise; `dp-fl` clips to a fixed norm; `adp-fl` to a percentile of the
            site's norms; `rigorous` calibrates Gaussian noise to a target and learns its clip norm from noisy
            bits.
        nominal_epsilon: what the paper calls epsilon; with `reading` it fixes the noise, and it is no
            guarantee.
        reading: how the nominal epsilon becomes a noise scale, for `dp-fl` and `adp-fl` alike.
        delta: at which the honest epsilon is reported.
        unit: whose contribution is protected.
        sampling: how a step's units are chosen, in all arms.
        fixed: the threshold of `dp-fl`.
        percentile: the threshold of `adp-fl`. The honest epsilon of this arm is infinite.
        target_epsilon: what `rigorous` may cost at `delta`, over the whole run.
        total_steps: noised steps of the whole run, for `rigorous`.
    """
    if arm == "rigorous":
        return RigorousPrivacy(
            mode="rigorous",
            mechanism="gaussian",
            threshold=DEFAULT_NOISY_BITS,
            target_epsilon=target_epsilon,
            total_steps=total_steps,
            delta=delta,
            unit=unit,
            sampling=sampling,
        )
    if arm == "fl":
        return UnsafeNonePrivacy(mode="none", unit=unit, sampling=sampling)
    return PaperPrivacy(
        mode="paper",
        nominal_epsilon=nominal_epsilon,
        reading=reading,
        threshold=fixed if arm == "dp-fl" else percentile,
        delta=delta,
        unit=unit,
        sampling=sampling,
    )
