"""Defects that well-known libraries have had, each planted in ours and found by the check that guards it.

Every test runs twice: on the code as built, where its check must hold, and with the defect planted, where the
same check must fail. A defect is planted by replacing a call, never by a switch in the code.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adpfl.experiment.audit import AuditSetting, audit_pipeline
from adpfl.kernels import ops
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import LatticeScale
from adpfl.learning.local_update import _Descent
from adpfl.privacy import accounting, calibration, clipping, renyi, sampling
from adpfl.privacy.engine import PrivacyEngine, ReleasedStep
from adpfl.privacy.events import Charge
from adpfl.privacy.plan import RigorousPrivacy

LATTICE = LatticeScale(20, 1 << 20)
"""Noise multiplier 1: a clipped unit is 2^20 lattice units long, and so is the noise scale."""

as_built_and_planted = pytest.mark.parametrize("planted", [False, True], ids=["as built", "planted"])


def found_if(planted: bool) -> AbstractContextManager[Any]:
    """The check inside must hold as built and must fail where the defect is planted."""
    return pytest.raises(AssertionError) if planted else nullcontext()


def plan_of(multiplier: float = 1.0, **sampling_keys: Any) -> RigorousPrivacy:
    return RigorousPrivacy.model_validate(
        {
            "mode": "rigorous",
            "mechanism": "laplace_l2",
            "noise_multiplier": multiplier,
            "threshold": {"method": "fixed", "clip_norm": 1.0},
            "sampling": sampling_keys or {"mode": "full"},
        }
    )


def engine_of(
    plan: RigorousPrivacy, *, unit_count: int = 8, dimension: int = 1000, byte: int = 1
) -> PrivacyEngine:
    key = KeystreamKey.from_bytes(bytes([byte] * 32))
    return PrivacyEngine(plan, unit_count=unit_count, dimension=dimension, key=key)


def released_sum(engine: PrivacyEngine, gradients: Iterable[Sequence[Tensor]], *, step: int = 0) -> Tensor:
    """The noised sum of one step of 8 units."""
    engine.sample(step)
    return engine.release(step, gradients).mean_gradient * 8


def lattice_sum(rows: Tensor, *, widths: Sequence[int] = (6, 4)) -> Tensor:
    pieces = list(torch.split(rows, list(widths), dim=1))
    return clipping.clipped_lattice_sum(
        [pieces], clip_norm=1.0, lattice=LATTICE, dimension=rows.shape[1]
    ).total


def length(total: Tensor) -> float:
    return float(total.double().norm()) / LATTICE.sensitivity


@as_built_and_planted
def test_sensitivity_off_by_the_batch_size(planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise meant for a mean is added to a sum: too little by the batch size."""
    units, dimension = 50, 20_000
    if planted:
        honest = ops.release
        monkeypatch.setattr(ops, "release", lambda total, **keys: honest(total, **keys) / units)
    engine = engine_of(plan_of(3.0), unit_count=units, dimension=dimension)
    engine.sample(0)
    step = engine.release(0, [[torch.zeros(units, dimension)]])
    scale = float(step.mean_gradient.double().abs().mean()) * units  # mean absolute value of Laplace(b) is b
    with found_if(planted):
        assert scale == pytest.approx(3.0, rel=0.05)


