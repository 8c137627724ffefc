"""The audit from end to end, on gradients of the caller's choice."""

import math
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from adpfl.errors import PrivacyError
from adpfl.kernels.keystream import KeystreamKey
from adpfl.privacy import accounting, sampling
from adpfl.privacy.audit.canaries import Canaries, CanaryEngine
from adpfl.privacy.audit.gates import Promise
from adpfl.privacy.audit.report import AuditReport
from adpfl.privacy.audit.verdict import check_auditable, families_for, judge
from adpfl.privacy.clipping import GradientChunks
from adpfl.privacy.events import (
    DRAWN_LATTICE_VARIANCE_LOSS,
    ExponentialEvent,
    GaussianEvent,
    LaplaceL1Event,
    LaplaceL2Event,
    RegisteredEvent,
    UnboundedEvent,
)
from adpfl.privacy.plan import FixedThreshold, PrivacyPlan, UnsafeNonePrivacy

CANARIES: Final = 10_000
STEPS: Final = 3

GradientSource = Callable[[int, NDArray[np.int64]], GradientChunks]
"""(step, unit indices) -> these units' gradients."""


class Audit:
    """One audit: draw canaries, hand out the engine that carries them, judge what it released.

    Whatever drives the engine may be audited: a loop over made-up gradients (`audit_gradients`) or the whole
    of local training.
    """

    def __init__(
        self,
        plan: PrivacyPlan,
        *,
        unit_count: int,
        dimension: int,
        steps: int = STEPS,
        canaries: int = CANARIES,
        generator: np.random.Generator,
        key: KeystreamKey,
        shapes: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        """Work out the promise and prepare the engine.

        Args:
            plan: what is promised.
            unit_count: units besides the canaries.
            dimension: D.
            steps: how many the caller will release; at least 2.
            canaries: how many; D at most.
            generator: of the canaries' coins and places; unknown to the engine.
            key: of the engine.
            shapes: of the gradient's tensors; one flat tensor by default.

        Raises:
            PrivacyError: the plan cannot be audited, or a number is out of range.
        """
        self._promise = promise_of(plan, unit_count=unit_count + canaries, dimension=dimension, steps=steps)
        check_auditable(self._promise, steps)
        self._steps = steps
        self._canaries = Canaries.draw(
            canaries,
            families=families_for(self._promise, canaries=canaries),
            dimension=dimension,
            generator=generator,
        )
        self.engine = CanaryEngine(
            plan,
            unit_count=unit_count,
            dimension=dimension,
            key=key,
            canaries=self._canaries,
            clip_norm=_stated_clip_norm(plan),
            shapes=shapes,
        )

    def report(self) -> AuditReport:
        """Judge the releases.

        Raises:
            PrivacyError: the engine has not released as many steps as were announced.
        """
        if self.engine.steps != self._steps:
            raise PrivacyError(f"the engine released {self.engine.steps} steps; must be {self._steps}")
        return judge(self._canaries, self.engine.scores, promise=self._promise, steps=self._steps)


def audit_gradients(
    plan: PrivacyPlan,
    gradients: GradientSource,
    *,
    unit_count: int,
    dimension: int,
    generator: np.random.Generator,
    key: KeystreamKey,
    steps: int = STEPS,
    canaries: int = CANARIES,
) -> AuditReport:
    """Audit the engine alone; arguments as of `Audit`.

    Args:
        plan: what is promised.
        gradients: of the units besides the canaries.
        unit_count: how many these are.
        dimension: D.
        generator: of the canaries' coins and places.
        key: of the engine.
        steps: to release.
        canaries: how many.
    """
    audit = Audit(
        plan,
        unit_count=unit_count,
        dimension=dimension,
        steps=steps,
        canaries=canaries,
        generator=generator,
        key=key,
    )
    for step in range(steps):
        audit.engine.release(step, gradients(step, audit.engine.sample(step)))
    return audit.report()


def promise_of(plan: PrivacyPlan, *, unit_count: int, dimension: int, steps: int) -> Promise:
    """What the ledger would be charged for these steps, and the noise that the charge rests on.

    Raises:
        PrivacyError: the plan promises nothing finite.
    """
    signal, deviation, exposures = 0.0, 0.0, 0
    for charge in accounting.charges(plan, unit_count=unit_count, dimension=dimension, steps=steps):
        match charge.event:
            case UnboundedEvent(reason=reason):
                raise PrivacyError(
                    f"the honest epsilon is infinite, and no audit of it can fail: {reason}; "
                    "audit the same noise with a fixed threshold"
                )
            case RegisteredEvent(mechanism=mechanism):
                raise PrivacyError(
                    f"mechanism {mechanism} is registered from outside; its mu is not known here"
                )
            case ExponentialEvent():
                continue  # the threshold's own release: canaries are scored on the gradients' alone
            case GaussianEvent(sensitivity=sensitivity, scale_bits=bits):
                signal, deviation = sensitivity / math.sqrt(4**bits - DRAWN_LATTICE_VARIANCE_LOSS), 1.0
            case (
                LaplaceL2Event(sensitivity=sensitivity, scale_bits=bits)
                | LaplaceL1Event(sensitivity=sensitivity, scale_bits=bits)
            ):
                signal, deviation = sensitivity / (1 << bits), math.sqrt(2.0)
        exposures += charge.count
    ask = partial(accounting.guarantee, plan, unit_count=unit_count, dimension=dimension, steps=steps)
    return Promise(
        guarantee=ask(),
        signal=signal,
        noise_deviation=deviation,
        exposures=exposures,
        participation=float(sampling.exact_probability(plan.sampling)),
        epsilon_at=lambda delta: ask(delta=delta).epsilon,
    )


def _stated_clip_norm(plan: PrivacyPlan) -> float:
    if isinstance(plan, UnsafeNonePrivacy):
        raise PrivacyError("privacy.mode is none; there is no promise to audit")
    if isinstance(plan.threshold, FixedThreshold):
        return plan.threshold.clip_norm
    return plan.threshold.initial_clip_norm
