"""Flower on the benchmark's job: a SuperLink, a SuperNode for each site, and FedAvg submitted by `flwr run`.

The SuperLink has the consortium's certificate for TLS; SuperNodes check it and sign their requests, as they
do unasked: Flower has no mutual TLS. Its store is its default, in memory.
"""

import shutil

from federation_peers import JOBS, Job, Peer, wait_for_port
from federation_server import free_port

VARIABLES = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


def begin(job: Job) -> None:
    """Start everything and submit the job."""
    authority, port = job.pki / "ca.pem", free_port()
    link = [job.programs / "flower-superlink", "--host", "localhost", "--port", str(port)]
    link += ["--ssl-ca-certfile", authority]
    link += ["--ssl-certfile", job.pki / "server.pem", "--ssl-keyfile", job.pki / "server.key"]
    job.start("server", [*link, "--disable-runtime-dependency-installation"])
    wait_for_port(port)
    for site in range(1, job.agents + 1):
        node = [job.programs / "flower-supernode", "--superlink", f"localhost:{port}"]
        node += ["--root-certificates", authority, "--node-config", f"site={site}"]
        job.start(f"site-{site}", [*node, "--host", "localhost", "--port", str(free_port())])
    home = job.folder / ".flwr"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "localhost:{port}"\n'
        f'root-certificates = "{authority}"\n',
        encoding="utf-8",
    )
    app = job.folder / "app"
    shutil.copytree(JOBS / "flower", app, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(JOBS / "gate.py", app / "load")
    config = (
        f"folder='{job.folder}' agents={job.agents} rounds={job.rounds} payload-bytes={job.payload_bytes}"
    )
    job.run([job.programs / "flwr", "run", app, "local", "--run-config", config])


FLOWER = Peer("Flower", "flwr", begin, VARIABLES)
