"""Writes the benchmark's job for NVFlare: its FedAvg and NumPy persistor, and what tells the rounds.

Runs in its own folder: python make_job.py FOLDER AGENTS ROUNDS PAYLOAD_BYTES
"""

import sys
from pathlib import Path

import numpy as np
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.fuel.utils.constants import FrameworkType
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import ScriptRunner
from round_gate import RoundGate


def main(folder: Path, agents: int, rounds: int, payload_bytes: int) -> None:
    model = folder / "initial.npy"
    np.save(model, np.random.default_rng(0).standard_normal(payload_bytes // 4, dtype="<f4"))
    job = FedJob(name="load", min_clients=agents)
    job.to_server(NPModelPersistor(source_ckpt_file_full_name=str(model)), id="persistor")
    job.to_server(FedAvg(num_clients=agents, num_rounds=rounds))
    job.to_server(RoundGate(str(folder)), id="round_gate")
    job.to_server(str(Path(__file__).parents[1] / "gate.py"))
    job.to_clients(ScriptRunner(script="site_script.py", framework=FrameworkType.NUMPY))
    job.export_job(str(folder / "jobs"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(text) for text in sys.argv[2:]))
