"""The best of the kept models by a public folder: all scored, written with a table, refused with a reason."""

import csv
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from adpfl.data.synthetic.dermoscopy import write_clinic
from adpfl.errors import ConfigError, DataError, StateError
from adpfl.federated.coordinator import new_run
from adpfl.learning.initial_model import build_network
from adpfl.learning.networks import weights_of
from adpfl.tasks.registry import get_task
from adpfl_server.cli import app
from adpfl_server.config import load_server_config
from adpfl_server.operating.best_model import export_best
from adpfl_server.storage.weights import import_weights, plan_of, read_header
from adpfl_server.store import Store

NOTHING, EVERYTHING = -20.0, 20.0
"""Biases of the last layer: a model that finds a lesion nowhere, and one that finds it everywhere."""


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    folder = tmp_path_factory.mktemp("public") / "images"
    write_clinic(folder, "A", images=3, seed=5, size=(48, 48))
    return folder


def weights(plan, bias):
    found = weights_of(build_network(plan, get_task(plan.task)))
    *_, weight, last = found
    return found | {weight: torch.zeros_like(found[weight]), last: torch.full_like(found[last], bias)}


@pytest.fixture
def run(consortium):
    """A run with the models of three rounds, and averages of the last two."""
    document = consortium.plan(rounds=5, image_size=[32, 32])
    consortium.configure(document)
    config = load_server_config(consortium.config_path)
    plan = plan_of(config.entry("demo")).model_copy(update={"warm_start": None})
    store = Store(consortium.state_dir)

    def keep(name, bias):
        path = consortium.root / f"{name}.safetensors"
        save_file(weights(plan, bias), path)
        return import_weights(path, store.blobs)

    models = [keep(str(number), bias) for number, bias in enumerate((NOTHING, EVERYTHING, NOTHING))]
    created = new_run(plan, models[0].digest, 0.0)
    store.create_run(created, models[0], 0.0)
    state = created.state.model_copy(update={"rounds_closed": 2, "model_digest": models[2].digest})
    execute = store.connection.execute
    execute("UPDATE runs SET state_json = ?", (state.model_dump_json(),))
    for number in (1, 2):
        manifest = models[number]
        execute("INSERT OR IGNORE INTO objects VALUES (?, ?)", (manifest.digest, manifest.canonical_json()))
        execute("INSERT INTO run_models VALUES ('demo', ?, ?)", (number, manifest.digest))
        execute("INSERT INTO averaged_models VALUES ('demo', ?, ?)", (number, models[0].digest))
    store.close()
    return config


@pytest.mark.parametrize("bundle", [False, True])
def test_the_best_of_all_kept_models_is_written_with_the_table(run, public, tmp_path, bundle):
    lines = []
    out = tmp_path / "best"
    told = export_best(run, "demo", out, public, bundle=bundle, say=lines.append)
    assert f"wrote {out}: the model after round 1 of 5 of demo" in told
    assert "the best of 5 by Dice on" in told
    weights_file = out / "models/model.safetensors" if bundle else out
    assert read_header(weights_file).description["round"] == 1
    *_, last = load_file(weights_file).values()
    assert any(torch.all(tensor == EVERYTHING) for tensor in load_file(weights_file).values()), last
    with (tmp_path / "best.scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["round"], row["weights"], row["best"]) for row in rows] == [
        ("0", "model", ""),
        ("1", "model", "yes"),
        ("2", "model", ""),
        ("1", "averaged", ""),
        ("2", "averaged", ""),
    ]
    values = [float(row["value"]) for row in rows]
    assert values[1] > 0.0
    assert values[0] == values[2] == values[3] == values[4] == 0.0
    assert len(lines) == 5
    assert lines[1].startswith("model of round 1: Dice 0.")


def test_of_equals_the_newest_is_taken(run, public, tmp_path):
    with_store = Store(run.state_dir)
    with_store.connection.execute("DELETE FROM run_models WHERE round = 1")
    with_store.close()
    told = export_best(run, "demo", tmp_path / "best", public)
    assert "the model after round 2 of 5" in told


def test_without_a_public_folder_it_says_why_and_what_to_do(run, tmp_path):
    command = [
        "export",
        "demo",
        str(tmp_path / "x"),
        "--best",
        "--config",
        str(run.state_dir.parent / "server.yaml"),
    ]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, ConfigError)
    for words in ("--validation DIR", "no score of the sites' own patients leaves a site", "--last"):
        assert words in str(result.exception)
    assert list(tmp_path.glob("x*")) == []


@pytest.mark.parametrize("options", [["--best", "--last"], ["--validation", "d"], ["--best", "--round", "1"]])
def test_contradictions_are_refused(run, tmp_path, options):
    config = str(run.state_dir.parent / "server.yaml")
    result = CliRunner().invoke(app, ["export", "demo", str(tmp_path / "x"), *options, "--config", config])
    assert isinstance(result.exception, ConfigError)
    assert "--best goes with --validation" in str(result.exception)


def test_a_folder_without_images_and_an_unknown_run_are_said(run, public, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        export_best(run, "demo", tmp_path / "x", tmp_path / "empty")
    with pytest.raises(StateError, match="no run other"):
        export_best(run, "other", tmp_path / "x", public)


def test_a_machine_without_torch_is_told_so(run, public, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "adpfl.learning.validation", raising=False)
    monkeypatch.setitem(sys.modules, "adpfl.learning.evaluate", None)
    with pytest.raises(StateError, match=r"--best needs .*, which is not installed here"):
        export_best(run, "demo", tmp_path / "x", public)
