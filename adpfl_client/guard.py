"""The site's own rules, outside everything that a run can configure.

A run's plan comes from the server. This module holds it against the site's policy file before the site
joins, says what the whole of it costs, and keeps the list of what may leave. Nothing here reads a setting
from the plan other than to judge it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isinf
from typing import Annotated

from pydantic import Field, PositiveFloat, StringConstraints, model_validator

from adpfl.config import FrozenModel, Name
from adpfl.errors import BudgetError, ConfigError, PrivacyError
from adpfl.federated.run_plan import RunPlan
from adpfl.privacy import accounting
from adpfl.privacy.guarantee import IF_FIXED_MEANING, Guarantee
from adpfl.privacy.ledger import AcceptUnbounded, LedgerPolicy, Spent
from adpfl.privacy.plan import Delta

PlanDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class SitePolicy(FrozenModel):
    """What this site allows, whatever a server or a run says."""

    data_set_id: Name
    """Names the patients behind the data in the ledger. It outlives folders; never reuse one for other
    patients."""
    allowed_tasks: Annotated[tuple[Name, ...], Field(min_length=1)]
    minimum_patients: Annotated[int, Field(ge=1)] = 10
    """A run that would train on fewer is refused."""
    maximum_rounds: Annotated[int, Field(ge=1)] = 1000
    epsilon_cap: PositiveFloat = 8.0
    """Unconditional epsilon, over all runs for good, that this data set may spend at `delta`."""
    delta: Delta = 1e-5
    accept_unbounded: tuple[AcceptUnbounded, ...] = ()
    """Runs that the site lets in although no finite epsilon holds for them."""
    allow_rigorous_after_unbounded: bool = False
    allowed_metrics: tuple[Name, ...] = ()
    """Metrics that may leave when a plan names them too. The noised update is all that leaves otherwise."""
    require_approval: bool = False
    """Whether a person must have put the plan's digest into `approved_plans` before the site joins."""
    approved_plans: tuple[PlanDigest, ...] = ()

    @model_validator(mode="after")
    def _one_entry_a_run(self) -> "SitePolicy":
        runs = [entry.run for entry in self.accept_unbounded]
        if len(set(runs)) != len(runs):
            raise ValueError("accept_unbounded names a run twice; each may stand once")
        return self

    def ledger_policy(self) -> LedgerPolicy:
        """The part of the policy that the ledger enforces."""
        return LedgerPolicy(
            epsilon_cap=self.epsilon_cap,
            delta=self.delta,
            accept_unbounded=self.accept_unbounded,
            allow_rigorous_after_unbounded=self.allow_rigorous_after_unbounded,
        )


@dataclass(frozen=True)
class RunCost:
    """What the whole of a run costs this site, before it joins."""

    run: str
    plan_digest: str
    rounds: int
    data_set_id: str
    guarantee: Guarantee
    """At the plan's delta."""
    at_policy: Guarantee
    """The same run at the policy's delta: what counts against the cap."""
    epsilon_cap: float
    accepted_unbounded: AcceptUnbounded | None
    spent_before: Spent | None

    def lines(self) -> tuple[str, ...]:
        """The cost in words, for the person who decides."""
        return (
            f"run {self.run}: {self.rounds} rounds, {self.guarantee.steps} steps, data {self.data_set_id}",
            *_guarantee_lines(self.guarantee),
            *self._cap_lines(),
            *(f"note: {caveat}" for caveat in self.guarantee.caveats),
            f"plan digest {self.plan_digest}",
        )

    def _cap_lines(self) -> tuple[str, ...]:
        if self.accepted_unbounded is not None:
            by, reason = self.accepted_unbounded.by, self.accepted_unbounded.reason
            return (f"accepted without a finite guarantee by {by}: {reason}",)
        line = f"the whole run costs epsilon {self.at_policy.epsilon:.4g} of a cap of {self.epsilon_cap:g}"
        line += f" at delta {self.at_policy.delta:g}"
        if self.spent_before is None or not self.spent_before.reservations:
            return (f"{line}; nothing was spent before",)
        lines: tuple[str, ...] = (
            f"{line}; runs so far have spent {self.spent_before.epsilon_of_finite_runs:.4g}",
        )
        if self.spent_before.no_finite_guarantee_since is not None:
            since = datetime.fromtimestamp(self.spent_before.no_finite_guarantee_since, tz=UTC)
            lines += (f"the data set has had no finite guarantee since {since:%Y-%m-%d %H:%M} UTC",)
        return lines


