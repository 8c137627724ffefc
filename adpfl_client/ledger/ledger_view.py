"""The ledger for the person who answers for it: what each run spent, on whom, and what is left."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from typing import Any

from adpfl.privacy.guarantee import IF_FIXED_MEANING, Guarantee, shown_epsilon
from adpfl.privacy.ledger import Approval, Exclusion, Reservation, Spent
from adpfl.privacy.statement import describe_threshold
from adpfl_client.config import SiteConfig
from adpfl_client.guard import SitePolicy
from adpfl_client.ledger.ledger_check import open_ledger

TABLE_WIDTH = 118


@dataclass(frozen=True)
class RunView:
    """One run's line."""

    run: str
    plan_digest: str
    threshold: str
    guarantee: Guarantee
    reservations: tuple[Reservation, ...]

    @property
    def rounds(self) -> int:
        """How many rounds were charged."""
        return len({one.round_number for one in self.reservations})

    @property
    def patients(self) -> int:
        """Most patients that took part in any of them."""
        return max(one.patients for one in self.reservations)


@dataclass(frozen=True)
class LedgerView:
    """Everything that the table and the JSON document show."""

    policy: SitePolicy
    spent: Spent
    runs: tuple[RunView, ...]
    exclusions: tuple[Exclusion, ...]
    approvals: tuple[Approval, ...]


def show_ledger(config: SiteConfig, *, as_json: bool) -> str:
    """What this site's ledger says, as a table for a person or as JSON.

    Raises:
        StateError: there is no ledger yet.
        IntegrityError: the ledger has been tampered with.
    """
    view = read_view(config)
    return json.dumps(_document(view), indent=2) if as_json else _table(view)


def read_view(config: SiteConfig) -> LedgerView:
    """Read what is to be shown, each figure from the ledger's own charges.

    Raises:
        StateError: there is no ledger yet.
        IntegrityError: the ledger has been tampered with.
    """
    with open_ledger(config) as ledger:
        by_run: dict[str, list[Reservation]] = {}
        for reservation in ledger.reservations():
            by_run.setdefault(reservation.run, []).append(reservation)
        runs: list[RunView] = []
        for run, reservations in by_run.items():
            terms = ledger.terms(run)
            assert terms is not None  # a run's first reservation declares them
            runs.append(
                RunView(
                    run=run,
                    plan_digest=terms.plan_digest,
                    threshold=describe_threshold(terms.privacy),
                    guarantee=ledger.guarantee_of(run),
                    reservations=tuple(reservations),
                )
            )
        return LedgerView(
            policy=config.policy,
            spent=ledger.spent(config.policy.data_set_id, delta=config.policy.delta),
            runs=tuple(runs),
            exclusions=ledger.exclusions(),
            approvals=ledger.approvals(),
        )


def _table(view: LedgerView) -> str:
    # rich is loaded for the table alone: JSON and --help do without it.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=f"Privacy ledger, data set {view.spent.data_set_id}", title_justify="left")
    for heading in ("run", "since", "rounds", "patients", "what was released", "epsilon (delta)", "state"):
        table.add_column(heading, overflow="fold")
    for run in view.runs:
        table.add_row(
            run.run,
            _day(run.reservations[0].reserved_at_millis),
            str(run.rounds),
            str(run.patients),
            _released(run),
            _figure(run.guarantee),
            _state(run.reservations),
        )
    console = Console(file=StringIO(), width=TABLE_WIDTH, highlight=False, markup=False)
    console.print(table)
    for line in _summary(view):
        console.print(line, soft_wrap=True)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().rstrip()


def _released(run: RunView) -> str:
    figure = run.guarantee
    return (
        f"{figure.steps} steps of {figure.mechanism}; threshold {run.threshold}; sampling {figure.sampling}; "
        f"unit {figure.unit}; {figure.neighboring_relation}"
    )


def _figure(figure: Guarantee) -> str:
    lines = [f"{shown_epsilon(figure.epsilon)} ({figure.delta:g})"]
    if figure.epsilon_if_fixed is not None:
        lines.append(f"{shown_epsilon(figure.epsilon_if_fixed)} if fixed *")
    return "\n".join(lines)


def _state(reservations: Sequence[Reservation]) -> str:
    counts: dict[str, int] = {}
    for one in reservations:
        counts[one.status] = counts.get(one.status, 0) + 1
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _summary(view: LedgerView) -> list[str]:
    spent, policy = view.spent, view.policy
    together = (
        f"All runs together: epsilon {shown_epsilon(spent.epsilon)} of a cap of {policy.epsilon_cap:g} at "
        f"delta {spent.delta:g}, in {spent.reservations} reservations. What is reserved stays charged."
    )
    lines = [together]
    if spent.no_finite_guarantee_since is not None:
        lines.append(
            f"No finite guarantee since {_day(round(1000 * spent.no_finite_guarantee_since))}; the runs that "
            f"have one add up to epsilon {shown_epsilon(spent.epsilon_of_finite_runs)}."
        )
    if spent.dedicated_to is not None:
        lines.append(f"The whole cap is dedicated to run {spent.dedicated_to}: no other run may follow.")
    if any(run.guarantee.epsilon_if_fixed is not None for run in view.runs):
        lines.append(f"* if fixed: {IF_FIXED_MEANING}.")
    if view.exclusions:
        newest = max(one.at_millis for one in view.exclusions)
        lines.append(f"Excluded patients: {len(view.exclusions)}, the latest on {_day(newest)}.")
    lines += [f"Approved by {one.by} on {_day(one.at_millis)}: run {one.run}." for one in view.approvals]
    return lines


def _document(view: LedgerView) -> dict[str, Any]:
    spent = view.spent
    return {
        "data_set_id": spent.data_set_id,
        "epsilon": _json(spent.epsilon),
        "epsilon_of_finite_runs": _json(spent.epsilon_of_finite_runs),
        "epsilon_cap": view.policy.epsilon_cap,
        "delta": spent.delta,
        "no_finite_guarantee_since": spent.no_finite_guarantee_since,
        "dedicated_to": spent.dedicated_to,
        "runs": [
            {
                "run": run.run,
                "plan_digest": run.plan_digest,
                "rounds": run.rounds,
                "patients": run.patients,
                "threshold": run.threshold,
                "guarantee": run.guarantee.model_dump(mode="json"),
            }
            for run in view.runs
        ],
        "reservations": [_row(one) for run in view.runs for one in run.reservations],
        "exclusions": [
            {"at": _time(one.at_millis), "reason": one.reason, "by": one.by} for one in view.exclusions
        ],
        "approvals": [
            {"at": _time(one.at_millis), "run": one.run, "plan_digest": one.plan_digest, "by": one.by}
            for one in view.approvals
        ],
    }


def _row(reservation: Reservation) -> dict[str, Any]:
    return {
        "id": reservation.id,
        "run": reservation.run,
        "round": reservation.round_number,
        "attempt": reservation.attempt,
        "metric": reservation.metric,
        "patients": reservation.patients,
        "steps": reservation.steps,
        "status": reservation.status,
        "finite_guarantee": not reservation.is_unbounded,
        "reserved_at": _time(reservation.reserved_at_millis),
        "update_digest": reservation.update_digest,
    }


def _json(epsilon: float) -> float | str:
    return "inf" if math.isinf(epsilon) else epsilon


def _day(unix_millis: int) -> str:
    return datetime.fromtimestamp(unix_millis / 1000, tz=UTC).strftime("%Y-%m-%d")


def _time(unix_millis: int) -> str:
    return datetime.fromtimestamp(unix_millis / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
