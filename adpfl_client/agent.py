"""The agent's loop: join, take the next task of each run, do it, until every run is over or SIGTERM comes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import structlog

from adpfl import __version__
from adpfl.errors import AdpflError, BudgetError, ConfigError, IdentityError
from adpfl.wire.messages import (
    HeartbeatRequest,
    JoinRequest,
    NextTaskRequest,
    NextTaskResponse,
    RunOffer,
    RunStatus,
    SiteActivity,
    TaskKind,
)
from adpfl_client import scoring
from adpfl_client.connection import ServerRefusalError, StopRequestedError
from adpfl_client.heartbeat import Heartbeat, beating
from adpfl_client.local_run import LocalRun, approve, open_run, read_plan
from adpfl_client.local_site import Site
from adpfl_client.round_work import do_round, fetch_model, settle_other_tasks
from adpfl_client.site_record import read_record

LONG_POLL_SECONDS = 20
"""Shared by the runs under way: while one is asked about, the others wait."""
IDLE_SECONDS = 30.0
"""Between two looks for new runs when none is under way."""
REFUSALS_IN_A_ROW = 10
"""So often may the server contradict what it asked for before the run is given up here."""
REFUSAL_PAUSE_SECONDS = 3.0
DETAIL_CHARACTERS = 500

Status = Literal["finished", "failed", "refused"]
log = structlog.get_logger()


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended at this site."""

    run: str
    status: Status
    summary: str


