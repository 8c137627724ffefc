"""A believable comparison's folder, made without any training: the layout that `adpfl compare` leaves."""

import io
import math
import random
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from adpfl.experiment.arms import privacy_of_arm
from adpfl.experiment.comparison.folder import CellTiming, ComparisonFolder
from adpfl.experiment.comparison.plan import CellPlan, ComparisonPlan, DataDescription
from adpfl.experiment.report.record import write_record
from adpfl.federated.records import (
    CaseScore,
    EvaluationRecord,
    PresenceScore,
    ServerRound,
    ServerRunRecord,
    SiteRunRecord,
    StepRecord,
)
from adpfl.federated.run_plan import CohortPlan, RunPlan
from adpfl.learning.plan import LocalPlan
from adpfl.privacy.guarantee import Guarantee
from adpfl.privacy.plan import FixedThreshold, PercentileThreshold, RigorousPrivacy

SITES = ("hospital1", "hospital2", "hospital3", "hospital4")
LABELS = {"fl": "FL", "dp-fl": "DP-FL", "adp-fl": "ADP-FL", "rigorous": "Rigorous"}
CEILING = {"fl": 0.88, "dp-fl": 0.70, "adp-fl": 0.87, "rigorous": 0.48}
SPREAD = {"fl": 0.07, "dp-fl": 0.16, "adp-fl": 0.075, "rigorous": 0.2}
STRUCTURES = {
    "skin_lesion": ("lesion",),
    "kidney_tumor": ("kidney_and_masses", "masses", "tumor"),
}


