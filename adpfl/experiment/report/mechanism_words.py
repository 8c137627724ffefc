"""How a plan samples, clips and adds noise, in words."""

from adpfl.experiment.report.words import count, number
from adpfl.federated.run_plan import RunPlan
from adpfl.privacy.plan import AnyThreshold, FixedThreshold, PaperPrivacy, RigorousPrivacy, UnsafeNonePrivacy

READINGS = {
    "multiplier": "b = ε·C on the sum of a step's gradients",
    "multiplier_mean": "b = ε·C on the mean of a step's gradients",
    "budget": "b = C/ε on the sum of a step's gradients",
    "budget_n": "b = C/(n·ε) on the mean of a step's gradients",
}
MECHANISMS = {
    "laplace_l2": "Laplace noise of scale b after clipping each unit's gradient to L2 norm C",
    "laplace_l1": "Laplace noise of scale b after clipping each unit's gradient to L1 norm C",
    "gaussian": "Gaussian noise of deviation σ after clipping each unit's gradient to L2 norm C",  # noqa: RUF001 - sigma
    "none": "none: neither clipping nor noise",
}
THRESHOLDS = {
    "fixed": "fixed in advance: looks at no data and costs nothing",
    "percentile": "a percentile of the site's own raw norms: has no finite ε",
    "noisy_bits": (
        "follows noisy bits: beside each gradient one noised count says how many units lie under C, paid for "
        "in the same ε by slightly more noise on the gradient"
    ),
    "slack": (
        "follows noisy slack: ten more noised coordinates of each release say how full the clip is, within "
        "the same norm and so at no ε of their own"
    ),
    "exponential": (
        "chosen privately: the exponential mechanism picks C from a grid over all units' norms, and each "
        "choice is charged"
    ),
}
SAMPLINGS = {
    "poisson": "Poisson: each unit joins a step independently, by a secret draw of its site",
    "partition": "shuffled epochs: every unit once an epoch, no amplification claimed",
    "full": "every unit in every step",
}


def noise_sentence(plan: RunPlan) -> str:
    """How much noise the plan asks for, without pretending that the nominal figure is a guarantee."""
    privacy = plan.privacy
    if isinstance(privacy, UnsafeNonePrivacy):
        if privacy.mechanism is None:
            return "The plan adds no noise and clips nothing."
        return f"Each step runs {privacy.mechanism}, a mechanism for which nobody claims a guarantee."
    threshold = threshold_sentence(privacy.threshold)
    if isinstance(privacy, PaperPrivacy):
        return (
            f"Each step adds Laplace noise of scale {READINGS[privacy.reading]}, with the nominal "
            f"ε = {number(privacy.nominal_epsilon)}; {threshold}."
        )
    return f"{_rigorous_noise(privacy)}; {threshold}."


def threshold_sentence(threshold: AnyThreshold) -> str:
    """How C comes about, as a clause."""
    if isinstance(threshold, FixedThreshold):
        return f"C is {number(threshold.clip_norm)} at every site and step"
    rank = threshold.percentile
    which = "median" if rank == 50 else f"{_ordinal(rank)} percentile"
    match threshold.method:
        case "percentile":
            return f"C is the {which} of the site's own gradient norms at each step"
        case "noisy_bits":
            return f"C moves towards the {which} of the gradient norms by noisy bits alone"
        case "slack":
            return f"C moves towards the {which} of the gradient norms by noisy slack alone"
        case "exponential":
            often = "step" if threshold.refresh_steps == 1 else f"{threshold.refresh_steps} steps"
            return f"every {often} C is chosen privately, near the {which} of all units' gradient norms"


def _ordinal(rank: float) -> str:
    """A rank as it is spoken: 75th, 1st, 99.5th."""
    endings = {1: "st", 2: "nd", 3: "rd"}
    whole = rank.is_integer() and rank % 100 not in {11, 12, 13}
    return f"{rank:g}{endings.get(int(rank % 10), 'th') if whole else 'th'}"


def _rigorous_noise(privacy: RigorousPrivacy) -> str:
    """The noise of a rigorous plan, as a sentence without its end."""
    laws = {"gaussian": "Gaussian noise of deviation", "laplace_l2": "Laplace noise of scale"}
    laws["laplace_l1"] = laws["laplace_l2"]
    law = laws.get(privacy.mechanism, f"the noise of {privacy.mechanism} of scale")
    told = f"Each step adds {law} at least z·C to the sum of the clipped gradients, "
    if privacy.noise_multiplier is not None:
        return f"{told}with z = {number(privacy.noise_multiplier)}"
    assert privacy.target_epsilon is not None
    assert privacy.total_steps is not None
    return (
        f"{told}with the least z that keeps ε at most {number(privacy.target_epsilon)} at δ = "
        f"{number(privacy.delta, 2)} over {count(privacy.total_steps, 'step')}, found from public numbers "
        "alone"
    )
