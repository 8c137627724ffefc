"""What the operator is told of a run's privacy: by the plan's words alone, nothing is computed here."""

from typing import Final

from adpfl.privacy.plan import (
    PaperPrivacy,
    PercentileThreshold,
    PrivacyPlan,
    RigorousPrivacy,
    UnsafeNonePrivacy,
)

UNSAFE_NONE = (
    "unsafe: privacy.mode is none; updates leave the sites without clipping or noise, and epsilon is infinite"
)
PERCENTILE = (
    "no finite guarantee: privacy.threshold.method is percentile; the noise scale reveals a percentile of "
    "raw norms, and epsilon is infinite"
)

NO_GUARANTEE: Final = "no finite guarantee; sites must accept it in writing (policy.accept_unbounded)"
ENORMOUS: Final = "finite but enormous; a site's cap will refuse it"
FINITE: Final = "finite; each site computes it from its own numbers and holds it against its cap"

HOPELESS_NOISE_MULTIPLIER: Final = 0.1
"""Noise below a tenth of the clip norm: epsilon of a single full step is in the tens at least."""


def privacy_warning(plan: PrivacyPlan) -> str | None:
    """Why a plan's epsilon is infinite whatever its other numbers; None where it is finite."""
    match plan:
        case UnsafeNonePrivacy():
            return UNSAFE_NONE
        case PaperPrivacy(threshold=PercentileThreshold()):
            return PERCENTILE
    return None


def guarantee_kind(plan: PrivacyPlan) -> str:
    """Which kind of guarantee a plan can have at a site, in words."""
    if privacy_warning(plan) is not None:
        return NO_GUARANTEE
    if isinstance(plan, RigorousPrivacy) and plan.target_epsilon is not None:
        return (
            f"epsilon {plan.target_epsilon:g} at delta {plan.delta:g} over the whole run, unit {plan.unit}; "
            "a site whose cap is lower will refuse it"
        )
    noise = _noise_multiplier(plan)
    return ENORMOUS if noise is not None and noise <= HOPELESS_NOISE_MULTIPLIER else FINITE


def _noise_multiplier(plan: PrivacyPlan) -> float | None:
    """Noise scale on the sum over the clip norm; None where it depends on a site's number of units."""
    match plan:
        case PaperPrivacy(reading="multiplier"):
            return plan.nominal_epsilon
        case PaperPrivacy(reading="budget"):
            return 1.0 / plan.nominal_epsilon
        case PaperPrivacy(reading="budget_n"):
            return plan.sampling.probability / plan.nominal_epsilon
        case RigorousPrivacy():
            return plan.noise_multiplier
    return None
