"""Approval by hand: the agent shows a run's whole cost, a person consents to that very plan."""

import json
import time
from pathlib import Path
from typing import Literal

from adpfl.config import FrozenModel, Name, load_json, parse
from adpfl.errors import ConfigError, IntegrityError
from adpfl.privacy.statement import HexDigest
from adpfl_client.config import SiteConfig
from adpfl_client.durable import write_bytes
from adpfl_client.guard import RunCost
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.local_site import RUNS_FOLDER

OFFER_FILE = "offer.json"


class Offer(FrozenModel):
    """`offer.json`: what a server offered and what it would cost, beside the run's record."""

    schema_version: Literal[1] = 1
    run: Name
    plan_digest: HexDigest
    cost: tuple[str, ...]


def keep_offer(folder: Path, cost: RunCost) -> None:
    """Keep a run's price where `read_offer` finds it; written only when it changed."""
    offer = Offer(run=cost.run, plan_digest=cost.plan_digest, cost=cost.lines())
    data = (json.dumps(offer.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()
    path = folder / OFFER_FILE
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)


def read_offer(state_dir: Path, run: str) -> Offer:
    """The offer of a run.

    Raises:
        ConfigError: the agent has seen no such run yet.
        IntegrityError: the file is no offer.
    """
    path = state_dir / RUNS_FOLDER / run / OFFER_FILE
    try:
        document = load_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"run is {run}; the agent has not been offered it yet (start the agent once, it stops to wait)"
        ) from error
    except ValueError as error:
        raise IntegrityError(f"{path}: is not JSON") from error
    return parse(document, Offer, source=str(path))


def approve_run(
    config: SiteConfig, run: str, *, by: str, digest: str | None, now: float | None = None
) -> Offer:
    """Record in the ledger that a person consents to a run's plan at its whole cost.

    Args:
        config: the site's.
        run: as the server named it.
        by: who consents.
        digest: of the plan that the person read; without it, of the plan offered last.
        now: Unix time in seconds; the machine's clock by default.

    Raises:
        ConfigError: there is no such offer, or it is of another plan than `digest`.
    """
    offer = read_offer(config.state_dir, run)
    if digest is not None and digest != offer.plan_digest:
        raise ConfigError(f"--digest is {digest}; run {run} was offered with plan {offer.plan_digest}")
    at = time.time() if now is None else now
    with LedgerStore.open(config.state_dir, at) as ledger:
        ledger.approve(run, offer.plan_digest, by=by, now=at)
    return offer
