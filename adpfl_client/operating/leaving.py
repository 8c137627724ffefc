"""A site's own end of its part in a run, and its way back: a mark beside the run's record.

The mark is durable before anything follows from it. A running agent finds it at its next step: it stops,
gives up what it has reserved (which stays charged) and tells the server; where none runs, the command does
so. An update that is sealed already stays in the spool: it is paid for, and a site that comes back in time
sends it.
"""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import grpc
from pydantic import StringConstraints

from adpfl.config import FrozenModel, Name, parse
from adpfl.errors import ConfigError, IntegrityError, ProtocolError, StateError
from adpfl.federated.records import SiteRunRecord
from adpfl.security.private_files import sync_folder
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc
from adpfl.wire.limits import TEXT_BYTES, check_text, shown_text
from adpfl.wire.messages import HeartbeatRequest, SiteActivity
from adpfl_client.config import SiteConfig
from adpfl_client.durable import storing, write_bytes
from adpfl_client.ledger.ledger_check import open_ledger
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.link.enrollment import load_site_identity
from adpfl_client.link.proxy import route_of
from adpfl_client.link.running_identity import open_channel
from adpfl_client.local_site import RUNS_FOLDER
from adpfl_client.rounds.site_record import Clock, SiteRecorder, read_record
from adpfl_client.state_lock import AgentRunningError, alone

LEFT_FILE: Final = "left.json"
AGENT_SECONDS: Final = 60.0
"""How long the command waits for a running agent to take notice: a long poll takes a third of it."""
SERVER_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.5
_ROLE: Final = "the mark of having left the run"


class Leave(FrozenModel):
    """`left.json` beside a run's record: the site has ended its part in it."""

    schema_version: Literal[1] = 1
    run: Name
    at_unix_seconds: float
    reason: Annotated[str, StringConstraints(max_length=TEXT_BYTES // 4)] = ""
    """Told to the server."""

    @property
    def summary(self) -> str:
        """For records and outcomes."""
        return f"left: {shown_text(self.reason)}" if self.reason else "left by the site"

    def request(self) -> HeartbeatRequest:
        """What the server is told."""
        return HeartbeatRequest(self.run, 0, SiteActivity.LEFT, detail=shown_text(self.reason))


def read_leave(folder: Path) -> Leave | None:
    """The mark in a run's folder; None where the site takes part.

    Raises:
        IntegrityError: the file is no such mark.
    """
    path = folder / LEFT_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise IntegrityError(f"{path}: is not JSON") from error
    return parse(document, Leave, source=str(path))


def has_left(folder: Path) -> bool:
    """Whether there is a mark; asked at every step."""
    return (folder / LEFT_FILE).exists()


def settle_leave(ledger: LedgerStore, folder: Path, mark: Leave, clock: Clock) -> None:
    """Give up what is reserved and say in the run's record that the site left; again changes nothing.

    Raises:
        StorageError: the disk refuses.
    """
    for reservation in ledger.reservations(mark.run):
        if reservation.status == "reserved":
            ledger.abandon(reservation.id, "the site left the run", now=clock())
    record = read_record(folder)
    if record is not None and record.status != "left":
        recorder = SiteRecorder(folder, record, clock)
        recorder.note("left", detail=mark.summary)
        recorder.close("left", mark.summary)


def leave_run(config: SiteConfig, run: str, *, reason: str) -> str:
    """End this site's part in a run; returns one line that says how far that has come.

    Raises:
        ConfigError: the site has no part in such a run, or the reason is too long or not one line of shown
            characters.
        StateError: the run is over here, or the ledger cannot be used.
        StorageError: the disk refuses.
    """
    folder, record = _part_in(config, run)
    if record.status == "finished":
        raise StateError(f"run {run} is finished; there is nothing to leave")
    mark = read_leave(folder)
    if mark is None:
        mark = _new_mark(run, reason)
        with storing(_ROLE):
            write_bytes(folder / LEFT_FILE, (mark.model_dump_json(indent=1) + "\n").encode())
    try:
        with alone(config.state_dir), open_ledger(config) as ledger:
            settle_leave(ledger, folder, mark, time.time)
    except AgentRunningError:
        return _wait_for_agent(folder, run)
    told = _tell_server(config, mark)
    return (
        f"left {run}" if told else f"left {run}; no answer from the server, so the agent tells it next time"
    )


def _new_mark(run: str, reason: str) -> Leave:
    try:
        check_text("--reason", reason)
    except ProtocolError as error:
        raise ConfigError(str(error)) from error
    document = {"run": run, "at_unix_seconds": time.time(), "reason": reason}
    return parse(document, Leave, source="--reason")


def come_back(config: SiteConfig, run: str) -> str:
    """Take part again in a run that the site has left; returns one line.

    Raises:
        ConfigError: the site has no part in such a run.
        StateError: it has not left the run.
        StorageError: the disk refuses.
    """
    folder, _ = _part_in(config, run)
    if not has_left(folder):
        raise StateError(f"this site has not left run {run}")
    with storing(_ROLE):
        (folder / LEFT_FILE).unlink()
        sync_folder(folder)
    return f"joins {run} again: within half a minute where the agent runs, else when it starts"


def _part_in(config: SiteConfig, run: str) -> tuple[Path, SiteRunRecord]:
    folder = config.state_dir / RUNS_FOLDER / run
    record = read_record(folder) if Path(run).name == run else None
    if record is None:
        raise ConfigError(f"there is no run {run} that this site has a part in")
    return folder, record


def _wait_for_agent(folder: Path, run: str) -> str:
    for _ in range(round(AGENT_SECONDS / _LOOK_SECONDS)):
        record = read_record(folder)
        if record is not None and record.status == "left":
            return f"left {run}"
        time.sleep(_LOOK_SECONDS)
    return f"noted; the agent leaves {run} when it is done with what it does now"


def _tell_server(config: SiteConfig, mark: Leave) -> bool:
    identity = load_site_identity(config.state_dir, config.site, now=datetime.now(UTC))
    channel = open_channel(identity, route_of(config))
    stub: Any = rpc.FederationStub(channel)  # type: ignore[no-untyped-call]
    try:
        stub.Heartbeat(mark.request().to_wire(), timeout=SERVER_SECONDS)
    except grpc.RpcError:
        return False
    finally:
        channel.close()
    return True
