"""Random schedules of faults: drawn from a seed, then played against a federation.

The draw is the same on every machine; what it meets when it is played is not, and the invariants must hold
whatever it meets.
"""

import heapq
import itertools
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from adpfl.kill_points import POINTS
from tests.faults.link import Mishap
from tests.faults.rig import KILLED, RUN, SITES, Federation, Started, Stopwatch

ROUNDS = 4
MOMENTS_SECONDS = 2.0
"""Faults begin within so long after the start; a run without faults takes about half of it."""
LONGEST_SECONDS = 4.0
"""Of an outage: more than a minute at the true times, longer than calls, heartbeats and progress wait."""
MEGABITS = (4.0, 30.0)

CLIENT_POINTS = tuple(sorted(point for point in POINTS if point.startswith("client.")))
SERVER_POINTS = tuple(sorted(point for point in POINTS if point.startswith("server.")))


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    kind: str
    at_seconds: float
    target: str
    """A site, `server`, or `all`."""
    seconds: float = 0.0
    """How long it lasts, or how long the dead stay dead."""
    detail: Any = None


@dataclass(frozen=True)
class Schedule:
    """Everything that will go wrong in one run."""

    seed: int
    sites: tuple[str, ...]
    quorum: int
    kill_points: tuple[tuple[str, str], ...]
    """Process and `point:count`, for its first life."""
    faults: tuple[Fault, ...]
    start_order: tuple[str, ...]


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    dice = random.Random(seed)
    sites = SITES[: dice.choice((2, 3, 3))]
    quorum = dice.choice((len(sites), len(sites), len(sites) - 1))
    everybody = ("server", *sites)
    points = []
    for name in dice.sample(everybody, k=dice.choice((0, 1, 1, 2))):
        known = SERVER_POINTS if name == "server" else CLIENT_POINTS
        points.append((name, f"{dice.choice(known)}:{dice.choice((1, 1, 2, 3, 5))}"))
    faults = tuple(
        sorted((_fault(dice, sites) for _ in range(dice.randint(2, 6))), key=lambda one: one.at_seconds)
    )
    order = list(everybody)
    dice.shuffle(order)
    return Schedule(seed, sites, quorum, tuple(points), faults, tuple(order))


def _fault(dice: random.Random, sites: tuple[str, ...]) -> Fault:
    kind = dice.choice(tuple(HAPPENINGS))
    at = dice.uniform(0.0, MOMENTS_SECONDS)
    seconds = dice.uniform(0.1, LONGEST_SECONDS)
    site = dice.choice(sites)
    match kind:
        case "kill":
            return Fault(kind, at, dice.choice(("server", "server", site)), dice.uniform(0.0, 2.0))
        case "kill all":
            return Fault(kind, at, "all", dice.uniform(0.0, 1.0))
        case "terminate" | "freeze":
            return Fault(kind, at, dice.choice(("server", site)), seconds)
        case "cut":
            far = dice.choice((site, site, "all"))
            silent, forget = dice.random() < 0.6, dice.random() < 0.5
            return Fault(kind, at, far, seconds, (silent, forget))
        case "slow":
            rate = dice.choice((*MEGABITS, None))
            return Fault(kind, at, site, seconds, (rate, dice.choice((0.0, 0.02, 0.3))))
        case "mishap":
            what = dice.choice(("truncate", "reset", "duplicate", "corrupt"))
            # The first bytes are the handshake; a model is 360 KB, an update as much.
            place = dice.choice((dice.randint(0, 3_000), dice.randint(0, 400_000)))
            return Fault(kind, at, site, 0.0, (what, dice.choice(("up", "down")), place))
        case "jump":
            # A site's clock that falls back behind its ledger is for a person to look into: see test_clocks.
            target = dice.choice(("server", site))
            hours = dice.choice((0.02, 3.0)) * (dice.choice((1, -1)) if target == "server" else 1)
            return Fault(kind, at, target, seconds, 3600.0 * hours)
        case "pause":
            return Fault(kind, at, "server", seconds)
    return Fault(kind, at, site)


