"""What the operator is told at the start of a run that protects nobody or can claim nothing."""

from adpfl.privacy.plan import PaperPrivacy, PercentileThreshold, PrivacyPlan, UnsafeNonePrivacy

UNSAFE_NONE = (
    "unsafe: privacy.mode is none; updates leave the sites without clipping or noise, and epsilon is infinite"
)
PERCENTILE = (
    "no finite guarantee: privacy.threshold.method is percentile; the noise scale reveals a percentile of "
    "raw norms, and epsilon is infinite"
)


def privacy_warning(plan: PrivacyPlan) -> str | None:
    """Why a plan's epsilon is infinite whatever its other numbers; None where it is finite."""
    match plan:
        case UnsafeNonePrivacy():
            return UNSAFE_NONE
        case PaperPrivacy(threshold=PercentileThreshold()):
            return PERCENTILE
    return None
