"""What must hold after whatever happened; each function looks at the disks alone and says what is broken."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from adpfl.federated.run_state import RunState
from adpfl.privacy.ledger import Reservation
from adpfl.wire.chunks import Manifest, sha256_hex
from adpfl.wire.receipts import CommitOutcome, Receipt
from adpfl_client.ledger_store import LedgerStore
from adpfl_server.store import DATABASE_FILE, CommitRow, Store
from tests.faults.rig import RUN, Federation
from tests.faults.witness import RELEASES_FILE, SENT_FOLDER

Arrays = dict[str, NDArray[np.float32]]

_TROUBLE = re.compile(
    r"Traceback|internal error|background work failed|Exception in|Exception ignored|never retrieved"
)


def check_all(federation: Federation) -> None:
    """After the daemons have ended: nothing lost, nothing twice, nothing undercounted, nothing unsaid."""
    check_logs(federation)
    check_chains(federation)
    store = Store(federation.root / "server")
    try:
        ledgers = {site: reservations(federation, site) for site in federation.sites}
        for site in federation.sites:
            check_budget(federation, site, ledgers[site])
            check_acknowledged(store, site, ledgers[site])
        check_rounds(federation, store)
        check_chunks(federation, store)
        check_sums(federation, store)
    finally:
        store.close()


def check_logs(federation: Federation) -> None:
    """No daemon met anything that it was not made for."""
    for name in ("server", *federation.sites):
        found = [line for line in federation.log(name).splitlines() if _TROUBLE.search(line)]
        assert not found, f"{name} logged: {found[:3]}\n{federation.scene()}"


def check_chains(federation: Federation) -> None:
    """Ledger and audit log verify by the commands that a person would use."""
    for site in federation.sites:
        if (federation.root / "state" / site / "ledger.sqlite").exists():
            federation.command("adpfl_client", "verify", "--site", site)
    federation.command("adpfl_server", "--config", "server.yaml", "audit-log", "verify")


def reservations(federation: Federation, site: str) -> tuple[Reservation, ...]:
    state = federation.root / "state" / site
    if not (state / "ledger.sqlite").exists():
        return ()
    with LedgerStore.open(state, 0.0) as ledger:
        return ledger.reservations()


def check_budget(federation: Federation, site: str, charged: tuple[Reservation, ...]) -> None:
    """Every draw of noise was paid for, round by round and base by base; nothing was paid to nobody."""
    drawn: Counter[tuple[int, str]] = Counter()
    attempts: set[tuple[int, str, str]] = set()
    path = federation.root / "state" / site / RELEASES_FILE
    for line in path.read_text(encoding="ascii").splitlines() if path.exists() else ():
        pid, number, base, _ = line.split()
        drawn[int(number), base] += 1
        attempts.add((int(number), base, pid))
    paid: Counter[tuple[int, str]] = Counter()
    rows: Counter[tuple[int, str]] = Counter()
    for row in charged:
        paid[row.round_number, row.base_digest] += row.steps
        rows[row.round_number, row.base_digest] += 1
    for key, count in drawn.items():
        assert count <= paid[key], f"{site} drew {count} times for {key} and paid for {paid[key]}"
    for key, count in Counter((number, base) for number, base, _ in attempts).items():
        assert count <= rows[key], f"{site} trained {count} times for {key} with {rows[key]} reservations"
    for key in rows:
        signed = [row for row in charged if (row.round_number, row.base_digest) == key and row.receipt_json]
        assert len(signed) <= 1, f"{site} has {len(signed)} signed updates for {key}"
    record = federation.root / "state" / site / "runs" / RUN / "site.json"
    if record.exists() and charged:
        told = json.loads(record.read_text(encoding="utf-8"))["guarantee"]["steps"]
        assert told == sum(row.steps for row in charged), f"{site} tells of {told} steps"


def receipt_of(row: Reservation) -> Receipt:
    document: dict[str, Any] = json.loads(row.receipt_json or "")["receipt"]
    return Receipt.from_canonical_json(json.dumps(document).encode())


def check_acknowledged(store: Store, site: str, charged: tuple[Reservation, ...]) -> None:
    """What the server signed for stands in its database, word for word."""
    for row in charged:
        if row.receipt_json is None:
            continue
        receipt = receipt_of(row)
        known = store.commit_row(RUN, receipt.round, site)
        assert known is not None, f"the server has forgotten round {receipt.round} of {site}"
        assert Receipt.from_canonical_json(known.receipt_json) == receipt


def commits(store: Store) -> list[CommitRow]:
    rows = store.connection.execute("SELECT * FROM commits WHERE run = ?", (RUN,))
    return [CommitRow(**dict(row)) for row in rows]


def accepted(store: Store) -> dict[int, dict[str, str]]:
    """Digests of the updates that count, by round and site."""
    found: dict[int, dict[str, str]] = {}
    for row in commits(store):
        if Receipt.from_canonical_json(row.receipt_json).outcome is CommitOutcome.ACCEPTED:
            found.setdefault(row.round, {})[row.site] = row.update_digest
    return found


def check_rounds(federation: Federation, store: Store) -> None:
    """Exactly the updates that were acknowledged as counting are in a round, and each once."""
    state: RunState = store.state(RUN)
    counted = accepted(store)
    for closed in store.record(RUN).rounds:
        assert sorted(closed.sites) == sorted(counted.get(closed.round, {})), closed
        assert len(closed.sites) >= state.plan.cohort.quorum or closed.closed_unix_seconds is None
    if state.open_round is not None:
        kept = {update.site: update.update_digest for update in state.open_round.updates}
        assert kept == counted.get(state.open_round.round, {})
    assert set(counted) <= set(range(1, state.plan.rounds + 1))


def check_chunks(federation: Federation, store: Store) -> None:
    """Every chunk is what its name says, and the newest model has all of its own."""
    (integrity,) = store.connection.execute("PRAGMA integrity_check").fetchone()
    assert integrity == "ok"
    for path in (federation.root / "server" / "blobs").glob("[0-9a-f][0-9a-f]/*"):
        assert sha256_hex(path.read_bytes()) == path.name
    manifest = store.manifest(store.state(RUN).model_digest)
    assert manifest is not None
    assert not store.missing(manifest)


def check_sums(federation: Federation, store: Store) -> None:
    """Each round's model is its base and the mean of the updates that count, to the bit."""
    counted = accepted(store)
    received, kept = received_models(federation), kept_models(store)
    for digest in received.keys() & kept.keys():
        for name, values in kept[digest].items():
            assert np.array_equal(values, received[digest][name]), f"two models are called {digest[:12]}"
    models = received | kept
    for number in range(1, store.state(RUN).rounds_closed + 1):
        digest, base = store.model_digest(RUN, number), store.model_digest(RUN, number - 1)
        assert digest is not None
        assert base is not None
        assert digest in models, f"nobody has the model of round {number}"
        order = [site for site in federation.plan.cohort.sites if site in counted[number]]
        updates = [update_of(federation, site, counted[number][site]) for site in order]
        for name, values in models[base].items():
            total = values.astype(np.float64)
            for update in updates:
                total += 1.0 / len(updates) * update[name].astype(np.float64)
            assert np.array_equal(total.astype(np.float32), models[digest][name]), (number, name)


