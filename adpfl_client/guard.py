"""The site's own rules, outside everything that a run can configure.

A run's plan comes from the server. This module holds it against the site's policy file before the site
joins, says what the whole of it costs, and keeps the list of what may leave. Nothing here reads a setting
from the plan other than to judge it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isinf
from typing import Annotated

from pydantic import Field, PositiveFloat, StringConstraints, model_validator

from adpfl.config import FrozenModel, Name
from adpfl.errors import BudgetError, ConfigError, PrivacyError
from adpfl.federated.run_plan import RunPlan
from adpfl.privacy import accounting
from adpfl.privacy.guarantee import IF_FIXED_MEANING, Guarantee, shown_epsilon
from adpfl.privacy.ledger import AcceptUnbounded, Forecast, LedgerPolicy, Spent
from adpfl.privacy.ledger_rounds import REASKED_ROUNDS
from adpfl.privacy.plan import Delta, RigorousPrivacy, claims_epsilon

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
    """Whether a person must approve the plan's digest before the site joins, by `adpfl-client approve` or
    here in `approved_plans`."""
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
    if_asked_again: Guarantee
    """At the policy's delta, with the most tasks beyond its rounds that the ledger admits."""
    epsilon_cap: float
    accepted_unbounded: AcceptUnbounded | None
    """The policy's entry, where the run has no finite guarantee and needs one."""
    spent_before: Spent | None
    forecast: Forecast | None = None
    """The ledger's word on the whole run, together with all earlier ones; None once the run has begun."""

    def lines(self) -> tuple[str, ...]:
        """The cost in words, for the person who decides."""
        return (
            f"run {self.run}: {self.rounds} rounds, {self.guarantee.steps} steps, data {self.data_set_id}",
            *_guarantee_lines(self.guarantee),
            *self._cap_lines(),
            *(f"note: {caveat}" for caveat in self.guarantee.caveats),
            f"plan digest {self.plan_digest}",
        )

    @property
    def patient_epsilon(self) -> float:
        """What the cap is held against: a patient's figure, also where the plan's unit is one record."""
        return _of_a_patient(self.at_policy)

    def _cap_lines(self) -> tuple[str, ...]:
        if self.accepted_unbounded is not None:
            by, reason = self.accepted_unbounded.by, self.accepted_unbounded.reason
            return (f"accepted without a finite guarantee by {by}: {reason}",)
        line = f"the whole run costs epsilon {shown_epsilon(self.patient_epsilon)} of a cap of "
        line += f"{self.epsilon_cap:g} at delta {self.at_policy.delta:g}"
        if self.spent_before is None or not self.spent_before.reservations:
            return (f"{line}; nothing was spent before", *self._forecast_lines(), self._asked_again_line())
        lines: tuple[str, ...] = (
            f"{line}; runs so far have spent {shown_epsilon(self.spent_before.epsilon_of_finite_runs)}",
            *self._forecast_lines(),
            self._asked_again_line(),
        )
        if self.spent_before.no_finite_guarantee_since is not None:
            since = datetime.fromtimestamp(self.spent_before.no_finite_guarantee_since, tz=UTC)
            lines += (f"the data set has had no finite guarantee since {since:%Y-%m-%d %H:%M} UTC",)
        return lines

    def _asked_again_line(self) -> str:
        epsilon = shown_epsilon(min(_of_a_patient(self.if_asked_again), self.epsilon_cap))
        return (
            f"a server that lost its memory, or lies, may have up to {REASKED_ROUNDS} rounds more, each "
            f"charged: epsilon {epsilon} at most, never above the cap"
        )

    def _forecast_lines(self) -> tuple[str, ...]:
        if self.forecast is None:
            return ()
        epsilon = shown_epsilon(self.forecast.epsilon_after)
        after = f"after it, all runs on these patients stand at epsilon {epsilon}"
        if self.forecast.dedicated:
            return (f"{after}; it takes the whole cap: no other run may ever follow on these patients",)
        return (after,)


