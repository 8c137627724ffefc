"""NVFlare on the benchmark's job: start-up kits of `nvflare provision`, FedAvg by `nvflare job submit`.

Every kit has a certificate of its own, and its gRPC driver asks for both sides' (mutual TLS). Sites answer
from the client API in the process that NVFlare starts for the job.
"""

import json
from pathlib import Path
from typing import Any

from federation_peers import JOBS, Job, Peer, wait_for_port
from federation_server import free_port

ADMIN = "admin@benchmark.org"
BUILDERS = "nvflare.lighter.impl"


def begin(job: Job) -> None:
    """Provision, start the server and the sites by their kits' scripts, and submit the job."""
    port = free_port()
    project = job.folder / "project.yml"
    project.write_text(json.dumps(project_of(job.agents, port)), encoding="utf-8")  # YAML as well
    nvflare = job.programs / "nvflare"
    job.run([nvflare, "provision", "-p", project, "-w", job.folder / "kits", "--force"])
    kits = job.folder / "kits" / "load" / "prod_00"
    keep_storage_in(job.folder, kits / "localhost" / "local")
    job.start("server", [kits / "localhost" / "startup" / "sub_start.sh", "--once"])
    wait_for_port(port)
    for site in range(1, job.agents + 1):
        job.start(f"site-{site}", [kits / f"site-{site}" / "startup" / "sub_start.sh", "--once"])
    sizes = [str(number) for number in (job.agents, job.rounds, job.payload_bytes)]
    job.run([job.python, "make_job.py", job.folder, *sizes], cwd=JOBS / "nvflare", PYTHONPATH=str(JOBS))
    submit = [nvflare, "job", "submit", "-j", job.folder / "jobs" / "load", "--startup-kit", kits / ADMIN]
    job.run(submit)


def project_of(agents: int, port: int) -> dict[str, Any]:
    """The project that is provisioned: a server, the sites, one administrator; gRPC between them."""
    organization = {"org": "benchmark"}
    return {
        "api_version": 3,
        "name": "load",
        "description": "rounds without training",
        "participants": [
            {"name": "localhost", "type": "server", "fed_learn_port": port, **organization},
            *({"name": f"site-{site + 1}", "type": "client", **organization} for site in range(agents)),
            {"name": ADMIN, "type": "admin", "role": "project_admin", **organization},
        ],
        "builders": [
            {
                "path": f"{BUILDERS}.workspace.WorkspaceBuilder",
                "args": {"template_file": ["master_template.yml"]},
            },
            {
                "path": f"{BUILDERS}.static_file.StaticFileBuilder",
                "args": {"config_folder": "config", "scheme": "grpc"},
            },
            {"path": f"{BUILDERS}.cert.CertBuilder"},
            {"path": f"{BUILDERS}.signature.SignatureBuilder"},
        ],
    }


def keep_storage_in(folder: Path, local: Path) -> None:
    """Let the server keep its jobs in the job's folder, not in a fixed one that others share."""
    resources = json.loads((local / "resources.json.default").read_text(encoding="utf-8"))
    storage = resources["snapshot_persistor"]["args"]["storage"]["args"]
    storage["root_dir"] = str(folder / "snapshots")
    (manager,) = (one for one in resources["components"] if one["id"] == "job_manager")
    manager["args"]["uri_root"] = str(folder / "stored-jobs")
    (local / "resources.json").write_text(json.dumps(resources), encoding="utf-8")


NVFLARE = Peer("NVFlare", "nvflare", begin)
