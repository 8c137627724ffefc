"""Every bad argument is named in one line, before a byte is written."""

import pytest
import torch

from adpfl.errors import PrivacyError
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import LatticeScale
from adpfl.kernels.ops import (
    PercentileClip,
    clip_accumulate_,
    dp_release,
    nearest_rank_percentile,
    release,
    unit_norms,
)

LATTICE = LatticeScale.for_noise_multiplier(1.0, law="laplace")
META = torch.device("meta")

BAD_GRADIENTS = [
    ([], "gradients is empty; must hold at least one"),
    (torch.ones(2, 3), "gradients is a Tensor; must be a list"),
    (None, "gradients is a NoneType; must be a list"),
    ([[1.0]], r"gradients\[0\] is a list; must be a tensor"),
    ([torch.ones(2, 3), torch.tensor(1.0)], r"gradients\[1\] has no dimension"),
    ([torch.ones(2, 3).double()], r"gradients\[0\] is torch.float64; must be float32, bfloat16 or float16"),
    ([torch.ones(2, 3).long()], r"gradients\[0\] is torch.int64; must be"),
    ([torch.ones(2, 3).to_sparse()], r"gradients\[0\] is torch.sparse_coo; must be a dense tensor"),
    ([torch.ones(2, 3), torch.ones(3, 3)], r"gradients\[1\] has 3 units; must have 2"),
    ([torch.ones(2, 3), torch.ones(2, 3, device=META)], r"gradients\[1\] is on meta; must be on cpu"),
    ([torch.empty(0, 1 << 30, 1 << 29)], "gradients have 576460752303423488 coordinates; must have at most"),
]
BAD_NORMS = [
    ([1.0, 1.0], "norms is a list; must be a tensor"),
    (torch.ones(2), r"norms is torch.float32 \(2,\); must be float64"),
    (torch.ones(2, 1).double(), r"norms is torch.float64 \(2, 1\); must be float64 of one dimension"),
]
BAD_TOTALS = [
    (None, "total is a NoneType; must be a tensor"),
    (torch.zeros(3), r"total is torch.float32 \(3,\); must be contiguous int64"),
    (torch.zeros(1, 3).long(), r"total is torch.int64 \(1, 3\); must be contiguous int64 of one dimension"),
    (torch.zeros(6).long()[::2], r"total is torch.int64 \(3,\), not contiguous; must be contiguous"),
]
BAD_CLIP_NORMS = [
    (0.0, "clip_norm is 0.0; must be"),
    (-1.0, "clip_norm is -1.0; must be"),
    (float("nan"), "clip_norm is nan; must be"),
    (float("inf"), "clip_norm is inf; must be"),
    (1e-39, "clip_norm is 1e-39; must be 1.18e-38 to 1.7e"),
    (True, "clip_norm is a bool; must be a number"),
    ("1", "clip_norm is a str; must be a number"),
    (None, "clip_norm is a NoneType; must be a number"),
]


@pytest.mark.parametrize(("gradients", "message"), BAD_GRADIENTS)
def test_gradients(key, gradients, message):
    with pytest.raises(PrivacyError, match=message):
        unit_norms(gradients)
    with pytest.raises(PrivacyError, match=message):
        dp_release(gradients, clip_norm=1.0, lattice=LATTICE, law="laplace", key=key, step=0)
    with pytest.raises(PrivacyError, match=message):
        clip_accumulate_(
            torch.zeros(3).long(), gradients, torch.ones(2).double(), clip_norm=1.0, lattice=LATTICE
        )


