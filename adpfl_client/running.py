"""Puts an agent's working parts together, starts it, and stops it on SIGTERM."""

import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType

import structlog
import torch
from rich.console import Console

from adpfl_client.agent import Agent, RunOutcome
from adpfl_client.config import SiteConfig
from adpfl_client.connection import Connection, StopRequestedError
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.link.enrollment import load_site_identity
from adpfl_client.link.proxy import route_of
from adpfl_client.link.running_identity import open_channel
from adpfl_client.local_site import MODELS_FOLDER, SPOOL_FOLDER, Site
from adpfl_client.rounds.models import ModelStore
from adpfl_client.rounds.round_display import RoundDisplay
from adpfl_client.rounds.site_data import load_site_data
from adpfl_client.spool import Spool
from adpfl_client.state_lock import alone

log = structlog.get_logger()


@contextmanager
def open_site(config: SiteConfig, stopping: threading.Event) -> Iterator[Site]:
    """Load identity and data, open ledger, spool and link; close them when the block ends.

    Raises:
        IdentityError: the site is not enrolled, or its identity cannot be used.
        DataError: a data folder cannot be used.
        StateError: another agent runs on this state folder, or the ledger or the spool cannot be used.
    """
    with alone(config.state_dir):
        yield from _open_site(config, stopping)


def _open_site(config: SiteConfig, stopping: threading.Event) -> Iterator[Site]:
    identity = load_site_identity(config.state_dir, config.site, now=datetime.now(UTC))
    route = route_of(config)
    data = {task: load_site_data(task, entry) for task, entry in config.data.items()}
    spool = Spool(config.state_dir / SPOOL_FOLDER)
    for leftover in spool.discard_unsealed():
        log.warning("unsealed update discarded; what it had reserved stays charged", update=leftover)
    with LedgerStore.open(config.state_dir, time.time()) as ledger:
        connection = Connection(open_channel(identity, route), stopping, route=route)
        try:
            yield Site(
                config=config,
                identity=identity,
                data=data,
                connection=connection,
                ledger=ledger,
                spool=spool,
                models=ModelStore(config.state_dir / MODELS_FOLDER),
                clock=time.time,
                stopping=stopping,
                display=RoundDisplay(Console(stderr=True)),
            )
        finally:
            connection.close()


def run_agent(config: SiteConfig, *, until_finished: bool) -> list[RunOutcome] | None:
    """Run the agent until its runs are over or it is told to stop.

    Returns:
        How each run ended; None where SIGTERM or SIGINT stopped the agent.
    """
    stopping = threading.Event()
    torch.set_num_threads(config.threads)
    with _stopped_by_signals(stopping):
        try:
            with open_site(config, stopping) as site:
                log.info("agent started", state_dir=str(config.state_dir), server=site.identity.address)
                return Agent(site, instance_id=secrets.token_hex(16)).work(until_finished=until_finished)
        except StopRequestedError:
            log.info("agent stopped")
            return None


@contextmanager
def _stopped_by_signals(stopping: threading.Event) -> Iterator[None]:
    def stop(number: int, _frame: FrameType | None) -> None:
        stopping.set()
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
