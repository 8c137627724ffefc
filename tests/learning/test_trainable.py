"""Groups and patterns of tensors: what they name in every network, and that nothing else is trained."""

from collections.abc import Callable
from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adpfl.data.case import Case
from adpfl.errors import ConfigError
from adpfl.federated.run_plan import RunPlan
from adpfl.kernels.keystream import KeystreamKey
from adpfl.learning.initial_model import build_network, model_layout, update_layout
from adpfl.learning.local_update import LocalUpdate, local_update
from adpfl.learning.networks import (
    Kind,
    build,
    dimension,
    load_into,
    parameter_layout,
    weight_layout,
    weights_of,
)
from adpfl.learning.per_sample import UnitBatch, layer_gradients, microbatch_gradients
from adpfl.learning.plan import NetworkPlan
from adpfl.learning.trainable import trainable_names
from adpfl.learning.units import TrainingUnits
from adpfl.privacy.engine import PrivacyEngine
from adpfl.tasks.losses import dice_cross_entropy
from adpfl.tasks.task import Task

CaseOf = Callable[[str, str], Case]
PlanOf = Callable[..., RunPlan]
NETWORKS = [
    (architecture, size, spatial_dims)
    for architecture in ("unet", "segresnet")
    for size in ("tiny", "small")
    for spatial_dims in (2, 3)
]


def network(
    architecture: str,
    size: str,
    spatial_dims: int,
    trainable: object = "all",
    kind: Kind = "segmentation",
) -> nn.Module:
    plan = NetworkPlan.model_validate({"architecture": architecture, "size": size, "trainable": trainable})
    return build(plan, spatial_dims=spatial_dims, in_channels=2, out_channels=3, seed=1, kind=kind)


def of_norm_layers(model: nn.Module) -> set[str]:
    return {
        f"{place}.{name}"
        for place, module in model.named_modules()
        if isinstance(module, (nn.GroupNorm, nn.InstanceNorm2d, nn.InstanceNorm3d))
        for name, _ in module.named_parameters(recurse=False)
    }


def of_output_layer(model: nn.Module) -> set[str]:
    """The convolution to the structures: the only tensors that know how many there are."""
    return {name for name, weight in model.named_parameters() if weight.shape[0] == 3}


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
@pytest.mark.parametrize(("architecture", "size", "spatial_dims"), NETWORKS)
def test_groups_are_what_they_say_in_every_network(
    architecture: str, size: str, spatial_dims: int, kind: Kind
) -> None:
    model = network(architecture, size, spatial_dims, kind=kind)
    names = [name for name, _ in model.named_parameters()]

    def group(*entries: str) -> set[str]:
        plan = NetworkPlan.model_validate(
            {"architecture": architecture, "size": size, "trainable": list(entries)}
        )
        return set(trainable_names(plan, names))

    norms = of_norm_layers(model)
    assert norms
    assert group("norms") == norms
    assert group("biases") == {name for name in names if name.endswith("bias")}
    head = of_output_layer(model)
    assert len(head) == 2
    assert head <= group("head")
    assert group("head") - head <= norms, "besides the output layer, at most its own normalisation"
    assert group("head", "norms") == group("head") | norms
    assert group("*") == set(names)


def test_a_pattern_names_tensors_and_the_order_is_the_networks() -> None:
    names = ["a.weight", "b.weight", "b.bias", "head.1.weight"]
    plan = NetworkPlan(trainable=("head", "b.*"))
    assert trainable_names(plan, names) == ("b.weight", "b.bias", "head.1.weight")
    assert trainable_names(NetworkPlan(), names) == tuple(names)


@pytest.mark.parametrize("architecture", ["unet", "segresnet"])
def test_a_classifier_may_train_its_head_and_norms_alone(architecture: str) -> None:
    model = network(architecture, "tiny", 2, ["head", "norms"], kind="classification")
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == of_output_layer(model) | of_norm_layers(model)
    assert {"head.weight", "head.bias", "normalise.0.weight", "normalise.0.bias"} <= trained


def test_what_fits_no_tensor_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"network.trainable names 'decoder', which .* head, norms"):
        network("unet", "tiny", 2, ["head", "decoder"])


@pytest.mark.parametrize("trainable", [[], "head", [""], ["a b"], ["/etc/passwd"], 3])
def test_what_is_no_pattern_is_no_plan(trainable: object) -> None:
    with pytest.raises(ValueError, match="trainable"):
        NetworkPlan.model_validate({"trainable": trainable})


