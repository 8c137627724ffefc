"""What an operator and the sites would write for this run: `server.yaml` and `sites/*.yaml`."""

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from adpfl.experiment.arms import Arm, privacy_of_arm
from adpfl.experiment.demo.folder import DemoFolder
from adpfl.federated.aggregation_plan import AggregationPlan
from adpfl.federated.run_plan import CohortPlan, RunPlan
from adpfl.learning.plan import LocalPlan, NetworkPlan
from adpfl.privacy.plan import FixedThreshold, Reading, Sampling

TASK = "skin_lesion"
LEAST_PATIENTS = 3
"""At a hospital: two to train on and one held out."""


_NO_REAL_CAP = 1e12
_POLICY_COMMENTS = {
    "epsilon_cap": (
        "A demonstration only: no real site would set this. A cap is what a site may lose in all, a few "
        "units where it is to mean anything. This one lets every finite figure pass, however large: read as "
        "a multiplier, the published noise costs an epsilon of many millions, which protects nobody."
    ),
    "accept_unbounded": (
        "A demonstration only: a real site would sign this for no patient's data without knowing that the "
        "run has no finite guarantee at all."
    ),
}


@dataclass(frozen=True)
class DemoChoices:
    """What a person may choose about the demonstration.

    Attributes:
        arm: of the published comparison, or `rigorous`.
        reading: how the nominal epsilon becomes noise.
        sites: how many hospitals.
        rounds: federated rounds.
        steps: local steps a round.
        data: a folder of real images to deal out; None generates hospitals.
        images: generated images a hospital.
        seed: of generated images, splits, initial weights and augmentation; never of noise.
    """

    arm: Arm = "adp-fl"
    reading: Reading = "multiplier"
    sites: int = 3
    rounds: int = 30
    steps: int = 6
    data: Path | None = None
    images: int = 48
    seed: int = 0

    @property
    def site_names(self) -> tuple[str, ...]:
        """hospital1, hospital2, ..."""
        return tuple(f"hospital{number}" for number in range(1, self.sites + 1))


@dataclass(frozen=True)
class Ports:
    """Loopback ports of the aggregator."""

    main: int
    enrollment: int


def demo_plan(choices: DemoChoices) -> RunPlan:
    """The plan that every site of the demonstration is asked to approve."""
    return RunPlan(
        run=f"demo-{choices.arm}",
        task=TASK,
        network=NetworkPlan(architecture="unet", size="tiny"),
        image_size=(128, 128),
        rounds=choices.rounds,
        local=LocalPlan(steps=choices.steps, learning_rate=0.05, momentum=0.9),
        aggregation=AggregationPlan(strategy="fedavg", weights="patients"),
        cohort=CohortPlan(sites=choices.site_names, quorum=choices.sites, round_deadline_seconds=600.0),
        privacy=privacy_of_arm(
            choices.arm,
            reading=choices.reading,
            sampling=Sampling(mode="poisson", probability=0.3),
            fixed=FixedThreshold(method="fixed", clip_norm=1.0),
            total_steps=choices.rounds * choices.steps,
        ),
        seed=choices.seed,
    )


def write_server_config(folder: DemoFolder, plan: RunPlan, ports: Ports) -> None:
    """Write `server.yaml`."""
    main, enrollment = f"127.0.0.1:{ports.main}", f"127.0.0.1:{ports.enrollment}"
    document = {
        "state_dir": str(folder.server_state.relative_to(folder.root)),
        "listen": main,
        "enroll_listen": enrollment,
        "public_address": main,
        "public_enroll_address": enrollment,
        "runs": [plan.model_dump(mode="json")],
    }
    _write(
        folder.server_config, "The aggregator of a demonstration; paths are relative to this file.", document
    )


def write_site_config(folder: DemoFolder, site: str, plan: RunPlan, choices: DemoChoices) -> None:
    """Write `sites/<site>.yaml`, with the policy entries without which the agent would refuse this run."""
    document = {
        "site": site,
        "state_dir": f"../state/{site}",
        "data": {TASK: {"path": f"../data/{site}", "held_out_fraction": 0.25, "split_seed": choices.seed}},
        "policy": _policy(site, plan, choices),
        "threads": 1,
        "evaluate_every_rounds": 1,
    }
    _write(
        folder.site_config(site),
        f"What {site} allows and where its images lie; paths are relative to this file.",
        document,
        comments=_POLICY_COMMENTS,
    )


def _policy(site: str, plan: RunPlan, choices: DemoChoices) -> dict[str, Any]:
    """What the site allows: `rigorous` fits a policy's own defaults, every other arm needs an exception."""
    policy: dict[str, Any] = {
        "data_set_id": f"{site}-{TASK.replace('_', '-')}",
        "allowed_tasks": [TASK],
        "minimum_patients": 2,
        "maximum_rounds": plan.rounds,
    }
    what = "generated images of nobody" if choices.data is None else "images that whoever started it chose"
    if choices.arm == "dp-fl":
        policy["epsilon_cap"] = _NO_REAL_CAP
    elif choices.arm != "rigorous":
        policy["accept_unbounded"] = [
            {
                "run": plan.run,
                "reason": f"a demonstration of {choices.arm} on {what}; it has no finite epsilon",
                "by": "whoever started adpfl demo",
            }
        ]
    return policy


def _write(
    path: Path, heading: str, document: dict[str, Any], *, comments: Mapping[str, str] | None = None
) -> None:
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    for key, comment in (comments or {}).items():
        text = _commented(text, key, comment)
    path.write_text(
        f"# {heading}\n# Written by `adpfl demo`; see examples/ for every key explained.\n{text}",
        encoding="utf-8",
    )


def _commented(text: str, key: str, comment: str) -> str:
    """YAML with a comment above a key, indented as the key is."""
    found = re.search(rf"^( *){key}:", text, flags=re.MULTILINE)
    if found is None:
        return text
    lines = textwrap.wrap(comment, width=100, initial_indent="# ", subsequent_indent="# ")
    block = textwrap.indent("\n".join(lines) + "\n", found[1])
    return text[: found.start()] + block + text[found.start() :]
