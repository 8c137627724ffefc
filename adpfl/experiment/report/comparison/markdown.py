"""The report as Markdown: the findings and the tables of the page, without its charts."""

from collections.abc import Iterable

from adpfl.experiment.report import data_words
from adpfl.experiment.report.comparison import provenance, result_tables, setting_tables
from adpfl.experiment.report.comparison.contents import Contents
from adpfl.experiment.report.comparison.csv_tables import TABLES, tables
from adpfl.experiment.report.comparison.definitions import definitions
from adpfl.experiment.report.comparison.guarantees import arm_privacy, caveats, privacy_columns, terms
from adpfl.experiment.report.comparison.headline import NOTHING_FOUND, title
from adpfl.experiment.report.comparison.settings import Setting
from adpfl.experiment.report.comparison.table import Table, as_markdown, table
from adpfl.experiment.report.privacy_words import Fact


def report_markdown(contents: Contents) -> str:
    """The whole report."""
    plan = contents.comparison.plan
    parts = [f"# {title(plan, contents.arms, contents.utility)}", provenance.run_sentence(contents)]
    if plan.data.synthetic:
        parts.append(f"**Synthetic images.** {data_words.SYNTHETIC}")
    if missing := provenance.unfinished(contents):
        parts += ["**Not all runs have a result.**", _items(missing)]
    parts += ["## What was found", _items(contents.findings) or NOTHING_FOUND]
    if contents.targets:
        parts.append(as_markdown(result_tables.targets_table(contents)))
    if contents.arms:
        parts += ["## Arms side by side", as_markdown(result_tables.arms_table(contents))]
        parts += ["## Site by site", as_markdown(result_tables.sites_table(contents))]
        parts += ["## Variability", as_markdown(result_tables.variation_table(contents))]
        parts += ["## Convergence", as_markdown(result_tables.convergence_table(contents))]
    for curve in contents.curves:
        parts += [
            f"## {setting_tables.curve_heading(curve)}",
            as_markdown(setting_tables.curve_table(contents, curve)),
        ]
    if contents.utility:
        parts += ["## Utility at an honest budget", as_markdown(setting_tables.utility_table(contents))]
    if settings := (*contents.arms, *contents.utility):
        parts += ["## Privacy", as_markdown(privacy_table(settings)), _facts(terms(settings, contents.note))]
        parts.append(_items(caveats(settings)))
    parts += ["## What was run", f"```\n{plan.command}\n```", _facts(provenance.facts(contents))]
    parts += [as_markdown(provenance.groups_table(contents)), _facts(provenance.versions(contents))]
    parts += ["Files beside this one:", _items(f"`{name}`: {TABLES[name]}" for name in tables(contents))]
    parts += ["## How the figures are defined", _facts(definitions(contents))]
    return "\n\n".join(part for part in parts if part) + "\n"


def privacy_table(settings: tuple[Setting, ...]) -> Table:
    """Every arm's epsilons side by side, each with its kind."""
    shown = privacy_columns(settings)
    columns = ["Arm", setting_tables.HONEST]
    columns += [setting_tables.IF_FIXED, setting_tables.NOMINAL] if shown.nominal else []
    columns += [setting_tables.TARGET] if shown.target else []
    rows = []
    for entry in arm_privacy(settings):
        row = entry.row
        cells = [row.name, row.honest]
        cells += [row.if_fixed, row.nominal] if shown.nominal else []
        cells += [row.target] if shown.target else []
        rows.append((*cells, row.delta, row.steps, entry.verdict))
    return table(
        "The largest figures of an arm's sites, one run.", (*columns, "δ", "Steps", "In words"), rows
    )


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _facts(facts: Iterable[Fact]) -> str:
    return _items(f"{fact.term}: {fact.value}" for fact in facts)
