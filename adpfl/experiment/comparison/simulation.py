"""One run in memory: the coordinator's own state machine, with every site trained in turn.

What happens is told to `adpfl.federated.coordinator` as the aggregator tells it, and what it asks for is
done: the rounds, verdicts, weights and sums are the daemons' own.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from adpfl.errors import IntegrityError, StateError
from adpfl.experiment.comparison.checkpoint import Checkpoint, Models
from adpfl.experiment.comparison.model_store import ModelStore
from adpfl.experiment.comparison.simulated_site import SimulatedSite
from adpfl.experiment.comparison.stopwatch import Stopwatch
from adpfl.federated.coordinator import new_run, step
from adpfl.federated.records import ServerRound, ServerRunRecord, SiteRunRecord, TimelineEvent
from adpfl.federated.run_events import (
    Aggregate,
    AggregationFailed,
    Event,
    RoundClosed,
    ServerRestarted,
    SiteJoined,
    SiteReady,
    Transition,
    UpdateArrived,
)
from adpfl.federated.run_plan import RunPlan
from adpfl.federated.run_state import RunState, summary
from adpfl.federated.site_tasks import task_for
from adpfl.learning.local_update import DivergedError

TRAINING = "training"
EVALUATION = "evaluation"


class Simulation:
    """A run's coordinator and sites; made by `begin` or `go_on`.

    Attributes:
        state: the coordinator's.
        starts: how many processes have worked on it.
    """

    def __init__(self, sites: Sequence[SimulatedSite], state: RunState, watch: Stopwatch) -> None:
        self.state = state
        self.starts = 1
        self._sites = {site.name: site for site in sites}
        self._watch = watch
        self._store = ModelStore()
        self._rounds: list[ServerRound] = []
        self._timeline: list[TimelineEvent] = []

    @classmethod
    def begin(
        cls, plan: RunPlan, sites: Sequence[SimulatedSite], weights: dict[str, Tensor], watch: Stopwatch
    ) -> "Simulation":
        """A run whose sites have all joined: its first round is open."""
        store = ModelStore()
        created = new_run(plan, store.put(weights), time.time())
        run = cls(sites, created.state, watch)
        run._store = store
        run._take(created)
        for site in sites:
            run._tell(SiteJoined(site.name, plan.run, site.training_patients))
        for site in sites:
            run._tell(SiteReady(site.name))
        return run

    @classmethod
    def go_on(
        cls,
        checkpoint: Checkpoint,
        sites: Sequence[SimulatedSite],
        models: Models,
        watch: Stopwatch,
    ) -> "Simulation":
        """A run as its checkpoint left it.

        Raises:
            StateError: the models are not those that the coordinator's state names.
        """
        run = cls(sites, checkpoint.state, watch)
        put = {part: weights and run._store.put(weights) for part, weights in models.parts.items()}
        if run._store.put(models.newest) != checkpoint.state.model_digest or put != run._other_digests:
            raise StateError(f"run {run.plan.run}: the checkpoint's models are not those that it names")
        run._rounds = list(checkpoint.rounds)
        run._timeline = list(checkpoint.timeline)
        run.starts = checkpoint.starts + 1
        watch.add(checkpoint.seconds)
        for site in sites:
            site.progress = checkpoint.sites[site.name]
        run._tell(ServerRestarted())
        return run

    @property
    def plan(self) -> RunPlan:
        """The run's plan."""
        return self.state.plan

    @property
    def models(self) -> Models:
        """The newest global model, and the average and the server's moments where there are any."""
        others = {
            part: None if digest is None else self._store.weights(digest)
            for part, digest in self._other_digests.items()
        }
        return Models(self._store.weights(self.state.model_digest), **others)

    @property
    def _other_digests(self) -> dict[str, str | None]:
        """Digests of the parts of `Models`, from the coordinator's state."""
        moments = self.state.moments
        return {
            "averaged": self.state.averaged_digest,
            "first_moment": None if moments is None else moments.first_digest,
            "second_moment": None if moments is None else moments.second_digest,
        }

    def play_round(self, should_stop: Callable[[], bool]) -> None:
        """Train every site that has a task, until the coordinator has closed the round or failed the run.

        Raises:
            TrainingStoppedError: `should_stop` said so.
        """
        for name, site in self._sites.items():
            task = task_for(self.state, name)
            if task.kind != "train" or task.base_digest is None:
                raise StateError(f"run {self.plan.run}: {name} has nothing to do: {task.detail}")
            base = self._store.weights(task.base_digest)
            try:
                with self._watch.measure(TRAINING):
                    update = site.train(base, task.round, should_stop=should_stop)
            except DivergedError as error:
                self._fail(f"{name}: {error}", task.round)
                return
            self._tell(UpdateArrived(name, task.round, task.base_digest, self._store.put(update)))

    def score_if_due(self, every_rounds: int) -> None:
        """Score the newest model at every site where its turn has come: the first, and every so many rounds.

        The final one is scored by `conclude`.
        """
        number = self.state.rounds_closed
        if self.state.over or (number % every_rounds if every_rounds else number):
            return
        weights = self.models.newest
        with self._watch.measure(EVALUATION):
            for site in self._sites.values():
                if not site.has_score(number):
                    site.score(weights, number)

    def checkpoint(self) -> Checkpoint:
        """What `go_on` needs, but for the weights."""
        return Checkpoint(
            state=self.state,
            rounds=tuple(self._rounds),
            timeline=tuple(self._timeline),
            sites={name: site.progress for name, site in self._sites.items()},
            seconds=self._watch.seconds(),
            starts=self.starts,
        )

    def conclude(self, folder_of: Callable[[str], Path]) -> tuple[SiteRunRecord, ...]:
        """Score the model that the run publishes, with overlays, and give every site's record.

        Args:
            folder_of: the existing folder of a site's record, which pictures are drawn into.
        """
        finished = self.state.status == "finished"
        weights = self._store.weights(self.state.published_digest)
        records = []
        for name, site in self._sites.items():
            overlays: tuple[str, ...] = ()
            if finished:
                with self._watch.measure(EVALUATION):
                    overlays = site.score_with_overlays(weights, self.state.rounds_closed, folder_of(name))
            closed = f"took part in {self.state.rounds_closed} of {self.plan.rounds} rounds"
            records.append(
                site.record(
                    status=self.state.status, summary=f"{self.state.status}: {closed}", overlays=overlays
                )
            )
        return tuple(records)

    def record(self) -> ServerRunRecord:
        """`run.json`, as the aggregator writes it."""
        return ServerRunRecord(
            plan=self.plan,
            plan_digest=self.plan.digest(),
            status=self.state.status,
            summary=summary(self.state),
            rounds=tuple(self._rounds),
            training_patients={name: site.training_patients for name, site in self._sites.items()},
            timeline=tuple(self._timeline),
        )

    def _tell(self, event: Event) -> None:
        self._take(step(self.state, event, time.time()))

    def _take(self, transition: Transition) -> None:
        self.state = transition.state
        self._timeline += transition.timeline
        for action in transition.actions:
            if isinstance(action, RoundClosed):
                self._rounds.append(action.record)
            elif isinstance(action, Aggregate):
                self._aggregate(action)

    def _aggregate(self, action: Aggregate) -> None:
        try:
            done = self._store.aggregate(action)
        except IntegrityError as error:
            self._tell(AggregationFailed(action.round, str(error)))
        else:
            self._tell(done)

    def _fail(self, reason: str, round_number: int) -> None:
        """End the run where a site cannot go on: with another site's data the round would be another."""
        event = TimelineEvent(
            at_unix_seconds=time.time(), kind="run_failed", round=round_number, detail=reason
        )
        self._timeline.append(event)
        self.state = self.state.model_copy(update={"status": "failed", "failure": reason, "open_round": None})
