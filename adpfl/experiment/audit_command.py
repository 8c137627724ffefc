"""`adpfl audit`: the command's options and the table it prints."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Group

    from adpfl.privacy.audit.report import AuditReport, Gate

EXAMPLE = "Example: adpfl audit --mechanism laplace_l2 --noise-multiplier 1"

_MEANING = {
    "passed": "nothing more was shown than was promised",
    "failed": "MORE WAS SHOWN THAN PROMISED: do not release anything with this engine",
    "cannot tell": "these canaries could not have found a defect of a factor of two",
}
_ONE_LINE = ("guessing", "update")
"""Gates that look at all canaries, or at none."""

_STYLE = {"passed": "green", "failed": "bold red", "cannot tell": "yellow"}


class AuditedMechanism(StrEnum):
    """Mechanisms that have a promise to audit."""

    GAUSSIAN = "gaussian"
    LAPLACE_L2 = "laplace_l2"
    LAPLACE_L1 = "laplace_l1"


def audit(
    *,
    mechanism: Annotated[
        AuditedMechanism, typer.Option(help="What clips and adds noise.")
    ] = AuditedMechanism.GAUSSIAN,
    noise_multiplier: Annotated[
        float, typer.Option(help="Noise scale over clip norm; 0.7 to 2 is what canaries see best.")
    ] = 2.0,
    steps: Annotated[int, typer.Option(min=2, help="Noised steps to release and score.")] = 3,
    canaries: Annotated[
        int, typer.Option(min=100, help="Canaries hidden among the patients; more see finer.")
    ] = 10_000,
    images: Annotated[int, typer.Option(min=2, help="Generated photographs to train on.")] = 12,
    delta: Annotated[float, typer.Option(help="Of the promise.")] = 1e-5,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of canaries, images and weights; never of noise.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Attack this installation's own privacy engine, and fail if it gives more away than it promises.

    Trains one round on generated patients with canaries among them: the real task, network, per-patient
    gradients, clip and noise. Exits with 1 where an empirical lower bound exceeds the promised figure. Takes
    well under a minute on two cores.
    """
    from rich.console import Console  # noqa: PLC0415 - help needs none of these

    from adpfl.config import parse  # noqa: PLC0415
    from adpfl.experiment.audit import AuditSetting, audit_pipeline  # noqa: PLC0415
    from adpfl.privacy.plan import RigorousPrivacy  # noqa: PLC0415

    document: dict[str, Any] = {
        "mode": "rigorous",
        "mechanism": mechanism.value,
        "noise_multiplier": noise_multiplier,
        "threshold": {"method": "fixed", "clip_norm": 1.0},
        "delta": delta,
        "sampling": {"mode": "full"},
    }
    privacy = parse(document, RigorousPrivacy, source="options")
    setting = AuditSetting(canaries=canaries, steps=steps, images=images, seed=seed)
    notes = Console(stderr=True)
    if notes.is_terminal and not as_json:
        with notes.status("making patients and canaries") as status:
            report = audit_pipeline(
                privacy,
                setting,
                progress=lambda done, total: status.update(f"step {done} of {total} released"),
            )
    else:
        report = audit_pipeline(privacy, setting)
    if as_json:
        typer.echo(report.model_dump_json())
    else:
        Console().print(audit_table(report))
    if report.verdict == "failed":
        raise typer.Exit(1)


def audit_table(report: "AuditReport") -> "Group":
    """The gates, what each could have seen, the engine's measured figures, and the verdict in words."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - as above
    from rich.console import Group  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from adpfl.privacy.guarantee import shown_epsilon  # noqa: PLC0415

    gates = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    gates.add_column("gate and canaries", no_wrap=True)
    for heading in ("shown", "promised", "sees"):
        gates.add_column(heading, justify="right", no_wrap=True)
    gates.add_column("verdict", no_wrap=True)
    for gate in report.gates:
        gates.add_row(
            f"{gate.name}: {gate.quantity}" if gate.name in _ONE_LINE else f"{gate.name}, {gate.canaries}",
            f"{gate.shown:.3g}",
            f"{gate.promised:.3g}",
            _factor(gate),
            Text(gate.verdict, style=_STYLE[gate.verdict]),
        )
    measured = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    measured.add_column("estimates, in clip norms", no_wrap=True)
    for heading in ("present", "adds", "at most", "noise", "promised"):
        measured.add_column(heading, justify="right", no_wrap=True)
    for row in report.measures:
        measured.add_row(
            row.canaries,
            f"{row.present}/{row.count}",
            f"{row.contribution:.4g}",
            f"{row.contribution_promised:.4g}",
            f"{row.noise:.4g}",
            f"{row.noise_promised:.4g}",
        )
    promise = report.guarantee
    terms = Text(
        f"promise: epsilon {shown_epsilon(promise.epsilon)} at delta {promise.delta:g} for {promise.steps} "
        f"steps of {promise.mechanism}, noise multiplier {report.noise_multiplier:.4g}; unit {promise.unit}, "
        f"{promise.neighboring_relation} neighbours, sampling {promise.sampling}\n"
        f"a correct engine fails this audit with probability {report.false_alarm_probability:g} at most",
        style="dim",
    )
    meaning = _MEANING[report.verdict]
    if report.verdict == "passed" and any(gate.verdict == "cannot tell" for gate in report.gates):
        meaning += ", where this audit can tell; the notes say where it cannot"
    verdict = Text(f"{report.verdict}: {meaning}", style=_STYLE[report.verdict])
    remarks = [Text(f"note: {remark}") for remark in report.remarks]
    return Group(gates, measured, terms, *remarks, verdict)


def _factor(gate: "Gate") -> str:
    """By what factor an engine must break its promise before this gate sees it."""
    if gate.name in _ONE_LINE:
        return "-"
    return "none" if gate.resolution == float("inf") else f"x{gate.resolution:.3g}"
