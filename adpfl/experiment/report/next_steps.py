"""What a person does after a demonstration: compare, bring images, leave this machine."""

from dataclasses import dataclass

from adpfl.experiment.arms import PUBLISHED_ARMS, Arm
from adpfl.experiment.report.record import JoinedRecord
from adpfl.experiment.report.words import joined


@dataclass(frozen=True)
class NextStep:
    """One thing to do.

    Attributes:
        words: what it is for, in one clause.
        commands: what to type, a line each.
    """

    words: str
    commands: tuple[str, ...]


def next_steps(record: JoinedRecord) -> tuple[NextStep, ...]:
    """What follows this demonstration, with the commands to type."""
    arm = record.server.plan.arm
    steps = _comparisons(arm)
    if record.data_note.synthetic:
        steps.append(
            NextStep(
                "Train on images of your own, in a folder laid out as ISIC 2017, ISIC 2018 or HAM10000",
                (f"adpfl demo --data FOLDER --arm {arm} --output demo-own",),
            )
        )
    steps.append(
        NextStep(
            "Train between real hospitals: the operator writes the run into server.yaml, enrols each site "
            "and runs a server, and each site writes its own policy before its agent trains anything",
            (
                "adpfl-server init --config server.yaml --host fl.example.org",
                "adpfl-server check-config server.yaml",
                "adpfl-server enroll hospital1 --config server.yaml",
                "adpfl-server --config server.yaml",
                "adpfl-client init --site hospital1",
                "adpfl-client enroll hospital1.bundle.json --site hospital1",
                "adpfl-client check --site hospital1",
                "adpfl-client --site hospital1",
            ),
        )
    )
    return tuple(steps)


def _comparisons(arm: Arm) -> list[NextStep]:
    """The other arms, and why one would run them."""
    others = tuple(other for other in PUBLISHED_ARMS if other != arm)
    if arm == "rigorous":
        return [
            NextStep(
                f"See what this guarantee cost: {joined(others)} are the arms of the published comparison, "
                "none of which protects a patient",
                tuple(_demo(other) for other in others),
            )
        ]
    return [
        NextStep(
            f"Compare {arm} with {joined(others)}, the other arms of the published comparison",
            tuple(_demo(other) for other in others),
        ),
        NextStep("See a finite honest ε, and what it costs in accuracy", (_demo("rigorous"),)),
    ]


def _demo(arm: Arm) -> str:
    return f"adpfl demo --arm {arm} --output demo-{arm}"
