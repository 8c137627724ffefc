"""Whether a run has a guarantee, and what its honest epsilon says about a patient."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from adpfl.experiment.report.mechanism_words import READINGS
from adpfl.experiment.report.words import at_most, number
from adpfl.federated.records import SiteRunRecord
from adpfl.federated.run_plan import RunPlan
from adpfl.privacy.plan import PaperPrivacy, RigorousPrivacy, UnsafeNonePrivacy

_MEANINGLESS_EPSILON: Final = 50.0
"""exp(50) is above 10^21: a bound on the odds that excludes nothing a person could observe."""


_ACCEPTANCE: Final = (
    "A site's agent refuses every run without a finite ε, unless the site's own policy holds an entry "
    "accept_unbounded that names this run, a reason and the person who accepts it. Every site that trained "
    "here holds one; neither the server nor the plan can set it. From then on the site's ledger marks the "
    "data set as having no finite guarantee, and refuses later runs that promise one on the same patients "
    "unless the policy says otherwise."
)
_SIMULATED: Final = (
    "The run was simulated in one process, by whoever holds all the images, and no site's agent or ledger "
    "stood in its way. At a real site the agent refuses such a run, unless the site's own policy holds an "
    "entry accept_unbounded that names the run, a reason and the person who accepts it."
)
_NOT_COVERED: Final = (
    "Not covered: the people at the site who hold the images; what a site's patients have in common, such as "
    "the share of a disease; the held-out patients, whose scores and pictures a site's report shows without "
    "noise; a choice of settings that was made by looking at such scores. Further runs on the same patients "
    "add to this ε."
)


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
class Verdict:
    """The privacy of a run in the fewest words."""

    words: str
    grave: bool


def verdict(plan: RunPlan, sites: Sequence[SiteRunRecord]) -> Verdict:
    """Whether there is a guarantee, without a figure: no figure stands without its terms."""
    if isinstance(plan.privacy, UnsafeNonePrivacy) or plan.privacy.threshold.method == "percentile":
        return Verdict("no finite guarantee", grave=True)
    if not sites:
        return Verdict("kept by the sites", grave=False)
    worst = max(site.guarantee.epsilon for site in sites)
    if worst > _MEANINGLESS_EPSILON:
        return Verdict("no meaningful guarantee", grave=True)
    return Verdict("a finite guarantee", grave=False)


def explanation(plan: RunPlan, sites: Sequence[SiteRunRecord], *, simulated: bool = False) -> Explanation:
    """The box beside the figures: what the honest epsilon of this run says about a patient.

    Args:
        plan: of the run.
        sites: the records that are at hand.
        simulated: whether no site's agent stood between the plan and the patients, so that none refused.
    """
    acceptance = _SIMULATED if simulated else _ACCEPTANCE
    privacy = plan.privacy
    if isinstance(privacy, UnsafeNonePrivacy):
        return (
            _no_mechanism(acceptance)
            if privacy.mechanism is None
            else _no_claim(privacy.mechanism, acceptance)
        )
    if isinstance(privacy, PaperPrivacy) and privacy.threshold.method == "percentile":
        return _percentile(privacy, acceptance, with_figures=bool(sites))
    worst = max((site.guarantee.epsilon for site in sites), default=None)
    if worst is None:
        return _kept_at_sites(privacy)
    if worst > _MEANINGLESS_EPSILON:
        return _finite_without_meaning(worst, privacy)
    return _finite(worst, privacy)


def _no_mechanism(acceptance: str) -> Explanation:
    what = (
        "This arm neither clips nor adds noise. Images stay at their sites, but what a site sends is an "
        "exact function of its patients' images, and published attacks reconstruct images from such "
        "updates. It is the reference that the private arms are measured against, and unsafe for patients' "
        "data."
    )
    return Explanation("No privacy mechanism: ε is infinite", (what, acceptance), grave=True)


def _no_claim(mechanism: str, acceptance: str) -> Explanation:
    what = (
        f"Each site runs {mechanism}, a mechanism of its own for which no accounting event was registered. "
        "It may add noise, but nobody has said what that noise is worth, so the run counts as one that shows "
        "everything."
    )
    return Explanation("A mechanism without a claim: ε is infinite", (what, acceptance), grave=True)


def _percentile(privacy: PaperPrivacy, acceptance: str, *, with_figures: bool) -> Explanation:
    why = (
        "Each site sets its clipping threshold C to a percentile of its own patients' raw gradient norms "
        "and scales its noise to C. The threshold is then itself a measurement of the patients, and it "
        "leaves the site without noise: whoever sees the scale of the noise sees a norm. Someone who knows "
        "the other patients' images can compare that scale with what it would have been without a given "
        "patient; the fewer patients a site has, the further one of them moves it. No finite ε describes "
        "that, so none is claimed."
    )
    figures = (
        "The second figure says what the same noise would have given had the thresholds been fixed without "
        "looking at the data. It is not a guarantee of this run. The nominal figure is the published "
        f"method's name for its noise: read as {READINGS[privacy.reading]}, it fixes how much noise is added "
        "and says nothing about protection by itself."
    )
    return Explanation(
        heading="No finite privacy guarantee: why the honest ε is infinite",
        paragraphs=(why, figures, acceptance) if with_figures else (why, acceptance),
        grave=True,
    )


def _kept_at_sites(privacy: PaperPrivacy | RigorousPrivacy) -> Explanation:
    where = (
        "It depends on how many patients a site has and how many steps it released, and stands in each "
        "site's own ledger and report."
    )
    if isinstance(privacy, PaperPrivacy):
        where += " The plan's nominal ε alone is no guarantee and is not shown as one."
    elif privacy.target_epsilon is not None:
        where += (
            f" The plan's noise is the least that keeps it at {number(privacy.target_epsilon)} or below at "
            f"δ = {number(privacy.delta, 2)}, if no round has to be repeated."
        )
    return Explanation("The honest ε is kept by each site", (where,), grave=False)


def _finite_without_meaning(epsilon: float, privacy: PaperPrivacy | RigorousPrivacy) -> Explanation:
    bound = (
        f"An honest ε of {at_most(epsilon)} is a true upper bound on what the released updates can tell "
        f"about one {_whom(privacy)}, and far too large to exclude anything: protection that a patient could "
        "notice needs an ε of a few units. The noise of this plan makes updates slightly inexact; it does "
        "not hide a patient."
    )
    nominal = "The nominal figure is the published method's name for its noise. It is not an ε of this run."
    paragraphs = (bound, nominal) if isinstance(privacy, PaperPrivacy) else (bound,)
    return Explanation("A finite ε, and no meaningful protection", paragraphs, grave=True)


def _finite(epsilon: float, privacy: PaperPrivacy | RigorousPrivacy) -> Explanation:
    whom = _whom(privacy)
    meaning = (
        f"Whatever is concluded from the updates, leaving out one {whom}'s contribution would have changed "
        f"the odds of that conclusion by a factor of at most {at_most(math.exp(epsilon))}, except with "
        f"probability {number(privacy.delta, 2)}. Sites hold disjoint patients, so the largest figure of the "
        "sites holds for the run; a patient known at two sites has the sum of both."
    )
    paragraphs = [meaning]
    if isinstance(privacy, RigorousPrivacy):
        paragraphs.append(
            "It holds against everyone outside the site, the server and the other sites among them, whatever "
            "else they know, and for all models and updates of the run together: thresholds, sampling and "
            "every repeated round are in it. The price "
            "is accuracy. Every step carries the noise that buys it, and the fewer patients a site has, the "
            "more that noise weighs against what they teach: hold Dice against that of the same run without "
            "noise."
        )
    paragraphs.append(_NOT_COVERED)
    return Explanation(
        f"A finite guarantee: ε at most {at_most(epsilon)} at every site", tuple(paragraphs), grave=False
    )


def _whom(privacy: PaperPrivacy | RigorousPrivacy) -> str:
    return "patient" if privacy.unit == "patient" else "image"
