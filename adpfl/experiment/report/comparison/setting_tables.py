"""Tables of settings: curves with both epsilons, utility at an honest budget, thresholds over a run."""

from collections.abc import Sequence
from typing import Final

from adpfl.experiment.report.comparison.contents import Contents, Curve
from adpfl.experiment.report.comparison.guarantees import worst
from adpfl.experiment.report.comparison.result_tables import difference_cells, spread
from adpfl.experiment.report.comparison.setting_charts import CurveAxis
from adpfl.experiment.report.comparison.settings import Setting
from adpfl.experiment.report.comparison.summary import SettingSummary
from adpfl.experiment.report.comparison.table import DASH, Row, RowGroup, Table, table
from adpfl.experiment.report.guarantee_table import columns_of, guarantee_row
from adpfl.experiment.report.mechanism_words import READINGS
from adpfl.experiment.report.results import clip_norm_range, clipped_share
from adpfl.experiment.report.words import number
from adpfl.privacy.plan import PaperPrivacy

HONEST: Final = "Honest ε"
IF_FIXED: Final = "ε if thresholds had been fixed without looking at the data (no guarantee)"
NOMINAL: Final = "Nominal ε (names the noise)"
TARGET: Final = "Target ε (no guarantee by itself)"

_AXES: Final = {
    "clip_norm": ("the fixed threshold C", "C", "DP-FL's fixed threshold"),
    "percentile": ("the percentile of norms", "percentile", "ADP-FL's percentile"),
    "noise": ("the noise", "noise", "Noise"),
    "budget": ("the honest budget", "target ε", "Budget"),
}


def curve_heading(curve: Curve) -> str:
    """The heading over one curve's chart and table."""
    return _AXES[curve.group][2]


def curve_axis(contents: Contents, curve: Curve) -> CurveAxis:
    """The axis of one curve's chart. No epsilon stands on it without its kind."""
    title, label, _ = _AXES[curve.group]
    if curve.group == "noise":
        readings = {
            run.cell.plan.privacy.reading
            for setting in curve.settings
            for run in setting.runs
            if isinstance(run.cell.plan.privacy, PaperPrivacy)
        }
        label = "nominal ε: the noise, no guarantee"
        if readings == {"multiplier"}:
            label = "b/C, noise over threshold, on the sum"
    elif curve.group == "budget":
        label = "target of the honest ε, a whole run"
    elif curve.group == "clip_norm":
        label = "C, the same at every site and step"
    else:
        label = "percentile of the site's gradient norms"
    return CurveAxis(title=title, label=label, own=contents.own_values(curve.group))


def curve_table(contents: Contents, curve: Curve) -> Table:
    """One curve with the epsilons of every point."""
    labels = list(dict.fromkeys(point.label for point in curve.points))
    groups = []
    for label in labels:
        pairs = [
            (setting, point)
            for setting, point in zip(curve.settings, curve.points, strict=True)
            if point.label == label
        ]
        groups.append(
            RowGroup(
                heading=label if len(labels) > 1 else "",
                rows=tuple(
                    (
                        f"{_AXES[curve.group][1]} {number(point.value or 0.0)}",
                        *_setting_cells(contents, setting, point, curve.settings),
                    )
                    for setting, point in pairs
                ),
            )
        )
    return Table(
        caption=_curve_caption(curve),
        columns=("Setting", *_setting_columns(contents, curve.settings)),
        groups=tuple(groups),
    )


def utility_table(contents: Contents) -> Table:
    """What settings beyond the privacy plan reach, beside FL."""
    pairs = list(zip(contents.utility, contents.utility_summaries, strict=True))
    reference = contents.settings.reference("utility")
    if reference is not None and reference not in contents.utility:
        of_arms = dict(zip(contents.arms, contents.arm_summaries, strict=True))
        pairs.insert(0, (reference, of_arms[reference]))
    settings = [setting for setting, _ in pairs]
    return table(
        "Mean over patients, then sites, then runs, ± between runs. The terms of each ε stand under Privacy.",
        ("Setting", *_setting_columns(contents, settings)),
        [
            (summary.label, *_setting_cells(contents, setting, summary, settings))
            for setting, summary in pairs
        ],
        arms=[setting.arm for setting in settings],
    )


def thresholds_table(contents: Contents) -> Table | None:
    """Thresholds of every arm that clips, at every site, over the run that the charts show; None of none."""
    groups = []
    for setting in contents.arms:
        rows = []
        for site in setting.runs[0].sites:
            ends = clip_norm_range(site)
            if ends is None:
                continue
            clip_norms = [step.clip_norm for step in site.steps if step.clip_norm is not None]
            share = clipped_share(site)
            rows.append(
                (
                    site.site,
                    number(clip_norms[0]),
                    number(ends[0]),
                    number(ends[1]),
                    number(clip_norms[-1]),
                    DASH if share is None else f"{share:.0%}",
                )
            )
        if rows:
            groups.append(RowGroup(heading=setting.label, rows=tuple(rows)))
    if not groups:
        return None
    return Table(
        caption="Threshold C over the steps of the run shown, and how many of its gradients were longer.",
        columns=("Site", "First", "Lowest", "Highest", "Last", "Clipped"),
        groups=tuple(groups),
    )


def _setting_columns(contents: Contents, settings: Sequence[Setting]) -> Row:
    shown = columns_of([worst(setting) for setting in settings])
    columns = [contents.leading.label, "Difference to FL", "95% interval (n)", HONEST]
    columns += [IF_FIXED, NOMINAL] if shown.nominal else []
    columns += [TARGET] if shown.target else []
    return (*columns, "δ")


def _setting_cells(
    contents: Contents, setting: Setting, summary: SettingSummary, settings: Sequence[Setting]
) -> Row:
    """A row's cells under `_setting_columns` of the same settings."""
    shown = columns_of([worst(other) for other in settings])
    figure = summary.figure(contents.leading)
    row = guarantee_row(summary.label, 0, worst(setting))
    cells = [spread(figure.center, contents.leading)]
    cells += difference_cells(figure.difference, figure.relative_difference)
    cells.append(row.honest)
    cells += [row.if_fixed, row.nominal] if shown.nominal else []
    cells += [row.target] if shown.target else []
    return (*cells, row.delta)


def _curve_caption(curve: Curve) -> str:
    told = "Final figure at each point, beside FL; every epsilon with its kind, its terms under Privacy."
    plan = curve.settings[0].runs[0].cell.plan
    if curve.group == "noise" and isinstance(plan.privacy, PaperPrivacy):
        return f"{told} The noise is {READINGS[plan.privacy.reading]}, ε the nominal one."
    if curve.group == "clip_norm":
        return (
            f"{told} Everything but C is as in the DP-FL arm, the learning rate too: a small C also means "
            "small steps. The best C is one found by looking at held-out scores."
        )
    if curve.group == "percentile":
        return f"{told} Everything but the percentile is as in the ADP-FL arm."
    return told
