"""What each setting guarantees, told by its worst site, and never a nominal figure by itself."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from adpfl.config import FrozenModel
from adpfl.experiment.report import mechanism_words, privacy_words
from adpfl.experiment.report.comparison.settings import Setting
from adpfl.experiment.report.explanation import Explanation, Verdict, explanation, verdict
from adpfl.experiment.report.guarantee_table import GuaranteeRow, PrivacyColumns, columns_of, guarantee_row
from adpfl.experiment.report.record import DataNote
from adpfl.federated.records import SiteRunRecord
from adpfl.privacy.guarantee import Guarantee

SEVERAL_RUNS: Final = (
    "Each figure is that of one run alone. The runs of this comparison use the same patients: whoever sees "
    "several of them learns what all of them tell, and the figures of all would add up."
)


class SettingGuarantee(FrozenModel):
    """The guarantee of a setting: the largest figures of its runs' sites, with all of their terms."""

    group: str
    arm: str
    label: str
    value: float | None
    verdict: str
    guarantee: Guarantee


@dataclass(frozen=True)
class ArmPrivacy:
    """What the page says of one arm's privacy.

    Attributes:
        arm: its key.
        row: its figures side by side.
        verdict: whether there is a guarantee, in the fewest words.
        grave: whether there is none worth the name.
        noise: how it clips and what noise it adds, as a sentence.
        explanation: what its honest figure means.
    """

    arm: str
    row: GuaranteeRow
    verdict: str
    grave: bool
    noise: str
    explanation: Explanation


def worst(setting: Setting) -> Guarantee:
    """The guarantee of the run and site that promise least.

    Sites hold disjoint patients, so a run guarantees what its worst site does.
    """
    found = [site.guarantee for site in _sites(setting)]
    return max(found, key=lambda guarantee: (guarantee.epsilon, guarantee.epsilon_if_fixed or 0.0))


def setting_guarantees(settings: Iterable[Setting]) -> tuple[SettingGuarantee, ...]:
    """The guarantee of every setting, with its terms."""
    return tuple(
        SettingGuarantee(
            group=setting.group,
            arm=setting.arm,
            label=setting.label,
            value=setting.value,
            verdict=judged(setting).words,
            guarantee=worst(setting),
        )
        for setting in settings
    )


def arm_privacy(settings: Sequence[Setting]) -> list[ArmPrivacy]:
    """What the page says of each setting, in their order."""
    found = []
    for position, setting in enumerate(settings):
        plan, sites = setting.runs[0].cell.plan, _sites(setting)
        finding = judged(setting)
        found.append(
            ArmPrivacy(
                arm=setting.arm,
                row=guarantee_row(setting.label, position, worst(setting)),
                verdict=finding.words,
                grave=finding.grave,
                noise=mechanism_words.noise_sentence(plan),
                explanation=explanation(plan, sites, simulated=True),
            )
        )
    return found


def privacy_columns(settings: Sequence[Setting]) -> PrivacyColumns:
    """Which figures beside the honest one the settings have."""
    return columns_of([worst(setting) for setting in settings])


def terms(settings: Sequence[Setting], note: DataNote) -> tuple[privacy_words.Fact, ...]:
    """The terms of all figures, told arm by arm where they differ."""
    return privacy_words.facts([(setting.label, worst(setting)) for setting in settings], note)


def caveats(settings: Sequence[Setting]) -> tuple[str, ...]:
    """Every caveat of the accountant once, with the arms it concerns, and one about several runs."""
    stated = privacy_words.caveats([(setting.label, worst(setting)) for setting in settings])
    return (*stated, SEVERAL_RUNS)


def judged(setting: Setting) -> Verdict:
    """Whether the setting has a guarantee, in the fewest words."""
    return verdict(setting.runs[0].cell.plan, _sites(setting))


def _sites(setting: Setting) -> list[SiteRunRecord]:
    return [site for run in setting.runs for site in run.sites]
