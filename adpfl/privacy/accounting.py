"""What may be claimed of a run: from a plan and public numbers to epsilon(delta).

The chain is plan -> charges (which events, how often) -> `adpfl.privacy.composition` -> epsilon.
`adpfl.privacy.ledger` enters it in the middle, with the charges of many runs.
"""

from collections.abc import Iterator
from typing import Final

from adpfl.errors import PrivacyError
from adpfl.privacy import sampling
from adpfl.privacy.calibration import resolve_noise
from adpfl.privacy.certificate import PERCENTILE_REASON
from adpfl.privacy.composition import (
    IDEAL_SAMPLER_ONLY,
    ORDERS,
    Certified,
    certify,
    composed_curve,
    divergence,
    pure_epsilon,
)
from adpfl.privacy.events import Charge, Event, ExponentialEvent, NoisedEvent, UnboundedEvent
from adpfl.privacy.guarantee import Guarantee
from adpfl.privacy.plan import (
    NEIGHBORING_RELATION,
    PaperPrivacy,
    PrivacyPlan,
    RigorousPrivacy,
    Sampling,
    UnsafeNonePrivacy,
)

__all__ = [
    "IDEAL_SAMPLER_ONLY",
    "ORDERS",
    "Certified",
    "certify",
    "charges",
    "composed_curve",
    "describe_sampling",
    "divergence",
    "guarantee",
    "pure_epsilon",
]

DELTA_OF_NO_NOISE: Final = 1e-5
"""Stated beside the infinite epsilon of mode `none`, which has no delta of its own."""

NO_NOISE_REASON: Final = "updates leave the site without clipping or noise"
NO_EVENT_REASON: Final = "the registered mechanism makes no claim: it has no accounting event"


