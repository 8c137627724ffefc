"""Withdrawn consent: a patient takes part in nothing any more, from the next round on.

What was released before stays released and charged; an update that is already sealed is sent as it is, for
it was computed while the consent held. The patient's place in a run under way stays, empty: the number n of
units was declared once and is public, so it must not change because somebody withdrew. An empty place
contributes zero, which is what the zero-out relation compares with; q*n, the noise and the accounting stay.

So do not delete the patient's images while a run that declared them is under way: with the images the place
would go too, and the run would be refused here (n is declared once). Exclude, let the run end, then delete.
"""

import time
from dataclasses import dataclass

from adpfl.errors import ConfigError
from adpfl_client.config import SiteConfig
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.rounds.site_data import load_site_data


@dataclass(frozen=True)
class ExcludedPatient:
    """Where an excluded patient was found, for the operator who asked."""

    tasks: tuple[str, ...]
    """Empty where the name stands in none of the site's data."""
    excluded_so_far: int
    """Patients excluded at this site, this one among them."""


def exclude_patient(
    config: SiteConfig,
    patient: str,
    *,
    reason: str,
    by: str,
    not_in_data: bool = False,
    now: float | None = None,
) -> ExcludedPatient:
    """Exclude one patient, on the record; the ledger keeps a keyed fingerprint and no name.

    Args:
        config: the site's.
        patient: the identifier that the data folder uses.
        reason: why; without the patient's name.
        by: who decided.
        not_in_data: exclude an identifier that the data folders do not hold (yet, or any more).
        now: Unix time in seconds; the machine's clock by default.

    Raises:
        ConfigError: no data folder holds the patient and `not_in_data` is not set, or the reason names the
            patient.
        BudgetError: the clock ran backwards.
    """
    name = patient.strip()
    if not name:
        raise ConfigError("PATIENT is empty; must be an identifier of the data folder")
    if name in reason:
        raise ConfigError("--reason holds the patient's identifier; the ledger keeps no names")
    for key, value in (("--reason", reason), ("--by", by)):
        if not 1 <= len(value.strip()) <= 500:
            raise ConfigError(f"{key} has {len(value.strip())} characters; must have 1 to 500")
    tasks = tuple(task for task in sorted(config.data) if _holds(config, task, name))
    if not tasks and not not_in_data:
        raise ConfigError(
            f"PATIENT is in no data folder of this site ({', '.join(sorted(config.data))}); check the "
            "spelling, or add --not-in-data"
        )
    at = time.time() if now is None else now
    with LedgerStore.open(config.state_dir, at) as ledger:
        ledger.exclude(name, reason=reason.strip(), by=by.strip(), now=at)
        return ExcludedPatient(tasks, len(ledger.exclusions()))


def _holds(config: SiteConfig, task: str, patient: str) -> bool:
    data = load_site_data(task, config.data_of(task))
    return any(case.patient == patient for case in (*data.training, *data.held_out))