class ComparisonBuilder:
    """Writes a comparison's folder; what it says of images, scores and norms is drawn from a seeded law."""

    def __init__(self, root: Path, *, task: str = "skin_lesion", seeds: int = 3, rounds: int = 8):
        self.folder = ComparisonFolder(root)
        self.task, self.seeds, self.rounds = task, seeds, rounds
        self.cells: list[CellPlan] = []
        self.unfinished: set[str] = set()
        self.failed: dict[str, str] = {}
        self.ceilings: dict[str, float] = {}
        self.classifies = False
        self.synthetic = True

    def arms(self, *arms: str) -> "ComparisonBuilder":
        for arm in arms:
            for seed in range(self.seeds):
                self.add("arms", arm, seed)
        return self

    def curves(self) -> "ComparisonBuilder":
        for value, ceiling in ((0.01, 0.5), (0.1, 0.7), (10.0, 0.86)):
            cell = self.add(
                "clip_norm", "dp-fl", 0, value, fixed=FixedThreshold(method="fixed", clip_norm=value)
            )
            self.ceilings[cell] = ceiling
        for value, ceiling in ((25.0, 0.83), (75.0, 0.875), (95.0, 0.878)):
            threshold = PercentileThreshold(method="percentile", percentile=value)
            self.ceilings[self.add("percentile", "adp-fl", 0, value, percentile=threshold)] = ceiling
        for value, scale in ((0.01, 1.0), (0.1, 0.93), (1.0, 0.6)):
            for arm in ("dp-fl", "adp-fl"):
                cell = self.add("noise", arm, 0, value, nominal_epsilon=value)
                self.ceilings[cell] = CEILING[arm] * scale
        for value, ceiling in ((2.0, 0.3), (8.0, 0.48), (32.0, 0.66)):
            for seed in range(self.seeds):
                cell = self.add("budget", "rigorous", seed, value, target_epsilon=value)
                self.ceilings[cell] = ceiling
        return self

    def utility(self) -> "ComparisonBuilder":
        for label, ceiling in (("From scratch", 0.45), ("Warm start", 0.71)):
            for seed in range(self.seeds):
                name = label.lower().replace(" ", "-")
                self.ceilings[self.add("utility", name, seed, label=label)] = ceiling
        return self

    def add(self, group, arm, seed, value=None, *, label=None, **privacy) -> str:
        place = "" if value is None else f"-{value:g}".replace(".", "p")
        name = f"{group.replace('_', '-')}-{arm}{place}-s{seed}"
        known = arm if arm in CEILING else "rigorous"
        plan = RunPlan(
            run=name,
            task=self.task,
            image_size=(128, 128) if self.task == "skin_lesion" else (48, 48, 48),
            rounds=self.rounds,
            local=LocalPlan(steps=6, learning_rate=0.15),
            cohort=CohortPlan(sites=SITES, quorum=len(SITES)),
            privacy=privacy_of_arm(known, total_steps=self.rounds * 6, **privacy),
            seed=seed,
        )
        self.cells.append(
            CellPlan(
                cell=name, group=group, arm=arm, label=label or LABELS[arm], value=value, seed=seed, plan=plan
            )
        )
        return name

    def write(self) -> Path:
        root = self.folder.root
        root.mkdir(parents=True, exist_ok=True)
        write_record(self.folder.plan, self.plan())
        for cell in self.cells:
            if cell.cell not in self.unfinished:
                self._write_cell(cell)
        return root

    def plan(self) -> ComparisonPlan:
        return ComparisonPlan(
            task=self.task,
            command=f"adpfl compare --task {self.task} --seeds {self.seeds} --output results",
            options={"task": self.task, "seeds": str(self.seeds), "rounds": str(self.rounds)},
            data=DataDescription(
                words="Generated: one hospital of each of the profiles A, B, C and D, 48 images each",
                synthetic=self.synthetic,
                patients_are="patients",
                partition="every generated hospital is its own site",
                training_patients=dict(zip(SITES, (32, 29, 32, 30), strict=True)),
                held_out_patients=dict.fromkeys(SITES, 10),
                held_out_fraction=0.25,
                split_seed=0,
            ),
            cells=tuple(self.cells),
        )

    def _write_cell(self, cell: CellPlan) -> None:
        place = self.folder.cell(cell.cell)
        place.root.mkdir(parents=True, exist_ok=True)
        failed = self.failed.get(cell.cell)
        write_record(place.record, _server(cell.plan, failed))
        if failed is None:
            for position, site in enumerate(SITES):
                where = place.site(site)
                where.mkdir(parents=True, exist_ok=True)
                overlays = ("overlay-case-000.png", "overlay-case-001.png") if cell.group == "arms" else ()
                for name in overlays:
                    (where / name).write_bytes(_picture(f"{site} {name}", cell.arm))
                write_record(where / "site.json", self._site(cell, site, position, overlays))
        write_record(place.timing, TIMING)

    def _site(self, cell: CellPlan, site: str, position: int, overlays: tuple[str, ...]) -> SiteRunRecord:
        plan, known = cell.plan, cell.plan.arm
        draw = random.Random(f"{cell.cell} {site}")
        top = self.ceilings.get(cell.cell, CEILING[known]) - 0.02 * position
        top += random.Random(cell.cell).gauss(0, SPREAD[known] / 8)
        evaluations = tuple(
            self._evaluation(cell, site, number, top * (1 - math.exp(-(number + 0.2) / 1.8)), draw)
            for number in range(plan.rounds + 1)
        )
        return SiteRunRecord(
            site=site,
            run=plan.run,
            plan_digest=plan.digest(),
            status="finished",
            summary="finished",
            training_patients=self.plan().data.training_patients[site],
            held_out_patients=10,
            steps=tuple(_step(plan, number, draw) for number in range(plan.rounds * plan.local.steps)),
            evaluations=evaluations,
            overlays=overlays,
            guarantee=_guarantee(plan),
            timeline=(),
        )

    def _evaluation(self, cell, site, number, mean, draw) -> EvaluationRecord:
        scores = []
        for patient in range(10):
            easy = random.Random(f"{site} {patient}").gauss(0, 1)
            for depth, structure in enumerate(STRUCTURES[self.task]):
                dice = mean * (1 - 0.18 * depth) + SPREAD[cell.plan.arm] * (
                    0.6 * easy + 0.5 * draw.gauss(0, 1)
                )
                dice = min(0.985, max(0.0, dice))
                scores.append(_score(patient, structure, dice, self.task, draw))
        if self.classifies:
            presences = tuple(_presence(score) for score in scores)
            auroc = 0.5 + 0.45 * mean
            return EvaluationRecord(round=number, mean_dice=None, scores=(), auroc=auroc, presences=presences)
        return EvaluationRecord(
            round=number,
            mean_dice=sum(score.dice for score in scores) / len(scores),
            scores=tuple(scores),
        )


TIMING = CellTiming(
    training_seconds=40.0,
    evaluation_seconds=9.0,
    coordination_seconds=1.0,
    total_seconds=50.0,
    software={"adpfl": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "monai": "1.5.1"},
)