def received_models(federation: Federation) -> dict[str, Arrays]:
    """Every global model that any site holds, by digest."""
    found: dict[str, Arrays] = {}
    for path in (federation.root / "state").glob(f"*/models/{RUN}/round-*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        digest = json.loads(header["__metadata__"]["adpfl"])["object_digest"]
        found[digest] = load_file(path)
    return found


def kept_models(store: Store) -> dict[str, Arrays]:
    """The global models whose chunks the server still has."""
    found: dict[str, Arrays] = {}
    for digest in store.kept_models(RUN).values():
        manifest = store.manifest(digest)
        assert manifest is not None
        found[digest] = arrays(manifest, b"".join(map(store.blobs.get, manifest.chunk_digests)))
    return found


def update_of(federation: Federation, site: str, digest: str) -> Arrays:
    """An update from where its site sealed it."""
    state = federation.root / "state" / site
    folders = [state / SENT_FOLDER / digest, *(state / "spool" / RUN).glob("round-*")]
    for folder in folders:
        if (folder / "manifest.json").exists():
            manifest = Manifest.from_canonical_json((folder / "manifest.json").read_bytes())
            if manifest.digest == digest:
                return arrays(manifest, (folder / "update.payload").read_bytes())
    raise AssertionError(f"{site} has no update {digest[:12]}, which the server counted")


def arrays(manifest: Manifest, payload: bytes) -> Arrays:
    values = np.frombuffer(payload, dtype="<f4")
    found: Arrays = {}
    start = 0
    for tensor in manifest.tensors:
        found[tensor.name] = values[start : start + tensor.elements].reshape(tensor.shape)
        start += tensor.elements
    assert start == len(values)
    return found


def database_of(root: Path) -> Path:
    return root / "server" / DATABASE_FILE
