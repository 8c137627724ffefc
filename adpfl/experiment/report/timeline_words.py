"""What happened, in sentences: the daemons' timeline entries put into words.

An entry of a kind that is not listed here is still told, by its own name.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from adpfl.experiment.report.words import capital, count, date
from adpfl.federated.records import TimelineEvent

SERVER = "*server"
"""The server as a recorder; no site can have this name."""

MOST_LINES = 40
"""A longer timeline shows its disturbances and its ends, and all of it where the reader unfolds it."""


@dataclass(frozen=True)
class Happening:
    """One line of the timeline.

    Attributes:
        clock: UTC time of day, preceded by the date where the day changed.
        words: what happened.
        notable: whether it is a disturbance (a restart, a loss, a refusal) and not the normal course.
    """

    clock: str
    words: str
    notable: bool


@dataclass(frozen=True)
class _Kind:
    """How a kind of entry is told; `{site}` and `{round}` are filled in, its detail follows a colon."""

    sentence: str
    notable: bool = False


_BY_THE_SERVER = {
    "run_created": _Kind("the server opened the run"),
    "run_started": _Kind("training began"),
    "run_finished": _Kind("the run finished at the server"),
    "run_failed": _Kind("the run failed", notable=True),
    "server_restarted": _Kind("the server was restarted{round}", notable=True),
    "site_joined": _Kind("{site} joined"),
    "site_rejoined": _Kind("{site} joined again{round}", notable=True),
    "site_refused": _Kind("{site} refused to take part{round}", notable=True),
    "site_lost": _Kind("{site} was heard of no more{round}", notable=True),
    "site_returned": _Kind("{site} was heard of again{round}"),
    "deadline_passed": _Kind("the deadline passed{round}", notable=True),
    "quorum_missing": _Kind("the deadline passed without a quorum{round}", notable=True),
    "round_partial": _Kind("not every site took part{round}", notable=True),
    "update_late": _Kind("an update of {site} came too late{round} and was not counted", notable=True),
    "update_repeated": _Kind("{site} sent its update once more{round}; it counted once"),
    "update_conflicting": _Kind(
        "{site} sent a second, different update{round}; it was refused", notable=True
    ),
    "update_damaged": _Kind(
        "the stored update of {site}{round} was damaged on the server's disk, and asked for again",
        notable=True,
    ),
    "storage_damaged": _Kind("a model was damaged on the server's disk", notable=True),
    "storage_mended": _Kind("what was damaged on the server's disk was put back", notable=True),
    "site_left": _Kind("{site} left the run", notable=True),
    "site_came_back": _Kind("{site} takes part again", notable=True),
    "update_foreign": _Kind("{site} sent an update of another model{round}; it was refused", notable=True),
}
_BY_A_SITE = {
    "agent_started": _Kind("the agent of {site} took the run up"),
    "unbounded_accepted": _Kind("the policy of {site} accepts this run without a finite ε"),
    "agent_restarted": _Kind("the agent of {site} was restarted{round}", notable=True),
    "server_restarted": _Kind("{site} found that the server had been restarted", notable=True),
    "reconnected": _Kind("{site} reached the server again", notable=True),
    "refused_by_server": _Kind("the server refused a call of {site}", notable=True),
    "update_resent": _Kind("{site} sent its update again{round}", notable=True),
    "update_discarded": _Kind("{site} discarded an unfinished update{round}", notable=True),
    "update_late": _Kind("{site} was told that its update came too late{round}", notable=True),
    "round_obsolete": _Kind("{site} stopped training{round}, which had closed", notable=True),
    "finished": _Kind("the agent of {site} was done"),
    "failed": _Kind("{site} gave up", notable=True),
    "refused": _Kind("{site} refused the run", notable=True),
    "left": _Kind("{site} left the run", notable=True),
}

# In a kind that this version does not know, these parts of its name tell a disturbance.
_TROUBLE = (
    "restart",
    "rejoin",
    "lost",
    "late",
    "refus",
    "missing",
    "conflict",
    "fail",
    "abandon",
    "discard",
    "redo",
)


def happenings(events: Iterable[tuple[str, TimelineEvent]]) -> tuple[Happening, ...]:
    """The timeline in words, in order of time.

    Args:
        events: who recorded the event, `SERVER` or a site's name, and the event.
    """
    lines: list[Happening] = []
    day = ""
    for recorder, event in sorted(events, key=lambda pair: pair[1].at_unix_seconds):
        today = date(event.at_unix_seconds)
        clock = f"{datetime.fromtimestamp(event.at_unix_seconds, UTC):%H:%M:%S}"
        known = (_BY_THE_SERVER if recorder == SERVER else _BY_A_SITE).get(event.kind)
        lines.append(
            Happening(
                clock=clock if today == day else f"{today}, {clock}",
                words=_told(recorder, event, known),
                notable=known.notable if known else any(part in event.kind for part in _TROUBLE),
            )
        )
        day = today
    return tuple(lines)


def shortened(lines: tuple[Happening, ...]) -> tuple[Happening, ...]:
    """The lines to show at once: all, or of more than `MOST_LINES` the disturbances and both ends."""
    if len(lines) <= MOST_LINES:
        return lines
    ends = (0, len(lines) - 1)
    return tuple(line for place, line in enumerate(lines) if line.notable or place in ends)


def disturbances(lines: tuple[Happening, ...]) -> str:
    """How much went otherwise than planned, in one sentence."""
    notable = sum(line.notable for line in lines)
    if not lines:
        return "Nothing was recorded."
    if not notable:
        return "Nothing went otherwise than planned: no restart, no lost site, no late update."
    return f"Disturbances stand in bold: {count(notable, 'entry', 'entries')} of {len(lines)}."


def _told(recorder: str, event: TimelineEvent, known: _Kind | None) -> str:
    site = event.site or ("the server" if recorder == SERVER else recorder)
    where = "" if event.round is None else f" in round {event.round}"
    detail = event.detail.removeprefix(f"{event.kind}: ")
    detail = f": {detail}" if detail else ""
    if known is None:
        return f"{site}, {event.kind.replace('_', ' ')}{where}{detail}"
    sentence = known.sentence.replace("{round}", where)
    if sentence.startswith("{site}"):  # a site keeps the spelling of its name
        return sentence.replace("{site}", site) + detail
    return capital(sentence).replace("{site}", site) + detail
