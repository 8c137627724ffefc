"""What the page, the Markdown, the tables and `run.json` all say, worked out once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from adpfl.experiment.comparison.folder import CellTiming, Comparison
from adpfl.experiment.comparison.plan import varied
from adpfl.experiment.comparison.task_settings import is_mis_set
from adpfl.experiment.report.comparison import headline
from adpfl.experiment.report.comparison.look import Look, arm_styles
from adpfl.experiment.report.comparison.metrics import Metric, metrics_of
from adpfl.experiment.report.comparison.reduction import structures_of
from adpfl.experiment.report.comparison.settings import CurveGroup, Setting, Settings, own_value
from adpfl.experiment.report.comparison.summary import SettingSummary, summarize
from adpfl.experiment.report.comparison.targets import Target, targets
from adpfl.experiment.report.record import DataNote
from adpfl.experiment.report.words import number
from adpfl.federated.records import SiteRunRecord

CURVES: Final[tuple[CurveGroup, ...]] = ("clip_norm", "percentile", "noise", "budget")


@dataclass(frozen=True)
class Curve:
    """One group's settings along its axis.

    Attributes:
        group: what is varied.
        settings: by arm and value.
        points: their summaries, in the same order.
        reference: FL, as the points are held against it.
    """

    group: CurveGroup
    settings: tuple[Setting, ...]
    points: tuple[SettingSummary, ...]
    reference: Setting | None


@dataclass(frozen=True)
class Contents:
    """One comparison and everything that is said of it."""

    comparison: Comparison

    @cached_property
    def settings(self) -> Settings:
        """Its runs, grouped."""
        return Settings(self.comparison)

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The figures that its records hold, the leading one first."""
        return metrics_of(self._sites)

    @property
    def leading(self) -> Metric:
        """Dice, or AUROC where the task classifies."""
        return self.metrics[0]

    @cached_property
    def structures(self) -> tuple[str, ...]:
        """Of the task."""
        return () if self.leading.key == "auroc" else structures_of(self._sites)

    @cached_property
    def averaged(self) -> bool:
        """Whether any final score is of averaged parameters."""
        return any(site.evaluations[-1].weights == "averaged" for site in self._sites if site.evaluations)

    @cached_property
    def unit(self) -> str:
        """Of distances: `mm` or `px`."""
        units = (
            score.hd95_unit
            for site in self._sites
            for evaluation in site.evaluations
            for score in evaluation.scores
        )
        return next(units, "px")

    @cached_property
    def arms(self) -> tuple[Setting, ...]:
        """The arms with a finished run."""
        return self.settings.of("arms")

    @cached_property
    def arm_summaries(self) -> tuple[SettingSummary, ...]:
        """Of the arms, beside FL."""
        return self._summaries(self.arms, self.settings.reference())

    @cached_property
    def utility(self) -> tuple[Setting, ...]:
        """Settings beyond the privacy plan, with a finished run."""
        return self.settings.of("utility")

    @cached_property
    def utility_summaries(self) -> tuple[SettingSummary, ...]:
        """Of these, beside FL."""
        return self._summaries(self.utility, self.settings.reference("utility"))

    @cached_property
    def curves(self) -> tuple[Curve, ...]:
        """The groups along whose axis at least one setting has a finished run."""
        found = []
        for group in CURVES:
            settings = self.settings.curve(group)
            reference = self.settings.reference(group)
            if settings:
                points = self._summaries(settings, reference)
                found.append(Curve(group, settings, points, reference))
        return tuple(found)

    def curve(self, group: CurveGroup) -> Curve | None:
        """One group's curve; None where it has no finished run."""
        return next((curve for curve in self.curves if curve.group == group), None)

    @cached_property
    def fixed_at(self) -> str:
        """Where DP-FL's threshold stands in group `arms`, in words; empty where there is none."""
        arm = self.settings.arm("dp-fl")
        value = varied(arm.runs[0].cell.plan, "clip_norm") if arm else None
        if value is None:
            return ""
        return f"C = {number(value)}{' (mis-set on purpose)' if self.mis_set else ''}"

    @cached_property
    def mis_set(self) -> bool:
        """Whether DP-FL's threshold in group `arms` is mis-set on purpose, as the task's default is."""
        arm = self.settings.arm("dp-fl")
        value = varied(arm.runs[0].cell.plan, "clip_norm") if arm else None
        return value is not None and is_mis_set(self.comparison.plan.task, value)

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """What was aimed at and what became of it."""
        return targets(self.arm_summaries, self.leading, self.timings, fixed_at=self.fixed_at)

    @cached_property
    def findings(self) -> tuple[str, ...]:
        """The first sentences that a reader meets."""
        found = self.curve("clip_norm")
        best = headline.best_point(found.points, self.leading, "C", self.arm_summaries) if found else ""
        told = headline.findings(
            self.arm_summaries,
            self.leading,
            self.targets,
            fixed_at=self.fixed_at,
            best_fixed=best,
            utility=self.utility_summaries,
        )
        privacy = headline.privacy_finding((*self.arms, *self.utility))
        return (*told, privacy) if privacy else told

    @cached_property
    def timings(self) -> tuple[CellTiming, ...]:
        """Of every finished cell, in the plan's order."""
        return tuple(run.timing for run in self.settings.runs)

    @cached_property
    def look(self) -> Look:
        """What all charts share."""
        arms = [cell.arm for cell in self.comparison.plan.cells]
        return Look(metric=self.leading, unit=self.unit, styles=arm_styles(arms))

    @property
    def note(self) -> DataNote:
        """What a reader must know of the images."""
        data = self.comparison.plan.data
        return DataNote(synthetic=data.synthetic, patients_are=data.patients_are)

    def own_values(self, group: CurveGroup) -> dict[str, float]:
        """Where the arms themselves stand on a curve, by arm."""
        arms = {setting.arm for setting in self.arms}
        return {arm: value for arm in arms if (value := own_value(self.settings, group, arm)) is not None}

    @cached_property
    def _sites(self) -> tuple[SiteRunRecord, ...]:
        return tuple(site for run in self.settings.runs for site in run.sites)

    def _summaries(
        self, settings: tuple[Setting, ...], reference: Setting | None
    ) -> tuple[SettingSummary, ...]:
        return tuple(summarize(setting, reference, self.metrics, self.structures) for setting in settings)