def check(
    plan: RunPlan,
    policy: SitePolicy,
    *,
    site: str,
    training_patients: int,
    unit_count: int,
    dimension: int,
    spent: Spent | None = None,
) -> RunCost:
    """Refuse a run that the site's policy forbids; otherwise say what the whole of it costs.

    The ledger refuses again, round by round, what no longer fits when its turn comes.

    Args:
        plan: the run, as the server sent it.
        policy: the site's own file.
        site: this site's name.
        training_patients: patients the run would train on here.
        unit_count: units of privacy among them: patients or records, as the plan says.
        dimension: trainable parameters of the plan's network.
        spent: what the ledger says of the data set, to be shown beside the cost.

    Raises:
        ConfigError: the task, the rounds, the cohort or the number of patients breaks the policy.
        BudgetError: the cost does, or the plan awaits approval.
    """
    _require_allowed(plan, policy, site=site, training_patients=training_patients, unit_count=unit_count)
    steps = plan.rounds * plan.local.steps

    def guarantee_at(delta: float | None) -> Guarantee:
        return accounting.guarantee(
            plan.privacy, unit_count=unit_count, dimension=dimension, steps=steps, delta=delta
        )

    cost = RunCost(
        run=plan.run,
        plan_digest=plan.digest(),
        rounds=plan.rounds,
        data_set_id=policy.data_set_id,
        guarantee=guarantee_at(None),
        at_policy=guarantee_at(policy.delta),
        epsilon_cap=policy.epsilon_cap,
        accepted_unbounded=next((entry for entry in policy.accept_unbounded if entry.run == plan.run), None),
        spent_before=spent,
    )
    _require_affordable(cost)
    if policy.require_approval and cost.plan_digest not in policy.approved_plans:
        raise BudgetError(
            f"run {plan.run} awaits approval: policy.approved_plans does not hold its digest "
            f"{cost.plan_digest}; {cost.lines()[1]}"
        )
    return cost


def check_update(offered: Mapping[str, Sequence[int]], base: Mapping[str, Sequence[int]]) -> None:
    """Refuse to send anything but the noised update: the base model's own tensors, by name and shape.

    Args:
        offered: names and shapes of what would leave.
        base: those of the round's base model.

    Raises:
        PrivacyError: a tensor is not one of the base model's, has another shape, or is missing.
    """
    for name in sorted(set(offered) | set(base)):
        if name not in base:
            raise PrivacyError(
                f"tensor {name} is not part of the model; only the noised update may leave the site"
            )
        if name not in offered or tuple(offered[name]) != tuple(base[name]):
            found = list(offered[name]) if name in offered else "missing"
            raise PrivacyError(
                f"tensor {name} is {found}; must have shape {list(base[name])}, as in the base model"
            )


def check_metrics(metrics: Mapping[str, float], *, noised: frozenset[str], policy: SitePolicy) -> None:
    """Refuse to send a metric that the policy does not name or that was not noised and charged.

    Args:
        metrics: what would leave.
        noised: names of those that a charged mechanism released.
        policy: the site's own file.

    Raises:
        PrivacyError: a metric may not leave; its value is not shown.
    """
    for name in sorted(metrics):
        if name not in policy.allowed_metrics:
            raise PrivacyError(f"metric {name} is not in policy.allowed_metrics; it stays at the site")
        if name not in noised:
            raise PrivacyError(f"metric {name} was not noised and charged; it stays at the site")


def _require_allowed(
    plan: RunPlan, policy: SitePolicy, *, site: str, training_patients: int, unit_count: int
) -> None:
    if site not in plan.cohort.sites:
        raise ConfigError(f"run {plan.run}: cohort.sites does not name {site}")
    if plan.task not in policy.allowed_tasks:
        allowed = ", ".join(policy.allowed_tasks)
        raise ConfigError(f"run {plan.run}: task is {plan.task}; policy.allowed_tasks is {allowed}")
    if plan.rounds > policy.maximum_rounds:
        raise ConfigError(
            f"run {plan.run}: rounds is {plan.rounds}; policy.maximum_rounds is {policy.maximum_rounds}"
        )
    if training_patients < policy.minimum_patients:
        raise ConfigError(
            f"run {plan.run}: would train on {training_patients} patients; policy.minimum_patients is "
            f"{policy.minimum_patients}"
        )
    if plan.privacy.unit == "patient" and unit_count != training_patients:
        raise ConfigError(
            f"run {plan.run}: has {unit_count} units for {training_patients} patients; privacy.unit is "
            "patient, which means one each"
        )


def _require_affordable(cost: RunCost) -> None:
    if isinf(cost.at_policy.epsilon):
        if cost.accepted_unbounded is None:
            why = cost.guarantee.caveats[0]
            raise BudgetError(
                f"run {cost.run} has no finite guarantee ({why}); policy.accept_unbounded must name it with "
                "a reason and who accepts it"
            )
        return
    if cost.at_policy.epsilon > cost.epsilon_cap:
        raise BudgetError(
            f"run {cost.run} would cost epsilon {cost.at_policy.epsilon:.4g} at delta "
            f"{cost.at_policy.delta:g} in {cost.guarantee.steps} steps; policy.epsilon_cap is "
            f"{cost.epsilon_cap:g}"
        )


def _guarantee_lines(guarantee: Guarantee) -> tuple[str, ...]:
    conditions = (
        f"{guarantee.mechanism}, unit {guarantee.unit}, {guarantee.neighboring_relation}, "
        f"sampling {guarantee.sampling}"
    )
    lines = [f"epsilon {_number(guarantee.epsilon)} at delta {guarantee.delta:g} ({conditions})"]
    if guarantee.epsilon_if_fixed is not None:
        lines.append(f"epsilon_if_fixed {_number(guarantee.epsilon_if_fixed)}: {IF_FIXED_MEANING}")
    if guarantee.nominal_epsilon is not None:
        lines.append(
            f"the plan calls this epsilon = {guarantee.nominal_epsilon:g} with reading {guarantee.reading}; "
            "that names its noise and is no guarantee"
        )
    return tuple(lines)


def _number(epsilon: float) -> str:
    return "infinite" if isinf(epsilon) else f"{epsilon:.4g}"