class Player:
    """Lets a schedule happen to a federation."""

    def __init__(self, federation: Federation, schedule: Schedule) -> None:
        self.federation = federation
        self.schedule = schedule
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.stopped: set[str] = set()
        self._dice = random.Random(f"restarts {schedule.seed}")
        self._numbers = itertools.count()
        self._watch = Stopwatch()

    def play(self, patience_seconds: float) -> None:
        """Start everything, let everything go wrong, and wait until the run is over."""
        self._watch = Stopwatch()
        armed = dict(self.schedule.kill_points)
        for fault in self.schedule.faults:
            self.at(fault.at_seconds, lambda fault=fault: HAPPENINGS[fault.kind](self, fault))
        for place, name in enumerate(self.schedule.start_order):
            self.at(0.05 * place, lambda name=name: self.federation.start(name, kill_at=armed.get(name)))
        while not self._over():
            if self.now() > patience_seconds:
                raise TimeoutError(
                    f"{self.schedule} did not end in {patience_seconds} s\n{self.federation.scene()}"
                )
            self._happen()
            self._raise_the_dead()
            time.sleep(0.01)

    def now(self) -> float:
        """Seconds since the start."""
        return self._watch.seconds()

    def at(self, seconds: float, work: Callable[[], None]) -> None:
        """Let something happen then."""
        heapq.heappush(self.events, (seconds, next(self._numbers), work))

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        """Let something happen so long from now."""
        self.at(self.now() + seconds, work)

    def revive(self, name: str, seconds: float) -> None:
        """Start a dead process again after a while."""

        def start() -> None:
            if name not in self.federation.running:
                self.federation.start(name)

        self.later(seconds, start)

    def runs(self, name: str) -> bool:
        """Whether a process is there to suffer."""
        process = self.federation.running.get(name)
        return process is not None and process.code() is None

    def links(self, target: str) -> list[Any]:
        """The links that a fault is about."""
        found = self.federation.links
        return list(found.values()) if target == "all" else [found[target]]

    def _happen(self) -> None:
        while self.events and self.events[0][0] <= self.now():
            heapq.heappop(self.events)[2]()

    def _raise_the_dead(self) -> None:
        for name in ("server", *self.schedule.sites):
            if self.federation.died(name):
                self.revive(name, self._dice.uniform(0.0, 1.0))

    def _over(self) -> bool:
        return not self.events and "server" in self.federation.running and self.federation.is_over()


def _kill(player: Player, fault: Fault) -> None:
    if player.runs(fault.target):
        player.federation.kill(fault.target)
        player.revive(fault.target, fault.seconds)


def _kill_all(player: Player, fault: Fault) -> None:
    """A power cut in the server room and in every hospital; the server comes back first."""
    for place, name in enumerate(("server", *player.schedule.sites)):
        if player.runs(name):
            player.federation.kill(name)
            player.revive(name, fault.seconds * (1 + place))


def _terminate(player: Player, fault: Fault) -> None:
    """An orderly stop by an administrator, and a start some time later."""
    if not player.runs(fault.target):
        return
    process = player.federation.running.pop(fault.target)
    process.signal(signal.SIGCONT)  # it may be frozen
    process.signal(signal.SIGTERM)
    code = process.wait(30)
    # Before it has its handlers the signal itself ends it, and a kill point may come first.
    assert code in {0, -signal.SIGTERM, KILLED}, (
        f"{fault.target} ended with {code}\n{player.federation.scene()}"
    )
    player.federation.deaths.append(f"{fault.target}: as it was told")
    player.revive(fault.target, min(fault.seconds, 1.0))


def _freeze(player: Player, fault: Fault) -> None:
    """A machine that swaps or a virtual one that is moved: its sockets stay open, and nothing answers."""
    if player.runs(fault.target):
        process = player.federation.running[fault.target]
        process.signal(signal.SIGSTOP)
        player.later(fault.seconds, lambda: process.signal(signal.SIGCONT))


def _cut(player: Player, fault: Fault) -> None:
    silent, forget = fault.detail
    for link in player.links(fault.target):
        link.cut(silent=silent)
        player.later(fault.seconds, lambda link=link: link.mend(forget=forget))


def _slow(player: Player, fault: Fault) -> None:
    rate, delay = fault.detail
    for link in player.links(fault.target):
        link.slow(megabits_per_second=rate, delay_seconds=delay)
        player.later(fault.seconds, lambda link=link: link.slow())


def _drop(player: Player, fault: Fault) -> None:
    for link in player.links(fault.target):
        link.drop()


def _mishap(player: Player, fault: Fault) -> None:
    for link in player.links(fault.target):
        link.expect(Mishap(*fault.detail))


def _jump(player: Player, fault: Fault) -> None:
    """A wall clock goes wrong; the server's is mended, a site's stays ahead."""
    player.federation.jump(fault.target, fault.detail)
    if fault.target == "server":
        player.later(fault.seconds, lambda: player.federation.jump("server", 0.0))


def _pause(player: Player, fault: Fault) -> None:
    """An operator pauses the run, where it has begun, and lets it go on."""
    if (player.federation.root / "server" / "runs" / RUN / "run.json").exists():
        pausing = _steer(player, "pause")

        def resume() -> None:
            if pausing.code() is None:  # else the two might change places
                player.later(0.1, resume)
            else:
                _steer(player, "resume")

        player.later(fault.seconds, resume)


def _steer(player: Player, what: str) -> Started:
    """By the command, which the daemon takes up when it is there."""
    arguments = ["--config", "server.yaml", what, RUN]
    log = player.federation.root / f"{what}.log"
    return player.federation.template.forge.start("adpfl_server", arguments, player.federation.root, log, {})


HAPPENINGS: dict[str, Callable[[Player, Fault], None]] = {
    "kill": _kill,
    "kill all": _kill_all,
    "terminate": _terminate,
    "freeze": _freeze,
    "cut": _cut,
    "slow": _slow,
    "drop": _drop,
    "mishap": _mishap,
    "jump": _jump,
    "pause": _pause,
}
