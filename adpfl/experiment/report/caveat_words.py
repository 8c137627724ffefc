"""The accountant's caveats as sentences; one that is not known here is told as it stands."""

import re
from collections.abc import Callable
from typing import Final

from adpfl.experiment.report.words import capital
from adpfl.privacy.accounting import NO_EVENT_REASON, NO_NOISE_REASON
from adpfl.privacy.certificate import PERCENTILE_REASON
from adpfl.privacy.composition import IDEAL_SAMPLER_ONLY

_IF_FIXED = "epsilon_if_fixed: "
_RECORD_UNIT = "the unit is one record: a patient with several is protected less"

_SENTENCES: Final = {
    IDEAL_SAMPLER_ONLY: (
        "This ε assumes noise drawn from its exact law. The program draws it from tables of very high "
        "precision, and at so large an ε, or so small a δ, their last digits would count too. Where it is ε "
        "that is large, that costs nothing, because an ε of this size protects nobody meaningfully."
    ),
    PERCENTILE_REASON: (
        "The honest ε is infinite because the clipping threshold is a percentile of the patients' own "
        "gradient norms, and the scale of the noise reveals it."
    ),
    NO_EVENT_REASON: (
        "The honest ε is infinite because the site's registered mechanism came without an accounting event: "
        "nobody has said what its noise is worth."
    ),
    _RECORD_UNIT: (
        "The unit is one image: a patient with several is protected less, and the figure of one image is not "
        "that patient's."
    ),
    NO_NOISE_REASON: "The honest ε is infinite because updates leave the site without clipping or noise.",
}
_PATTERNS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (
        re.compile(r"delta (\S+) is not below 1/(\d+)\b.*"),
        lambda found: (
            f"δ is {found[1]}, not below 1/{found[2]}, one over the number of patients or images: so large a "
            "δ would allow one of them to be given away whole."
        ),
    ),
    (
        re.compile(r"the lattice of so strong a noise may round off (\S+) of a unit .*"),
        lambda found: (
            f"Noise is drawn on a grid. At this strength the grid may round off {found[1]} of one "
            "contribution, which costs accuracy and no privacy."
        ),
    ),
)


def in_words(caveat: str) -> str:
    """A caveat of `Guarantee.caveats` as a sentence."""
    if caveat.startswith(_IF_FIXED):
        return f"Of the ε if thresholds had been fixed: {in_words(caveat.removeprefix(_IF_FIXED))}"
    if caveat in _SENTENCES:
        return _SENTENCES[caveat]
    for pattern, tell in _PATTERNS:
        if found := pattern.fullmatch(caveat):
            return tell(found)
    return f"{capital(caveat).rstrip('.')}."
