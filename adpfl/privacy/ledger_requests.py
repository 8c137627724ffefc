"""From a request to the bodies of the ledger's entries, and back to charges."""

from collections.abc import Sequence
from typing import Any

from adpfl.errors import ConfigError, StateError
from adpfl.privacy import accounting
from adpfl.privacy.events import Charge
from adpfl.privacy.ledger_records import SpendRequest
from adpfl.privacy.plan import PrivacyPlan, RigorousPrivacy


def metric_name(request: SpendRequest) -> str | None:
    """The metric's name; None for an update."""
    return None if request.metric is None else request.metric.name


def whole_charges(request: SpendRequest) -> tuple[Charge, ...] | None:
    """What the plan costs from first to last step; None where its length is not known here.

    Raises:
        ConfigError: the plan is shorter than what it asks for.
    """
    if request.planned_steps is None or request.metric is not None:
        return None
    if request.planned_steps < request.steps:
        raise ConfigError(
            f"planned_steps is {request.planned_steps}; must be at least the {request.steps} of one round",
            rule="plan",
        )
    steps = accounting.charges(
        request.privacy,
        unit_count=request.unit_count,
        dimension=request.dimension,
        steps=request.planned_steps,
        records=records_of_a_patient(request.privacy),
    )
    return (*steps, *request.planned_metrics)


def records_of_a_patient(privacy: PrivacyPlan) -> int:
    """How many records of a patient a release may hold: the ledger charges patients, not records.

    Where the unit is the record and the plan does not say how many a patient has, one: the figures are those
    of a record then, and say so.
    """
    return (privacy.records_per_patient or 1) if isinstance(privacy, RigorousPrivacy) else 1


def terms_body(request: SpendRequest) -> dict[str, Any]:
    """What a run declares itself to be.

    Raises:
        StateError: the run begins with a metric; only an update begins one.
    """
    if request.metric is not None:
        raise StateError(
            f"run {request.run} has not trained yet; a metric may be released after its first round"
        )
    return {
        "run": request.run,
        "plan_digest": request.plan_digest,
        "data_set_id": request.data_set_id,
        "privacy": request.privacy.model_dump(mode="json"),
        "unit_count": request.unit_count,
        "dimension": request.dimension,
        "planned_steps": request.planned_steps,
        "planned_rounds": request.planned_rounds,
    }


def reservation_body(request: SpendRequest, charges: Sequence[Charge]) -> dict[str, Any]:
    """What of a reservation follows from the request alone."""
    return {
        "run": request.run,
        "plan_digest": request.plan_digest,
        "round_number": request.round_number,
        "base_digest": request.base_digest,
        "data_set_id": request.data_set_id,
        "first_step": request.first_step,
        "steps": request.steps,
        "metric": metric_name(request),
        "charges": _documents(charges),
    }


def dedication_body(request: SpendRequest, whole: Sequence[Charge]) -> dict[str, Any]:
    """That the whole cap now belongs to the request's plan."""
    return {
        "run": request.run,
        "plan_digest": request.plan_digest,
        "data_set_id": request.data_set_id,
        "whole": _documents(whole),
    }


def read_charges(documents: Sequence[Any]) -> tuple[Charge, ...]:
    """Charges as an entry holds them."""
    return tuple(Charge.model_validate(document) for document in documents)


def _documents(charges: Sequence[Charge]) -> list[Any]:
    return [charge.model_dump(mode="json") for charge in charges]
