"""The received models, as `adpfl-client models` lists them."""

import json
from pathlib import Path

from adpfl_client.local_site import MODELS_FOLDER
from adpfl_client.rounds.models import ModelStore


def show_models(state_dir: Path, *, as_json: bool) -> str:
    """A line, or a JSON object, for each model in the store.

    Raises:
        DataError: a file in the store is no model.
    """
    models = ModelStore(state_dir / MODELS_FOLDER).models()
    if as_json:
        rows = [
            {
                "run": model.run,
                "round": model.round,
                "task": model.plan.task,
                "network": f"{model.plan.network.architecture} {model.plan.network.size}",
                "digest": model.digest,
                "path": str(model.path),
            }
            for model in models
        ]
        return json.dumps(rows, indent=2)
    if not models:
        return "no models yet: the agent keeps each one that it receives"
    return "\n".join(
        f"{model.run}  round {model.round} of {model.plan.rounds}  {model.plan.task}  {model.path}"
        for model in models
    )