@as_built_and_planted
def test_key_reuse_across_tensors(planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tensor's noise starts the same stream anew, so that differences of tensors are released bare."""
    if planted:
        honest = ops.release

        def release(total: Tensor, **keys: Any) -> Tensor:
            half = honest(total[: len(total) // 2].clone(), **keys)
            return torch.cat([half, half])

        monkeypatch.setattr(ops, "release", release)
    noise = released_sum(engine_of(plan_of()), [[torch.zeros(8, 500), torch.zeros(8, 25, 20)]])
    first, second = noise[:500].numpy(), noise[500:].numpy()
    with found_if(planted):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.3  # six deviations of independent noise


@as_built_and_planted
def test_an_optimizer_that_silently_does_nothing(planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The private gradient is computed, and the weights move by something else."""
    if planted:
        monkeypatch.setattr(_Descent, "step", lambda *_: None)
    report = audit_pipeline(plan_of(), AuditSetting(canaries=100, steps=2, images=2, seed=0))
    with found_if(planted):
        assert report.gates[-1].name == "update"
        assert report.gates[-1].verdict == "passed"


@as_built_and_planted
def test_microbatches_double_the_sensitivity(planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit that is spread over two microbatches is clipped twice, and counts for 2C."""
    if planted:
        honest = clipping.clip_accumulate_

        def clip(total: Tensor, chunk: Sequence[Tensor], norms: Tensor, **keys: Any) -> Any:
            honest(total, chunk, norms, **keys)
            return honest(total, chunk, norms, **keys)

        monkeypatch.setattr(clipping, "clip_accumulate_", clip)
    rows = 3.0 * torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    without = rows.clone()
    without[2] = 0.0
    with found_if(planted):
        assert length(lattice_sum(rows) - lattice_sum(without)) <= 1.0


@as_built_and_planted
def test_coordinates_released_without_noise(planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some parameters, a bias or a layer added later, are never noised."""
    if planted:
        honest = ops.release

        def release(total: Tensor, **keys: Any) -> Tensor:
            released = honest(total, **keys)
            released[-10:] = (total[-10:] / LATTICE.sensitivity).float()
            return released

        monkeypatch.setattr(ops, "release", release)
    gradients = [[torch.full((8, 990), 0.01), torch.full((8, 10), 0.01)]]
    first, second = (released_sum(engine_of(plan_of(), byte=byte), gradients) for byte in (1, 2))
    with found_if(planted):
        assert int((first != second).sum()) >= 999  # equal noise on a coordinate: one chance in a million


@as_built_and_planted
def test_clipping_each_tensor_instead_of_the_whole_gradient(
    planted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C for each of k tensors is sqrt(k) * C for the unit."""
    if planted:
        honest = clipping.clip_accumulate_

        def clip(total: Tensor, chunk: Sequence[Tensor], norms: Tensor, **keys: Any) -> Any:
            start = 0
            for tensor in chunk:
                width = tensor[0].numel()
                part = total[start : start + width]
                counts = honest(part, [tensor], ops.unit_norms([tensor]), **keys)
                start += width
            return counts

        monkeypatch.setattr(clipping, "clip_accumulate_", clip)
    with found_if(planted):
        assert length(lattice_sum(torch.full((1, 10), 5.0))) <= 1.0


@as_built_and_planted
def test_an_empty_batch_is_released_and_charged(planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Poisson sample may be empty; skipping the step shows that it was, and leaves it unaccounted."""
    if planted:
        honest = PrivacyEngine.release

        def release(self: PrivacyEngine, step: int, gradients: Any) -> ReleasedStep:
            if len(self.sample(step)) > 0:
                return honest(self, step, gradients)
            nothing = torch.zeros(self._dimension)
            return ReleasedStep(nothing, 1.0, 1.0, np.zeros(0), units=0, clipped=0, nonfinite=0)

        monkeypatch.setattr(PrivacyEngine, "release", release)
    plan = plan_of(mode="poisson", probability=1e-9)
    engine = engine_of(plan)
    assert engine.sample(0).size == 0
    step = engine.release(0, [])
    charged = accounting.charges(plan, unit_count=8, dimension=1000, steps=1)
    with found_if(planted):
        assert int(torch.count_nonzero(step.mean_gradient)) == 1000
        assert engine.state.steps_taken == sum(charge.count for charge in charged) == 1


@as_built_and_planted
def test_fixed_batches_accounted_as_poisson(planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shuffled epochs are given the amplification that only Poisson sampling earns."""
    if planted:
        honest = accounting.charges

        def charges(plan: Any, **keys: Any) -> tuple[Charge, ...]:
            poisson = {"mode": "poisson", "probability": plan.sampling.probability}
            return honest(type(plan).model_validate(plan.model_dump() | {"sampling": poisson}), **keys)

        monkeypatch.setattr(accounting, "charges", charges)

    def epsilon(steps: int, **keys: Any) -> float:
        return accounting.guarantee(plan_of(2.0, **keys), unit_count=100, dimension=1000, steps=steps).epsilon

    shuffled = epsilon(20, mode="partition", probability=0.1)
    with found_if(planted):
        assert shuffled == epsilon(2, mode="full")  # each unit is seen once in each of two epochs


@as_built_and_planted
def test_a_wrong_sampling_rate(planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units are drawn with another probability than the one that is accounted for."""
    if planted:
        honest = sampling.poisson_sample

        def doubled(key: KeystreamKey, *, step: int, unit_count: int, probability: float) -> Any:
            return honest(key, step=step, unit_count=unit_count, probability=2 * probability)

        monkeypatch.setattr(sampling, "poisson_sample", doubled)
    plan, units = plan_of(mode="poisson", probability=0.1), 40_000
    (charge,) = accounting.charges(plan, unit_count=units, dimension=10, steps=1)
    accounted = charge.event.sampling_probability
    drawn = len(engine_of(plan, unit_count=units, dimension=10).sample(0))
    deviation = (units * accounted * (1 - accounted)) ** 0.5
    with found_if(planted):
        assert abs(drawn - units * accounted) < 6 * deviation


@as_built_and_planted
def test_stale_accumulated_gradients(planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum that is not zeroed between steps releases every unit again, and again."""
    if planted:
        honest, kept = ops.release, []

        def release(total: Tensor, **keys: Any) -> Tensor:
            kept.append(total.clone())
            return honest(torch.stack(kept).sum(dim=0), **keys)

        monkeypatch.setattr(ops, "release", release)
    engine = engine_of(plan_of(2.0**-10))
    released_sum(engine, [[torch.ones(8, 1000)]], step=0)
    second = released_sum(engine, [[torch.zeros(8, 1000)]], step=1)
    with found_if(planted):
        assert float(second.abs().mean()) < 2.0**-9  # the noise's own mean is 2^-10; a unit's share, 2^-5


@as_built_and_planted
@pytest.mark.parametrize("target", [0.7, 8.0])
def test_calibration_above_its_target(planted: bool, target: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that ends on the wrong side of its tolerance returns noise that is too weak."""
    if planted:
        honest = calibration.least_multiplier

        def too_weak(epsilon: Any, wanted: float) -> float:
            found = 0.999 * honest(epsilon, wanted)
            epsilon(found)
            return found

        monkeypatch.setattr(calibration, "least_multiplier", too_weak)
    found = calibration.calibrate(
        target_epsilon=target, mechanism="laplace_l2", dimension=10_000, delta=1e-5, steps=10
    )
    with found_if(planted):
        assert found.epsilon <= target


@as_built_and_planted
def test_epsilon_zero_at_an_order_just_above_one(planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The textbook formula cancels to nothing near order 1, and no divergence means no epsilon."""
    if planted:

        def textbook(orders: renyi.Curve, shift: float) -> renyi.Curve:
            a = orders
            inside = a / (2 * a - 1) * np.exp((a - 1) * shift) + (a - 1) / (2 * a - 1) * np.exp(-a * shift)
            return np.log(inside) / (a - 1)

        monkeypatch.setattr(renyi, "laplace_divergence", textbook)
    order, signal, dimension = np.array([1.0 + 1e-8]), 0.1, 10**6
    shift = signal / dimension**0.5
    limit = dimension * (shift**2 / 2 - shift**3 / 6)  # Kullback-Leibler, t + exp(-t) - 1, as a series
    with found_if(planted):
        assert renyi.laplace_l2_divergence(order, signal, dimension)[0] == pytest.approx(limit, rel=1e-6)


@as_built_and_planted
def test_units_that_are_not_finite_contribute_zero(planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """min(1, C / norm) lets a NaN through, and an infinite unit scaled by 0 is NaN again."""
    if planted:
        honest = clipping.clip_accumulate_

        def clip(total: Tensor, chunk: Sequence[Tensor], norms: Tensor, **keys: Any) -> Any:
            repaired = [torch.nan_to_num(tensor, nan=1.0, posinf=1.0, neginf=-1.0) for tensor in chunk]
            honest(total, repaired, torch.nan_to_num(norms, nan=1.0, posinf=1.0), **keys)
            return ops.ClipCounts(0, 0)

        monkeypatch.setattr(clipping, "clip_accumulate_", clip)
    rows = torch.full((5, 10), 0.1)
    rows[1, 3], rows[2, 7], rows[3, 0] = torch.nan, torch.inf, -torch.inf
    found = clipping.clipped_lattice_sum([[rows]], clip_norm=1.0, lattice=LATTICE, dimension=10)
    with found_if(planted):
        assert torch.equal(found.total, lattice_sum(rows[[0, 4]]))
        assert found.nonfinite == 3
