"""What a person does after a demonstration: compare, bring images, leave this machine."""

from dataclasses import dataclass

from adpfl.experiment.arms import ARMS
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
    others = tuple(other for other in ARMS if other != arm)
    steps = [
        NextStep(
            f"Compare {arm} with {joined(others)}, the other arms of the published comparison",
            tuple(f"adpfl demo --arm {other} --output demo-{other}" for other in others),
        )
    ]
    if record.data_note.synthetic:
        steps.append(
            NextStep(
                "Train on images of your own, in a folder laid out as ISIC 2017, ISIC 2018 or HAM10000",
                (f"adpfl demo --data FOLDER --arm {arm} --output demo-own",),
            )
        )
    steps.append(
        NextStep(
            "Train between real hospitals: the operator runs a server and enrols each site, and each site "
            "writes its own policy before its agent trains anything",
            (
                "adpfl-server init",
                "adpfl-server --config server.yaml",
                "adpfl-server enroll hospital1",
                "adpfl-client enroll hospital1.bundle.json --site hospital1",
                "adpfl-client --site hospital1",
            ),
        )
    )
    return tuple(steps)
