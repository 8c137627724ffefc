"""What a run's privacy figures mean, in plain words, and the facts that must stand beside each of them.

No figure is told without its meaning: the honest epsilon first, what it would have been with thresholds fixed
in advance second and named as no guarantee, the nominal one last and never alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adpfl.experiment.report.words import MECHANISMS, READINGS, SAMPLINGS, joined, number
from adpfl.federated.records import SiteRunRecord
from adpfl.federated.run_plan import RunPlan
from adpfl.privacy.guarantee import Guarantee
from adpfl.privacy.plan import NEIGHBORING_RELATION, PaperPrivacy

_MEANINGLESS_EPSILON = 50.0
"""exp(50) is above 10^21: a bound on the odds that excludes nothing a person could observe."""

UNITS = {
    "patient": "patient: all images of one patient count as one contribution",
    "record": "record: one image counts as one contribution; a patient with several is protected less",
}
RELATIONS = {
    NEIGHBORING_RELATION: "zero-out: one unit's contribution replaced by zero; the number of units is public",
}

ACCOUNTANTS = {"renyi": "Rényi divergences, composed over the steps", "none": ""}


@dataclass(frozen=True)
class Explanation:
    """A box of plain words.

    Attributes:
        heading: the finding in one line.
        paragraphs: what it means and why.
        grave: whether the run has no meaningful guarantee.
    """

    heading: str
    paragraphs: tuple[str, ...]
    grave: bool


@dataclass(frozen=True)
class Fact:
    """One term that stands beside every figure, with its value or values."""

    term: str
    value: str


@dataclass(frozen=True)
class Verdict:
    """The privacy of a run in the fewest words."""

    words: str
    grave: bool


def verdict(plan: RunPlan, sites: Sequence[SiteRunRecord]) -> Verdict:
    """Whether there is a guarantee, without a figure: no figure stands without its terms."""
    if not isinstance(plan.privacy, PaperPrivacy) or plan.privacy.threshold.method == "percentile":
        return Verdict("no finite guarantee", grave=True)
    if not sites:
        return Verdict("kept by the sites", grave=False)
    worst = max(site.guarantee.epsilon for site in sites)
    if worst > _MEANINGLESS_EPSILON:
        return Verdict("no meaningful guarantee", grave=True)
    return Verdict("a finite guarantee", grave=False)


def explanation(plan: RunPlan, sites: Sequence[SiteRunRecord]) -> Explanation:
    """The box beside the figures: what the honest epsilon of this run says about a patient."""
    if not isinstance(plan.privacy, PaperPrivacy):
        return _no_mechanism()
    if plan.privacy.threshold.method == "percentile":
        return _percentile(plan.privacy, with_figures=bool(sites))
    worst = max((site.guarantee.epsilon for site in sites), default=None)
    if worst is None:
        return _kept_at_sites()
    if worst > _MEANINGLESS_EPSILON:
        return _finite_without_meaning(worst)
    return _finite(worst, plan.privacy.delta)


def facts(guarantees: Sequence[tuple[str, Guarantee]]) -> tuple[Fact, ...]:
    """The terms of the figures, told site by site only where sites differ."""
    terms: dict[str, Callable[[Guarantee], str]] = {
        "Unit of privacy": lambda g: UNITS.get(g.unit, g.unit),
        "Neighbouring relation": lambda g: RELATIONS.get(g.neighboring_relation, g.neighboring_relation),
        "Sampling": lambda g: _first_known(g.sampling, SAMPLINGS),
        "Mechanism": lambda g: _first_known(g.mechanism, MECHANISMS),
        "Reading of the nominal ε": lambda g: READINGS.get(g.reading, g.reading) if g.reading else "",
        "Steps, composed": lambda g: str(g.steps),
        "δ": lambda g: number(g.delta, 2),
        "Accountant": lambda g: ACCOUNTANTS.get(g.accountant, g.accountant),
    }
    rows: list[Fact] = []
    for term, tell in terms.items():
        values = [(site, tell(guarantee)) for site, guarantee in guarantees]
        distinct = {value for _, value in values}
        if distinct == {""}:
            continue
        if len(distinct) == 1:
            rows.append(Fact(term, distinct.pop()))
        else:
            rows.append(Fact(term, "; ".join(f"{site}: {value}" for site, value in values)))
    return tuple(rows)


def plan_facts(plan: RunPlan) -> tuple[Fact, ...]:
    """The same terms as far as the plan alone fixes them: for a report without any site's record."""
    privacy = plan.privacy
    mechanism = privacy.mechanism if isinstance(privacy, PaperPrivacy) else "none"
    share = f", probability {number(privacy.sampling.probability)}" if privacy.sampling.mode != "full" else ""
    rows = [
        Fact("Unit of privacy", UNITS[privacy.unit]),
        Fact("Neighbouring relation", RELATIONS[NEIGHBORING_RELATION]),
        Fact("Sampling", SAMPLINGS[privacy.sampling.mode] + share),
        Fact("Mechanism", MECHANISMS[mechanism]),
    ]
    if isinstance(privacy, PaperPrivacy):
        rows.append(Fact("Reading of the nominal ε", READINGS[privacy.reading]))
    rows.append(Fact("Steps a site, planned", str(plan.rounds * plan.local.steps)))
    if isinstance(privacy, PaperPrivacy):
        rows.append(Fact("δ", number(privacy.delta, 2)))
    return tuple(rows)


