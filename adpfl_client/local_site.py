"""What all runs of one agent share: configuration, identity, link, ledger, folders, clock."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from adpfl.security.identity import CallerIdentity
from adpfl_client.config import SiteConfig
from adpfl_client.connection import Connection
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.rounds.models import ModelStore
from adpfl_client.rounds.round_display import RoundDisplay
from adpfl_client.rounds.site_data import SiteData
from adpfl_client.rounds.site_record import Clock
from adpfl_client.spool import Spool

MODELS_FOLDER = "models"
RUNS_FOLDER = "runs"
SPOOL_FOLDER = "spool"


@dataclass(frozen=True)
class Site:
    """An agent's working parts. The folders are those of `SiteConfig.state_dir`."""

    config: SiteConfig
    identity: CallerIdentity
    data: dict[str, SiteData]
    """By task; read once at the start."""
    connection: Connection
    ledger: LedgerStore
    spool: Spool
    models: ModelStore
    clock: Clock
    stopping: threading.Event
    """Set by SIGTERM: work ends at the next step."""
    display: RoundDisplay = field(default_factory=RoundDisplay)
    """For a person at the terminal; shows nothing by default."""

    @property
    def name(self) -> str:
        """The site's name."""
        return self.config.site

    def run_folder(self, run: str) -> Path:
        """Where the record of a run stands."""
        return self.config.state_dir / RUNS_FOLDER / run
