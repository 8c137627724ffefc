"""The example configurations load, and name every key."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from adpfl.config import FrozenModel
from adpfl_client.config import load_site_config
from adpfl_server.config import ServerConfig, load_server_config

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def test_the_servers_example_loads():
    settings = load_server_config(EXAMPLES / "server.yaml")
    assert [entry.arm for entry in settings.runs] == ["rigorous", "adp-fl"]


def test_the_sites_example_loads():
    assert load_site_config("hospital1", EXAMPLES / "hospital1.yaml").site == "hospital1"


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def unnamed(model: type[BaseModel], text: str) -> list[str]:
    missing = []
    for name, field in model.model_fields.items():
        if f"{name}:" not in text:
            missing.append(f"{model.__name__}.{name}")
        for inner in models_in(field.annotation):
            if issubclass(inner, FrozenModel):
                missing += unnamed(inner, text)
    return missing


def test_the_servers_example_names_every_key():
    text = (EXAMPLES / "server.yaml").read_text(encoding="utf-8")
    assert unnamed(ServerConfig, text) == []


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_comments_stand_beside_keys(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum(line.lstrip().startswith("#") for line in lines) * 3 > len(lines)
    assert yaml.safe_load("\n".join(lines))
