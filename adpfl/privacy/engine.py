"""The one place where sampling, clipping, threshold and noise meet.

Each of them is a module of its own that knows nothing of the others. What the engine does in a step is what
`adpfl.privacy.accounting` charges for it; a change here that alters the distribution of a release is a
change there.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt
from torch import Tensor

from adpfl.config import FrozenModel
from adpfl.errors import PrivacyError, StateError
from adpfl.kernels import ops
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import threshold_draw
from adpfl.privacy import sampling
from adpfl.privacy.calibration import resolve_noise
from adpfl.privacy.clipping import (
    GradientChunks,
    UnitSum,
    clipped_lattice_sum,
    gradient_norms,
    unsafe_plain_sum,
)
from adpfl.privacy.exponential import exponential_choice
from adpfl.privacy.noise import Noise
from adpfl.privacy.plan import (
    AnyThreshold,
    FixedThreshold,
    NoisyBitsThreshold,
    PrivacyPlan,
    SlackThreshold,
    UnsafeNonePrivacy,
)
from adpfl.privacy.thresholds import (
    ThresholdState,
    after_noisy_bits,
    after_slack,
    bit_sum,
    choose_clip_norm,
    needs_norms_first,
    slack_sum,
)


class EngineState(FrozenModel):
    """What the engine carries from round to round. JSON-able; private: it holds raw norms and an order."""

    steps_taken: NonNegativeInt = 0
    """Steps over the life of the run, redone ones not counted; `LedgerStore.reserve` takes it as
    `first_step`."""
    unit_count: NonNegativeInt | None = None
    """Units that `epoch_order` arranges."""
    epoch_order: tuple[NonNegativeInt, ...] = ()
    """The current epoch's secret order of all units, under `partition`."""
    threshold: ThresholdState = ThresholdState()
    excluded: tuple[NonNegativeInt, ...] = ()
    """Positions that were empty."""


@dataclass(frozen=True)
class ReleasedStep:
    """One step's outcome. Only `mean_gradient` and what is computed from it may leave the site."""

    mean_gradient: Tensor
    """float32 (D,): noised sum over the public divisor q*n."""
    clip_norm: float | None
    """C; None in mode `none`."""
    noise_scale: float | None
    """b or sigma, on each coordinate of the sum; None in mode `none`."""
    norms: NDArray[np.float64]
    """Raw norms of the sampled units, (B,)."""
    units: int
    clipped: int
    nonfinite: int


@dataclass(frozen=True)
class _Sample:
    step: int
    indices: NDArray[np.int64]
    epoch_order: tuple[int, ...]


