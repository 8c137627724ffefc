"""The three arms of the published comparison, as privacy plans that differ only where they claim to.

DP-FL and ADP-FL share mechanism, reading, delta, unit and sampling: only the threshold differs. FL shares
unit and sampling with both.
"""

from typing import Literal

from adpfl.privacy.plan import (
    FixedThreshold,
    PaperPrivacy,
    PercentileThreshold,
    PrivacyPlan,
    Reading,
    Sampling,
    Unit,
    UnsafeNonePrivacy,
)

Arm = Literal["fl", "dp-fl", "adp-fl"]
ARMS: tuple[Arm, ...] = ("fl", "dp-fl", "adp-fl")

DEFAULT_SAMPLING = Sampling(mode="poisson", probability=0.3)
DEFAULT_FIXED = FixedThreshold(method="fixed", clip_norm=1.0)
DEFAULT_PERCENTILE = PercentileThreshold(method="percentile", percentile=50.0, window_steps=0)


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
) -> PrivacyPlan:
    """The privacy plan of one arm.

    Args:
        arm: `fl` neither clips nor adds noise; `dp-fl` clips to a fixed norm; `adp-fl` to a percentile of the
            site's norms.
        nominal_epsilon: what the paper calls epsilon; with `reading` it fixes the noise, and it is no
            guarantee.
        reading: how the nominal epsilon becomes a noise scale, for `dp-fl` and `adp-fl` alike.
        delta: at which the honest epsilon is reported.
        unit: whose contribution is protected.
        sampling: how a step's units are chosen, in all arms.
        fixed: the threshold of `dp-fl`.
        percentile: the threshold of `adp-fl`. The honest epsilon of this arm is infinite.
    """
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
