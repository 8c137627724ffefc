"""Dice plus cross-entropy: its value, its padding, and its passage through per-unit differentiation."""

import math

import pytest
import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from adpfl.tasks.losses import cross_entropy, dice_cross_entropy


def _draw(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator)
    mask = (torch.rand(shape, generator=generator) < 0.4).to(torch.uint8)
    return logits, mask


def test_equals_monai_on_whole_records_of_one_structure() -> None:
    logits, mask = _draw(3, 1, 16, 16)
    assert dice_cross_entropy(logits, mask) == pytest.approx(
        DiceCELoss(sigmoid=True)(logits, mask).item(), rel=1e-5
    )


def test_by_hand_on_two_pixels() -> None:
    """p = (1/2, 1/2), r = (1, 0): Dice loss 1 - 2*(1/2)/(1 + 1) = 1/2, cross-entropy ln 2."""
    loss = dice_cross_entropy(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1, 0]]]]))
    assert loss.item() == pytest.approx(0.5 + math.log(2), rel=1e-4)


def test_a_confident_right_answer_costs_nothing_and_a_wrong_one_much() -> None:
    _, mask = _draw(1, 1, 8, 8)
    right = (mask.float() * 2 - 1) * 30
    assert dice_cross_entropy(right, mask).item() < 1e-4
    assert dice_cross_entropy(-right, mask).item() > 10


def test_overlapping_structures_are_judged_one_by_one() -> None:
    logits, mask = _draw(2, 3, 8, 8)
    each = [dice_cross_entropy(logits[:, [index]], mask[:, [index]]) for index in range(3)]
    assert torch.allclose(dice_cross_entropy(logits, mask), torch.stack(each).mean())


def test_padding_changes_nothing() -> None:
    logits, mask = _draw(4, 1, 8, 8)
    present = torch.tensor([True, False, True, False])
    assert torch.allclose(
        dice_cross_entropy(logits, mask, present), dice_cross_entropy(logits[[0, 2]], mask[[0, 2]])
    )
    assert torch.allclose(dice_cross_entropy(logits, mask, torch.ones(4)), dice_cross_entropy(logits, mask))


def test_a_unit_without_records_has_zero_loss_and_gradient() -> None:
    logits, mask = _draw(2, 1, 8, 8)
    logits.requires_grad_()
    loss = dice_cross_entropy(logits, mask, torch.zeros(2))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_empty_masks_give_a_finite_gradient() -> None:
    logits = torch.full((1, 1, 8, 8), -40.0, requires_grad=True)
    dice_cross_entropy(logits, torch.zeros(1, 1, 8, 8)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_volumes_serve_as_images_do() -> None:
    logits, mask = _draw(2, 1, 4, 6, 8)
    flat = dice_cross_entropy(logits.reshape(2, 1, 24, 8), mask.reshape(2, 1, 24, 8))
    assert torch.allclose(dice_cross_entropy(logits, mask), flat)


def test_per_unit_gradients_equal_one_unit_at_a_time() -> None:
    net = nn.Conv2d(3, 1, 3, padding=1)
    weights = {name: value.detach() for name, value in net.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((5, 2, 3, 8, 8), generator=generator)
    _, masks = _draw(5, 2, 1, 8, 8)
    present = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1]], dtype=torch.bool)

    def loss(weights: dict[str, Tensor], image: Tensor, mask: Tensor, there: Tensor) -> Tensor:
        return dice_cross_entropy(functional_call(net, weights, (image,)), mask, there)

    together = vmap(grad(loss), in_dims=(None, 0, 0, 0))(weights, images, masks, present)
    for unit in range(5):
        alone = grad(loss)(weights, images[unit], masks[unit], present[unit])
        for name, gradient in alone.items():
            assert torch.allclose(together[name][unit], gradient, atol=1e-6)
    assert not together["weight"][3].any()


def test_an_answer_an_image_by_hand_and_with_padding() -> None:
    """Logit 0 costs ln 2 whatever the answer; a padded record costs nothing."""
    logits = torch.tensor([[0.0, 0.0], [40.0, -40.0], [5.0, 5.0]])
    answers = torch.tensor([[1, 0], [1, 0], [0, 0]], dtype=torch.uint8)
    present = torch.tensor([True, True, False])
    assert cross_entropy(logits, answers, present).item() == pytest.approx(math.log(2) / 2)
    assert cross_entropy(logits[:1], answers[:1]).item() == pytest.approx(math.log(2))
    nobody = torch.zeros(3)
    logits.requires_grad_()
    cross_entropy(logits, answers, nobody).backward()
    assert logits.grad is not None
    assert not logits.grad.any()