def check(
    plan: RunPlan,
    policy: SitePolicy,
    *,
    site: str,
    training_patients: int,
    unit_count: int,
    dimension: int,
    excluded: int = 0,
    spent: Spent | None = None,
    forecast: Forecast | None = None,
    approved: Collection[str] = (),
) -> RunCost:
    """Refuse a run that the site's policy forbids; otherwise say what the whole of it costs.

    The ledger refuses again, round by round, what no longer fits when its turn comes.

    Args:
        plan: the run, as the server sent it.
        policy: the site's own file.
        site: this site's name.
        training_patients: as `price` takes it.
        unit_count: as `price` takes it.
        dimension: trainable parameters of the plan's network.
        excluded: how many of the patients take part no more.
        spent: what the ledger says of the data set.
        forecast: what the ledger says of the whole run.
        approved: digests of plans that a person approved beside the policy file.

    Raises:
        ConfigError: the task, the rounds, the cohort or the number of patients breaks the policy.
        BudgetError: the cost does, or the plan awaits approval.
    """
    cost = price(
        plan,
        policy,
        site=site,
        training_patients=training_patients,
        unit_count=unit_count,
        dimension=dimension,
        excluded=excluded,
        spent=spent,
        forecast=forecast,
    )
    require_approval(cost, policy, approved)
    return cost


def price(
    plan: RunPlan,
    policy: SitePolicy,
    *,
    site: str,
    training_patients: int,
    unit_count: int,
    dimension: int,
    excluded: int = 0,
    spent: Spent | None = None,
    forecast: Forecast | None = None,
) -> RunCost:
    """What the whole of a run costs, for a person to decide on; refused where no approval could help.

    Args:
        plan: the run, as the server sent it.
        policy: the site's own file.
        site: this site's name.
        training_patients: patients declared for the run here, those excluded since among them.
        unit_count: units of privacy among them: patients or records, as the plan says.
        dimension: trainable parameters of the plan's network.
        excluded: how many of the patients take part no more.
        spent: what the ledger says of the data set, to be shown beside the cost.
        forecast: what the ledger says of the whole run.

    Raises:
        ConfigError: the task, the rounds, the cohort or the number of patients breaks the policy.
        BudgetError: the cost does.
    """
    _require_allowed(plan, policy, site=site, training_patients=training_patients, unit_count=unit_count)
    require_participants(plan, policy, training_patients - excluded)
    steps = plan.rounds * plan.local.steps

    def guarantee_at(delta: float | None, *, more_steps: int = 0) -> Guarantee:
        return accounting.guarantee(
            plan.privacy, unit_count=unit_count, dimension=dimension, steps=steps + more_steps, delta=delta
        )

    at_policy = guarantee_at(policy.delta)
    accepted = next((entry for entry in policy.accept_unbounded if entry.run == plan.run), None)
    cost = RunCost(
        run=plan.run,
        plan_digest=plan.digest(),
        rounds=plan.rounds,
        data_set_id=policy.data_set_id,
        guarantee=guarantee_at(None),
        at_policy=at_policy,
        if_asked_again=guarantee_at(policy.delta, more_steps=REASKED_ROUNDS * plan.local.steps),
        epsilon_cap=policy.epsilon_cap,
        accepted_unbounded=accepted if isinf(at_policy.epsilon) else None,
        spent_before=spent,
        forecast=forecast,
    )
    _require_affordable(cost)
    return cost


def require_approval(cost: RunCost, policy: SitePolicy, approved: Collection[str] = ()) -> None:
    """Refuse a run that a person must approve and has not.

    Raises:
        BudgetError: the policy asks for approval, and neither it nor the ledger holds the plan's digest.
    """
    if not policy.require_approval or cost.plan_digest in policy.approved_plans:
        return
    if cost.plan_digest not in approved:
        raise BudgetError(
            f"run {cost.run} awaits approval of plan {cost.plan_digest} by: adpfl-client approve {cost.run}; "
            f"{cost.lines()[1]}",
            rule="policy.approved_plans",
        )


