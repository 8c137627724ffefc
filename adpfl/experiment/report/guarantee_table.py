"""The table of privacy figures: which columns a run has, and a row a site."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from adpfl.experiment.report.results import SiteResult
from adpfl.experiment.report.words import at_most, number
from adpfl.privacy.guarantee import Guarantee

Finite = Literal["all", "some", "none"]


@dataclass(frozen=True)
class GuaranteeRow:
    """One site's, or one arm's, privacy figures as they are shown."""

    name: str
    position: int
    honest: str
    if_fixed: str
    nominal: str
    target: str
    delta: str
    steps: str


@dataclass(frozen=True)
class PrivacyColumns:
    """Which figures beside the honest epsilon the plan has at all.

    Attributes:
        nominal: a nominal epsilon, and so what thresholds fixed in advance would have given.
        target: an epsilon that the noise was calibrated to.
        finite: how many of the rows have a finite honest epsilon.
    """

    nominal: bool
    target: bool
    finite: Finite

    @property
    def caption(self) -> str:
        """What the table says of its figures."""
        if self.nominal:
            return f"Three figures a site, never one alone. {self.which_counts}"
        told = "The honest ε of each site, as its ledger charged it"
        if self.target:
            told += ", and what the noise was calibrated to"
        return f"{told}. {self.which_counts}" if self.finite != "all" else f"{told}."

    @property
    def which_counts(self) -> str:
        """Which of several figures is a bound; where it is infinite, that nothing is bounded."""
        if self.finite == "none":
            return "None of them is a guarantee: an infinite honest ε bounds nothing."
        told = "Only the honest ε is a bound"
        return f"{told}." if self.finite == "all" else f"{told}, and an infinite one bounds nothing."


def guarantee_rows(results: Sequence[SiteResult]) -> list[GuaranteeRow]:
    """Honest, hypothetical, nominal and aimed-at figures side by side, a row a site."""
    return [guarantee_row(result.site, result.position, result.record.guarantee) for result in results]


def guarantee_row(name: str, position: int, guarantee: Guarantee) -> GuaranteeRow:
    """One guarantee's figures side by side, under the name of whatever holds it."""
    return GuaranteeRow(
        name=name,
        position=position,
        honest=at_most(guarantee.epsilon),
        if_fixed=_if_fixed(guarantee),
        nominal="none" if guarantee.nominal_epsilon is None else number(guarantee.nominal_epsilon),
        target="none" if guarantee.target_epsilon is None else number(guarantee.target_epsilon),
        delta=number(guarantee.delta, 2),
        steps=str(guarantee.steps),
    )


def privacy_columns(results: Sequence[SiteResult]) -> PrivacyColumns:
    """Columns that at least one site has a figure for."""
    return columns_of([result.record.guarantee for result in results])


def columns_of(guarantees: Sequence[Guarantee]) -> PrivacyColumns:
    """Columns that at least one of the guarantees has a figure for."""
    return PrivacyColumns(
        nominal=any(guarantee.nominal_epsilon is not None for guarantee in guarantees),
        target=any(guarantee.target_epsilon is not None for guarantee in guarantees),
        finite=_finite(guarantees),
    )


def _finite(guarantees: Sequence[Guarantee]) -> Finite:
    found = {math.isfinite(guarantee.epsilon) for guarantee in guarantees}
    if found == {True}:
        return "all"
    return "some" if True in found else "none"


def _if_fixed(guarantee: Guarantee) -> str:
    if guarantee.epsilon_if_fixed is not None:
        return number(guarantee.epsilon_if_fixed)
    return "no noise" if math.isinf(guarantee.epsilon) else "the same"