def charges(
    plan: PrivacyPlan,
    *,
    unit_count: int,
    dimension: int,
    steps: int,
    first_step: int = 0,
    repeated: bool = False,
    records: int = 1,
) -> tuple[Charge, ...]:
    """What `steps` noised steps cost one unit.

    A threshold of method `exponential` is charged for each choice that falls into these steps: one at
    every step of the run that is a multiple of `refresh_steps`.

    Args:
        plan: the run's privacy plan.
        unit_count: n, the site's units; public. Some readings scale their noise with it.
        dimension: D, coordinates of one unit's gradient.
        steps: steps to charge.
        first_step: steps of the run before these.
        repeated: whether any of these steps was charged before (a crashed attempt).
        records: what a patient of so many records is exposed to, where the unit is `record`.

    Raises:
        PrivacyError: a number is out of range.
        ConfigError: no lattice carries the plan's noise, or no noise reaches its target.
    """
    for name, value, least in (
        ("unit_count", unit_count, 1),
        ("dimension", dimension, 1),
        ("steps", steps, 0),
    ):
        if value < least:
            raise PrivacyError(f"{name} is {value}; must be at least {least}")
    count = sampling.releases_seen(plan.sampling, first_step=first_step, steps=steps, repeated=repeated)
    spent = [Charge(event=_event(plan, unit_count, dimension, records), count=count)]
    if isinstance(plan, RigorousPrivacy) and plan.threshold.method == "exponential":
        every = plan.threshold.refresh_steps
        choices = -(-(first_step + steps) // every) - -(-first_step // every)
        choice = ExponentialEvent(epsilon=plan.threshold.epsilon, records=records)
        spent.append(Charge(event=choice, count=choices))
    return tuple(spent)


def guarantee(
    plan: PrivacyPlan, *, unit_count: int, dimension: int, steps: int, delta: float | None = None
) -> Guarantee:
    """The honest figure of a run at one site, with everything that must stand beside it.

    Args:
        plan: the run's privacy plan.
        unit_count: n, the site's units; public.
        dimension: D, trainable parameters of the network.
        steps: noised steps of the whole run: rounds times local steps.
        delta: at which to state it; the plan's own by default.

    Raises:
        PrivacyError: a number is out of range.
        ConfigError: no lattice carries the plan's noise, or no noise reaches its target.
    """
    spent = charges(plan, unit_count=unit_count, dimension=dimension, steps=steps)
    if delta is None:
        delta = DELTA_OF_NO_NOISE if isinstance(plan, UnsafeNonePrivacy) else plan.delta
    certified = certify(spent, delta)
    if_fixed = tuple(
        Charge(event=charge.event.if_fixed, count=charge.count)
        for charge in spent
        if isinstance(charge.event, UnboundedEvent) and charge.event.if_fixed is not None
    )
    supposed = certify(if_fixed, delta) if if_fixed else None
    noise = resolve_noise(plan, unit_count, dimension)
    return Guarantee(
        epsilon=certified.epsilon,
        epsilon_if_fixed=supposed.epsilon if supposed else None,
        delta=delta,
        unit=plan.unit,
        neighboring_relation=NEIGHBORING_RELATION,
        sampling=describe_sampling(plan.sampling),
        mechanism=_mechanism(plan),
        steps=steps,
        accountant=(supposed or certified).accountant,
        nominal_epsilon=plan.nominal_epsilon if isinstance(plan, PaperPrivacy) else None,
        reading=plan.reading if isinstance(plan, PaperPrivacy) else None,
        caveats=(
            *_figure_caveats(spent, certified, supposed),
            *_plan_caveats(plan, delta=delta, unit_count=unit_count, dimension=dimension),
        ),
        threshold=None if isinstance(plan, UnsafeNonePrivacy) else plan.threshold.method,
        noise_multiplier=None if noise is None else noise.multiplier,
        target_epsilon=plan.target_epsilon if isinstance(plan, RigorousPrivacy) else None,
        **_patient_figure(plan, unit_count, dimension, steps, delta),
    )


def describe_sampling(choice: Sampling) -> str:
    """The sampling mode in words, with its probability and whether it was credited."""
    match choice.mode:
        case "poisson":
            return f"poisson, probability {choice.probability:g}"
        case "partition":
            return f"partition into {sampling.steps_per_epoch(choice)} batches an epoch, no amplification"
        case "full":
            return "full: every unit in every step"


def _event(plan: PrivacyPlan, unit_count: int, dimension: int, records: int) -> Event:
    noise = resolve_noise(plan, unit_count, dimension)
    if isinstance(plan, UnsafeNonePrivacy) or noise is None:
        return UnboundedEvent(reason=NO_NOISE_REASON if noise is None else NO_EVENT_REASON)
    noised: NoisedEvent = noise.event(
        dimension=dimension,
        sampling_probability=plan.sampling.probability if plan.sampling.mode == "poisson" else 1.0,
        records=records,
    )
    if plan.threshold.method == "percentile":
        return UnboundedEvent(reason=PERCENTILE_REASON, if_fixed=noised)
    return noised


def _mechanism(plan: PrivacyPlan) -> str:
    if isinstance(plan, UnsafeNonePrivacy):
        return "none (unsafe)" if plan.mechanism is None else f"{plan.mechanism} (unsafe: no accounting)"
    return plan.mechanism


def _patient_figure(
    plan: PrivacyPlan, unit_count: int, dimension: int, steps: int, delta: float
) -> dict[str, float | int]:
    """The group figure of a patient, where the unit is the record and the plan says how many there may be."""
    if not isinstance(plan, RigorousPrivacy) or plan.records_per_patient is None:
        return {}
    records = plan.records_per_patient
    spent = charges(plan, unit_count=unit_count, dimension=dimension, steps=steps, records=records)
    return {"records_per_patient": records, "epsilon_per_patient": certify(spent, delta).epsilon}


def _figure_caveats(
    spent: tuple[Charge, ...], certified: Certified, supposed: Certified | None
) -> tuple[str, ...]:
    """Why a figure is infinite, or an ideal sampler's."""
    return (
        *(charge.event.reason for charge in spent if isinstance(charge.event, UnboundedEvent)),
        *certified.caveats,
        *(f"epsilon_if_fixed: {caveat}" for caveat in (supposed.caveats if supposed else ())),
    )


def _plan_caveats(plan: PrivacyPlan, *, delta: float, unit_count: int, dimension: int) -> Iterator[str]:
    """What the plan's own settings weaken."""
    if delta * unit_count >= 1.0:
        yield f"delta {delta:g} is not below 1/{unit_count}: it would allow giving one unit away whole"
    noise = resolve_noise(plan, unit_count, dimension)
    if noise is not None and noise.registered is None:
        loss = noise.lattice.truncation_loss(dimension, order=noise.order)
        if loss > 0.02:
            yield f"the lattice of so strong a noise may round off {loss:.0%} of a unit (no cost in privacy)"
    if plan.unit == "record":
        yield "the unit is one record: a patient with several is protected less"
