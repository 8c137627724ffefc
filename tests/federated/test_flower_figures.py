"""Every strategy against Flower's implementation of it, whose answers `record_flower_figures.py` recorded."""

import json
from pathlib import Path

import numpy as np
import pytest

FIGURES = json.loads(Path(__file__).with_name("flower_figures.json").read_text(encoding="ascii"))
FLOWER = FIGURES["optimizer"]
OPTIMIZER = {
    "server_learning_rate": FLOWER["eta"],
    "beta1": FLOWER["beta_1"],
    "beta2": FLOWER["beta_2"],
    "tau": FLOWER["tau"],
}
PLANS = {
    "fedavg": {"strategy": "fedavg"},
    "fedavg by patients": {"strategy": "fedavg", "weights": "patients"},
    "fedprox": {"strategy": "fedprox"},
    "fedadam": {"strategy": "fedadam", **OPTIMIZER},
    "fedadam by patients": {"strategy": "fedadam", "weights": "patients", **OPTIMIZER},
    "fedyogi": {"strategy": "fedyogi", **OPTIMIZER},
    "median": {"strategy": "median"},
    "trimmed_mean": {"strategy": "trimmed_mean", "trim_fraction": FIGURES["trim_fraction"]},
}


@pytest.mark.parametrize("name", PLANS)
def test_every_round_is_flowers(federation, name):
    start = np.array(FIGURES["start"], np.float32)
    updates = np.array(FIGURES["updates"], np.float32)
    run = federation(start, sites=updates.shape[1], patients=FIGURES["patients"], aggregation=PLANS[name])
    for of_sites, expected in zip(updates, FIGURES["models"][name], strict=True):
        run.play(*of_sites)
        # Ours is rounded to float32 in each of four rounds, moments too; Flower's stayed in float64.
        np.testing.assert_allclose(run.model, expected, rtol=4 * 2**-23, atol=4 * 2**-24)
    assert run.state.status == "finished"


def test_the_figures_are_of_every_strategy_and_tell_them_apart():
    assert FIGURES["flower"] == "1.41.0"
    assert set(FIGURES["models"]) == set(PLANS)
    finals = {name: np.array(models[-1]) for name, models in FIGURES["models"].items()}
    for name, final in finals.items():
        for other, its in finals.items():
            if name != other and {name, other} != {"fedavg", "fedprox"}:
                assert np.abs(final - its).max() > 1e-3, (name, other)
