"""Flower's own FedAvg over the benchmark's sites, without evaluation."""

import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from load import gate

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for all sites and for the benchmark, then run the rounds."""
    config = context.run_config
    folder, agents = Path(str(config["folder"])), int(config["agents"])
    while len(list(grid.get_node_ids())) < agents:
        time.sleep(gate.POLL_SECONDS)
    gate.wait_to_begin(folder)
    weights = np.random.default_rng(0).standard_normal(int(config["payload-bytes"]) // 4, dtype="<f4")
    FedAvg(fraction_evaluate=0.0, min_train_nodes=agents, min_available_nodes=agents).start(
        grid,
        ArrayRecord([weights]),
        num_rounds=int(config["rounds"]),
        evaluate_fn=lambda _round, _arrays: gate.stamp(folder),
    )
    gate.wait_to_end(folder)
