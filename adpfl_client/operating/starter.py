"""The commented site file that `adpfl-client init` writes."""

import json
from pathlib import Path

from adpfl.config import FrozenModel, Name, parse
from adpfl.errors import ConfigError
from adpfl.tasks.registry import known_tasks
from adpfl_client.config import SEARCHED_FOLDERS

_TEXT = """\
# What this site's agent works with, and what the site allows. Relative paths are relative to this file.
# Check it with: adpfl-client check-config {file}

# This site's name: the operator enrols it, its certificate carries it, runs name it.
site: "{site}"

# Identity, ledger, received models and records. Back it up, but never put back an older
# copy of the ledger.* files.
state_dir: {state_dir}

# One entry for each task that this site has data for.
data:
  {task}:
    # A folder in one of the layouts that the task reads.
    path: {data}
    # Share of the patients that is never trained on: the global model is scored on them,
    # and the scores stay here.
    held_out_fraction: 0.2

# What this site allows, whatever a server or a run says. Settle it with the data-protection officer.
policy:
  # Names the patients behind the data in the ledger, for good: renaming a folder resets nothing.
  data_set_id: {data_set}
  # Tasks that a run may ask for.
  allowed_tasks: [{task}]
  # A run that would train on fewer patients is refused.
  minimum_patients: 10
  # A run of more rounds is refused.
  maximum_rounds: 1000
  # All runs together may spend this epsilon at this delta; past it the agent refuses.
  epsilon_cap: 8.0
  delta: 1.0e-5
  # Runs without a finite guarantee are refused unless they stand here. To accept one, take away the [] and
  # the first # of each line.
  accept_unbounded: []
#    - run: lesions-paper
#      reason: reproduction of a published experiment on public images
#      by: dr.example
  # Whether a person must approve each run first: adpfl-client approve RUN --by NAME
  require_approval: false

# An HTTP proxy on the way to the server; absent, the environment's https_proxy and no_proxy are followed.
# proxy: http://proxy.example.org:3128

# Processor threads for training.
threads: 1
"""


_NAME_CHARACTERS = 63
"""The longest that `Name` allows."""


class _Named(FrozenModel):
    site: Name


def write_starter(site: str, config: Path | None, *, task: str, data: Path | None) -> Path:
    """Write a starter site file; an existing file is never touched.

    Args:
        site: the site's name.
        config: the file to write; None for `sites/SITE.yaml`, where `--site` finds it.
        task: a registered task.
        data: its folder of images; None for `data/TASK`.

    Returns:
        The file written. State and default data lie beside the folder `sites`, or beside `config`.

    Raises:
        ConfigError: the name or the task breaks a rule, or the file exists or cannot be written.
    """
    if task not in known_tasks():
        raise ConfigError(f"--task is {task!r}; must be one of: {', '.join(known_tasks())}")
    parse({"site": site}, _Named, source="init")
    path = config or SEARCHED_FOLDERS[0] / f"{site}.yaml"
    base = "" if config else "../"
    text = _TEXT.format(
        file=path,
        site=site,
        task=task,
        data_set=f"{site}-{task}"[:_NAME_CHARACTERS],
        state_dir=f"{base}state/{site}",
        data=json.dumps(str(data.expanduser().absolute())) if data else f"{base}data/{task}",
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already; a site's file is never overwritten") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path
