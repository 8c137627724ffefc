"""Synthetic records of a believable run, for everything that reads records."""

import io
import math
import random
from collections.abc import Callable

import pytest
from PIL import Image, ImageDraw

from adpfl.experiment.arms import Arm, privacy_of_arm
from adpfl.federated.records import (
    CaseScore,
    EvaluationRecord,
    ServerRound,
    ServerRunRecord,
    SiteRunRecord,
    StepRecord,
    TimelineEvent,
)
from adpfl.federated.run_plan import CohortPlan, RunPlan
from adpfl.learning.plan import LocalPlan
from adpfl.privacy.accounting import guarantee
from adpfl.privacy.guarantee import Guarantee
from adpfl.privacy.plan import RigorousPrivacy

START = 1_795_000_000.0
ROUND_SECONDS = 17.0


def make_plan(
    arm: Arm = "adp-fl", *, sites: tuple[str, ...] = ("hospital1", "hospital2", "hospital3"), rounds: int = 10
):
    return RunPlan(
        run="demo",
        task="skin_lesion",
        image_size=(128, 128),
        rounds=rounds,
        local=LocalPlan(steps=6, learning_rate=0.15),
        cohort=CohortPlan(sites=sites, quorum=2),
        privacy=privacy_of_arm(arm, total_steps=rounds * 6),
    )


def make_server(plan: RunPlan, *, missing: dict[int, tuple[str, ...]] | None = None) -> ServerRunRecord:
    missing = missing or {}
    rounds = tuple(
        ServerRound(
            round=number,
            opened_unix_seconds=START + ROUND_SECONDS * number,
            closed_unix_seconds=START + ROUND_SECONDS * (number + 1),
            sites=tuple(site for site in plan.cohort.sites if site not in missing.get(number, ())),
            missing=missing.get(number, ()),
            base_digest=f"{number:064x}",
            result_digest=f"{number + 1:064x}",
        )
        for number in range(1, plan.rounds + 1)
    )
    timeline = [TimelineEvent(at_unix_seconds=START, kind="run_created")]
    timeline += [
        TimelineEvent(at_unix_seconds=START + 2 + place, kind="site_joined", site=site)
        for place, site in enumerate(plan.cohort.sites)
    ]
    timeline += [
        TimelineEvent(at_unix_seconds=START + 70, kind="server_restarted", round=4),
        TimelineEvent(at_unix_seconds=START + 75, kind="site_rejoined", site=plan.cohort.sites[-1], round=4),
        TimelineEvent(at_unix_seconds=START + ROUND_SECONDS * (plan.rounds + 1), kind="run_finished"),
    ]
    return ServerRunRecord(
        plan=plan,
        plan_digest=plan.digest(),
        status="finished",
        summary=f"finished: {plan.rounds} of {plan.rounds} rounds",
        rounds=rounds,
        training_patients=dict.fromkeys(plan.cohort.sites, 40),
        timeline=tuple(timeline),
    )


def make_site(
    plan: RunPlan, site: str, *, overlays: tuple[str, ...] = (), patients: int = 12
) -> SiteRunRecord:
    draw = random.Random(f"{plan.arm} {site}")
    ceiling = 0.68 + 0.12 * draw.random()
    evaluations = tuple(
        _evaluation(number, ceiling * (1 - math.exp(-number / 3)) + 0.05, patients, draw)
        for number in range(plan.rounds + 1)
    )
    return SiteRunRecord(
        site=site,
        run=plan.run,
        plan_digest=plan.digest(),
        status="finished",
        summary=f"finished: took part in {plan.rounds} of {plan.rounds} rounds",
        training_patients=40,
        held_out_patients=patients,
        steps=tuple(_step(plan, number, draw) for number in range(plan.rounds * plan.local.steps)),
        evaluations=evaluations,
        overlays=overlays,
        guarantee=_guarantee(plan),
        timeline=(),
    )


def _evaluation(number: int, mean: float, patients: int, draw: random.Random) -> EvaluationRecord:
    scores = []
    for patient in range(patients):
        dice = min(0.97, max(0.0, draw.gauss(mean, 0.17)))
        scores.append(
            CaseScore(
                case=f"case-{patient:03d}",
                patient=f"patient-{patient:03d}",
                structure="lesion",
                dice=dice,
                hd95=None if dice == 0 else 4 + 90 * (1 - dice) * draw.uniform(0.6, 1.4),
            )
        )
    return EvaluationRecord(
        round=number, mean_dice=sum(score.dice for score in scores) / len(scores), scores=tuple(scores)
    )


def _step(plan: RunPlan, number: int, draw: random.Random) -> StepRecord:
    scale = 1.1 + 2.4 * math.exp(-number / 15)
    norms = sorted(scale * math.exp(draw.gauss(0, 0.45)) for _ in range(10))
    quantiles = tuple(norms[round(place * 9 / 4)] for place in range(5))
    clip_norm = {"fl": None, "dp-fl": 1.0}.get(plan.arm, quantiles[2])
    return StepRecord(
        round=1 + number // plan.local.steps,
        step=number % plan.local.steps,
        clip_norm=clip_norm,
        noise_scale=None if clip_norm is None else clip_norm * 0.001,
        norm_quantiles=quantiles,
        units=10,
        clipped_units=0 if clip_norm is None else sum(norm > clip_norm for norm in norms),
        nonfinite_units=0,
    )


def _guarantee(plan: RunPlan) -> Guarantee:
    if isinstance(plan.privacy, RigorousPrivacy):
        return guarantee(plan.privacy, unit_count=40, dimension=20_000, steps=plan.rounds * plan.local.steps)
    finite = {"fl": None, "dp-fl": 3.7e7, "adp-fl": 3.7e7}[plan.arm]
    return Guarantee(
        epsilon=finite if plan.arm == "dp-fl" else math.inf,
        epsilon_if_fixed=finite if plan.arm == "adp-fl" else None,
        delta=1e-5,
        unit="patient",
        neighboring_relation="zero-out",
        sampling="poisson, probability 0.25",
        mechanism="none" if plan.arm == "fl" else "laplace_l2",
        steps=plan.rounds * plan.local.steps,
        accountant="renyi",
        nominal_epsilon=None if plan.arm == "fl" else 0.001,
        reading=None if plan.arm == "fl" else "multiplier",
        caveats=("ideal sampler; no meaningful protection",),
    )


def make_png(seed: int = 0) -> bytes:
    draw = random.Random(seed)
    picture = Image.new("RGB", (192, 144), (214, 172, 150))
    canvas = ImageDraw.Draw(picture)
    x, y = draw.randint(50, 90), draw.randint(40, 70)
    canvas.ellipse((x, y, x + 60, y + 45), fill=(112, 66, 48), outline=(255, 255, 255), width=2)
    canvas.ellipse((x + 4, y + 2, x + 66, y + 47), outline=(40, 200, 220), width=2)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def plan_of() -> Callable[..., RunPlan]:
    return make_plan


@pytest.fixture
def server_of() -> Callable[..., ServerRunRecord]:
    return make_server


@pytest.fixture
def site_of() -> Callable[..., SiteRunRecord]:
    return make_site


@pytest.fixture
def png_of() -> Callable[..., bytes]:
    return make_png
