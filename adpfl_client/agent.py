"""The agent's loop: join, take the next task of each run, do it, until every run is over or SIGTERM comes."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from math import isinf
from typing import Literal

import structlog

from adpfl import __version__
from adpfl.errors import (
    AdpflError,
    BudgetError,
    ConfigError,
    DiskUnwritableError,
    IdentityError,
    StorageError,
)
from adpfl.kill_points import reach
from adpfl.wire import limits
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
from adpfl.wire.receipts import SignedReceipt
from adpfl_client.connection import ServerRefusalError, StopRequestedError
from adpfl_client.durable import may_pass, probe
from adpfl_client.guard import RunCost
from adpfl_client.ledger.receipts import check_newest
from adpfl_client.link.heartbeat import Heartbeat, beating
from adpfl_client.link.running_identity import with_certificate_renewed
from adpfl_client.local_site import Site
from adpfl_client.operating.leaving import read_leave, settle_leave
from adpfl_client.public_reason import public_reason
from adpfl_client.rounds import scoring
from adpfl_client.rounds.local_run import LocalRun, approve, open_run, read_plan
from adpfl_client.rounds.round_work import do_round, fetch_model, settle_other_tasks
from adpfl_client.rounds.site_record import read_record

LONG_POLL_SECONDS = 20
"""Shared by the runs under way: while one is asked about, the others wait."""
IDLE_SECONDS = 30.0
"""Between two looks for new runs, whether or not one is under way."""
REFUSALS_IN_A_ROW = 10
"""So often may the server contradict what it asked for before the run is given up here."""
REFUSAL_PAUSE_SECONDS = 3.0
SHORTEST_WAIT_SECONDS = 0.2
DISK_SECONDS = 15.0
"""Between two looks at a disk that is full or read-only."""

OPEN_STATUSES = frozenset({RunStatus.WAITING, RunStatus.RUNNING, RunStatus.PAUSED})
"""Of runs that go on."""

Status = Literal["finished", "failed", "refused", "left"]
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
        self,
        site: Site,
        *,
        instance_id: str,
        pause: Callable[[float], object] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over a site's working parts.

        Args:
            site: with its link open.
            instance_id: random for each start; 32 hexadecimal digits.
            pause: waits so many seconds or until the site is stopping; tests put their own here.
            monotonic: a clock in seconds that never runs backwards.
        """
        self._site = site
        self._instance_id = instance_id
        self._pause = pause or site.stopping.wait
        self._monotonic = monotonic
        self._join_due = monotonic()
        self._runs: dict[str, LocalRun] = {}
        self._outcomes: dict[str, RunOutcome] = {}
        self._refusals: dict[str, int] = {}
        self._stood_aside: dict[str, str] = {}
        self._server_instance: str | None = None
        self._ledger_is_newest = False
        self._outages_seen = 0

    def work(self, *, until_finished: bool) -> list[RunOutcome]:
        """Serve the server's runs.

        Args:
            until_finished: return when every run that names this site is over; otherwise look for new ones
                for ever.

        Raises:
            ConfigError: with `until_finished`, the server has no run that names this site.
            IdentityError: the server does not accept this site, or is not the one it says.
            IntegrityError: a signed receipt shows that the ledger was rolled back; nothing was spent.
            StorageError: the local disk fails, or refuses what budget was reserved for; no run can go on. One
                that is full or read-only before that is waited for.
            StopRequestedError: the agent was asked to stop.
        """
        try:
            return self._work(until_finished=until_finished)
        except StopRequestedError:
            for run in self._runs.values():
                run.recorder.note("agent_stopped", detail="as it was asked to")
            raise

    def _work(self, *, until_finished: bool) -> list[RunOutcome]:
        while True:
            try:
                self._look_around()
                if self._runs:
                    for name in list(self._runs):
                        self._advance(name, max(1, LONG_POLL_SECONDS // len(self._runs)))
                elif until_finished and self._outcomes:
                    return list(self._outcomes.values())
                elif until_finished:
                    raise ConfigError(f"the server has no run that names {self._site.name}")
                else:
                    self._wait(IDLE_SECONDS)
                    self._join_due = self._monotonic()
            except DiskUnwritableError as error:
                self._wait_for_disk(error)

    def _look_around(self) -> None:
        """Join where that is due: at first, after an outage, and now and then for runs created meanwhile."""
        if self._site.connection.outages > self._outages_seen:
            self._note_outage()
            self._join()
        elif self._monotonic() >= self._join_due:
            self._join()

    def _wait_for_disk(self, error: DiskUnwritableError) -> None:
        """Say that the disk is full or read-only, and wait until it takes something again.

        Nothing was spent. What is known of the runs is let go, and read from the disk as after a restart.
        """
        log.error("the disk refuses; nothing is spent until it works again", reason=str(error))
        self._runs.clear()
        while True:
            self._wait(DISK_SECONDS)
            try:
                probe(self._site.config.state_dir)
            except OSError:
                continue
            break
        log.info("the disk works again")
        self._join_due = self._monotonic()

    def _join(self) -> None:
        self._join_due = self._monotonic() + IDLE_SECONDS
        self._site = with_certificate_renewed(self._site)
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
        if not self._ledger_is_newest:
            self._check_ledger(answer.newest_receipt)
        for offer in answer.runs:
            self._guarded(offer.run, partial(self._consider, offer))

    def _consider(self, offer: RunOffer) -> None:
        """Begin an offered run, unless it has ended here, or the site has left or refused it."""
        if self._has_left(offer.run, over=offer.status not in OPEN_STATUSES):
            return
        if offer.run in self._stood_aside and offer.status in OPEN_STATUSES:
            self._tell_refusal(offer.run)  # a server restored from a backup has forgotten it
        elif offer.run not in self._runs and offer.run not in self._outcomes:
            self._open(offer)

    def _has_left(self, name: str, *, over: bool = False) -> bool:
        """Whether the site has left a run; ends its part here, and tells the server of a run that goes on.

        The server is told at each join: one that was restored from a backup has forgotten it.
        """
        folder = self._site.run_folder(name)
        mark = read_leave(folder)
        known = self._outcomes.get(name)
        if mark is None:
            if known is not None and known.status == "left":
                del self._outcomes[name]  # it has come back
            return False
        self._runs.pop(name, None)
        settle_leave(self._site.ledger, folder, mark, self._site.clock)
        if not over:
            try:
                self._site.connection.stand_aside(mark.request())
            except ServerRefusalError as error:
                log.warning("the server does not take the leave", run=name, reason=str(error))
        if known is None or known.status != "left":
            self._outcomes[name] = RunOutcome(name, "left", mark.summary)
            log.info("run left", run=name, reason=limits.shown_text(mark.reason))
        return True

    def _check_ledger(self, from_server: SignedReceipt | None) -> None:
        """Once, before any spend: a ledger that is open cannot be put back unseen (`LedgerStore`)."""
        check_newest(
            self._site.ledger,
            self._site.config.state_dir,
            site=self._site.name,
            certificate=self._site.identity.server_certificate,
            from_server=from_server,
        )
        self._ledger_is_newest = True

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
        if isinf(cost.at_policy.epsilon):
            _say_unbounded(run, cost)
        if plan.warm_start is not None:
            start = plan.warm_start
            log.info("run starts from trained weights", run=run.name, of=start.trained_on, words=start.words)
        log.info("run joined", run=run.name, arm=plan.arm, plan_digest=run.plan_digest)

    def _advance(self, name: str, wait_seconds: int) -> None:
        self._guarded(name, partial(self._do_next, self._runs[name], wait_seconds))

    def _do_next(self, run: LocalRun, wait_seconds: int) -> None:
        if self._has_left(run.name):
            return
        task = self._site.connection.next_task(NextTaskRequest(run.name, wait_seconds))
        match task.kind:
            case TaskKind.WAIT:
                # The hint is the server's: unbounded, it could put this site to sleep for years.
                self._wait(min(max(SHORTEST_WAIT_SECONDS, task.wait_hint_seconds), limits.WAIT_SECONDS))
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
        averaged = run.plan.aggregation.averaging is not None
        model = fetch_model(self._site, run, run.plan.rounds, task.base_digest, averaged=averaged)
        scoring.score_final(self._site, run, model)
        settle_other_tasks(self._site, run, None)
        answered = {
            one.round_number for one in self._site.ledger.reservations(run.name) if one.status == "committed"
        }
        self._end(run.name, "finished", f"finished: answered {len(answered)} of {run.plan.rounds} rounds")

    def _end(self, name: str, status: Status, summary: str) -> None:
        reach("client.run_over")
        run = self._runs.pop(name, None)
        if run is not None:
            run.recorder.note(status, detail=summary)
            run.recorder.close(status, summary)
        self._site.models.stop_receiving(name)
        self._outcomes[name] = RunOutcome(name, status, summary)
        say = log.warning if status == "refused" else log.info
        say("run ended", run=name, status=status, summary=summary)

    def _guarded(self, name: str, work: Callable[[], None]) -> None:
        """Do a step of one run; what goes wrong in it ends that run alone.

        The exceptions are an identity that the server does not accept and a disk that refuses: no run can go
        on, and what is on the disk must stay as it is for the next start.
        """
        try:
            work()
        except (IdentityError, StorageError):
            raise
        except ServerRefusalError as error:
            self._contradicted(name, error)
        except (BudgetError, ConfigError) as error:
            self._stand_aside(name, error)
            self._end(name, "refused", f"refused: {error}")
        except AdpflError as error:
            self._stand_aside(name, error)
            self._end(name, "failed", f"failed: {error}")
        except OSError as error:
            reason = error.strerror or type(error).__name__
            kind = DiskUnwritableError if may_pass(error) else StorageError
            raise kind(f"run {name}: a local file cannot be used: {reason}: {error.filename}") from error

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

    def _stand_aside(self, name: str, error: AdpflError) -> None:
        self._stood_aside[name] = public_reason(error)
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


def _say_unbounded(run: LocalRun, cost: RunCost) -> None:
    """Say aloud, and once on the record, that no finite guarantee holds for a run that the policy lets in."""
    mode = run.plan.privacy.mode
    event = "unsafe run: no clipping and no noise" if mode == "none" else "run has no finite guarantee"
    log.warning(event, run=run.name, mode=mode, epsilon="inf", why=cost.guarantee.caveats[0])
    accepted = cost.accepted_unbounded
    told = any(event.kind == "unbounded_accepted" for event in run.recorder.record.timeline)
    if accepted is not None and not told:
        run.recorder.note("unbounded_accepted", detail=f"{accepted.reason} (accepted by {accepted.by})")
