"""One hospital of a simulated run: what the agent does between two messages, without ledger and network.

Everything that decides a figure is the agent's own code: the units, the local steps, the privacy engine under
a fresh secret key, the scores. What is left out guards a real site and changes no number: the policy, the
durable reservation before each round, the spool. The honest figure is that of the steps that the records
hold: the noise of a round that was interrupted died with its process, and nothing of it was released.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from adpfl.data.case import Case
from adpfl.data.partition import Split
from adpfl.experiment.comparison.checkpoint import SiteCheckpoint
from adpfl.federated.records import EvaluationRecord, SiteRunRecord, StepRecord
from adpfl.federated.run_plan import RunPlan
from adpfl.kernels.keystream import KeystreamKey
from adpfl.learning.evaluate import OnPrediction, evaluate
from adpfl.learning.initial_model import update_layout
from adpfl.learning.local_update import local_update
from adpfl.learning.networks import dimension
from adpfl.learning.units import TrainingUnits
from adpfl.privacy import accounting
from adpfl.privacy.engine import PrivacyEngine
from adpfl.tasks.task import Task

OVERLAY_CASES = 3
"""The first held-out cases of a site: the same patients in every cell."""


class SimulatedSite:
    """A site's data, its engine's state and its record, for one run."""

    def __init__(self, name: str, split: Split, *, plan: RunPlan, task: Task) -> None:
        """Take the site's cases; set `progress` to go on from a checkpoint.

        Raises:
            ConfigError: the plan does not fit the task.
            DataError: there are no training cases.
        """
        self.name = name
        self._plan = plan
        self._task = task
        self._held_out = split.held_out
        self._units = TrainingUnits(split.training, task=task, plan=plan)
        self._dimension = dimension(update_layout(plan, task))
        self.training_patients = len({case.patient for case in split.training})
        self.progress = SiteCheckpoint()

    def train(
        self, base: Mapping[str, Tensor], round_number: int, *, should_stop: Callable[[], bool] | None = None
    ) -> dict[str, Tensor]:
        """One round's local steps; returns the update.

        Raises:
            DivergedError: training left the finite numbers.
            TrainingStoppedError: `should_stop` said so.
        """
        with KeystreamKey.fresh() as secret:
            engine = PrivacyEngine(
                self._plan.privacy,
                unit_count=len(self._units),
                dimension=self._dimension,
                key=secret,
                state=self.progress.engine,
            )
            update = local_update(
                base,
                plan=self._plan,
                task=self._task,
                units=self._units,
                engine=engine,
                round_number=round_number,
                should_stop=should_stop,
            )
            self._keep(steps=(*self.progress.steps, *update.steps), engine=engine.state)
        return update.delta

    def score(
        self,
        weights: Mapping[str, Tensor],
        round_number: int,
        *,
        averaged: bool = False,
        on_prediction: OnPrediction | None = None,
    ) -> None:
        """Score a global model on the held-out cases and keep the figures.

        Raises:
            DataError: a file cannot be read.
        """
        evaluation: EvaluationRecord = evaluate(
            weights,
            plan=self._plan,
            task=self._task,
            cases=self._held_out,
            round_number=round_number,
            on_prediction=on_prediction,
        )
        if averaged:
            evaluation = evaluation.model_copy(update={"weights": "averaged"})
        self._keep(evaluations=(*self.progress.evaluations, evaluation))

    def has_score(self, round_number: int) -> bool:
        """Whether the model after a round has been scored here."""
        return any(one.round == round_number for one in self.progress.evaluations)

    def score_with_overlays(
        self, weights: Mapping[str, Tensor], round_number: int, folder: Path
    ) -> tuple[str, ...]:
        """Score the published model, and draw the first held-out cases; returns the pictures' names."""
        drawn: list[str] = []

        def draw(label: str, case: Case, prediction: Tensor) -> None:
            if len(drawn) < OVERLAY_CASES:
                name = f"overlay-{label}.png"
                self._task.write_overlay(prediction, case, folder / name)
                drawn.append(name)

        averaged = self._plan.aggregation.averaging is not None
        self.score(weights, round_number, averaged=averaged, on_prediction=draw)
        return tuple(drawn)

    def record(self, *, status: str, summary: str, overlays: tuple[str, ...]) -> SiteRunRecord:
        """`site.json`, with the honest figure of the steps that were taken."""
        steps: tuple[StepRecord, ...] = self.progress.steps
        guarantee = accounting.guarantee(
            self._plan.privacy, unit_count=len(self._units), dimension=self._dimension, steps=len(steps)
        )
        return SiteRunRecord.model_validate(
            {
                "site": self.name,
                "run": self._plan.run,
                "plan_digest": self._plan.digest(),
                "status": status,
                "summary": summary,
                "training_patients": self.training_patients,
                "held_out_patients": len({case.patient for case in self._held_out}),
                "steps": steps,
                "evaluations": self.progress.evaluations,
                "overlays": overlays,
                "guarantee": guarantee,
                "timeline": (),
            }
        )

    def _keep(self, **update: object) -> None:
        self.progress = self.progress.model_copy(update=update)
