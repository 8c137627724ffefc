"""Networks that answer for a whole image: their sizes, and gradients that know one unit alone."""

from typing import Literal

import pytest
import torch
from torch import nn

from adpfl.learning.networks import build, dimension, parameter_layout
from adpfl.learning.per_sample import UnitBatch, UnitGradients, choose_method, microbatch_gradients
from adpfl.learning.plan import NetworkPlan
from adpfl.tasks.losses import cross_entropy

Architecture = Literal["unet", "segresnet"]


def _make(architecture: Architecture, spatial_dims: int, size: str = "tiny") -> nn.Module:
    return build(
        NetworkPlan.model_validate({"architecture": architecture, "size": size}),
        spatial_dims=spatial_dims,
        in_channels=2,
        out_channels=3,
        seed=3,
        kind="classification",
    )


@pytest.mark.parametrize("architecture", ["unet", "segresnet"])
@pytest.mark.parametrize(("spatial_dims", "extent"), [(2, 32), (2, 40), (3, 16)])
def test_one_logit_a_structure_whatever_the_size(
    architecture: Architecture, spatial_dims: int, extent: int
) -> None:
    model = _make(architecture, spatial_dims)
    assert model(torch.randn(4, 2, *(extent,) * spatial_dims)).shape == (4, 3)


@pytest.mark.parametrize("architecture", ["unet", "segresnet"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_sizes_are_ordered_and_no_weight_is_idle(architecture: Architecture, spatial_dims: int) -> None:
    sizes = [
        dimension(parameter_layout(_make(architecture, spatial_dims, size)))
        for size in ("tiny", "small", "full")
    ]
    assert sizes == sorted(sizes)
    model = _make(architecture, spatial_dims)
    model(torch.randn(2, 2, *(16,) * spatial_dims)).square().sum().backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert idle == []


def test_equal_seeds_give_equal_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again = (_make("unet", 2).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("architecture", ["unet", "segresnet"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_per_unit_gradients_are_those_of_the_unit_alone(
    architecture: Architecture, spatial_dims: int, recwarn: pytest.WarningsRecorder
) -> None:
    generator = torch.Generator().manual_seed(0)
    model = _make(architecture, spatial_dims).eval()
    images = torch.randn(3, 2, 2, *(16,) * spatial_dims, generator=generator)
    answers = torch.randint(0, 2, (3, 2, 3), generator=generator, dtype=torch.uint8)
    present = torch.tensor([[1, 1], [1, 0], [1, 1]], dtype=torch.bool)
    images[~present] = 0.0
    batch = UnitBatch(images, answers, present)
    method = choose_method(model, cross_entropy, batch)
    assert method != "microbatch"
    assert not [one for one in recwarn.list if "fall back" in str(one.message)]
    (found,) = UnitGradients(model, batch, cross_entropy, chunk_units=3, method=method)
    expected = microbatch_gradients(model, batch, cross_entropy)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-3)


def test_a_bright_spot_anywhere_is_learned() -> None:
    """Some steps tell images with a small bright spot from images without; a mean alone would be drowned."""
    generator = torch.Generator().manual_seed(0)
    model = _make("unet", 2)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.randn(count, 2, 32, 32, generator=generator)
        shown = torch.randint(0, 2, (count, 1), generator=generator)
        places = torch.randint(2, 28, (count, 2), generator=generator).tolist()
        for image, label, (row, column) in zip(images, shown, places, strict=True):
            image[:, row : row + 3, column : column + 3] += 4.0 * label
        return images, shown.expand(-1, 3)

    for _ in range(90):
        images, answers = draw(16)
        optimiser.zero_grad()
        cross_entropy(model(images), answers).backward()
        optimiser.step()
    images, answers = draw(100)
    right = ((model(images) > 0) == answers.bool()).float().mean()
    assert right > 0.9
