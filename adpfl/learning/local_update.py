"""A round's local training: model, units, engine and plan in; one noised update out.

Every step is released by the privacy engine before it touches a weight, and the weights of the next step
follow from released gradients and public settings alone: momentum, weight decay and the proximal term are
post-processing. The update is therefore as private as its steps, and nothing else of the site's data is in
it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adpfl.errors import AdpflError
from adpfl.federated.records import StepRecord
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.initial_model import build_network
from adpfl.learning.networks import TensorLayout, dimension, load_into, parameter_layout, weights_of
from adpfl.learning.per_sample import Method, UnitBatch, UnitGradients, choose_method, units_within
from adpfl.learning.plan import LocalPlan
from adpfl.learning.units import TrainingUnits
from adpfl.learning.views import MeanOverViews
from adpfl.privacy.clipping import GradientChunks
from adpfl.privacy.engine import PrivacyEngine, ReleasedStep
from adpfl.privacy.plan import claims_epsilon
from adpfl.tasks.task import Task

MEMORY_BYTES = 1024 * 2**20
"""Default bound on what per-unit gradients and the activations behind them hold at once."""


_FLOAT_BYTES = 4


class TrainingStoppedError(AdpflError):
    """The caller asked to stop between two steps; what was reserved stays charged and no update exists."""


class DivergedError(AdpflError):
    """Training left the finite numbers; what was reserved stays charged and no update exists."""


@dataclass(frozen=True)
class LocalUpdate:
    """What a site learned in one round.

    Attributes:
        delta: new weights minus the round's base, float32, of every trainable tensor, by name in layout
            order. May leave the site.
        steps: what happened in each step. Stays at the site: it holds raw norms and the number of sampled
            units.
    """

    delta: dict[str, Tensor]
    steps: tuple[StepRecord, ...]


def local_update(
    base: Mapping[str, Tensor],
    *,
    plan: RunPlan,
    task: Task,
    units: TrainingUnits,
    engine: PrivacyEngine,
    round_number: int,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> LocalUpdate:
    """Train `plan.local.steps` steps from the round's base.

    A step whose sample is empty is released and charged like any other: it moves the weights by noise alone.

    Args:
        base: the round's global weights, every tensor by name.
        plan: the run's.
        task: the plan's task.
        units: the site's training units.
        engine: under a fresh key; its `dimension` is that of `update_layout(plan, task)`, its `unit_count`
            len(units).
        round_number: counts from 1.
        memory_bytes: bound on what per-unit gradients and the activations behind them hold at once.
        progress: called after each step with (steps done, steps in all).
        should_stop: asked before each step.

    Raises:
        ModelMismatchError: `base` is not a set of weights of the plan's network.
        DivergedError: the trained weights are not finite.
        TrainingStoppedError: `should_stop` said so.
    """
    model = build_network(plan, task)
    load_into(model, base, source=f"base model of round {round_number}")
    gradients = _GradientSource(model, plan, task, units, memory_bytes)
    descent = _Descent(model, plan.local)
    records: list[StepRecord] = []
    for step in range(plan.local.steps):
        if should_stop is not None and should_stop():
            raise TrainingStoppedError(
                f"round {round_number} was stopped after {step} of {plan.local.steps} steps"
            )
        if engine.needs_all_units(step):
            # Gradients of units outside the step's sample serve the private choice of C and nothing else.
            everyone = engine.participating
            engine.choose_threshold(step, gradients.of(everyone, round_number=round_number, step=step))
        sampled = engine.sample(step)
        released = engine.release(step, gradients.of(sampled, round_number=round_number, step=step))
        descent.step(released.mean_gradient)
        records.append(_record(released, round_number, step))
        if progress is not None:
            progress(step + 1, plan.local.steps)
    trained = weights_of(model)
    delta = {tensor.name: trained[tensor.name] - base[tensor.name] for tensor in parameter_layout(model)}
    _check_finite(delta, round_number)
    return LocalUpdate(delta=delta, steps=tuple(records))


class _GradientSource:
    """Per-unit gradients of the model as it stands, by the method and chunk size that suit it."""

    def __init__(
        self, model: nn.Module, plan: RunPlan, task: Task, units: TrainingUnits, memory_bytes: int
    ) -> None:
        self._model = model
        self._units = units
        self._loss = task.loss
        self._views = plan.local.augmentations_per_record
        self._apart = claims_epsilon(plan.privacy)
        self._memory_bytes = memory_bytes
        self._dimension = dimension(parameter_layout(model))
        self._chunk_units = units_within(
            memory_bytes // 2,
            model=model,
            # The plan's, not that of the patient with most images: no way of working may follow the data.
            records_per_unit=plan.local.records_per_unit if self._apart else units.records_per_unit,
            in_channels=task.in_channels,
            image_size=plan.image_size,
        )
        self._method: Method | None = None

    def of(self, indices: NDArray[np.int64], *, round_number: int, step: int) -> GradientChunks:
        """The gradients of the units at these positions, averaged over the step's views."""

        def gradients(units: slice, view: int, keep_bytes: int = 0) -> UnitGradients:
            batch = self._units.batch(indices[units], round_number=round_number, step=step, view=view)
            return self._of_batch(batch, keep_bytes)

        if self._views == 1:
            return gradients(slice(None), 0, self._memory_bytes // 2)
        kept_bytes = _FLOAT_BYTES * self._dimension * len(indices)
        return MeanOverViews(
            gradients,
            views=self._views,
            units=len(indices),
            chunk_units=self._chunk_units,
            keep=kept_bytes <= self._memory_bytes // 2,
        )

    def _of_batch(self, batch: UnitBatch, keep_bytes: int) -> UnitGradients:
        if self._method is None and len(batch) > 0:
            one_by_one = self._chunk_units == 1  # the loop is the faster way to take units one at a time
            self._method = (
                "microbatch"
                if one_by_one
                else choose_method(self._model, self._loss, batch, apart=self._apart)
            )
        return UnitGradients(
            self._model,
            batch,
            self._loss,
            chunk_units=self._chunk_units,
            keep_bytes=keep_bytes,
            method=self._method or "layers",
        )


class _Descent:
    """Gradient descent with momentum, weight decay and FedProx (Li et al. 2020) on a released gradient.

    With g the released mean gradient, w the weights and w0 the round's base:
    g' = g + weight_decay*w + mu*(w - w0); v = momentum*v + g'; w = w - learning_rate*v. v starts at zero
    every round.
    """

    def __init__(self, model: nn.Module, plan: LocalPlan) -> None:
        self._plan = plan
        self._layout: tuple[TensorLayout, ...] = parameter_layout(model)
        self._weights = [model.get_parameter(tensor.name) for tensor in self._layout]
        self._base = [weight.detach().clone() for weight in self._weights]
        self._velocity = [torch.zeros_like(weight) for weight in self._base]

    @torch.no_grad()
    def step(self, mean_gradient: Tensor) -> None:
        plan = self._plan
        pieces = torch.split(mean_gradient, [tensor.size for tensor in self._layout])
        for weight, base, velocity, piece in zip(
            self._weights, self._base, self._velocity, pieces, strict=True
        ):
            gradient = piece.view_as(weight) + plan.weight_decay * weight + plan.fedprox_mu * (weight - base)
            velocity.mul_(plan.momentum).add_(gradient)
            weight.sub_(velocity, alpha=plan.learning_rate)


def _record(released: ReleasedStep, round_number: int, step: int) -> StepRecord:
    return StepRecord(
        round=round_number,
        step=step,
        clip_norm=released.clip_norm,
        noise_scale=released.noise_scale,
        norm_quantiles=_quantiles(released.norms),
        units=released.units,
        clipped_units=released.clipped,
        nonfinite_units=released.nonfinite,
    )


def _quantiles(norms: NDArray[np.float64]) -> tuple[float, ...]:
    finite = norms[np.isfinite(norms)]
    if finite.size == 0:
        return ()
    return tuple(float(value) for value in np.quantile(finite, (0.0, 0.25, 0.5, 0.75, 1.0)))


def _check_finite(delta: Mapping[str, Tensor], round_number: int) -> None:
    for name, tensor in delta.items():
        if not bool(torch.isfinite(tensor).all()):
            raise DivergedError(
                f"round {round_number}: tensor {name} is no longer finite; "
                "lower local.learning_rate or the noise"
            )