class PrivacyEngine:
    """Turns per-unit gradients into noised means, one step at a time, under one secret key.

    Steps count from 0 and rise within the key's life; a step is released once. The key is the caller's:
    wipe it when the update is sealed.
    """

    def __init__(
        self,
        plan: PrivacyPlan,
        *,
        unit_count: int,
        dimension: int,
        key: KeystreamKey | None,
        state: EngineState | None = None,
        excluded: Iterable[int] = (),
    ) -> None:
        """Resolve the plan for this site.

        Args:
            plan: the run's privacy plan.
            unit_count: n, the site's units; public.
            dimension: D, coordinates of one unit's gradient.
            key: fresh for this round; None only where the plan draws nothing at all (mode `none` with
                `full`).
            state: what the previous round's engine left; None at the start of a run.
            excluded: positions of units that withdrew. They keep their places: n and q*n stay, they are drawn
                like the others and contribute nothing, which is what the zero-out relation calls a neighbour.

        Raises:
            ConfigError: no lattice carries the plan's noise, no noise reaches its target, or its registered
                mechanism is not known here.
            PrivacyError: a count is not positive, or a needed key is missing.
            StateError: the state arranges another number of units; start again from None.
        """
        for name, value in (("unit_count", unit_count), ("dimension", dimension)):
            if value < 1:
                raise PrivacyError(f"{name} is {value}; must be at least 1")
        draws = plan.mode != "none" or plan.mechanism is not None or plan.sampling.mode != "full"
        if key is None and draws:
            raise PrivacyError("key is None; noise and sampling need a secret key")
        self._state = state or EngineState()
        if self._state.unit_count not in (None, unit_count):
            raise StateError(
                f"unit_count is {unit_count}; must be {self._state.unit_count}, as in the saved engine state"
            )
        self._plan = plan
        self._unit_count = unit_count
        self._dimension = dimension
        self._key = key
        self._divisor = sampling.expected_units(plan.sampling, unit_count)
        self._noise = resolve_noise(plan, unit_count, dimension)
        self._threshold = _threshold_of(plan)
        self._chosen_at = -1
        self._excluded = np.array(sorted(set(excluded)), dtype=np.int64)
        if self._excluded.size and not 0 <= self._excluded[0] <= self._excluded[-1] < unit_count:
            raise PrivacyError(f"excluded holds positions outside 0 to {unit_count - 1}; must name units")
        if not set(self._excluded.tolist()) <= set(self._state.excluded):
            # Norms of who has just withdrawn are among those of earlier steps, and no longer told apart.
            forgotten = self._state.threshold.model_copy(update={"window": ()})
            self._state = self._state.model_copy(update={"threshold": forgotten})
        self._sample: _Sample | None = None
        self._released = -1

    @property
    def state(self) -> EngineState:
        """What the next round's engine needs. Save it together with the sealed update, never earlier."""
        return self._state

    @property
    def participating(self) -> NDArray[np.int64]:
        """Positions of all units that have not withdrawn, ascending: whom `choose_threshold` is about."""
        return np.setdiff1d(np.arange(self._unit_count, dtype=np.int64), self._excluded, assume_unique=True)

    def sample(self, step: int) -> NDArray[np.int64]:
        """Indices of the units of this step, ascending. Secret, and so is how many they are; may be none.

        Asking again before the step is released gives the same answer.

        Raises:
            PrivacyError: the step was released already.
        """
        if step <= self._released:
            raise PrivacyError(f"step is {step}; must be above {self._released}, the last step released")
        if self._sample is None or self._sample.step != step:
            drawn = self._draw(step)
            taking_part = np.setdiff1d(drawn.indices, self._excluded, assume_unique=True)
            self._sample = replace(drawn, indices=taking_part)
        return self._sample.indices

    def release(self, step: int, gradients: GradientChunks) -> ReleasedStep:
        """Clip, sum, noise, divide by q*n.

        Args:
            step: the step last sampled.
            gradients: one row for each sampled unit, in chunks; iterated twice where the threshold must
                rank all norms before the first clip and there is more than one chunk. No chunk at all is an
                empty sample: pure noise is released, and the step is charged like any other.

        Raises:
            PrivacyError: the step is not the one last sampled, or the rows are not its units; nothing was
                released.
        """
        if self._sample is None or self._sample.step != step:
            raise PrivacyError(f"step is {step}; must be the step last sampled, and is released once")
        sample = self._sample
        if self._noise is None or self._threshold is None:
            unit_sum = unsafe_plain_sum(gradients, dimension=self._dimension)
            self._require_rows(unit_sum.norms, sample)
            released, clip_norm, noise_scale = unit_sum.total.float(), None, None
            threshold_state = self._state.threshold
        else:
            released, unit_sum, clip_norm, threshold_state = self._noised(
                gradients, sample, self._noise, self._threshold
            )
            noise_scale = self._noise.scale(clip_norm)
        self._released, self._sample = step, None
        self._state = EngineState(
            steps_taken=self._state.steps_taken + 1,
            unit_count=self._unit_count,
            epoch_order=sample.epoch_order,
            threshold=threshold_state,
            excluded=tuple(self._excluded.tolist()),
        )
        return ReleasedStep(
            mean_gradient=released / self._divisor,
            clip_norm=clip_norm,
            noise_scale=noise_scale,
            norms=unit_sum.norms,
            units=len(sample.indices),
            clipped=unit_sum.clipped,
            nonfinite=unit_sum.nonfinite,
        )

    def _draw(self, step: int) -> _Sample:
        choice = self._plan.sampling
        if choice.mode == "full":
            return _Sample(step, np.arange(self._unit_count, dtype=np.int64), ())
        assert self._key is not None  # checked at construction
        if choice.mode == "poisson":
            drawn = sampling.poisson_sample(
                self._key, step=step, unit_count=self._unit_count, probability=choice.probability
            )
            return _Sample(step, drawn, ())
        position = self._state.steps_taken % sampling.steps_per_epoch(choice)
        if position == 0:
            order = sampling.shuffled_order(self._key, step=step, unit_count=self._unit_count)
        else:
            order = np.asarray(self._state.epoch_order, dtype=np.int64)
        return _Sample(
            step, sampling.partition_batch(choice, order, position=position), tuple(order.tolist())
        )

    def needs_all_units(self, step: int) -> bool:
        """Whether `choose_threshold` must be called with every unit's gradients before this step's release.

        So it is where an `exponential` threshold is due and the step's own sample is not all units.
        """
        return self._is_choice_due(step) and self._plan.sampling.mode != "full"

    def choose_threshold(self, step: int, gradients: GradientChunks) -> float:
        """Choose the clip norm of this step and those that follow, privately, over ALL units.

        Charged as one choice of the `exponential` threshold.

        Args:
            step: the step that is about to be released.
            gradients: one row for each of the site's n units, excluded ones left out.

        Returns:
            C, public from now on.

        Raises:
            PrivacyError: no choice is due at this step, or the rows are not all units.
        """
        if not self._is_choice_due(step):
            raise PrivacyError(f"step is {step}; no choice of a threshold is due, and each is made once")
        assert self._noise is not None
        norms = gradient_norms(gradients, order=self._noise.order)
        return self._choose(step, norms)

    def _is_choice_due(self, step: int) -> bool:
        threshold = self._threshold
        if threshold is None or threshold.method != "exponential" or self._chosen_at == step:
            return False
        return self._state.steps_taken % threshold.refresh_steps == 0

    def _choose(self, step: int, norms: NDArray[np.float64]) -> float:
        assert self._threshold is not None
        assert self._threshold.method == "exponential"
        assert self._key is not None
        taking_part = self._unit_count - self._excluded.size
        if len(norms) != taking_part:
            raise PrivacyError(f"gradients hold {len(norms)} units; must hold all {taking_part}")
        chosen = exponential_choice(self._threshold, norms, key=self._key, step=step)
        self._chosen_at = step
        self._state = self._state.model_copy(update={"threshold": ThresholdState(last_clip_norm=chosen)})
        return chosen

    def _noised(
        self, gradients: GradientChunks, sample: _Sample, noise: Noise, threshold: AnyThreshold
    ) -> tuple[Tensor, UnitSum, float, ThresholdState]:
        """The noised sum, what was summed, C, and the threshold's next state."""
        due = self._is_choice_due(sample.step)
        if due and self._plan.sampling.mode != "full":
            raise PrivacyError(f"step {sample.step} needs choose_threshold over all units before its release")
        norms = np.zeros(0)
        chunks = gradients
        if due or needs_norms_first(threshold):
            recorded = _RememberedIfSingle(gradients)
            norms = gradient_norms(recorded, order=noise.order)
            self._require_rows(norms, sample)
            chunks = recorded.again()
        if due:
            self._choose(sample.step, norms)
        clip_norm, state = choose_clip_norm(threshold, norms, self._state.threshold)
        unit_sum = clipped_lattice_sum(
            chunks,
            clip_norm=clip_norm,
            lattice=noise.lattice,
            dimension=self._dimension,
            order=noise.order,
        )
        self._require_rows(unit_sum.norms, sample)
        released = self._add_noise(unit_sum, clip_norm, sample.step, noise)
        if isinstance(threshold, SlackThreshold):
            released, slack = released[: self._dimension], released[self._dimension :]
            state = after_slack(
                threshold,
                clip_norm,
                slack.double().cpu().numpy(),
                expected_units=self._divisor,
                order=noise.order,
            )
        elif isinstance(threshold, NoisyBitsThreshold):
            bits = self._noisy_bits(unit_sum.norms, clip_norm, sample.step, noise)
            state = after_noisy_bits(threshold, clip_norm, bits, self._divisor)
        return released, unit_sum, clip_norm, state

    def _add_noise(self, unit_sum: UnitSum, clip_norm: float, step: int, noise: Noise) -> Tensor:
        """The noised sum: (D,), or (D + K,) with K slack coordinates behind the gradient's."""
        assert self._key is not None
        total = unit_sum.total
        if noise.registered is not None:
            self._key.claim_step(step)
            plain = total.double() * (clip_norm / noise.lattice.sensitivity)
            perturbed = noise.registered.perturb(
                plain, clip_norm=clip_norm, noise_multiplier=noise.multiplier, key=self._key, step=step
            )
            if perturbed.shape != total.shape:
                raise PrivacyError(
                    f"mechanism {noise.registered.name} gave shape {tuple(perturbed.shape)}; must give "
                    f"{tuple(total.shape)}"
                )
            return perturbed.float()
        if noise.slack_coordinates:
            slack = slack_sum(
                unit_sum.norms,
                clip_norm=clip_norm,
                sensitivity=noise.lattice.sensitivity,
                coordinates=noise.slack_coordinates,
                order=noise.order,
            )
            total = torch.cat([total, torch.from_numpy(slack).to(total.device)])
        return ops.release(
            total, clip_norm=clip_norm, lattice=noise.lattice, law=noise.law, key=self._key, step=step
        )

    def _noisy_bits(self, norms: NDArray[np.float64], clip_norm: float, step: int, noise: Noise) -> float:
        """Noised sum of +-1/2 bits: an exact integer on the bit's lattice, then one public factor."""
        assert noise.bit is not None
        assert self._key is not None
        draw = threshold_draw(self._key, scale_bits=noise.bit.scale_bits, step=step)
        return (2 * noise.bit.sensitivity * bit_sum(norms, clip_norm) + draw) / (4 * noise.bit.sensitivity)

    def _require_rows(self, norms: NDArray[np.float64], sample: _Sample) -> None:
        """One row a sampled unit: more would count a unit twice, fewer is a second pass that fell short."""
        if len(norms) != len(sample.indices):
            raise PrivacyError(
                f"gradients hold {len(norms)} units; must hold the {len(sample.indices)} sampled ones"
            )


def _threshold_of(plan: PrivacyPlan) -> AnyThreshold | None:
    if not isinstance(plan, UnsafeNonePrivacy):
        return plan.threshold
    if plan.mechanism is None or plan.clip_norm is None:
        return None
    return FixedThreshold(method="fixed", clip_norm=plan.clip_norm)


class _RememberedIfSingle:
    """Chunks kept for a second pass while there is only one: gradients are costly to compute twice."""

    def __init__(self, chunks: GradientChunks) -> None:
        self._chunks = chunks
        self._first: Sequence[Tensor] | None = None
        self._several = False

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        for index, chunk in enumerate(self._chunks):
            self._first, self._several = (chunk, False) if index == 0 else (None, True)
            yield chunk

    def again(self) -> GradientChunks:
        """The same chunks once more."""
        if self._several:
            return self._chunks
        return () if self._first is None else (self._first,)