@pytest.mark.parametrize("order", [0, 3, "2", None])
def test_order(order):
    with pytest.raises(PrivacyError, match=f"order is {order!r}; must be 1 or 2"):
        unit_norms([torch.ones(2, 3)], order=order)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *[({"norms": norms}, message) for norms, message in BAD_NORMS],
        ({"norms": torch.ones(3).double()}, "norms has 3 units; must have 2"),
        ({"norms": torch.ones(2, device=META).double()}, "norms is on meta; must be on cpu"),
        *[({"total": total}, message) for total, message in BAD_TOTALS],
        ({"total": torch.zeros(4).long()}, "total has 4 coordinates; must have 3"),
        ({"total": torch.zeros(3, device=META).long()}, "total is on meta; must be on cpu"),
        *[({"clip_norm": clip_norm}, message) for clip_norm, message in BAD_CLIP_NORMS],
        ({"lattice": 1000}, "lattice is a int; must be a LatticeScale"),
    ],
)
def test_clip_accumulate_writes_nothing(change, message):
    arguments = {
        "total": torch.zeros(3).long(),
        "gradients": [torch.ones(2, 3)],
        "norms": torch.ones(2).double(),
        "clip_norm": 1.0,
        "lattice": LATTICE,
    } | change
    total = arguments["total"]
    before = total.clone() if isinstance(total, torch.Tensor) and total.device != META else None
    positional = [arguments.pop(name) for name in ("total", "gradients", "norms")]
    with pytest.raises(PrivacyError, match=message):
        clip_accumulate_(*positional, **arguments)
    assert before is None or torch.equal(total, before)


def test_a_batch_too_large_for_its_lattice():
    gradients = [torch.ones(1, 0).expand((1 << 21) + 1, 0)]
    norms = torch.zeros((1 << 21) + 1, dtype=torch.float64)
    total = torch.zeros(0, dtype=torch.int64)
    lattice = LatticeScale(30, 1 << 40)
    with pytest.raises(PrivacyError, match="gradients have 2097153 units; this lattice sums at most 2097152"):
        clip_accumulate_(total, gradients, norms, clip_norm=1.0, lattice=lattice)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *[({"total": total}, message) for total, message in BAD_TOTALS],
        *[({"clip_norm": clip_norm}, message) for clip_norm, message in BAD_CLIP_NORMS],
        ({"lattice": None}, "lattice is a NoneType; must be a LatticeScale"),
        ({"law": "normal"}, "law is 'normal'; must be laplace or gaussian"),
        ({"law": "gaussian"}, "scale_bits is 30; must be one of 10, 20 for gaussian noise"),
        ({"key": bytes(32)}, "key is a bytes; must be a KeystreamKey"),
        ({"step": 1.0}, "step is a float; must be an integer"),
        ({"step": True}, "step is a bool; must be an integer"),
    ],
)
def test_release(key, change, message):
    arguments = {
        "total": torch.zeros(3).long(),
        "clip_norm": 1.0,
        "lattice": LATTICE,
        "law": "laplace",
        "key": key,
        "step": 0,
    }
    with pytest.raises(PrivacyError, match=message):
        release(**arguments | change)
    release(**arguments)


def test_a_wiped_key_releases_nothing():
    key = KeystreamKey.fresh()
    key.wipe()
    with pytest.raises(PrivacyError, match="key was wiped"):
        release(torch.zeros(3).long(), clip_norm=1.0, lattice=LATTICE, law="laplace", key=key, step=0)
    with pytest.raises(PrivacyError, match="key was wiped"):
        dp_release([torch.ones(2, 3)], clip_norm=1.0, lattice=LATTICE, law="laplace", key=key, step=0)


@pytest.mark.parametrize(
    ("percentile", "message"),
    [
        (-0.1, "percentile is -0.1; must be 0 to 100"),
        (100.1, "percentile is 100.1; must be 0 to 100"),
        (float("nan"), "percentile is nan; must be 0 to 100"),
        (True, "percentile is a bool; must be a number"),
        ("50", "percentile is a str; must be a number"),
    ],
)
def test_percentile(percentile, message):
    with pytest.raises(PrivacyError, match=message):
        nearest_rank_percentile(torch.ones(2).double(), percentile)
    with pytest.raises(PrivacyError, match=message):
        PercentileClip(percentile, 1.0, 1e-6)


@pytest.mark.parametrize(("norms", "message"), BAD_NORMS)
def test_norms_of_a_percentile(norms, message):
    with pytest.raises(PrivacyError, match=message):
        nearest_rank_percentile(norms, 50)
    with pytest.raises(PrivacyError, match=message):
        PercentileClip(50, 1.0, 1e-6, norms)


def test_bounds_of_a_percentile_clip():
    with pytest.raises(PrivacyError, match=r"initial_clip_norm is 0\.0; must be"):
        PercentileClip(50, 0.0, 1e-6)
    with pytest.raises(PrivacyError, match=r"min_clip_norm is 0\.0; must be"):
        PercentileClip(50, 1.0, 0.0)
