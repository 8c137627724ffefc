"""One run as this site sees it: the plan it was offered, the data it brings, the price it approved."""

import json
from dataclasses import dataclass
from pathlib import Path

from adpfl.config import parse
from adpfl.errors import ConfigError, ProtocolError
from adpfl.federated.records import SiteRunRecord
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.initial_model import model_layout
from adpfl.learning.networks import TensorLayout, dimension
from adpfl.learning.units import TrainingUnits
from adpfl.privacy.accounting import certify, guarantee
from adpfl.privacy.events import Charge, UnboundedEvent
from adpfl.privacy.guarantee import Guarantee
from adpfl.privacy.ledger import Reservation
from adpfl.wire.messages import RunOffer
from adpfl_client import guard
from adpfl_client.local_site import Site
from adpfl_client.site_data import SiteData
from adpfl_client.site_record import SiteRecorder


@dataclass(frozen=True)
class LocalRun:
    """What stays the same from the first to the last round of a run."""

    plan: RunPlan
    plan_digest: str
    data: SiteData
    units: TrainingUnits
    layout: tuple[TensorLayout, ...]
    """Names and shapes of the plan's own network."""
    recorder: SiteRecorder
    folder: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.plan.run

    @property
    def dimension(self) -> int:
        """Coordinates of one unit's gradient."""
        return dimension(self.layout)


def read_plan(offer: RunOffer) -> RunPlan:
    """The plan that the server offers, as this version of the software understands it.

    Raises:
        ConfigError: the plan breaks a rule.
        ProtocolError: what was understood is not what was offered, byte for byte.
    """
    try:
        document = json.loads(offer.plan_json)
    except ValueError as error:
        raise ProtocolError(f"the plan of run {offer.run} is not JSON") from error
    plan = parse(document, RunPlan, source=f"plan of run {offer.run}")
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
        raise ConfigError(f"task is {plan.task}; this site has data for: {', '.join(sorted(site.data))}")
    data = site.data[plan.task]
    units = TrainingUnits(data.training, task=data.task, plan=plan)
    layout = model_layout(plan, data.task)
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
        guarantee=spent_guarantee(plan, len(units), dimension(layout), reservations),
        timeline=(),
    )
    interrupted = [one.round_number for one in reservations[-1:] if one.status == "reserved"]
    folder = site.run_folder(plan.run)
    recorder = SiteRecorder.open(
        folder, fresh, site.clock, interrupted_round=interrupted[-1] if interrupted else None
    )
    return LocalRun(plan, plan.digest(), data, units, layout, recorder, folder)


def approve(site: Site, run: LocalRun) -> guard.RunCost:
    """Check the run against the site's policy, whatever the plan says; the ledger judges each round again.

    Raises:
        BudgetError: the policy refuses the cost.
        ConfigError: the policy refuses the plan.
    """
    policy = site.config.policy
    return guard.check(
        run.plan,
        policy,
        site=site.name,
        training_patients=len(run.data.training_patients),
        unit_count=len(run.units),
        dimension=run.dimension,
        spent=site.ledger.spent(policy.data_set_id, delta=policy.delta),
    )


def spent_guarantee(
    plan: RunPlan, unit_count: int, coordinates: int, reservations: tuple[Reservation, ...]
) -> Guarantee:
    """What the run has cost so far: every attempt is charged, whether or not its update was ever sent."""
    steps = sum(reservation.steps for reservation in reservations)
    figure = guarantee(plan.privacy, unit_count=unit_count, dimension=coordinates, steps=steps)
    spent = [charge for reservation in reservations for charge in reservation.charges]
    if_fixed = [
        Charge(event=charge.event.if_fixed, count=charge.count)
        for charge in spent
        if isinstance(charge.event, UnboundedEvent) and charge.event.if_fixed is not None
    ]
    # Steps alone do not tell what a repeated attempt costs under `partition`; the ledger's own charges do.
    exact = {
        "epsilon": certify(spent, figure.delta).epsilon,
        "epsilon_if_fixed": certify(if_fixed, figure.delta).epsilon if if_fixed else None,
    }
    return figure.model_copy(update=exact)
