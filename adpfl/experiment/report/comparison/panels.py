"""The page's charts, drawn from the contents at the widths at which they are shown."""

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from adpfl.experiment.report.comparison import charts, setting_charts, setting_tables
from adpfl.experiment.report.comparison.contents import Contents, Curve
from adpfl.experiment.report.comparison.metrics import HD95, Metric
from adpfl.experiment.report.comparison.series import (
    Band,
    convergence,
    patient_row,
    threshold_trace,
    value_bands,
)
from adpfl.experiment.report.comparison.settings import Setting
from adpfl.experiment.report.comparison.table import Table
from adpfl.experiment.report.words import joined


@dataclass(frozen=True)
class Panel:
    """A chart with its heading."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class CurvePanel:
    """A curve's chart and its table."""

    title: str
    svg: Markup
    table: Table


def convergence_chart(contents: Contents) -> Markup | None:
    """Arms over rounds, in both widths; None where no round was evaluated by all runs of an arm."""
    bands = [band for setting in contents.arms if (band := convergence(setting, contents.leading)).places]
    if not bands:
        return None
    return _both(lambda size: charts.convergence(f"convergence-{size.css_class}", bands, contents.look, size))


def patients_chart(contents: Contents, metric: Metric) -> Markup | None:
    """All sites' patients under each arm, in both widths; None where no patient has a figure."""
    rows = [patient_row(setting, metric) for setting in contents.arms]
    if not any(row.values for row in rows):
        return None
    key = metric.key
    return _both(lambda size: charts.patients(f"{key}-{size.css_class}", rows, metric, contents.look, size))


def patient_panels(contents: Contents) -> list[Panel]:
    """The same, a panel a site."""
    panels = []
    for position, site in enumerate(contents.comparison.plan.data.sites):
        rows = [patient_row(setting, contents.leading, site) for setting in contents.arms]
        if any(row.values for row in rows):
            name = f"patients-{position}"
            svg = charts.patients(name, rows, contents.leading, contents.look, charts.SITE_PANEL)
            panels.append(Panel(site, svg))
    return panels


def boundaries_chart(contents: Contents) -> Markup | None:
    """Every patient's HD95 under each arm; None where the records hold no distance."""
    return patients_chart(contents, HD95) if HD95 in contents.metrics else None


def missing_words(contents: Contents) -> str:
    """How many patients have no distance under each arm; empty where all have one."""
    if HD95 not in contents.metrics:
        return ""
    rows = [patient_row(setting, HD95) for setting in contents.arms]
    told = [f"{row.label} {row.missing} of {row.missing + len(row.values)}" for row in rows if row.missing]
    if not told:
        return ""
    return (
        f"Patients without any distance, because one of the two masks is empty, all runs counted: "
        f"{joined(told)}. They are missing from the chart."
    )


def threshold_panels(contents: Contents) -> list[Panel]:
    """Thresholds and norms of every arm, a panel a site, on one scale; of each arm's first run."""
    by_site = {
        site: [
            threshold_trace(setting, record)
            for setting in contents.arms
            for record in setting.runs[0].sites
            if record.site == site and record.steps
        ]
        for site in contents.comparison.plan.data.sites
    }
    ends = setting_charts.norm_ends([trace for traces in by_site.values() for trace in traces])
    if ends is None:
        return []
    return [
        Panel(
            site,
            setting_charts.thresholds(f"thresholds-{place}", site, traces, contents.look, ends=ends),
        )
        for place, (site, traces) in enumerate(by_site.items())
        if traces
    ]


def threshold_runs(contents: Contents) -> str:
    """Which runs the threshold panels show, in words."""
    seeds = sorted({setting.runs[0].cell.seed for setting in contents.arms})
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"the seeds {joined([str(seed) for seed in seeds])}"


def curve_panels(contents: Contents) -> list[CurvePanel]:
    """Every curve with its table."""
    return [
        CurvePanel(
            title=setting_tables.curve_heading(curve),
            svg=setting_charts.curve(
                f"curve-{curve.group}",
                value_bands(curve.points, contents.leading),
                _reference_band(contents, curve),
                setting_tables.curve_axis(contents, curve),
                contents.look,
            ),
            table=setting_tables.curve_table(contents, curve),
        )
        for curve in contents.curves
    ]


def _reference_band(contents: Contents, curve: Curve) -> Band | None:
    """FL's final figure as a band of one place."""
    reference: Setting | None = curve.reference
    values = list(reference.by_seed(contents.leading).values()) if reference else []
    if reference is None or not values:
        return None
    mean = sum(values) / len(values)
    return Band(reference.label, reference.arm, (0.0,), (mean,), (min(values),), (max(values),))


def _both(draw: Callable[[charts.Format], Markup]) -> Markup:
    """One chart for a telephone and one for a desk; the page's style shows one of them."""
    return draw(charts.TELEPHONE) + draw(charts.DESK)
