"""The privacy statement of one run at one site: every figure with all that is needed to read it.

Formats only. The site signs the statement's canonical JSON with its own key; whoever has the statement and
the site's certificate can check it, years later and without this software's state.
"""

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from adpfl.config import FrozenModel, Name, parse
from adpfl.errors import IntegrityError
from adpfl.privacy.guarantee import IF_FIXED_MEANING, Epsilon, Guarantee

HexDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]

EPSILON_MEANING = (
    "replacing one unit's contribution by zero throughout the run changes the probability of any set of "
    "outcomes by a factor of at most exp(epsilon), up to delta, and the same in reverse"
)


class PrivacyStatement(FrozenModel):
    """What a site states about one run that trained on its patients."""

    format: Literal["adpfl privacy statement 1"] = "adpfl privacy statement 1"
    site: Name
    run: Name
    plan_digest: HexDigest
    """SHA-256 of the plan's canonical JSON."""
    data_set_id: Name
    patients: Count
    """Most that took part in any round."""
    declared_units: Count
    """n: units of privacy declared once for the run; public. Excluded ones keep their place."""
    excluded_patients: Count
    """Patients excluded at this site by the date of this statement, of whatever run."""
    epsilon: Epsilon
    """Honest: of everything that was charged for the run. Infinite where no finite guarantee holds."""
    epsilon_meaning: Literal[EPSILON_MEANING] = EPSILON_MEANING  # type: ignore[valid-type]
    delta: Annotated[float, Field(gt=0.0, lt=1.0)]
    epsilon_if_fixed: Epsilon | None
    epsilon_if_fixed_meaning: str | None
    """Stands wherever `epsilon_if_fixed` does."""
    unit: str
    records_per_patient: Count | None
    epsilon_per_patient: Epsilon | None
    """Where the unit is the record: the figure of a patient with at most `records_per_patient` of them."""
    neighboring_relation: str
    sampling: str
    mechanism: str
    threshold: str
    steps: Count
    """Noised steps charged, those of crashed attempts among them."""
    rounds: Count
    """Rounds of which an update was released or may have been."""
    accountant: str
    nominal_epsilon: float | None
    reading: str | None
    caveats: tuple[str, ...]
    data_set_epsilon: Epsilon
    """Of all runs so far on these patients together."""
    data_set_delta: Annotated[float, Field(gt=0.0, lt=1.0)]
    no_finite_guarantee_since: str | None
    """Of the data set; ISO 8601, UTC."""
    ledger_entries: Count
    ledger_head: HexDigest
    """MAC of the ledger's newest entry at the date of this statement."""
    code_version: str
    dated: str
    """ISO 8601, UTC."""

    def canonical_json(self) -> bytes:
        """The bytes that are signed: sorted, compact ASCII JSON."""
        document = self.model_dump(mode="json")
        return json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
        ).encode()

    @classmethod
    def from_document(cls, document: Any, *, source: str) -> "PrivacyStatement":
        """Read a statement back.

        Raises:
            ConfigError: it breaks a rule of the format.
            IntegrityError: it says something other than what would be signed.
        """
        statement = parse(document, cls, source=source)
        if statement.model_dump(mode="json") != document:
            raise IntegrityError(f"{source}: is not in canonical form; it was changed")
        return statement


def guarantee_part(guarantee: Guarantee) -> dict[str, Any]:
    """The fields of a statement that a run's guarantee fills."""
    return {
        "epsilon": guarantee.epsilon,
        "delta": guarantee.delta,
        "epsilon_if_fixed": guarantee.epsilon_if_fixed,
        "epsilon_if_fixed_meaning": None if guarantee.epsilon_if_fixed is None else IF_FIXED_MEANING,
        "unit": guarantee.unit,
        "records_per_patient": guarantee.records_per_patient,
        "epsilon_per_patient": guarantee.epsilon_per_patient,
        "neighboring_relation": guarantee.neighboring_relation,
        "sampling": guarantee.sampling,
        "mechanism": guarantee.mechanism,
        "accountant": guarantee.accountant,
        "nominal_epsilon": guarantee.nominal_epsilon,
        "reading": guarantee.reading,
        "caveats": guarantee.caveats,
    }


def describe_threshold(privacy: dict[str, Any]) -> str:
    """The clip threshold of a plan's privacy section in words: its method, then each setting."""
    threshold = privacy.get("threshold")
    if not isinstance(threshold, dict):
        return "none (nothing is clipped)"
    settings = [f"{key} {value}" for key, value in sorted(threshold.items()) if key != "method"]
    return ", ".join([str(threshold["method"]), *settings])


def iso(moment: datetime) -> str:
    """An aware time in UTC, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
