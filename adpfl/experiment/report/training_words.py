"""What a run has beyond plain local steps, in words: its start, what it trains, views, what it publishes."""

from typing import Final

from adpfl.experiment.report.words import capital, count, joined
from adpfl.federated.averaging import EmaAveraging
from adpfl.federated.run_plan import RunPlan
from adpfl.federated.warm_start import Origin, WarmStart

_ORIGINS: Final[dict[Origin, str]] = {
    "generated": "weights trained on generated images",
    "stated_public": "weights trained without protection on images that somebody stated to be public",
    "run": "the weights of an earlier run",
    "unknown": "weights of unknown origin",
}


def beyond_plain_training(plan: RunPlan) -> tuple[str, ...]:
    """Each thing that the plan has beyond plain training from random weights, as a clause; none for most."""
    told = []
    if plan.warm_start is not None:
        told.append(f"it starts from {_start(plan.warm_start)}")
    if plan.network.trainable != "all":
        told.append(f"it trains {joined(list(plan.network.trainable))} alone")
    if plan.local.augmentations_per_record > 1:
        views = count(plan.local.augmentations_per_record, "view")
        told.append(f"the gradients of {views} of each image are averaged before the clip")
    if plan.aggregation.averaging is not None:
        told.append(f"it publishes {_average(plan)}")
    return tuple(told)


def beyond_sentence(plan: RunPlan) -> str:
    """The same as one sentence; empty where there is nothing to say."""
    told = beyond_plain_training(plan)
    return f"{capital('; '.join(told))}." if told else ""


def _start(start: WarmStart) -> str:
    return f"{_ORIGINS[start.trained_on]} ({start.words or 'no more is known'})"


def _average(plan: RunPlan) -> str:
    averaging = plan.aggregation.averaging
    if isinstance(averaging, EmaAveraging):
        return f"the exponential average of its models, decay {averaging.decay:g}"
    assert averaging is not None, "only asked of a plan that averages"
    return f"the mean of its last {count(averaging.rounds, 'model')}"
