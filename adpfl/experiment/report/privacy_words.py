"""The facts that must stand beside each of a run's privacy figures, in plain words.

No figure is told without its meaning: the honest epsilon first, what it would have been with thresholds fixed
in advance second and named as no guarantee, the nominal one last and never alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adpfl.experiment.report.caveat_words import in_words
from adpfl.experiment.report.data_words import unit_words
from adpfl.experiment.report.mechanism_words import MECHANISMS, READINGS, SAMPLINGS, THRESHOLDS
from adpfl.experiment.report.record import DataNote
from adpfl.experiment.report.words import at_most, capital, listed, number
from adpfl.federated.run_plan import RunPlan
from adpfl.privacy.guarantee import Guarantee
from adpfl.privacy.plan import NEIGHBORING_RELATION, PaperPrivacy, RigorousPrivacy, UnsafeNonePrivacy

UNITS = {
    "patient": "patient: all images of one patient count as one contribution",
    "record": "record: one image counts as one contribution; a patient with several is protected less",
}
RELATIONS = {
    NEIGHBORING_RELATION: "zero-out: one unit's contribution replaced by zero; the number of units is public",
}

ACCOUNTANTS = {
    "renyi": "Rényi divergences, composed over the steps",
    "pld": "privacy loss distributions, composed over the steps",
    "pure": "pure ε, added up over the steps",
    "none": "",
}


@dataclass(frozen=True)
class Fact:
    """One term that stands beside every figure, with its value or values."""

    term: str
    value: str


def facts(guarantees: Sequence[tuple[str, Guarantee]], data_note: DataNote | None = None) -> tuple[Fact, ...]:
    """The terms of the figures, told with the names that hold them only where those differ."""
    terms: dict[str, Callable[[Guarantee], str]] = {
        "Unit of privacy": lambda g: _unit(g.unit, data_note),
        "Neighbouring relation": lambda g: RELATIONS.get(g.neighboring_relation, g.neighboring_relation),
        "Sampling": lambda g: _first_known(g.sampling, SAMPLINGS),
        "Mechanism": lambda g: _first_known(g.mechanism, MECHANISMS),
        "Clipping threshold C": lambda g: _first_known(g.threshold or "", THRESHOLDS),
        "Noise multiplier": lambda g: _noise_multiplier(g.noise_multiplier),
        "Reading of the nominal ε": lambda g: READINGS.get(g.reading, g.reading) if g.reading else "",
        "Target ε of the noise": lambda g: "" if g.target_epsilon is None else number(g.target_epsilon),
        "ε of a whole patient": _of_a_patient,
        "Steps, composed": lambda g: str(g.steps),
        "δ": lambda g: number(g.delta, 2),
        "Accountant": lambda g: ACCOUNTANTS.get(g.accountant, g.accountant),
    }
    rows: list[Fact] = []
    for term, tell in terms.items():
        holders: dict[str, list[str]] = {}
        for name, guarantee in guarantees:
            if value := tell(guarantee):
                holders.setdefault(value, []).append(name)
        if not holders:
            continue
        if [len(names) for names in holders.values()] == [len(guarantees)]:
            rows.append(Fact(term, *holders))
        else:
            rows.append(
                Fact(term, "; ".join(f"{listed(names)}: {value}" for value, names in holders.items()))
            )
    return tuple(rows)


def plan_facts(plan: RunPlan, data_note: DataNote | None = None) -> tuple[Fact, ...]:
    """The same terms as far as the plan alone fixes them: for a report without any site's record."""
    privacy = plan.privacy
    mechanism = privacy.mechanism or "none"
    share = f", probability {number(privacy.sampling.probability)}" if privacy.sampling.mode != "full" else ""
    rows = [
        Fact("Unit of privacy", _unit(privacy.unit, data_note)),
        Fact("Neighbouring relation", RELATIONS[NEIGHBORING_RELATION]),
        Fact("Sampling", SAMPLINGS[privacy.sampling.mode] + share),
        Fact("Mechanism", MECHANISMS.get(mechanism, mechanism)),
    ]
    if not isinstance(privacy, UnsafeNonePrivacy):
        rows.append(Fact("Clipping threshold C", THRESHOLDS[privacy.threshold.method]))
    if isinstance(privacy, RigorousPrivacy):
        if privacy.noise_multiplier is not None:
            rows.append(Fact("Noise multiplier", _noise_multiplier(privacy.noise_multiplier)))
        if privacy.target_epsilon is not None:
            rows.append(Fact("Target ε of the noise", number(privacy.target_epsilon)))
    if isinstance(privacy, PaperPrivacy):
        rows.append(Fact("Reading of the nominal ε", READINGS[privacy.reading]))
    rows.append(Fact("Steps a site, planned", str(plan.rounds * plan.local.steps)))
    if not isinstance(privacy, UnsafeNonePrivacy):
        rows.append(Fact("δ", number(privacy.delta, 2)))
    return tuple(rows)


def caveats(guarantees: Sequence[tuple[str, Guarantee]]) -> tuple[str, ...]:
    """Every caveat once and in words, with the sites that state it where not all do."""
    stated: dict[str, list[str]] = {}
    for site, guarantee in guarantees:
        for caveat in guarantee.caveats:
            stated.setdefault(in_words(caveat), []).append(site)
    return tuple(
        caveat if len(by) == len(guarantees) else f"{listed(by)}: {caveat}" for caveat, by in stated.items()
    )


def wasted(plan: RunPlan, guarantees: Sequence[tuple[str, Guarantee]]) -> tuple[str, ...]:
    """Sites that were charged for more steps than the plan has, and why."""
    planned = plan.rounds * plan.local.steps
    return tuple(
        f"{site} was charged {guarantee.steps} steps, the plan has {planned}: "
        "work lost in a crash stays charged"
        for site, guarantee in guarantees
        if guarantee.steps > planned
    )


def _noise_multiplier(multiplier: float | None) -> str:
    """Noise relative to the clip norm, whichever mechanism draws it."""
    return "" if multiplier is None else f"{number(multiplier)} times C, on the sum of a step's gradients"


def _of_a_patient(guarantee: Guarantee) -> str:
    if guarantee.epsilon_per_patient is None:
        return ""
    figure = at_most(guarantee.epsilon_per_patient)
    return f"{figure}, for one with at most {guarantee.records_per_patient} images"


def _unit(unit: str, data_note: DataNote | None) -> str:
    """The unit in words; an image that only stands for its patient is never passed off as one."""
    known = UNITS.get(unit, unit)
    makeshift = unit_words(data_note) if data_note and unit == "patient" else None
    return f"{known}. {capital(makeshift)}." if makeshift else known


def _first_known(value: str, known: dict[str, str]) -> str:
    """The long form of a value whose first word is known, keeping what follows (a probability, a law)."""
    for name, words in known.items():
        if value == name or value.startswith((f"{name} ", f"{name},", f"{name}(")):
            rest = value.removeprefix(name).strip(" ,()")
            return f"{words} ({rest})" if rest else words
    return value
