"""The figures that runs are compared by, and which of them a comparison has."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from adpfl.federated.records import CaseScore, SiteRunRecord

MetricKey = Literal["dice", "hd95", "assd", "surface_dice", "auroc"]


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes:
        key: its name in records and tables.
        label: its name on the page.
        higher_is_better: which way is good.
        is_distance: measured in the record's unit, missing where one of the two masks is empty.
        meaning: one sentence for a reader who does not know it.
    """

    key: MetricKey
    label: str
    higher_is_better: bool
    is_distance: bool
    meaning: str

    def of_case(self, score: CaseScore) -> float | None:
        """The figure of one structure in one case; None where it is not defined or was not recorded."""
        pick: Callable[[CaseScore], Any] = _OF_CASE.get(self.key, _nothing)
        value: float | None = pick(score)
        return value


def _nothing(_: CaseScore) -> None:
    """What a case has of a figure that only a whole site has."""


_OF_CASE: Final[dict[MetricKey, Callable[[CaseScore], Any]]] = {
    "dice": lambda score: score.dice,
    "hd95": lambda score: score.hd95,
    "assd": lambda score: score.assd,
    "surface_dice": lambda score: score.surface_dice,
}

DICE: Final = Metric(
    key="dice",
    label="Dice",
    higher_is_better=True,
    is_distance=False,
    meaning=(
        "overlap of the predicted and the reference outline, 0 to 1, larger is better; 1 where both are "
        "empty, 0 where one is"
    ),
)
HD95: Final = Metric(
    key="hd95",
    label="HD95",
    higher_is_better=False,
    is_distance=True,
    meaning="95th percentile of the distances between the two boundaries, smaller is better",
)
ASSD: Final = Metric(
    key="assd",
    label="ASSD",
    higher_is_better=False,
    is_distance=True,
    meaning="average distance between the two boundaries, both ways, smaller is better",
)
SURFACE_DICE: Final = Metric(
    key="surface_dice",
    label="Surface Dice",
    higher_is_better=True,
    is_distance=False,
    meaning=(
        "share of the two boundaries that lies within the task's tolerance of the other, 0 to 1, larger is "
        "better"
    ),
)
AUROC: Final = Metric(
    key="auroc",
    label="AUROC",
    higher_is_better=True,
    is_distance=False,
    meaning=(
        "chance that a held-out crop that shows the structure is rated above one that does not, averaged "
        "over structures; 0.5 by guessing, 1 at best; one figure a site, so there is none of a single patient"
    ),
)

OVERLAP_AND_BOUNDARY: Final = (DICE, HD95, ASSD, SURFACE_DICE)


def metrics_of(sites: Iterable[SiteRunRecord]) -> tuple[Metric, ...]:
    """The figures that these records hold, the leading one first.

    AUROC alone of a classification task, also where it is undefined; otherwise Dice and whichever boundary
    figures stand in the records.
    """
    evaluations = [site.evaluations[-1] for site in sites if site.evaluations]
    if any(evaluation.metric == "AUROC" for evaluation in evaluations):
        return (AUROC,)
    scores = [score for evaluation in evaluations for score in evaluation.scores]
    found = [
        metric
        for metric in OVERLAP_AND_BOUNDARY[1:]
        if any(metric.of_case(score) is not None for score in scores)
    ]
    return (DICE, *found)
