"""A server without disk: the coordinator's actions are carried out on chunks in memory."""

import numpy as np
import pytest

from adpfl.config import parse
from adpfl.federated.coordinator import actions_on_resume, new_run, step
from adpfl.federated.round_models import RoundModels, make_models, needed_objects
from adpfl.federated.run_events import Aggregate, RoundClosed, SiteJoined, SiteReady, UpdateArrived
from adpfl.federated.run_plan import RunPlan
from adpfl.federated.run_state import RunState
from adpfl.wire.chunks import iter_chunks, manifest_of_arrays, sha256_hex

CHUNK = 65_536


class Federation:
    """Sites that join at once, and rounds that close when told."""

    def __init__(self, start, *, sites, rounds=4, patients=None, aggregation=None, **changes):
        names = [f"s{number}" for number in range(sites)]
        document = {
            "run": "demo",
            "task": "skin_lesion",
            "image_size": [64, 64],
            "rounds": rounds,
            "local": {"steps": 1, "learning_rate": 0.1, "fedprox_mu": 0.1},
            "aggregation": aggregation or {},
            "cohort": {"sites": names, "quorum": min(sites, 5)},
            "privacy": {"mode": "none", "sampling": {"mode": "full"}},
        }
        self.plan = parse(document | changes, RunPlan, source="plan")
        self.data, self.manifests = {}, {}
        self.asked, self.closed = [], []
        self.state = new_run(
            self.plan, self.keep({"w": start} if isinstance(start, np.ndarray) else start), 0.0
        ).state
        for number, name in enumerate(names):
            self.tell(SiteJoined(name, f"{number:032x}", patients[number] if patients else 10))
        for name in names:
            self.tell(SiteReady(name))

    def write(self, chunk):
        digest = sha256_hex(chunk)
        self.data[digest] = chunk
        return digest

    def keep(self, arrays):
        for chunk in iter_chunks(arrays, CHUNK):
            self.write(chunk)
        manifest = manifest_of_arrays(arrays, chunk_size=CHUNK)
        self.manifests[manifest.digest] = manifest
        return manifest.digest

    def values(self, digest):
        chunks = self.manifests[digest].chunk_digests
        return np.frombuffer(b"".join(self.data[chunk] for chunk in chunks), "<f4")

    @property
    def model(self):
        return self.values(self.state.model_digest)

    def tell(self, event):
        moved = step(self.state, event, 1.0)
        self.state = moved.state
        self.asked += [action for action in moved.actions if isinstance(action, Aggregate)]
        self.closed += [action.record for action in moved.actions if isinstance(action, RoundClosed)]

    def push(self, *updates):
        current = self.state.open_round
        for site, update in zip(self.plan.cohort.sites, updates, strict=False):
            digest = self.keep({"w": update} if isinstance(update, np.ndarray) else update)
            self.tell(UpdateArrived(site, current.round, current.base_digest, digest))

    def make(self, action) -> RoundModels:
        """From nothing but what the action says is needed."""
        known = {digest: self.manifests[digest] for digest in needed_objects(action)}
        return make_models(action, manifest=known.__getitem__, read=self.data.__getitem__, write=self.write)

    def close(self):
        made = self.make(self.asked[-1])
        self.manifests |= {manifest.digest: manifest for manifest in made.manifests}
        self.tell(made.done(self.asked[-1].round))

    def crash(self):
        """Nothing is left but the stored state and objects; what was under way is asked for again."""
        self.state = RunState.model_validate_json(self.state.model_dump_json())
        again = [action for action in actions_on_resume(self.state) if isinstance(action, Aggregate)]
        assert again == self.asked[-1:] or not again
        self.asked += again

    def play(self, *updates):
        self.push(*updates)
        self.close()


@pytest.fixture
def federation():
    return Federation
