"""The audit passes the real engine and fails each planted defect; its gates keep their stated odds.

Defects are planted where the engine meets the kernels, by replacing a call. No code under test knows of them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adpfl.errors import PrivacyError
from adpfl.experiment.audit import AuditSetting, audit_pipeline
from adpfl.kernels import ops
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import LatticeScale, gaussian_draws, laplace_draws
from adpfl.learning.local_update import _Descent
from adpfl.privacy import clipping
from adpfl.privacy.audit.battery import Audit, audit_gradients, promise_of
from adpfl.privacy.audit.canaries import Canaries, CanaryEngine, Family
from adpfl.privacy.audit.gates import THRESHOLDS
from adpfl.privacy.audit.report import AuditReport
from adpfl.privacy.audit.verdict import families_for, judge
from adpfl.privacy.plan import PaperPrivacy, PrivacyPlan, RigorousPrivacy, Sampling, UnsafeNonePrivacy

CANARIES = 2400
DIMENSION = 4000
UNITS = 10
MECHANISMS = ("laplace_l2", "laplace_l1", "gaussian")

Noise = Callable[[Tensor, int], Tensor]
Plant = Callable[[pytest.MonkeyPatch], list[str]]


def plan_of(
    mechanism: str = "gaussian", multiplier: float = 1.0, *, probability: float = 1.0
) -> RigorousPrivacy:
    return RigorousPrivacy.model_validate(
        {
            "mode": "rigorous",
            "mechanism": mechanism,
            "noise_multiplier": multiplier,
            "threshold": {"method": "fixed", "clip_norm": 0.5},
            "sampling": {"mode": "full"}
            if probability == 1
            else {"mode": "poisson", "probability": probability},
        }
    )


def paper(multiplier: float) -> PaperPrivacy:
    return PaperPrivacy.model_validate(
        {
            "mode": "paper",
            "reading": "multiplier",
            "nominal_epsilon": multiplier,
            "threshold": {"method": "fixed", "clip_norm": 0.5},
            "sampling": {"mode": "full"},
        }
    )


def gradients(step: int, indices: np.ndarray) -> list[list[Tensor]]:
    """Of norms around 1: twice the clip norm."""
    generator = torch.Generator().manual_seed(step)
    table = torch.randn(UNITS, DIMENSION, generator=generator) / math.sqrt(DIMENSION)
    return [[table[torch.from_numpy(indices)]]]


def key(byte: int = 7) -> KeystreamKey:
    return KeystreamKey.from_bytes(bytes([byte] * 32))


def audit(plan: PrivacyPlan, *, seed: int = 0, **keys: Any) -> AuditReport:
    sizes = {"unit_count": UNITS, "dimension": DIMENSION, "canaries": CANARIES, "steps": 4} | keys
    if plan.mode != "none" and plan.mechanism != "gaussian":
        sizes["canaries"] = keys.get("canaries", DIMENSION)  # Laplace sums show less of their limit
    generator = np.random.default_rng(seed)
    return audit_gradients(plan, gradients, generator=generator, key=key(seed), **sizes)


def plant_noise(monkeypatch: pytest.MonkeyPatch, change: Noise | None) -> list[str]:
    """Release what the engine would, with its noise changed, or that of step 0 in every step."""
    honest, calls = ops.release, []

    def release(
        total: Tensor, *, clip_norm: float, lattice: LatticeScale, law: str, key: KeystreamKey, step: int
    ) -> Tensor:
        calls.append("release")
        released = honest(total, clip_norm=clip_norm, lattice=lattice, law=law, key=key, step=step)
        draw = laplace_draws if law == "laplace" else gaussian_draws

        def noise(at: int) -> Tensor:
            drawn = draw(key, scale_bits=lattice.scale_bits, step=at, first_index=0, count=len(total))
            return torch.from_numpy(drawn).double() * (clip_norm / (2 * lattice.sensitivity))

        wanted = noise(0) if change is None else change(noise(step), step)
        return (released.double() - noise(step) + wanted).float()

    monkeypatch.setattr(ops, "release", release)
    return calls


def plant_clip(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor, float, LatticeScale], tuple[Any, ...]]
) -> list[str]:
    """Clip with other norms, another clip norm or another lattice than the engine asked for."""
    honest, calls = clipping.clip_accumulate_, []

    def clip(
        total: Tensor, chunk: Sequence[Tensor], norms: Tensor, *, clip_norm: float, lattice: LatticeScale
    ) -> Any:
        calls.append("clip")
        norms, clip_norm, lattice = change(norms, clip_norm, lattice)
        return honest(total, chunk, norms, clip_norm=clip_norm, lattice=lattice)

    monkeypatch.setattr(clipping, "clip_accumulate_", clip)
    return calls


def plant_stale_sum(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sum is never zeroed between steps."""
    honest, calls, kept = ops.release, [], []

    def release(total: Tensor, **keys: Any) -> Tensor:
        calls.append("release")
        kept.append(total.clone())
        return honest(torch.stack(kept).sum(dim=0), **keys)

    monkeypatch.setattr(ops, "release", release)
    return calls


