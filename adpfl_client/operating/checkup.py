"""`adpfl-client check`: everything that a run will need, tried one after the other, changing nothing."""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import grpc

from adpfl.errors import AdpflError, IdentityError, StorageError
from adpfl.privacy.guarantee import shown_epsilon
from adpfl.wire._generated.adpfl.v1 import federation_pb2_grpc as rpc
from adpfl.wire.messages import NextTaskRequest
from adpfl_client.config import SiteConfig, TaskDataConfig
from adpfl_client.durable import probe
from adpfl_client.ledger.ledger_files import RECEIPT_NAME, has_traces
from adpfl_client.ledger.receipts import kept_receipt, require_contained
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.link.enrollment import load_site_identity
from adpfl_client.link.proxy import route_of
from adpfl_client.link.running_identity import open_channel
from adpfl_client.rounds.site_data import load_site_data

SERVER_SECONDS = 10.0


@dataclass(frozen=True)
class Finding:
    """One line of the checkup."""

    subject: str
    passed: bool
    finding: str


def check_site(config: SiteConfig) -> Iterator[Finding]:
    """Try each part in turn; a part that fails does not stop the next."""
    yield Finding("configuration", True, f"site {config.site}, state in {config.state_dir}")
    for task, entry in sorted(config.data.items()):
        yield _try(f"data, {task}", partial(_data, task, entry))
    yield _try("policy", partial(_policy, config))
    yield _try("state folder", partial(_state_folder, config))
    yield _try("identity", partial(_identity, config))
    yield _try("ledger", partial(_ledger, config))
    yield _try("server", partial(_server, config))


def _try(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, check())
    except AdpflError as error:
        return Finding(subject, False, str(error))


def _data(task: str, entry: TaskDataConfig) -> str:
    data = load_site_data(task, entry)
    return (
        f"{len(data.training_patients)} patients ({len(data.training)} images) to train on, "
        f"{data.held_out_patients} ({len(data.held_out)} images) held out, in {entry.path}"
    )


def _policy(config: SiteConfig) -> str:
    policy = config.policy
    unbounded = ", ".join(entry.run for entry in policy.accept_unbounded) or "none"
    return (
        f"data set {policy.data_set_id}: epsilon at most {policy.epsilon_cap:g} at delta {policy.delta:g}, "
        f"at most {policy.maximum_rounds} rounds; runs accepted without a finite guarantee: {unbounded}"
    )


def _state_folder(config: SiteConfig) -> str:
    """Write a small file and remove it, as the agent does to learn whether its disk works again."""
    if not config.state_dir.exists():
        return f"{config.state_dir}: not there yet; enrolment makes it"
    try:
        probe(config.state_dir)
    except OSError as error:
        raise StorageError(
            f"{config.state_dir}: the disk refuses: {error.strerror or error}; "
            "make it writable for the user of the agent, who cannot work without"
        ) from error
    return f"{config.state_dir}: can be written"


def _identity(config: SiteConfig) -> str:
    identity = load_site_identity(config.state_dir, config.site, now=datetime.now(UTC))
    return (
        f"{identity.site} of {identity.consortium}, "
        f"certificate valid until {identity.certificate.not_valid_after_utc:%Y-%m-%d}"
    )


def _ledger(config: SiteConfig) -> str:
    if not has_traces(config.state_dir):
        return "none yet: nothing has been spent"
    now = time.time()
    with LedgerStore.open(config.state_dir, now) as ledger:
        ledger.require_clock(now)
        entries = ledger.verify().entries
        kept = kept_receipt(config.state_dir)
        if kept is not None:
            require_contained(ledger, kept.unverified(), holder=f"{RECEIPT_NAME} holds")
        spent = ledger.spent(config.policy.data_set_id, delta=config.policy.delta)
    sum_spent, cap = shown_epsilon(spent.epsilon), config.policy.epsilon_cap
    return f"{entries} entries, unbroken; epsilon spent {sum_spent} of {cap:g}"


def _server(config: SiteConfig) -> str:
    """Make a call that the server answers to enrolled sites alone: a revoked one gets as far as TLS."""
    identity = load_site_identity(config.state_dir, config.site, now=datetime.now(UTC))
    route = route_of(config)
    channel = open_channel(identity, route)
    stub: Any = rpc.FederationStub(channel)  # type: ignore[no-untyped-call]
    # No run has this name, so the answer changes nothing: a task asked of a run would make the site ready.
    asked = NextTaskRequest(f"check-{secrets.token_hex(16)}", wait_seconds=0)
    try:
        stub.NextTask(asked.to_wire(), timeout=SERVER_SECONDS, wait_for_ready=False)
    except grpc.RpcError as error:
        code, details = error.code(), " ".join((error.details() or "no details").split())
        if code is not grpc.StatusCode.NOT_FOUND:
            raise IdentityError(f"{identity.address}: {code.name}: {route.explained(details)}") from error
    finally:
        channel.close()
    way = f" through the proxy {route.proxy}" if route.proxy else ""
    return f"{identity.address} answers over mutual TLS{way} and admits {identity.site}"
