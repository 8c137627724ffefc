"""What may be claimed of a run: from a plan and public numbers to epsilon(delta).

The chain is plan -> charges (which events, how often) -> composed Renyi curve -> epsilon.
`adpfl.privacy.ledger` enters it in the middle, with the charges of many runs.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from adpfl.errors import PrivacyError
from adpfl.privacy import renyi, sampling
from adpfl.privacy.events import Charge, Event, LaplaceL2Event, UnboundedEvent
from adpfl.privacy.guarantee import Guarantee
from adpfl.privacy.noise import resolve_noise
from adpfl.privacy.plan import NEIGHBORING_RELATION, PaperPrivacy, PrivacyPlan, Sampling

ORDERS: Final = renyi.default_orders()
"""Renyi orders at which charges are composed."""

LOG_TOTAL_VARIATION_PER_DRAW: Final = -34.0 * math.log(10.0)
"""Logarithm of the distance between one lattice draw and its ideal law (see `adpfl.kernels.lattice`)."""

IDEAL_SAMPLER_ONLY: Final = "ideal sampler; no meaningful protection"
"""Stands beside an epsilon so large that the last digits of the noise tables could be told apart."""

DELTA_OF_NO_NOISE: Final = 1e-5
"""Stated beside the infinite epsilon of mode `none`, which has no delta of its own."""

PERCENTILE_REASON: Final = "the threshold is a percentile of raw norms, and the noise scale reveals it"
NO_NOISE_REASON: Final = "updates leave the site without clipping or noise"


@dataclass(frozen=True)
class Certified:
    """An epsilon that holds for a composition, and how it was found."""

    epsilon: float
    order: float
    """The Renyi order that certified it; infinite for the sum of pure epsilons."""
    caveats: tuple[str, ...] = ()


def charges(
    plan: PrivacyPlan,
    *,
    unit_count: int,
    dimension: int,
    steps: int,
    first_step: int = 0,
    repeated: bool = False,
) -> tuple[Charge, ...]:
    """What `steps` noised steps cost one unit.

    Args:
        plan: the run's privacy plan.
        unit_count: n, the site's units; public. Some readings scale their noise with it.
        dimension: D, coordinates of one unit's gradient.
        steps: steps to charge.
        first_step: steps of the run before these.
        repeated: whether any of these steps was charged before (a crashed attempt).

    Raises:
        PrivacyError: a number is out of range.
        ConfigError: no lattice carries the plan's noise.
    """
    for name, value, least in (
        ("unit_count", unit_count, 1),
        ("dimension", dimension, 1),
        ("steps", steps, 0),
    ):
        if value < least:
            raise PrivacyError(f"{name} is {value}; must be at least {least}")
    count = sampling.releases_seen(plan.sampling, first_step=first_step, steps=steps, repeated=repeated)
    return (Charge(event=_event(plan, unit_count, dimension), count=count),)


def certify(spent: Iterable[Charge], delta: float, *, order: float | None = None) -> Certified:
    """The least epsilon at `delta` that Renyi composition certifies for all charges together.

    Renyi divergences of equal order add up, whatever the mechanisms. An unbounded charge makes epsilon
    infinite.

    Args:
        spent: what one unit was exposed to.
        delta: in (0, 1). The distance between the lattice's draws and their ideal laws is taken off it
            first; where that is more than a hundredth of it, the figure is the ideal sampler's and a caveat
            says so.
        order: a Renyi order to use alone, as a filter fixed beforehand must; the best of `ORDERS` by default.

    Raises:
        PrivacyError: delta is outside (0, 1).
    """
    if not 0.0 < delta < 1.0:
        raise PrivacyError(f"delta is {delta}; must be above 0 and below 1")
    spent = tuple(spent)
    grouped = _grouped(spent)
    if any(isinstance(event, UnboundedEvent) for event in grouped):
        return Certified(math.inf, math.inf)
    if not grouped:
        return Certified(0.0, math.inf)
    orders = ORDERS if order is None else np.array([order])
    curve = composed_curve(spent, orders)
    pure = math.inf
    if order is None:
        pure = math.fsum(count * pure_epsilon(event) for event, count in grouped.items())
    draws = sum(
        count * event.dimension for event, count in grouped.items() if isinstance(event, LaplaceL2Event)
    )
    cautious, _ = _least(orders, curve, pure, 0.99 * delta)
    log_slack = math.log(draws) + LOG_TOTAL_VARIATION_PER_DRAW + float(np.logaddexp(0.0, cautious))
    if log_slack > math.log(delta / 100.0):
        return Certified(*_least(orders, curve, pure, delta), caveats=(IDEAL_SAMPLER_ONLY,))
    return Certified(*_least(orders, curve, pure, delta - math.exp(log_slack)))


def composed_curve(spent: Iterable[Charge], orders: renyi.Curve = ORDERS) -> renyi.Curve:
    """Renyi divergence of all charges together at each order; infinite if a charge is unbounded."""
    total = np.zeros_like(orders)
    for event, count in _grouped(spent).items():
        total = total + count * divergence(event, orders)
    return total


def divergence(event: Event, orders: renyi.Curve = ORDERS) -> renyi.Curve:
    """Renyi divergence of one event at each order."""
    return np.array(_divergence(event, tuple(orders.tolist())))


# A run repeats few events at the same orders, and a sampled one takes a tenth of a second.
@lru_cache(maxsize=256)
def _divergence(event: Event, orders: tuple[float, ...]) -> tuple[float, ...]:
    at = np.array(orders)
    if isinstance(event, UnboundedEvent):
        return (math.inf,) * len(orders)
    curve = renyi.poisson_sampled(
        lambda a: renyi.laplace_l2_divergence(a, event.signal, event.dimension),
        at,
        event.sampling_probability,
    )
    return tuple(curve.tolist())


def pure_epsilon(event: Event) -> float:
    """Epsilon of one event at delta = 0.

    sqrt(d) * T for `laplace_l2`: the L1 norm of a vector of L2 norm C is at most sqrt(d) * C. A Poisson
    sample with probability q turns it into ln(1 + q * (exp(epsilon) - 1)).
    """
    if isinstance(event, UnboundedEvent):
        return math.inf
    epsilon = math.sqrt(event.dimension) * event.signal
    if event.sampling_probability == 1.0:
        return epsilon
    if epsilon < 1.0:
        return math.log1p(event.sampling_probability * math.expm1(epsilon))
    q = event.sampling_probability
    return float(np.logaddexp(math.log1p(-q), math.log(q) + epsilon))


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
        ConfigError: no lattice carries the plan's noise.
    """
    spent = charges(plan, unit_count=unit_count, dimension=dimension, steps=steps)
    if delta is None:
        delta = plan.delta if isinstance(plan, PaperPrivacy) else DELTA_OF_NO_NOISE
    certified = certify(spent, delta)
    if_fixed = tuple(
        Charge(event=charge.event.if_fixed, count=charge.count)
        for charge in spent
        if isinstance(charge.event, UnboundedEvent) and charge.event.if_fixed is not None
    )
    supposed = certify(if_fixed, delta) if if_fixed else None
    caveats = [charge.event.reason for charge in spent if isinstance(charge.event, UnboundedEvent)]
    caveats += certified.caveats
    caveats += [f"epsilon_if_fixed: {caveat}" for caveat in (supposed.caveats if supposed else ())]
    if delta * unit_count >= 1.0:
        caveats.append(
            f"delta {delta:g} is not below 1/{unit_count}: it would allow giving one unit away whole"
        )
    if isinstance(plan, PaperPrivacy):
        caveats += _lattice_caveats(plan, unit_count, dimension)
    return Guarantee(
        epsilon=certified.epsilon,
        epsilon_if_fixed=supposed.epsilon if supposed else None,
        delta=delta,
        unit=plan.unit,
        neighboring_relation=NEIGHBORING_RELATION,
        sampling=describe_sampling(plan.sampling),
        mechanism=plan.mechanism if isinstance(plan, PaperPrivacy) else "none (unsafe)",
        steps=steps,
        accountant="none" if plan.mode == "none" else "renyi",
        nominal_epsilon=plan.nominal_epsilon if isinstance(plan, PaperPrivacy) else None,
        reading=plan.reading if isinstance(plan, PaperPrivacy) else None,
        caveats=tuple(caveats),
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


def _event(plan: PrivacyPlan, unit_count: int, dimension: int) -> Event:
    if not isinstance(plan, PaperPrivacy):
        return UnboundedEvent(reason=NO_NOISE_REASON)
    lattice = resolve_noise(plan, unit_count).lattice
    noised = LaplaceL2Event(
        sensitivity=lattice.sensitivity,
        scale_bits=lattice.scale_bits,
        dimension=dimension,
        sampling_probability=plan.sampling.probability if plan.sampling.mode == "poisson" else 1.0,
    )
    if plan.threshold.method == "percentile":
        return UnboundedEvent(reason=PERCENTILE_REASON, if_fixed=noised)
    return noised


def _grouped(spent: Iterable[Charge]) -> dict[Event, int]:
    grouped: dict[Event, int] = {}
    for charge in spent:
        if charge.count:
            grouped[charge.event] = grouped.get(charge.event, 0) + charge.count
    return grouped


def _least(orders: renyi.Curve, curve: renyi.Curve, pure: float, delta: float) -> tuple[float, float]:
    """Least epsilon over the orders and the pure bound, with its order."""
    epsilons = renyi.epsilon_at(orders, curve, delta)
    best = int(np.argmin(epsilons))
    if pure <= epsilons[best]:
        return pure, math.inf
    return float(epsilons[best]), float(orders[best])


def _lattice_caveats(plan: PaperPrivacy, unit_count: int, dimension: int) -> list[str]:
    loss = resolve_noise(plan, unit_count).lattice.truncation_loss(dimension)
    if loss <= 0.02:
        return []
    return [f"the lattice of so strong a noise may round off {loss:.0%} of a unit (no cost in privacy)"]