def test_layouts_tell_the_whole_model_from_what_is_trained(plan_of: PlanOf, blob_task: Task) -> None:
    plan = plan_of(network={"trainable": ["head"]})
    model = build_network(plan, blob_task)
    assert [tensor.name for tensor in parameter_layout(model)] == ["head.1.weight", "head.1.bias"]
    assert update_layout(plan, blob_task) == parameter_layout(model)
    assert (
        model_layout(plan, blob_task)
        == weight_layout(model)
        == weight_layout(build_network(plan_of(), blob_task))
    )
    assert dimension(update_layout(plan, blob_task)) == 9
    weights = {name: tensor + 1 for name, tensor in weights_of(model).items()}
    load_into(model, weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in weights_of(model).items())


@pytest.mark.parametrize("architecture", ["unet", "segresnet"])
def test_gradients_of_the_trainable_tensors_are_those_of_the_whole_network(
    architecture: str, batch_of: Callable[..., UnitBatch]
) -> None:
    batch = batch_of(3, 2, 2, structures=3)
    batch = UnitBatch(batch.images.expand(-1, -1, 2, -1, -1), batch.masks, batch.present)
    whole = network(architecture, "tiny", 2)
    some = network(architecture, "tiny", 2, ["head", "norms"])
    everything = dict(
        zip(
            [tensor.name for tensor in parameter_layout(whole)],
            microbatch_gradients(whole, batch, dice_cross_entropy),
            strict=True,
        )
    )
    names = [tensor.name for tensor in parameter_layout(some)]
    assert 0 < len(names) < len(everything)
    for gradients in (layer_gradients, microbatch_gradients):
        for name, found in zip(names, gradients(some, batch, dice_cross_entropy), strict=True):
            wanted = everything[name]
            assert float((found - wanted).norm()) <= 1e-4 * float(wanted.norm()) + 1e-7, name


def train(plan: RunPlan, task: Task, cases: list[Case]) -> tuple[dict[str, Tensor], LocalUpdate]:
    units = TrainingUnits(cases, task=task, plan=plan)
    engine = PrivacyEngine(
        plan.privacy,
        unit_count=len(units),
        dimension=dimension(update_layout(plan, task)),
        key=KeystreamKey.from_bytes(bytes(32)),
    )
    base = weights_of(build_network(plan, task))
    return base, local_update(base, plan=plan, task=task, units=units, engine=engine, round_number=1)


def test_an_update_holds_the_trainable_tensors_alone(
    blob_task: Task, case_of: CaseOf, plan_of: PlanOf
) -> None:
    cases = [case_of(f"case-{number}", f"p{number}") for number in range(4)]
    privacy = {
        "mode": "rigorous",
        "noise_multiplier": 1.0,
        "threshold": {"method": "fixed", "clip_norm": 1.0},
        "sampling": {"mode": "full"},
    }
    local = {"steps": 2, "learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.1, "fedprox_mu": 0.1}
    plan = plan_of(network={"trainable": ["head", "norms"]}, privacy=privacy, local=local)
    base, update = train(plan, blob_task, cases)
    assert list(update.delta) == [tensor.name for tensor in update_layout(plan, blob_task)]
    assert all(name.startswith("head") or fnmatchcase(name, "*.adn.N.*") for name in update.delta)
    assert all(bool(tensor.abs().sum() > 0) for tensor in update.delta.values())
    assert len(update.delta) < len(base)


def test_fewer_coordinates_carry_less_noise(blob_task: Task, case_of: CaseOf, plan_of: PlanOf) -> None:
    """Pure noise: the clip leaves nothing of the gradient."""
    cases = [case_of(f"case-{number}", f"p{number}") for number in range(4)]
    norms = []
    for trainable in ("all", ["head", "norms"]):
        privacy = {
            "mode": "rigorous",
            "noise_multiplier": 1000.0,
            "threshold": {"method": "fixed", "clip_norm": 1e-3},
            "sampling": {"mode": "full"},
        }
        plan = plan_of(
            network={"trainable": trainable}, privacy=privacy, local={"steps": 1, "learning_rate": 1.0}
        )
        _, update = train(plan, blob_task, cases)
        flat = torch.cat([tensor.flatten() for tensor in update.delta.values()])
        coordinates = dimension(update_layout(plan, blob_task))
        assert len(flat) == coordinates
        assert float(flat.norm()) == pytest.approx(0.25 * np.sqrt(coordinates), rel=0.2)
        norms.append(float(flat.norm()))
    assert norms[1] < 0.2 * norms[0]
