"""What the report says in sentences: the run, who took part, what happened, what a privacy figure means.

Pure functions of records; no markup. Every sentence that states an epsilon also says what kind of figure it
is.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal

from adpfl.experiment.arms import Arm
from adpfl.experiment.report.results import closed_rounds, contributors
from adpfl.federated.records import ServerRound, ServerRunRecord

_SMALL_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

TASKS = {
    "skin_lesion": "skin-lesion segmentation in dermoscopic images",
    "kidney_tumor": "kidney-tumour segmentation in CT",
    "brain_tumor": "brain-tumour segmentation in MRI",
    "skin_lesion_presence": "skin-lesion detection in tiles of dermoscopic images",
    "kidney_tumor_presence": "kidney-tumour detection in patches of CT",
    "brain_tumor_presence": "brain-tumour detection in patches of MRI",
}
ARMS: dict[Arm, str] = {
    "fl": "plain federated averaging and no privacy mechanism (FL)",
    "dp-fl": "noise and a fixed clipping threshold (DP-FL)",
    "adp-fl": "noise and a clipping threshold that follows each site's own gradients (ADP-FL)",
    "rigorous": "noise that bounds what is lost, at a finite ε",
}
NETWORKS = {"unet": "U-Net", "segresnet": "SegResNet"}


@dataclass(frozen=True)
class Participation:
    """Consecutive rounds in which the same sites took part.

    Attributes:
        rounds: "Round 4" or "Rounds 1 to 3".
        share: "3 of 3".
        missing: names, empty when nobody was missing.
        closed: whether the round was aggregated.
    """

    rounds: str
    share: str
    missing: tuple[str, ...]
    closed: bool


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A counted noun: "three sites", "1 200 steps"."""
    return f"{_spelled(number)} {noun if number == 1 else plural or noun + 's'}"


def count_of(number: int, whole: int, noun: str) -> str:
    """A part of counted things: "two of three sites", or "three sites" where it is all of them."""
    return count(whole, noun) if number == whole else f"{_spelled(number)} of {count(whole, noun)}"


def capital(text: str) -> str:
    """The text with a capital first letter and the rest as it is."""
    return text[:1].upper() + text[1:]


def joined(names: Sequence[str]) -> str:
    """Names as in speech: "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def listed(names: Sequence[str]) -> str:
    """Names as in speech, in quotation marks where one of several holds a comma and would fall apart."""
    apart = len(names) > 1 and any("," in name for name in names)
    return joined([f"“{name}”" for name in names] if apart else names)


def number(value: float, digits: int = 3) -> str:
    """A figure at reading precision, without trailing zeros: 0.698, 19, ∞; powers of ten from 10⁵ on."""
    if math.isinf(value):
        return "∞"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPTS)
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"10{power}" if mantissa == "1" else f"{mantissa} × 10{power}"  # noqa: RUF001 - a multiplication sign


def at_most(value: float, digits: int = 3) -> str:
    """An upper bound at reading precision: rounded up, so that the figure shown is still a bound."""
    if math.isinf(value) or value <= 0:
        return number(value, digits)
    exact = Decimal(repr(value))
    plain = 1e-3 <= value < 1e5
    place = exact.adjusted() + 1 - (digits if plain else digits - 1)
    unit = Decimal(1).scaleb(min(place, 0) if plain else place)
    return number(float(exact.quantize(unit, ROUND_CEILING)), digits)


def duration(seconds: float) -> str:
    """A span at reading precision: "8 s", "4 min 12 s", "3 h 05 min"."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def date(unix_seconds: float) -> str:
    """A day in words, UTC: "23 November 2026"."""
    moment = datetime.fromtimestamp(unix_seconds, UTC)
    return f"{moment.day} {moment:%B %Y}"


def title(server: ServerRunRecord) -> str:
    """The page's heading: how many sites trained, or are to train where no round has closed."""
    task = TASKS.get(server.plan.task, server.plan.task.replace("_", " ")).split(" in ")[0]
    return f"{capital(task)} across {count(len(contributors(server) or server.plan.cohort.sites), 'site')}"


def run_sentence(server: ServerRunRecord) -> str:
    """What was run, in one sentence."""
    plan = server.plan
    task = TASKS.get(plan.task, f"the task {plan.task}")
    network = f"{plan.network.size} {NETWORKS.get(plan.network.architecture, plan.network.architecture)}"
    size = " × ".join(str(side) for side in plan.image_size)  # noqa: RUF001 - a multiplication sign
    if plan.spacing_mm is not None:
        voxel = " × ".join(f"{side:g}" for side in plan.spacing_mm)  # noqa: RUF001 - a multiplication sign
        size += f" voxels of {voxel} mm"
    cohort, trained, closed = len(plan.cohort.sites), len(contributors(server)), len(closed_rounds(server))
    who = (
        f"{count_of(trained, cohort, 'site')} trained" if closed else f"{count(cohort, 'site')} are to train"
    )
    rounds = count_of(closed, plan.rounds, "round") if closed else count(plan.rounds, "round")
    return (
        f"{capital(who)} one {network} for {task} at {size}, in {rounds} of "
        f"{count(plan.local.steps, 'local step')} each, with {ARMS[plan.arm]}; "
        f"no image {'left' if closed else 'leaves'} its site."
    )


def prose(text: str) -> str:
    """The text with typographic apostrophes."""
    return text.replace("'", "\u2019")


def ending(server: ServerRunRecord) -> str:
    """When it ran, how long, and how it stands."""
    times = [event.at_unix_seconds for event in server.timeline]
    times += [entry.opened_unix_seconds for entry in server.rounds]
    times += [entry.closed_unix_seconds for entry in server.rounds if entry.closed_unix_seconds is not None]
    if not times:
        return capital(server.summary)
    return f"{date(min(times))}, {duration(max(times) - min(times))}. {capital(server.summary)}."


def participation(rounds: Iterable[ServerRound], cohort_size: int) -> tuple[Participation, ...]:
    """Who took part, with equal neighbouring rounds folded into one line."""
    groups: list[list[ServerRound]] = []
    for entry in rounds:
        key = (frozenset(entry.sites), entry.missing, entry.result_digest is None)
        last = groups[-1][-1] if groups else None
        if last is not None and key == (frozenset(last.sites), last.missing, last.result_digest is None):
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return tuple(
        Participation(
            rounds=f"Round {group[0].round}"
            if len(group) == 1
            else f"Rounds {group[0].round} to {group[-1].round}",
            share=f"{len(group[0].sites)} of {cohort_size}",
            missing=group[0].missing,
            closed=group[0].result_digest is not None,
        )
        for group in groups
    )


def _spelled(number: int) -> str:
    return _SMALL_NUMBERS[number] if number < len(_SMALL_NUMBERS) else f"{number:,}".replace(",", "\u202f")