def double_sensitivity(norms: Tensor, clip_norm: float, lattice: LatticeScale) -> tuple[Any, ...]:
    return norms, 2 * clip_norm, LatticeScale(lattice.scale_bits, 2 * lattice.sensitivity)


def no_clip(norms: Tensor, clip_norm: float, lattice: LatticeScale) -> tuple[Any, ...]:
    return torch.zeros_like(norms), clip_norm, lattice


DEFECTS: dict[str, Plant] = {
    "half noise": lambda patch: plant_noise(patch, lambda noise, _: noise / 2),
    "doubled sensitivity": lambda patch: plant_clip(patch, double_sensitivity),
    "no clip": lambda patch: plant_clip(patch, no_clip),
    "noise divided by the batch size": lambda patch: plant_noise(patch, lambda noise, _: noise / CANARIES),
    "stale gradients": plant_stale_sum,
    "noise on the first step only": lambda patch: plant_noise(
        patch, lambda noise, step: noise * float(step == 0)
    ),
    "reused noise": lambda patch: plant_noise(patch, None),
}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_real_engine_passes(mechanism: str) -> None:
    report = audit(plan_of(mechanism))
    assert report.verdict == "passed", report.gates
    assert report.steps == 4
    assert report.noise_multiplier == pytest.approx(1.0)
    for measure in report.measures:
        assert measure.contribution == pytest.approx(1.0, abs=0.2)
        assert measure.noise == pytest.approx(measure.noise_promised, rel=0.15)


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("mechanism", ["laplace_l2", "gaussian"])
def test_a_planted_defect_fails(mechanism: str, defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = DEFECTS[defect](monkeypatch)
    report = audit(plan_of(mechanism))
    assert len(calls) >= 4, "the engine no longer passes where the defect was planted"
    assert report.verdict == "failed", report.gates


@pytest.mark.full
@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_planted_defect_fails_at_every_seed(
    mechanism: str, defect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(5):
        assert audit(plan_of(mechanism), seed=seed).verdict == "passed"
    for seed in range(5):
        with monkeypatch.context() as patch:
            DEFECTS[defect](patch)
            assert audit(plan_of(mechanism), seed=seed).verdict == "failed"


def test_at_the_papers_noise_the_audit_says_what_it_cannot_tell() -> None:
    report = audit(paper(0.001), canaries=DIMENSION)
    assert report.verdict == "passed", report.gates
    loud = [gate for gate in report.gates if gate.name == "telling apart" and "3 C" in gate.canaries]
    assert {gate.verdict for gate in loud} == {"cannot tell"}
    assert report.gates[0].verdict == "cannot tell"
    assert any("nothing here says that one is protected" in remark for remark in report.remarks)


@pytest.mark.parametrize("defect", ["half noise", "no clip", "stale gradients", "reused noise"])
def test_at_the_papers_noise_faint_canaries_find_defects(
    defect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    DEFECTS[defect](monkeypatch)
    assert audit(paper(0.001), canaries=DIMENSION).verdict == "failed"


def test_noise_far_above_the_canaries_is_not_called_passed() -> None:
    report = audit(plan_of("gaussian", 50.0))
    assert report.verdict == "cannot tell"
    assert any("more of either sharpens it" in remark for remark in report.remarks)


def test_poisson_sampling_is_audited_without_credit_for_amplification() -> None:
    report = audit(plan_of("gaussian", 1.0, probability=0.5))
    assert report.verdict == "cannot tell"
    full = audit(plan_of("gaussian", 1.0))
    assert min(gate.resolution for gate in report.gates[1:]) > 1.5 * min(
        gate.resolution for gate in full.gates[1:]
    )
    assert any("amplification by sampling is not tested" in remark for remark in report.remarks)


@pytest.mark.parametrize("method", ["noisy_bits", "slack"])
def test_thresholds_that_move_are_audited_at_the_norms_they_chose(method: str) -> None:
    document = plan_of("gaussian", 1.0).model_dump() | {"threshold": {"method": method, "max_clip_norm": 2.0}}
    report = audit(RigorousPrivacy.model_validate(document))
    assert report.verdict == "passed", report.gates


@pytest.mark.parametrize("steps", [0, 1])
def test_fewer_than_two_steps_are_refused(steps: int) -> None:
    with pytest.raises(PrivacyError, match=f"steps is {steps}; must be at least 2"):
        audit(plan_of(), steps=steps)


@pytest.mark.parametrize("canaries", [99, DIMENSION + 1])
def test_canaries_need_coordinates_of_their_own(canaries: int) -> None:
    with pytest.raises(PrivacyError, match=f"canaries is {canaries}; must be 100 to {DIMENSION}"):
        audit(plan_of(), canaries=canaries)


def test_plans_without_a_finite_promise_are_refused() -> None:
    percentile = paper(1.0).model_dump() | {"threshold": {"method": "percentile"}}
    with pytest.raises(PrivacyError, match="no audit of it can fail"):
        audit(PaperPrivacy.model_validate(percentile))
    with pytest.raises(PrivacyError, match="no audit of it can fail"):
        audit(UnsafeNonePrivacy(mode="none", sampling=Sampling(mode="full")))


def test_a_report_needs_every_step() -> None:
    begun = Audit(
        plan_of(),
        unit_count=UNITS,
        dimension=DIMENSION,
        canaries=200,
        steps=3,
        generator=np.random.default_rng(0),
        key=key(),
    )
    begun.engine.release(0, gradients(0, begun.engine.sample(0)))
    with pytest.raises(PrivacyError, match="released 1 steps; must be 3"):
        begun.report()


def test_callers_see_their_own_units_alone() -> None:
    engine = Audit(
        plan_of(probability=0.5),
        unit_count=UNITS,
        dimension=DIMENSION,
        canaries=200,
        generator=np.random.default_rng(0),
        key=key(),
    ).engine
    assert isinstance(engine, CanaryEngine)
    assert engine.sample(0).max() < UNITS


def test_canaries_are_diracs_or_nothing() -> None:
    families = (Family(alternating=False, raw_norm=3.0), Family(alternating=True, raw_norm=0.5))
    generator = np.random.default_rng(0)
    canaries = Canaries.draw(100, families=families, dimension=150, generator=generator)
    assert len(set(canaries.coordinates.tolist())) == 100
    for step in (0, 1):
        rows = canaries.rows(np.arange(100), step=step, clip_norm=2.0)
        assert torch.count_nonzero(rows, dim=1).tolist() == canaries.present.astype(int).tolist()
        values = rows[torch.arange(100), torch.from_numpy(canaries.coordinates)].numpy()
        steady = values[canaries.present & (canaries.family == 0)]
        alternating = values[canaries.present & (canaries.family == 1)]
        assert set(steady.tolist()) == {6.0}
        assert set(alternating.tolist()) == {1.0 if step == 0 else -1.0}


def at_the_limit(mu: float, *, count: int, seed: int) -> AuditReport:
    """Scores of an ideal Gaussian engine that is exactly as good as promised."""
    promise = promise_of(plan_of("gaussian", 2 / mu), unit_count=count, dimension=count, steps=4)
    generator = np.random.default_rng(seed)
    canaries = Canaries.draw(
        count, families=families_for(promise, canaries=count), dimension=count, generator=generator
    )
    noise = generator.normal(0.0, 2.0 / promise.signal, count)
    return judge(canaries, 4.0 * canaries.present + noise, promise=promise, steps=4)


def test_an_engine_exactly_at_its_promise_raises_no_alarm() -> None:
    for seed in range(20):
        report = at_the_limit(1.0, count=4000, seed=seed)
        assert report.verdict != "failed"
        assert report.gates[1].shown > 0.2  # and the bound is no idle one


def test_the_limit_on_mu_holds_for_laplace_sums_from_two_steps_on() -> None:
    """Largest mu of any threshold over T * sqrt(steps), by convolving the exact law of the sum."""
    width, reach = 0.004, 60.0
    grid = np.arange(-reach, reach, width)
    law = np.exp(-np.abs(grid))
    spectrum = np.fft.rfft(np.fft.ifftshift(law / law.sum()))

    def worst_ratio(steps: int, signal: float) -> float:
        mass = np.fft.fftshift(np.fft.irfft(spectrum**steps, len(grid)))
        above = 1.0 - (np.cumsum(mass) - mass / 2.0)
        thresholds = np.linspace(-1.0, 2.0, 121) * steps * signal
        clear = torch.special.ndtri(torch.from_numpy(np.interp(thresholds - steps * signal, grid, above)))
        absent = torch.special.ndtri(torch.from_numpy(np.interp(thresholds, grid, above)))
        return float((clear - absent).max()) / (signal * math.sqrt(steps))

    for signal in (0.1, 0.4, 1.0, 3.0):
        assert max(worst_ratio(steps, signal) for steps in (2, 3, 4, 8)) < 0.9
    assert worst_ratio(1, 0.1) > 1.2  # why a single step is refused
    assert min(THRESHOLDS) >= -1.0
    assert max(THRESHOLDS) <= 2.0


def test_reports_survive_json() -> None:
    report = at_the_limit(1.0, count=400, seed=0)
    assert AuditReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize("defect", [None, "no clip", "noise divided by the batch size"])
def test_the_pipeline_of_task_network_and_local_training(
    defect: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if defect is not None:
        assert DEFECTS[defect](monkeypatch) == []
    told: list[tuple[int, int]] = []
    setting = AuditSetting(canaries=300, steps=2, images=2, seed=1)
    report = audit_pipeline(plan_of("gaussian", 2.0), setting, progress=lambda *at: told.append(at))
    assert told == [(1, 2), (2, 2)]
    assert (report.verdict == "failed") == (defect is not None)
    assert report.gates[-1].name == "update"
    assert report.gates[-1].verdict == "passed"


def test_an_update_that_bypasses_the_engine_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = _Descent.step
    monkeypatch.setattr(_Descent, "step", lambda self, mean: honest(self, torch.zeros_like(mean)))
    setting = AuditSetting(canaries=100, steps=2, images=2, seed=1)
    report = audit_pipeline(plan_of("gaussian", 1.0), setting)
    assert report.gates[-1].verdict == "failed"
    assert report.verdict == "failed"


@pytest.mark.full
@pytest.mark.parametrize("defect", [None, *DEFECTS])
def test_the_whole_audit_as_the_command_runs_it(defect: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if defect is not None:
        DEFECTS[defect](monkeypatch)
    report = audit_pipeline(plan_of("gaussian", 2.0), AuditSetting(seed=2))
    assert report.verdict == ("passed" if defect is None else "failed")
    assert {gate.verdict for gate in report.gates} == {"passed"} or defect is not None