def _presence(score: CaseScore) -> PresenceScore:
    return PresenceScore(
        case=score.case,
        patient=score.patient,
        structure=score.structure,
        crops=9,
        shown=3,
        mean_probability=score.dice,
    )


def _score(patient: int, structure: str, dice: float, task: str, draw: random.Random) -> CaseScore:
    missed = dice < 0.12
    distance = 3 + 60 * (1 - dice) * draw.uniform(0.6, 1.4)
    return CaseScore(
        case=f"case-{patient:03d}",
        patient=f"patient-{patient:03d}",
        structure=structure,
        dice=0.0 if missed else dice,
        hd95=None if missed else distance,
        hd95_unit="px" if task == "skin_lesion" else "mm",
        assd=None if missed else distance / 3.5,
        surface_dice=0.0 if missed else max(0.0, dice - 0.12),
    )


def _server(plan: RunPlan, failed: str | None) -> ServerRunRecord:
    rounds = tuple(
        ServerRound(
            round=number,
            opened_unix_seconds=0.0,
            closed_unix_seconds=1.0,
            sites=plan.cohort.sites,
            missing=(),
            base_digest=f"{number:064x}",
            result_digest=f"{number + 1:064x}",
        )
        for number in range(1, plan.rounds + 1)
    )
    return ServerRunRecord(
        plan=plan,
        plan_digest=plan.digest(),
        status="failed" if failed else "finished",
        summary=failed or "finished",
        rounds=rounds,
        training_patients={},
        timeline=(),
    )


def _step(plan: RunPlan, number: int, draw: random.Random) -> StepRecord:
    scale = 1.1 + 2.4 * math.exp(-number / 15)
    norms = sorted(scale * math.exp(draw.gauss(0, 0.45)) for _ in range(10))
    quantiles = tuple(norms[round(place * 9 / 4)] for place in range(5))
    threshold = getattr(plan.privacy, "threshold", None)
    clip_norm = None if threshold is None else getattr(threshold, "clip_norm", quantiles[2])
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
    privacy, steps = plan.privacy, plan.rounds * plan.local.steps
    if isinstance(privacy, RigorousPrivacy):
        return Guarantee(
            epsilon=privacy.target_epsilon * 0.999,
            epsilon_if_fixed=None,
            delta=1e-5,
            unit="patient",
            neighboring_relation="zero-out",
            sampling="poisson, probability 0.3",
            mechanism="gaussian",
            steps=steps,
            accountant="pld",
            threshold="noisy_bits",
            noise_multiplier=2.2,
            target_epsilon=privacy.target_epsilon,
        )
    nominal = None if plan.arm == "fl" else privacy.nominal_epsilon
    finite = None if nominal is None else 3.7e7 * (0.001 / nominal)
    return Guarantee(
        epsilon=finite if plan.arm == "dp-fl" else math.inf,
        epsilon_if_fixed=finite if plan.arm == "adp-fl" else None,
        delta=1e-5,
        unit="patient",
        neighboring_relation="zero-out",
        sampling="poisson, probability 0.3",
        mechanism="none" if plan.arm == "fl" else "laplace_l2",
        steps=steps,
        accountant="renyi",
        nominal_epsilon=nominal,
        reading=None if plan.arm == "fl" else "multiplier",
        threshold={"fl": None, "dp-fl": "fixed", "adp-fl": "percentile"}[plan.arm],
        noise_multiplier=nominal,
    )


def _picture(subject: str, arm: str) -> bytes:
    """A lesion that is the same under every arm, with the reference and a prediction that is not."""
    draw = random.Random(subject)
    skin = (214 + draw.randint(-20, 20), 172 + draw.randint(-20, 20), 150)
    picture = Image.new("RGB", (384, 288), skin)
    canvas = ImageDraw.Draw(picture)
    x, y = draw.randint(90, 190), draw.randint(60, 140)
    canvas.ellipse((x, y, x + 120, y + 90), fill=(112, 66, 48), outline=(0, 230, 120), width=3)
    off = {"fl": 4, "adp-fl": 6, "dp-fl": 26}.get(arm, 40)
    canvas.ellipse((x + off, y + off // 2, x + 120 + off, y + 90 - off // 3), outline=(255, 40, 200), width=3)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def builder(tmp_path):
    def make(**choices):
        return ComparisonBuilder(tmp_path / "comparison", **choices)

    return make


@pytest.fixture(scope="session")
def comparison_builder():
    return ComparisonBuilder
