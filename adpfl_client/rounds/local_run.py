"""One run as this site sees it: the plan it was offered, the data it brings, the price it approved."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from adpfl.config import load_json, parse
from adpfl.errors import ConfigError, ProtocolError
from adpfl.federated.records import SiteRunRecord
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.initial_model import model_layout, update_layout
from adpfl.learning.networks import TensorLayout, dimension
from adpfl.learning.units import TrainingUnits
from adpfl.privacy.ledger import SpendRequest
from adpfl.privacy.run_guarantee import spent_guarantee
from adpfl.wire.messages import RunOffer
from adpfl_client import guard
from adpfl_client.local_site import Site
from adpfl_client.operating.approvals import keep_offer
from adpfl_client.rounds.site_data import SiteData
from adpfl_client.rounds.site_record import SiteRecorder


@dataclass(frozen=True)
class LocalRun:
    """What stays the same from the first to the last round of a run."""

    plan: RunPlan
    plan_digest: str
    data: SiteData
    units: TrainingUnits
    layout: tuple[TensorLayout, ...]
    """Names and shapes of the plan's own network, every tensor."""
    trainable: tuple[TensorLayout, ...]
    """Those that are trained and sent."""
    recorder: SiteRecorder
    folder: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.plan.run

    @property
    def dimension(self) -> int:
        """Coordinates of one unit's gradient."""
        return dimension(self.trainable)


def read_plan(offer: RunOffer) -> RunPlan:
    """The plan that the server offers, as this version of the software understands it.

    Raises:
        ConfigError: the plan breaks a rule.
        ProtocolError: what was understood is not what was offered, byte for byte.
    """
    try:
        document = load_json(offer.plan_json)
        plan = parse(document, RunPlan, source=f"plan of run {offer.run}")
    except ConfigError as error:
        raise ConfigError(str(error), rule="plan") from error
    except ValueError as error:
        wrong = "nested too deeply" if isinstance(error.__cause__, RecursionError) else "not JSON"
        raise ProtocolError(f"the plan of run {offer.run} is {wrong}") from error
    if plan.run != offer.run:
        raise ProtocolError(f"the plan of run {offer.run} calls itself {plan.run}; names must agree")
    if plan.digest() != offer.plan_digest:
        raise ProtocolError(
            f"the plan of run {offer.run} has digest {offer.plan_digest[:12]}, and {plan.digest()[:12]} "
            "as read here; server and site are of different versions"
        )
    return plan


def open_run(site: Site, plan: RunPlan) -> LocalRun:
    """Bring this site's data to a plan, and its record where it was left.

    Raises:
        ConfigError: the site has no data for the task, or the plan does not fit the task.
        DataError: the data cannot be used.
        StateError: the record on disk is of another plan.
    """
    if plan.task not in site.data:
        raise ConfigError(
            f"task is {plan.task}; this site has data for: {', '.join(sorted(site.data))}",
            rule="policy.allowed_tasks",
        )
    data = site.data[plan.task]
    units = TrainingUnits(data.training, task=data.task, plan=plan, cache_bytes=data.cache_bytes)
    layout, trainable = model_layout(plan, data.task), update_layout(plan, data.task)
    reservations = site.ledger.reservations(plan.run)
    fresh = SiteRunRecord(
        site=site.name,
        run=plan.run,
        plan_digest=plan.digest(),
        status="running",
        summary="running",
        training_patients=len(data.training_patients),
        held_out_patients=data.held_out_patients,
        steps=(),
        evaluations=(),
        overlays=(),
        guarantee=spent_guarantee(
            plan.privacy, reservations, unit_count=len(units), dimension=dimension(trainable)
        ),
        timeline=(),
    )
    interrupted = [one.round_number for one in reservations[-1:] if one.status == "reserved"]
    folder = site.run_folder(plan.run)
    recorder = SiteRecorder.open(
        folder, fresh, site.clock, interrupted_round=interrupted[-1] if interrupted else None
    )
    return LocalRun(plan, plan.digest(), data, units, layout, trainable, recorder, folder)


@dataclass(frozen=True)
class Participants:
    """Who of a run's patients takes part now: all that were declared but those excluded since."""

    patients: tuple[str, ...]
    excluded_units: frozenset[int]
    """Positions that stay empty."""


def participants(site: Site, run: LocalRun) -> Participants:
    """Ask the ledger who is excluded, anew each time: a command may have excluded somebody just now.

    Raises:
        ConfigError: too few are left for the site's policy.
    """
    declared = run.data.training_patients
    excluded = site.ledger.excluded_among(declared)
    guard.require_participants(run.plan, site.config.policy, len(declared) - len(excluded))
    return Participants(
        tuple(patient for patient in declared if patient not in excluded), run.units.positions_of(excluded)
    )


def spend_request(
    site: Site,
    run: LocalRun,
    patients: tuple[str, ...],
    *,
    round_number: int,
    base_digest: str,
    first_step: int,
) -> SpendRequest:
    """What one attempt at one round asks of the ledger."""
    return SpendRequest(
        run=run.name,
        plan_digest=run.plan_digest,
        privacy=run.plan.privacy,
        round_number=round_number,
        base_digest=base_digest,
        data_set_id=site.config.policy.data_set_id,
        patients=patients,
        unit_count=len(run.units),
        dimension=run.dimension,
        first_step=first_step,
        steps=run.plan.local.steps,
        planned_steps=run.plan.rounds * run.plan.local.steps,
        planned_rounds=run.plan.rounds,
    )


def approve(site: Site, run: LocalRun) -> guard.RunCost:
    """Check the run against the site's policy, whatever the plan says; the ledger judges each round again.

    The cost is kept beside the run's record, for the person who may have to approve it.

    Raises:
        BudgetError: the policy or the ledger refuses the cost, or a person has not approved it yet.
        ConfigError: the policy refuses the plan.
    """
    policy = site.config.policy
    guard.require_records(run.plan, max(Counter(case.patient for case in run.data.training).values()))
    taking_part = participants(site, run)
    forecast = None
    if not site.ledger.reservations(run.name):
        first = spend_request(site, run, taking_part.patients, round_number=1, base_digest="", first_step=0)
        forecast = site.ledger.foresee(first, policy.ledger_policy())
    cost = guard.price(
        run.plan,
        policy,
        site=site.name,
        training_patients=len(run.data.training_patients),
        unit_count=len(run.units),
        dimension=run.dimension,
        excluded=len(run.data.training_patients) - len(taking_part.patients),
        spent=site.ledger.spent(policy.data_set_id, delta=policy.delta),
        forecast=forecast,
    )
    keep_offer(run.folder, cost)
    guard.require_approval(cost, policy, {approval.plan_digest for approval in site.ledger.approvals()})
    return cost
