"""The area under the curve against counts of pairs."""

import pytest
import torch

from adpfl.evaluation.ranking import auroc


def _by_pairs(scores: list[float], shown: list[int]) -> float:
    positive = [score for score, label in zip(scores, shown, strict=True) if label]
    negative = [score for score, label in zip(scores, shown, strict=True) if not label]
    wins = sum((one > other) + 0.5 * (one == other) for one in positive for other in negative)
    return wins / (len(positive) * len(negative))


@pytest.mark.parametrize(
    ("scores", "shown", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 0.0),
        ([0.5, 0.5, 0.5], [1, 0, 0], 0.5),
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
    ],
)
def test_by_hand(scores: list[float], shown: list[int], expected: float) -> None:
    assert auroc(torch.tensor(scores), torch.tensor(shown)) == pytest.approx(expected)


def test_ties_count_half_wherever_they_stand() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        scores = torch.randint(0, 6, (40,), generator=generator) / 5
        shown = torch.randint(0, 2, (40,), generator=generator, dtype=torch.uint8)
        assert auroc(scores, shown) == pytest.approx(_by_pairs(scores.tolist(), shown.tolist()))


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_has_no_rank(label: int, recwarn: pytest.WarningsRecorder) -> None:
    assert auroc(torch.tensor([0.1, 0.9]), torch.full((2,), label)) is None
    assert auroc(torch.tensor([]), torch.tensor([])) is None
    assert not recwarn.list


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="must be of one length"):
        auroc(torch.rand(3), torch.ones(4))
    with pytest.raises(ValueError, match="NaN"):
        auroc(torch.tensor([0.1, torch.nan]), torch.tensor([0, 1]))
