"""Weights files: equal plans give equal bytes, and nothing foreign is loaded."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from adpfl.errors import ConfigError, IntegrityError, ModelMismatchError, StateError
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.initial_model import (
    METADATA_KEY,
    build_network,
    load_weights,
    main,
    model_layout,
    save_weights,
    write_initial_model,
)
from adpfl.learning.networks import weights_of
from adpfl.tasks.registry import get_task
from adpfl.tasks.task import Task

PlanOf = Callable[..., RunPlan]


@pytest.fixture
def plan(plan_of: PlanOf) -> RunPlan:
    return plan_of(task="skin_lesion")


def test_the_file_holds_the_seeds_weights_and_says_whose(tmp_path: Path, plan: RunPlan) -> None:
    path = tmp_path / "initial" / "run.safetensors"
    write_initial_model(plan, path)
    task = get_task("skin_lesion")
    expected = weights_of(build_network(plan, task))
    loaded = load_weights(path, model_layout(plan, task))
    assert list(loaded) == list(expected)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()[METADATA_KEY]) == {
            "architecture": "unet",
            "seed": 5,
            "size": "tiny",
            "task": "skin_lesion",
        }
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_another_process_writes_the_same_bytes(tmp_path: Path, plan: RunPlan) -> None:
    here, there, document = (tmp_path / name for name in ("here", "there", "plan.json"))
    document.write_bytes(plan.canonical_json())
    write_initial_model(plan, here)
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-m", "adpfl.learning.initial_model", str(document), str(there)],
        check=True,
        cwd=root,
    )
    assert there.read_bytes() == here.read_bytes()
    write_initial_model(plan.model_copy(update={"seed": 6}), there)
    assert there.read_bytes() != here.read_bytes()


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, plan: RunPlan, plan_of: PlanOf) -> None:
    layout = model_layout(plan, get_task("skin_lesion"))
    whole, cut, text, other = (tmp_path / name for name in ("whole", "cut", "text", "other"))
    write_initial_model(plan, whole)
    cut.write_bytes(whole.read_bytes()[:-1])
    text.write_text("no model")
    for path in (cut, text, tmp_path / "absent"):
        with pytest.raises(IntegrityError, match=f"{path}: is no readable safetensors file"):
            load_weights(path, layout)
    save_file({"weight": torch.zeros(3)}, other)
    with pytest.raises(ModelMismatchError, match=rf"{other}: tensor {layout[0].name} is missing"):
        load_weights(other, layout)


def test_a_failed_write_leaves_nothing(tmp_path: Path, plan: RunPlan) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(StateError, match="taken: cannot be written"):
        save_weights(tmp_path / "taken", {"weight": torch.zeros(3)}, plan=plan)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("image_size", [[20, 16], [8, 8], [16, 16, 16]])
def test_an_image_size_that_does_not_fit_is_refused(
    blob_task: Task, plan_of: PlanOf, image_size: list[int]
) -> None:
    plan = plan_of(image_size=[16] * len(image_size)).model_copy(update={"image_size": tuple(image_size)})
    with pytest.raises(ConfigError, match=r"image_size is \["):
        build_network(plan, blob_task)


def test_the_command_says_what_is_wrong_in_one_line(
    tmp_path: Path, plan: RunPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "plan.json"
    output = tmp_path / "model"
    unknown = json.loads(plan.canonical_json()) | {"task": "teeth"}
    wrong = json.loads(plan.canonical_json()) | {"rounds": 0}
    for text, said in (
        ("{", "is no readable JSON"),
        (json.dumps(wrong), "rounds is 0"),
        (json.dumps(unknown), "teeth"),
    ):
        document.write_text(text)
        assert main([str(document), str(output)]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not output.exists()
