"""The round state machine of one small run, fed event by event."""

from adpfl.federated.coordinator import new_run, step
from adpfl.federated.run_events import (
    Aggregate,
    AggregationDone,
    SiteJoined,
    SiteReady,
    UpdateArrived,
)
from adpfl.federated.run_plan import RunPlan

SITES = ("a", "b", "c")
START = 1000.0
DEADLINE = 60.0


def digest(number):
    return f"{number:064x}"


def instance(site, restarts=0):
    return f"{SITES.index(site) + 3 * restarts}" * 32


def a_plan(quorum=2, rounds=2, weights="uniform", sites=SITES):
    return RunPlan.model_validate(
        {
            "run": "demo",
            "task": "skin_lesion",
            "image_size": [64, 64],
            "rounds": rounds,
            "local": {"steps": 1, "learning_rate": 0.1},
            "aggregation": {"weights": weights},
            "cohort": {"sites": list(sites), "quorum": quorum, "round_deadline_seconds": DEADLINE},
            "privacy": {"mode": "none", "sampling": {"mode": "full"}},
        }
    )


class Machine:
    """Feeds events and keeps everything that came out."""

    def __init__(self, plan=None):
        created = new_run(plan or a_plan(), digest(0), START)
        self.state = created.state
        self.now = START
        self.actions = []
        self.timeline = list(created.timeline)

    def feed(self, event, later=1.0):
        self.now += later
        moved = step(self.state, event, self.now)
        self.state = moved.state
        self.actions += moved.actions
        self.timeline += moved.timeline
        return moved

    def join(self, *sites):
        """Join and ask for a task, as an agent does whose policy lets the run pass."""
        for site in sites:
            self.feed(SiteJoined(site, instance(site), 10 * (SITES.index(site) + 1)))
            self.feed(SiteReady(site))
        return self

    def update(self, site, number=1, base=None, round_number=None):
        current = self.state.open_round
        return self.feed(
            UpdateArrived(
                site,
                round_number or (current.round if current else 1),
                base or (current.base_digest if current else digest(0)),
                digest(number),
            )
        )

    def sums(self):
        return [action for action in self.actions if isinstance(action, Aggregate)]

    def close(self, number):
        return self.feed(AggregationDone(self.state.open_round.round, digest(number)))

    def kinds(self):
        return [entry.kind for entry in self.timeline]


def running(**plan):
    return Machine(a_plan(**plan)).join(*SITES)
