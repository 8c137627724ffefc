"""The privacy audit on the whole pipeline: images, network, per-unit gradients, engine, kernels, update.

One round of real local training on generated patients, with canaries among them. What trains is what trains
at a hospital: the task, the network and `local_update`; the canaries enter where per-unit gradients do.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from adpfl.data.synthetic.dermoscopy import write_clinic
from adpfl.federated.run_plan import CohortPlan, RunPlan
from adpfl.kernels.keystream import KeystreamKey
from adpfl.learning.initial_model import build_network
from adpfl.learning.local_update import local_update
from adpfl.learning.networks import dimension, parameter_layout, weights_of
from adpfl.learning.plan import LocalPlan
from adpfl.learning.units import TrainingUnits
from adpfl.privacy.audit.battery import CANARIES, STEPS, Audit
from adpfl.privacy.audit.report import AuditReport, Gate
from adpfl.privacy.plan import PrivacyPlan
from adpfl.tasks.registry import get_task

IMAGES: Final = 12
"""Generated photographs; some patients have two."""

_IMAGE_SIZE: Final = (32, 32)
_LEARNING_RATE: Final = 1.0
_UPDATE_TOLERANCE: Final = 1e-3
"""Rounding of float32 weights over a few steps stays far below it; a gradient that bypassed the engine, far
above."""


@dataclass(frozen=True)
class AuditSetting:
    """How large an audit is. The defaults take well under a minute on two cores."""

    canaries: int = CANARIES
    steps: int = STEPS
    images: int = IMAGES
    seed: int | None = None
    """Of canaries, images and weights, for a repetition; None takes fresh entropy. Never of noise."""


def audit_pipeline(
    privacy: PrivacyPlan,
    setting: AuditSetting | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Train one round under a privacy plan with canaries among the patients, and judge what was released.

    Args:
        privacy: what is promised; with a fixed threshold.
        setting: how large the audit is.
        progress: called after each step with (steps done, steps in all).

    Raises:
        PrivacyError: the plan promises nothing that an audit could refute, or a number is out of range.
        ConfigError: no lattice carries the plan's noise.
    """
    setting = setting or AuditSetting()
    generator = np.random.default_rng(setting.seed)
    plan = _run_plan(privacy, setting, seed=int(generator.integers(1 << 31)))
    task = get_task(plan.task)
    with tempfile.TemporaryDirectory(prefix="adpfl-audit-") as folder:
        clinic = Path(folder) / "clinic"
        write_clinic(clinic, "A", images=setting.images, seed=plan.seed, size=(64, 64))
        units = TrainingUnits(task.read(clinic), task=task, plan=plan)
        model = build_network(plan, task)
        layout = parameter_layout(model)
        with KeystreamKey.fresh() as key:
            audit = Audit(
                privacy,
                unit_count=len(units),
                dimension=dimension(layout),
                steps=setting.steps,
                canaries=setting.canaries,
                generator=generator,
                key=key,
                shapes=tuple(tensor.shape for tensor in layout),
            )
            update = local_update(
                weights_of(model),
                plan=plan,
                task=task,
                units=units,
                engine=audit.engine,
                round_number=1,
                progress=progress,
            )
    report = audit.report()
    return report.with_gate(_update_gate(update.delta, audit.engine.released_total))


def _run_plan(privacy: PrivacyPlan, setting: AuditSetting, *, seed: int) -> RunPlan:
    return RunPlan(
        run="audit",
        task="skin_lesion",
        image_size=_IMAGE_SIZE,
        rounds=1,
        local=LocalPlan(steps=setting.steps, learning_rate=_LEARNING_RATE),
        cohort=CohortPlan(sites=("audit",), quorum=1),
        privacy=privacy,
        seed=seed,
    )


def _update_gate(delta: dict[str, Tensor], released_total: Tensor) -> Gate:
    """What leaves the site must be a descent along what was released and nothing besides."""
    expected = -_LEARNING_RATE * released_total.double()
    sent = torch.cat([tensor.flatten() for tensor in delta.values()]).double()
    distance = float((sent - expected).norm() / expected.norm().clamp(min=1e-30))
    return Gate(
        name="update",
        quantity="distance from the releases",
        canaries="none needed",
        shown=distance,
        promised=_UPDATE_TOLERANCE,
        reach=1.0,
        resolution=1.0,
        verdict="failed" if distance > _UPDATE_TOLERANCE else "passed",
    )