def caveats(guarantees: Sequence[tuple[str, Guarantee]]) -> tuple[str, ...]:
    """Every caveat once, with the sites that state it where not all do."""
    stated: dict[str, list[str]] = {}
    for site, guarantee in guarantees:
        for caveat in guarantee.caveats:
            stated.setdefault(caveat.replace("epsilon_if_fixed", "had thresholds been fixed"), []).append(
                site
            )
    return tuple(
        caveat if len(by) == len(guarantees) else f"{joined(by)}: {caveat}" for caveat, by in stated.items()
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


def _no_mechanism() -> Explanation:
    what = (
        "This arm neither clips nor adds noise. Images stay at their sites, but what a site sends is an "
        "exact function of its patients' images, and published attacks reconstruct images from such "
        "updates. It is the reference that the private arms are measured against, and unsafe for patients' "
        "data."
    )
    return Explanation("No privacy mechanism: ε is infinite", (what, _acceptance()), grave=True)


def _percentile(privacy: PaperPrivacy, *, with_figures: bool) -> Explanation:
    why = (
        "Each site sets its clipping threshold C to a percentile of its own patients' raw gradient norms "
        "and scales its noise to C. The threshold is then itself a measurement of the patients, and it "
        "leaves the site without noise: whoever sees the scale of the noise sees a norm. In simulation, an "
        "adversary who knows the data told from the scale of one release whether a given patient had taken "
        "part, in 73% of cases with 500 patients and in 96% with 100, where guessing gives 50%. No finite ε "
        "describes that, so none is claimed."
    )
    figures = (
        "The middle figure says what the same noise would have given had the thresholds been fixed without "
        "looking at the data. It is not a guarantee of this run. The nominal figure is the published "
        f"method's name for its noise: read as {READINGS[privacy.reading]}, it fixes how much noise is added "
        "and says nothing about protection by itself."
    )
    return Explanation(
        heading="No finite privacy guarantee: why the honest ε is infinite",
        paragraphs=(why, figures, _acceptance()) if with_figures else (why, _acceptance()),
        grave=True,
    )


def _acceptance() -> str:
    return (
        "A site's agent refuses every run without a finite ε, unless the site's own policy holds an entry "
        "accept_unbounded that names this run, a reason and the person who accepts it. Every site that "
        "trained here holds one; neither the server nor the plan can set it. From then on the site's ledger "
        "marks the data set as having no finite guarantee, and refuses later runs that promise one on the "
        "same patients unless the policy says otherwise."
    )


def _kept_at_sites() -> Explanation:
    where = (
        "It depends on how many patients a site has and how many steps it released, and stands in each "
        "site's own ledger and report. The plan's nominal ε alone is no guarantee and is not shown as one."
    )
    return Explanation("The honest ε is kept by each site", (where,), grave=False)


def _finite_without_meaning(epsilon: float) -> Explanation:
    bound = (
        f"An honest ε of {number(epsilon)} is a true upper bound on what the released updates can tell about "
        "one patient, and far too large to exclude anything: protection that a patient could notice needs "
        "an ε of a few units. The noise of this plan makes updates slightly inexact; it does not hide a "
        "patient."
    )
    nominal = "The nominal figure is the published method's name for its noise. It is not an ε of this run."
    return Explanation("A finite ε, and no meaningful protection", (bound, nominal), grave=True)


def _finite(epsilon: float, delta: float) -> Explanation:
    meaning = (
        "Whatever is concluded from the updates, leaving out one patient's contribution would have changed "
        f"the odds of that conclusion by a factor of at most {number(math.exp(epsilon))}, except with "
        f"probability {number(delta, 2)}. Sites hold disjoint patients, so the largest figure of the sites "
        "holds for the run; a patient known at two sites has the sum of both."
    )
    return Explanation(
        f"A finite guarantee: ε at most {number(epsilon)} at every site", (meaning,), grave=False
    )


def _first_known(value: str, known: dict[str, str]) -> str:
    """The long form of a value whose first word is known, keeping what follows (a probability, a law)."""
    for name, words in known.items():
        if value == name or value.startswith((f"{name} ", f"{name},", f"{name}(")):
            rest = value.removeprefix(name).strip(" ,()")
            return f"{words} ({rest})" if rest else words
    return value
