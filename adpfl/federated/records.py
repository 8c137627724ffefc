"""The records that daemons write beside a run and reports are made from. Formats only; JSON on disk.

The server's record holds what it was allowed to see. A site's record stays at the site: it may hold Dice,
thresholds and norm quantiles of local data. A report over several sites exists only where one person may read
all their folders.
"""

from typing import Literal

from adpfl.config import FrozenModel, Name
from adpfl.federated.run_plan import RunPlan
from adpfl.privacy.guarantee import Guarantee


class TimelineEvent(FrozenModel):
    """Something that happened to a run: a start, a restart, a lost site, a late update."""

    at_unix_seconds: float
    kind: str
    site: Name | None = None
    round: int | None = None
    detail: str = ""


class ServerRound(FrozenModel):
    """One round as the server saw it."""

    round: int
    opened_unix_seconds: float
    closed_unix_seconds: float | None
    sites: tuple[Name, ...]
    """Whose updates were aggregated."""
    missing: tuple[Name, ...]
    refused: tuple[Name, ...] = ()
    """Those of the missing whose update broke a rule of the plan; the timeline says which."""
    base_digest: str
    result_digest: str | None
    averaged_digest: str | None = None
    """The average of the models so far, which the run publishes; None where it would be the newest model."""
    tau: float | None = None
    """What the server's optimizer added to the root of the second moment; None without one."""


class ServerRunRecord(FrozenModel):
    """`run.json` of the server."""

    schema_version: Literal[1] = 1
    plan: RunPlan
    plan_digest: str
    status: Literal["waiting", "running", "paused", "finished", "failed", "cancelled"]
    summary: str
    """In words: "finished: 40 of 40 rounds; 3 of 3 sites in every round"."""
    rounds: tuple[ServerRound, ...]
    training_patients: dict[Name, int]
    timeline: tuple[TimelineEvent, ...]


class StepRecord(FrozenModel):
    """One local step at one site. Stays at the site."""

    round: int
    step: int
    clip_norm: float | None
    noise_scale: float | None
    """b, on each coordinate of the sum; None in mode `none`."""
    norm_quantiles: tuple[float, ...]
    """Raw per-unit norms at 0, 25, 50, 75 and 100 %; empty when no unit was sampled."""
    units: int
    clipped_units: int
    nonfinite_units: int


class CaseScore(FrozenModel):
    """Scores of one structure in one held-out case, under labels local to the site (never names)."""

    case: str
    patient: str
    """A patient with two images has two cases, and counts once in every mean over patients."""
    structure: str
    dice: float
    hd95: float | None
    """In millimetres, or in pixels where `hd95_unit` says so; None where one mask is empty."""
    hd95_unit: Literal["mm", "px"] = "px"
    """Of `hd95` and `assd`."""
    assd: float | None = None
    """Average symmetric surface distance; None where one mask is empty, or in a record older than the key."""
    surface_dice: float | None = None
    """At the task's tolerance, in [0, 1]; None in a record older than the key."""


class PresenceScore(FrozenModel):
    """A classifier's answers on one held-out case, under labels local to the site (never names)."""

    case: str
    patient: str
    structure: str
    crops: int
    """Fixed crops that cover the image."""
    shown: int
    """Crops that show the structure."""
    mean_probability: float
    """Mean over the case's crops of the predicted probability that a crop shows the structure."""


class EvaluationRecord(FrozenModel):
    """The global model after a round on this site's held-out patients. Stays at the site."""

    round: int
    """0 is the initial model."""
    weights: Literal["global", "averaged"] = "global"
    """Whether the round's own model was scored, or the average of the models so far."""
    mean_dice: float | None
    """Mean over patients; a patient's cases and structures are averaged first. None of a classifier."""
    scores: tuple[CaseScore, ...]
    """Empty of a classifier."""
    auroc: float | None = None
    """Of a classifier, over all crops of all held-out cases, averaged over structures; None where no
    structure has both crops that show it and crops that do not, and of a segmentation."""
    presences: tuple[PresenceScore, ...] = ()
    """Empty of a segmentation."""

    @property
    def metric(self) -> Literal["Dice", "AUROC"]:
        """What this evaluation is judged by."""
        return "AUROC" if self.presences else "Dice"

    @property
    def value(self) -> float | None:
        """The metric's value; None where an AUROC is undefined."""
        return self.auroc if self.presences else self.mean_dice


class SiteRunRecord(FrozenModel):
    """`site.json` of one site for one run. Stays at the site."""

    schema_version: Literal[1] = 1
    site: Name
    run: Name
    plan_digest: str
    status: Literal["running", "finished", "failed", "refused", "left"]
    summary: str
    training_patients: int
    held_out_patients: int
    steps: tuple[StepRecord, ...]
    evaluations: tuple[EvaluationRecord, ...]
    overlays: tuple[str, ...]
    """PNG files beside this record: image, reference and predicted contours of one held-out case each."""
    guarantee: Guarantee
    timeline: tuple[TimelineEvent, ...]
