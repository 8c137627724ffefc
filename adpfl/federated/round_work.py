"""What a closing round asks for: a pure function of the run's state, so that a restart asks for the same."""

from typing import Final

from adpfl.federated.averaging import newest_share
from adpfl.federated.run_events import Aggregate, Average, Contribution, Optimize
from adpfl.federated.run_state import OpenRound, RunState
from adpfl.federated.server_optimizer import StepRule
from adpfl.federated.update_noise import noise_in_mean_update

LEAST_TAU: Final = 1e-3
"""The tau of a plan that names none, where noise asks for no more; that of Reddi et al. (2021)."""


def work_of(state: RunState, current: OpenRound) -> Aggregate:
    """Everything that a closing round asks for."""
    return Aggregate(
        round=current.round,
        base_digest=current.base_digest,
        contributions=_contributions(state, current),
        average=average_of(state, current),
        trimmed=state.plan.aggregation.trimmed(len(current.updates)),
        optimize=optimize_of(state, current),
    )


def _contributions(state: RunState, current: OpenRound) -> tuple[Contribution, ...]:
    shares = [_share(state, update.site) for update in current.updates]
    total = sum(shares)
    return tuple(
        Contribution(update.site, update.update_digest, share / total)
        for update, share in zip(current.updates, shares, strict=True)
    )


def optimize_of(state: RunState, current: OpenRound) -> Optimize | None:
    """The optimizer's step of a round; None where the plan has no server optimizer."""
    plan = state.plan.aggregation
    if plan.optimizer is None:
        return None
    assert plan.server_learning_rate is not None, "the plan writes its strategy's parameters"
    assert plan.beta1 is not None, "the plan writes its strategy's parameters"
    assert plan.beta2 is not None, "the plan writes its strategy's parameters"
    rule = StepRule(
        optimizer=plan.optimizer,
        learning_rate=plan.server_learning_rate,
        beta1=plan.beta1,
        beta2=plan.beta2,
        tau=_tau(state, current) if plan.tau is None else plan.tau,
        round=current.round,
    )
    return Optimize(rule, state.moments)


def _tau(state: RunState, current: OpenRound) -> float:
    """No less than the noise in the round's mean update, as far as it is known: sites have come and gone."""
    sites = [
        (part.weight, state.site(part.site).training_patients or 0) for part in _contributions(state, current)
    ]
    return max(LEAST_TAU, noise_in_mean_update(state.plan, sites) or 0.0)


def average_of(state: RunState, current: OpenRound) -> Average | None:
    """What the round's model is to be averaged with; None where the average is that model itself."""
    averaging = state.plan.aggregation.averaging
    if averaging is None:
        return None
    share = newest_share(averaging, current.round, rounds=state.plan.rounds)
    return None if share == 1.0 else Average(state.published_digest, share)


def _share(state: RunState, name: str) -> int:
    if state.plan.aggregation.weights == "uniform":
        return 1
    # A site declares its patients when it joins, and only a site that joined can have an update.
    return state.site(name).training_patients or 0
