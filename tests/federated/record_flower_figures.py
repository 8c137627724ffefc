"""Records what Flower's strategies make of small inputs, for `test_flower_figures.py` to compare with.

    python -m venv flower && flower/bin/pip install flwr==1.41.0
    flower/bin/python tests/federated/record_flower_figures.py > tests/federated/flower_figures.json

Flower brings a large tree of packages, several of which pin others that this project has in newer versions;
its aggregation is arithmetic that does not change from day to day. So its answers are recorded, not made
anew by each test run, and this script stands alone: it imports nothing of ours.

Flower aggregates models, not updates, in the dtype that it is given: models are float64 here, so that the
figures have no rounding but the one that a test allows for. Its rounds are numbered from 0, because FedAdam's
correction of the first round (Kingma and Ba 2015, t = 1) stands at `server_round + 1`.
"""

import json
import sys
from importlib.metadata import version

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedProx, FedTrimmedAvg, FedYogi
from flwr.supercore.task_identity import TaskIdentity

SITES, ROUNDS, COORDINATES, SEED = 6, 4, 12, 2026
PATIENTS = (40, 10, 25, 5, 80, 33)
OPTIMIZER = {"eta": 0.05, "beta_1": 0.8, "beta_2": 0.95, "tau": 0.002}
TRIM = 0.2

CASES = {
    "fedavg": (FedAvg, False),
    "fedavg by patients": (FedAvg, True),
    "fedprox": (lambda: FedProx(proximal_mu=0.1), False),
    "fedadam": (lambda: FedAdam(**OPTIMIZER), False),
    "fedadam by patients": (lambda: FedAdam(**OPTIMIZER), True),
    "fedyogi": (lambda: FedYogi(**OPTIMIZER), False),
    "median": (FedMedian, False),
    "trimmed_mean": (lambda: FedTrimmedAvg(beta=TRIM), False),
}


def reply(weights: np.ndarray, patients: int, node: int) -> Message:
    """What a node of Flower sends back."""
    asked = Message(content=RecordDict(), dst_node_id=node, message_type="train")
    content = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(weights)}),
            "metrics": MetricRecord({"num-examples": patients}),
        }
    )
    return Message(content=content, reply_to=asked)


def play(strategy: FedAvg, start: np.ndarray, updates: np.ndarray, by_patients: bool) -> list[list[float]]:
    """The model after each round; updates are (rounds, sites, coordinates)."""
    model, models = start, []
    for number, of_sites in enumerate(updates):
        strategy.current_arrays = {"w": model}  # what configure_train keeps
        replies = [
            reply(model + update, patients if by_patients else 1, node + 1)
            for node, (update, patients) in enumerate(zip(of_sites, PATIENTS, strict=True))
        ]
        made, _ = strategy.aggregate_train(number, replies)
        model = made["w"].numpy().astype(np.float64)
        models.append(model.tolist())
    return models


def main() -> None:
    """Print the figures as JSON."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # messages ask for a sender
    generator = np.random.default_rng(SEED)
    start = generator.standard_normal(COORDINATES).astype(np.float32)
    # From large to below tau, so that each term of the step counts somewhere; one site is an outlier.
    scales = np.geomspace(1.0, 1e-4, COORDINATES)
    updates = (generator.standard_normal((ROUNDS, SITES, COORDINATES)) * scales).astype(np.float32)
    updates[:, 3] *= np.float32(50.0)
    figures = {
        "flower": version("flwr"),
        "patients": PATIENTS,
        "optimizer": OPTIMIZER,
        "trim_fraction": TRIM,
        "start": start.tolist(),
        "updates": updates.tolist(),
        "models": {
            name: play(make(), start.astype(np.float64), updates.astype(np.float64), by_patients)
            for name, (make, by_patients) in CASES.items()
        },
    }
    json.dump(figures, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