class Agent:
    """One process of a site's agent."""

    def __init__(
        self, site: Site, *, instance_id: str, pause: Callable[[float], object] | None = None
    ) -> None:
        """Take over a site's working parts.

        Args:
            site: with its link open.
            instance_id: random for each start; 32 hexadecimal digits.
            pause: waits so many seconds or until the site is stopping; tests put their own here.
        """
        self._site = site
        self._instance_id = instance_id
        self._pause = pause or site.stopping.wait
        self._runs: dict[str, LocalRun] = {}
        self._outcomes: dict[str, RunOutcome] = {}
        self._refusals: dict[str, int] = {}
        self._stood_aside: dict[str, str] = {}
        self._server_instance: str | None = None
        self._outages_seen = 0

    def work(self, *, until_finished: bool) -> list[RunOutcome]:
        """Serve the server's runs.

        Args:
            until_finished: return when every run that names this site is over; otherwise look for new ones
                for ever.

        Raises:
            ConfigError: with `until_finished`, the server has no run that names this site.
            IdentityError: the server does not accept this site, or is not the one it says.
            StopRequestedError: the agent was asked to stop.
        """
        try:
            return self._work(until_finished=until_finished)
        except StopRequestedError:
            for run in self._runs.values():
                run.recorder.note("agent_stopped", detail="as it was asked to")
            raise

    def _work(self, *, until_finished: bool) -> list[RunOutcome]:
        self._join()
        while True:
            if self._site.connection.outages > self._outages_seen:
                self._note_outage()
                self._join()
            if self._runs:
                for name in list(self._runs):
                    self._advance(name, max(1, LONG_POLL_SECONDS // len(self._runs)))
            elif until_finished and self._outcomes:
                return list(self._outcomes.values())
            elif until_finished:
                raise ConfigError(f"the server has no run that names {self._site.name}")
            else:
                self._wait(IDLE_SECONDS)
                self._join()

    def _join(self) -> None:
        answer = self._site.connection.join(
            JoinRequest(
                site=self._site.name,
                instance_id=self._instance_id,
                software_version=__version__,
                run=None,
                training_patients={
                    task: len(data.training_patients) for task, data in self._site.data.items()
                },
            )
        )
        if self._server_instance not in {None, answer.server_instance_id}:
            for run in self._runs.values():
                run.recorder.note("server_restarted")
        self._server_instance = answer.server_instance_id
        for offer in answer.runs:
            if offer.run in self._stood_aside and offer.status in {RunStatus.WAITING, RunStatus.RUNNING}:
                self._tell_refusal(offer.run)  # joining has taken the refusal back
            elif offer.run not in self._runs and offer.run not in self._outcomes:
                self._guarded(offer.run, partial(self._open, offer))

    def _open(self, offer: RunOffer) -> None:
        record = read_record(self._site.run_folder(offer.run))
        if record is not None and record.status == "finished" and record.plan_digest == offer.plan_digest:
            self._outcomes[offer.run] = RunOutcome(offer.run, "finished", record.summary)
            return
        plan = read_plan(offer)
        run = open_run(self._site, plan)
        self._runs[offer.run] = run
        cost = approve(self._site, run)
        for line in cost.lines():
            log.info("cost of the run", run=run.name, cost=line)
        log.info("run joined", run=run.name, arm=plan.arm, plan_digest=run.plan_digest)

    def _advance(self, name: str, wait_seconds: int) -> None:
        self._guarded(name, partial(self._do_next, self._runs[name], wait_seconds))

    def _do_next(self, run: LocalRun, wait_seconds: int) -> None:
        task = self._site.connection.next_task(NextTaskRequest(run.name, wait_seconds))
        match task.kind:
            case TaskKind.WAIT:
                self._wait(max(0.2, task.wait_hint_seconds))
            case TaskKind.TRAIN:
                self._train(run, task)
            case TaskKind.FINISHED:
                self._finish(run, task)
            case TaskKind.FAILED:
                self._end(run.name, "failed", f"failed: the server says: {task.detail}")
        self._refusals.pop(run.name, None)

    def _train(self, run: LocalRun, task: NextTaskResponse) -> None:
        committed = do_round(self._site, run, task)
        assert task.base_digest is not None
        # The others are still training: the time to score the model that this round started from.
        every = self._site.config.evaluate_every_rounds
        if committed and scoring.is_due(run, task.round - 1, every):
            with self._alive(run, task.round):
                model = fetch_model(self._site, run, task.round - 1, task.base_digest)
                scoring.score(self._site, run, model)

    def _alive(self, run: LocalRun, round_number: int) -> AbstractContextManager[Heartbeat]:
        """Beat while the site is busy with itself: a silent site is not waited for."""
        send, total = self._site.connection.heartbeat, run.plan.local.steps
        return beating(send, run=run.name, round_number=round_number, steps_total=total)

    def _finish(self, run: LocalRun, task: NextTaskResponse) -> None:
        assert task.base_digest is not None
        model = fetch_model(self._site, run, run.plan.rounds, task.base_digest)
        scoring.score_final(self._site, run, model)
        settle_other_tasks(self._site, run, None)
        answered = {
            one.round_number for one in self._site.ledger.reservations(run.name) if one.status == "committed"
        }
        self._end(run.name, "finished", f"finished: answered {len(answered)} of {run.plan.rounds} rounds")

    def _end(self, name: str, status: Status, summary: str) -> None:
        run = self._runs.pop(name, None)
        if run is not None:
            run.recorder.note(status, detail=summary)
            run.recorder.close(status, summary)
        self._outcomes[name] = RunOutcome(name, status, summary)
        log.info("run ended", run=name, status=status, summary=summary)

    def _guarded(self, name: str, work: Callable[[], None]) -> None:
        """Do a step of one run; what goes wrong in it ends that run alone."""
        try:
            work()
        except IdentityError:
            raise  # no run of this server can go on
        except ServerRefusalError as error:
            self._contradicted(name, error)
        except (BudgetError, ConfigError) as error:
            self._stand_aside(name, str(error))
            self._end(name, "refused", f"refused: {error}")
        except AdpflError as error:
            # The message may name local files: the server learns the kind of error only.
            self._stand_aside(name, f"the site stopped: {type(error).__name__}; its own log says more")
            self._end(name, "failed", f"failed: {error}")

    def _contradicted(self, name: str, error: ServerRefusalError) -> None:
        """The run's state moved on between question and answer; ask again, but not for ever."""
        self._refusals[name] = self._refusals.get(name, 0) + 1
        log.warning("server refused", run=name, reason=str(error))
        if self._refusals[name] >= REFUSALS_IN_A_ROW:
            self._end(name, "failed", f"failed: {error}")
            return
        if name in self._runs and self._refusals[name] == 1:
            self._runs[name].recorder.note("refused_by_server", detail=str(error))
        self._wait(REFUSAL_PAUSE_SECONDS)

    def _stand_aside(self, name: str, detail: str) -> None:
        self._stood_aside[name] = detail[:DETAIL_CHARACTERS]
        self._tell_refusal(name)

    def _tell_refusal(self, name: str) -> None:
        self._site.connection.stand_aside(
            HeartbeatRequest(name, 0, SiteActivity.REFUSED, detail=self._stood_aside[name])
        )

    def _note_outage(self) -> None:
        connection = self._site.connection
        self._outages_seen = connection.outages
        for run in self._runs.values():
            run.recorder.note("reconnected", detail=f"after {connection.last_outage_seconds:.1f} seconds")

    def _wait(self, seconds: float) -> None:
        self._pause(seconds)
        if self._site.stopping.is_set():
            raise StopRequestedError
