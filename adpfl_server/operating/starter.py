"""The commented `server.yaml` that `adpfl-server init` writes where there is none."""

from pathlib import Path

from adpfl.errors import ConfigError

MAIN_PORT = 7400
ENROLLMENT_PORT = 7401
METRICS_PORT = 7402

_TEXT = """\
# The aggregator's configuration. Paths are relative to this file.
# Check it with: adpfl-server check-config {name}

# Database, chunks, keys and records. Back it up: with it a run goes on, without it the run is lost.
state_dir: state

# Where enrolled sites call (mutual TLS), and where a site trades its one-time token for a certificate.
listen: 0.0.0.0:{main}
enroll_listen: 0.0.0.0:{enrollment}

# The same two ports as sites reach them. The host must stand in the server's certificate.
public_address: "{host}:{main}"
public_enroll_address: "{host}:{enrollment}"

# A site unheard for so long is not waited for: given a quorum, rounds close without it.
site_silence_seconds: 120

# The newest models of each run that stay on disk: what `export --round` and `export --best` choose from.
keep_models: 10

# Prometheus metrics: plain HTTP without authentication, so keep them on loopback or a management network.
# metrics_listen: 127.0.0.1:{metrics}

# The runs to serve. A run's plan never changes once it has started; a changed plan needs a new name.
# For the one below, take away the [] and the first # of each line.
runs: []
#  - run: lesions-1                 # its name, in file names and logs
#    task: skin_lesion              # what is segmented
#    network: {{architecture: unet, size: tiny}}
#    image_size: [128, 128]
#    rounds: 20
#    seed: 1                        # of the initial weights and of augmentation; never of noise
#    local:                         # what each site does in a round
#      steps: 10
#      learning_rate: 0.05
#      momentum: 0.9
#    aggregation: {{strategy: fedavg, weights: uniform}}  # or fedadam, median ...
#    cohort:
#      sites: [hospital1, hospital2, hospital3]
#      quorum: 2                    # updates without which a round is not aggregated
#      round_deadline_seconds: 3600
#    privacy:                       # a finite epsilon that every site can enforce ...
#      mode: rigorous
#      target_epsilon: 8.0
#      total_steps: 200             # rounds x local steps
#      delta: 1.0e-5
#      threshold: {{method: noisy_bits, percentile: 50}}
#      sampling: {{mode: poisson, probability: 0.3}}
#    # privacy:                     # ... or the published method, which sites must accept in writing
#    #   mode: paper
#    #   nominal_epsilon: 0.001     # what it means depends on the reading; see docs/privacy.md
#    #   reading: multiplier
#    #   threshold: {{method: percentile, percentile: 50}}
#    #   sampling: {{mode: poisson, probability: 0.3}}
#    # initial_model: weights.safetensors   # otherwise made from the seed
"""


def write_starter(path: Path, host: str) -> None:
    """Write a starter configuration; an existing file is never touched.

    Raises:
        ConfigError: the file exists or cannot be written.
    """
    dialled = f"[{host}]" if ":" in host else host
    text = _TEXT.format(
        name=path.name, host=dialled, main=MAIN_PORT, enrollment=ENROLLMENT_PORT, metrics=METRICS_PORT
    )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
