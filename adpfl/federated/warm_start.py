"""Which trained weights a run starts from, as its plan says it."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from adpfl.config import FrozenModel

PRETRAINED_KEY: Final = "pretrained"
"""Under it stands, in a weights file's own description, what the weights were trained on."""

_WORDS_LIMIT: Final = 500

Origin = Literal["generated", "stated_public", "run", "unknown"]


class WarmStart(FrozenModel):
    """Weights from a file in the place of random ones, and what the file says of them.

    Whatever they were trained on is outside the run's own guarantee: nothing of it was noised here.
    """

    model_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The whole initial model's object; a site checks that its first round starts from it."""
    trained_on: Origin
    """`generated`: images that show no person. `stated_public`: data that a person stated to be public.
    `run`: an earlier run. `unknown`: the file does not say."""
    words: Annotated[str, Field(max_length=_WORDS_LIMIT, pattern=r"^[^\x00-\x1f\x7f]*$")]
    """One line: it is shown to people and written to logs."""


def warm_start_of(model_digest: str, description: Mapping[str, Any] | None) -> WarmStart:
    """What a plan says of a weights file.

    Args:
        model_digest: of the manifest under which the weights travel.
        description: what adpfl wrote about the weights into the file; None in a file from elsewhere.
    """
    found = description or {}
    pretrained, plan = found.get(PRETRAINED_KEY), found.get("plan")
    if isinstance(pretrained, Mapping) and pretrained.get("trained_on") in ("generated", "stated_public"):
        return WarmStart(
            model_digest=model_digest,
            trained_on=pretrained["trained_on"],
            words=_one_line(str(pretrained.get("words", ""))),
        )
    if isinstance(plan, Mapping):
        words = f"the model after round {found.get('round')} of run {plan.get('run')}"
        return WarmStart(model_digest=model_digest, trained_on="run", words=_one_line(words))
    return WarmStart(
        model_digest=model_digest,
        trained_on="unknown",
        words="the file does not say what its weights were trained on",
    )


def _one_line(words: str) -> str:
    """What a stranger's file says, without the characters that could forge a line of a log."""
    return "".join(letter if letter.isprintable() else "?" for letter in words[:_WORDS_LIMIT])