def require_records(plan: RunPlan, most_records: int) -> None:
    """Refuse a plan whose figure for a patient rests on fewer records than a patient here has.

    The cap is a patient's. A plan of unit `record` that declares nothing counts one record a patient. A run
    without a finite guarantee is under no cap: it stands in the policy by name, or is refused elsewhere.

    Raises:
        ConfigError: a patient has more records than the plan says.
    """
    privacy = plan.privacy
    if privacy.unit != "record" or not claims_epsilon(privacy):
        return
    declared = privacy.records_per_patient if isinstance(privacy, RigorousPrivacy) else None
    if most_records > (declared or 1):
        raise ConfigError(
            f"run {plan.run}: privacy.unit is record and privacy.records_per_patient is "
            f"{declared or 'absent'}; a patient here has {most_records}",
            rule="plan.unit",
        )


def require_participants(plan: RunPlan, policy: SitePolicy, participants: int) -> None:
    """Refuse to train on fewer patients than the policy's minimum, excluded ones not counted.

    Raises:
        ConfigError: there are too few.
    """
    if participants < policy.minimum_patients:
        raise ConfigError(
            f"run {plan.run}: would train on {participants} patients; policy.minimum_patients is "
            f"{policy.minimum_patients}",
            rule="policy.minimum_patients",
        )


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
        raise ConfigError(f"run {plan.run}: cohort.sites does not name {site}", rule="plan.cohort")
    if plan.task not in policy.allowed_tasks:
        allowed = ", ".join(policy.allowed_tasks)
        raise ConfigError(
            f"run {plan.run}: task is {plan.task}; policy.allowed_tasks is {allowed}",
            rule="policy.allowed_tasks",
        )
    if plan.rounds > policy.maximum_rounds:
        raise ConfigError(
            f"run {plan.run}: rounds is {plan.rounds}; policy.maximum_rounds is {policy.maximum_rounds}",
            rule="policy.maximum_rounds",
        )
    if plan.privacy.unit == "patient" and unit_count != training_patients:
        raise ConfigError(
            f"run {plan.run}: has {unit_count} units for {training_patients} patients; privacy.unit is "
            "patient, which means one each",
            rule="plan.unit",
        )


def _require_affordable(cost: RunCost) -> None:
    if isinf(cost.patient_epsilon):
        if cost.accepted_unbounded is None:
            why = cost.guarantee.caveats[0]
            raise BudgetError(
                f"run {cost.run} has no finite guarantee ({why}); policy.accept_unbounded must name it with "
                "a reason and who accepts it",
                rule="policy.accept_unbounded",
            )
        return
    if cost.patient_epsilon > cost.epsilon_cap:
        raise BudgetError(
            f"run {cost.run} would cost epsilon {shown_epsilon(cost.patient_epsilon)} at delta "
            f"{cost.at_policy.delta:g} in {cost.guarantee.steps} steps; policy.epsilon_cap is "
            f"{cost.epsilon_cap:g}",
            rule="policy.epsilon_cap",
        )


def _of_a_patient(figure: Guarantee) -> float:
    return figure.epsilon if figure.epsilon_per_patient is None else figure.epsilon_per_patient


def _guarantee_lines(guarantee: Guarantee) -> tuple[str, ...]:
    conditions = (
        f"{guarantee.mechanism}, unit {guarantee.unit}, {guarantee.neighboring_relation}, "
        f"sampling {guarantee.sampling}"
    )
    lines = [f"epsilon {shown_epsilon(guarantee.epsilon)} at delta {guarantee.delta:g} ({conditions})"]
    if guarantee.epsilon_if_fixed is not None:
        lines.append(f"epsilon_if_fixed {shown_epsilon(guarantee.epsilon_if_fixed)}: {IF_FIXED_MEANING}")
    if guarantee.nominal_epsilon is not None:
        lines.append(
            f"the plan calls this epsilon = {guarantee.nominal_epsilon:g} with reading {guarantee.reading}; "
            "that names its noise and is no guarantee"
        )
    return tuple(lines)
