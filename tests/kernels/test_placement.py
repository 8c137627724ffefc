"""No call waits for a GPU: what it needs there stays there, and so does what it gives, until it is asked for.

A machine without a GPU has torch's fake tensors: they are on `cuda`, hold no numbers, and each operation on
them can be watched. The compiled operator is one of these operations; its code is read for calls that wait.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adpfl.errors import PrivacyError
from adpfl.kernels import operators, ops, placement
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import LatticeScale
from adpfl.kernels.noise_tables import noise_tables

CUDA = torch.device("cuda", 0)
LATTICE = LatticeScale(20, 1 << 20)


class HostWaitsError(AssertionError):
    """An operation for which the host waits for the device."""


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait: numbers read from a device, sizes that depend on them, copies."""

    _READS = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().partition("::")[2].partition(".")[0]
        self.seen.append(name)
        if name in self._READS:
            raise HostWaitsError(name)
        made = function(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, made)) if isinstance(each, torch.Tensor)]
        if len({tensor.device for tensor in tensors}) > 1:
            raise HostWaitsError(f"{name} across devices")
        return made


@pytest.fixture
def fake_gpu() -> Iterator[None]:
    """Tensors on `cuda` that hold no numbers; none of them outlives the test in a cache."""
    caches = (noise_tables, operators.percentile_ranks, placement._tables, placement._ranks)
    for cache in caches:
        cache.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    for cache in caches:
        cache.cache_clear()


def gradients(units: int) -> list[torch.Tensor]:
    return [torch.empty(units, 40, device=CUDA), torch.empty(units, 2, 3, dtype=torch.bfloat16, device=CUDA)]


def window(size: int) -> torch.Tensor:
    return torch.empty(size, dtype=torch.float64, device=CUDA)


@pytest.mark.parametrize("law", ["laplace", "gaussian"])
@pytest.mark.parametrize("rule", ["fixed", "percentile", "percentile of batch and window"])
def test_a_release_waits_for_no_device(fake_gpu, key, rule, law):
    def release(step: int, units: int) -> ops.Release:
        clip_norm = 2.0
        if rule != "fixed":
            earlier = window(30 + units) if rule.endswith("window") else None
            clip_norm = ops.PercentileClip(75.0, 1.0, 1e-6, earlier)
        return ops.dp_release(
            gradients(units), clip_norm=clip_norm, lattice=LATTICE, law=law, key=key, step=step
        )

    release(0, 4)  # the first time tables, ranks and key go to the device
    with NoWaiting() as watch:
        made = [release(step, units) for step, units in ((1, 4), (2, 7), (9, 0))]
        with pytest.raises(HostWaitsError):
            made[0].clip_norm  # noqa: B018 - its evaluation waits
        with pytest.raises(HostWaitsError):
            made[0].counts  # noqa: B018
    assert watch.seen.count("dp_release") == 3
    tensors = [tensor for each in made for tensor in vars(each).values()]
    assert {tensor.device for tensor in tensors} == {CUDA}


def test_the_three_calls_give_the_device_its_clip_norm_without_a_copy(fake_gpu, key):
    total = torch.zeros(46, dtype=torch.int64, device=CUDA)
    ops.release(total, clip_norm=1.0, lattice=LATTICE, law="laplace", key=key, step=0)
    with NoWaiting() as watch:
        ops.unit_norms(gradients(3))
        ops.release(total, clip_norm=1.0, lattice=LATTICE, law="laplace", key=key, step=1)
    assert watch.seen.count("release") == 1


@pytest.mark.parametrize(
    "wait",
    [
        lambda tensor: tensor.sum().item(),
        lambda tensor: tensor.tolist(),
        lambda tensor: bool((tensor > 0).any()),
        lambda tensor: tensor.cpu(),
        lambda tensor: torch.masked_select(tensor, tensor > 0),
        lambda tensor: torch.ones(3).to(tensor.device),
        lambda tensor: torch.tensor([1.0], device=tensor.device),
        lambda tensor: torch.ops.aten.copy_(tensor, torch.ones(3)),
    ],
)
def test_the_watch_sees_each_way_to_wait(fake_gpu, wait):
    tensor = torch.empty(3, device=CUDA)
    with NoWaiting(), pytest.raises(HostWaitsError):
        wait(tensor)


def test_the_first_release_copies_and_a_window_elsewhere_always_does(fake_gpu, key):
    arguments = {"lattice": LATTICE, "law": "laplace", "key": key}
    with NoWaiting(), pytest.raises(HostWaitsError):
        ops.dp_release(gradients(2), clip_norm=1.0, step=0, **arguments)
    ops.dp_release(gradients(2), clip_norm=1.0, step=1, **arguments)
    elsewhere = ops.PercentileClip(50, 1.0, 1e-6, torch.ones(4, dtype=torch.float64))
    with NoWaiting(), pytest.raises(HostWaitsError):
        ops.dp_release(gradients(2), clip_norm=elsewhere, step=2, **arguments)


def test_the_cuda_binding_calls_nothing_that_waits():
    source = Path(__file__).resolve().parents[2] / "csrc" / "ops.cpp"
    if not source.exists():
        pytest.skip("csrc is not beside the tests")
    text = re.sub(r"//[^\n]*", "", source.read_text())
    binding = text[text.index("void* current_stream") : text.index("STABLE_TORCH_LIBRARY_IMPL(adpfl, CPU")]
    assert "dp_release_cuda" in binding
    waits = r"cudaMemcpy|Synchronize|cudaEventQuery|\bitem\b|\bcpu\(|\bto\(|copy_|std::vector<double>|step_of"
    assert not re.findall(waits, binding)


# The numbers, when they are asked for.


def test_an_unusable_threshold_is_refused_when_it_is_read():
    nothing = torch.full((3,), float("nan"))
    made = ops.Release(nothing, torch.tensor([float("nan")]).double(), nothing, torch.tensor([-1, -1]))
    with pytest.raises(PrivacyError, match="clip_norm is nan"):
        made.clip_norm  # noqa: B018


@pytest.mark.parametrize("most", [0, 1, 5, 1023, 1024, 3000])
def test_ranks_are_those_of_the_percentile(most):
    ranks = placement.ranks_on(torch.device("cpu"), 33.3, most)
    assert ranks.is_contiguous()
    assert torch.equal(ranks, operators.percentile_ranks(33.3, most))


# The key's copy. The CPU stands for a device: it is one more place where a copy stays.


def test_a_resident_key_is_zeroed_with_the_key():
    key = KeystreamKey.from_bytes(bytes(range(32)))
    resident = placement._resident(torch.device("cpu"), key)
    assert resident.numpy().tobytes() == bytes(range(32)) + bytes(8)
    assert placement._resident(torch.device("cpu"), key) is resident
    key.wipe()
    assert not resident.any()
    with (
        pytest.raises(PrivacyError, match="was wiped"),
        placement.keystream_on(torch.device("cpu"), key, 0),
    ):
        pass


def test_a_forked_child_leaves_the_parents_copy_alone():
    key = KeystreamKey.from_bytes(bytes(range(32)))
    erased = []
    key.when_wiped(lambda: erased.append(True))
    child = os.fork()
    if child == 0:
        os._exit(0 if key.is_wiped and not erased else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    key.wipe()
    assert erased == [True]
