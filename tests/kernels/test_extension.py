"""The compiled kernels against the reference, bit by bit, on every instruction set of this machine."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from adpfl.errors import PrivacyError
from adpfl.kernels import lattice, operators, ops, reference
from adpfl.kernels.digit_tables import (
    TAIL_BITS,
    digit_table,
)
from adpfl.kernels.lattice import LatticeScale, gaussian_draws, laplace_draws
from adpfl.kernels.noise_tables import GUIDE_BITS, noise_tables

LAWS = [("laplace", 10), ("laplace", 20), ("laplace", 30), ("gaussian", 10), ("gaussian", 20)]
SEGMENT = 1 << 26
needs_library = pytest.mark.skipif(
    operators.EXTENSION.path is None, reason=f"no compiled kernels: {operators.EXTENSION.reason}"
)


@pytest.fixture(params=["avx512", "avx2", "scalar"])
def simd(request) -> Iterator[str]:
    """The compiled kernels, held to one instruction set."""
    if operators.EXTENSION.path is None:
        pytest.skip(f"no compiled kernels: {operators.EXTENSION.reason}")
    library = ctypes.CDLL(str(operators.EXTENSION.path))
    if not library.adpfl_use_simd(request.param.encode()):
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    assert library.adpfl_use_simd(operators.EXTENSION.simd.encode())


def test_the_fused_operator_equals_the_reference(simd, case, expected, same_bits, keystream):
    state = keystream(case.step)
    made = torch.ops.adpfl.dp_release(
        case.gradients(),
        state,
        noise_tables(case.law, case.scale_bits),
        case.lattice.sensitivity,
        case.scale_bits,
        case.law == "gaussian",
        case.order,
        case.clip_norm,
    )
    assert same_bits(made[0], expected.noised)
    assert made[1].tolist() == [case.clip_norm]
    assert same_bits(made[2], expected.norms)
    assert made[3].tolist() == expected.counts
    assert state.tolist() == [*keystream(0)[:4].tolist(), case.step + 1]


def test_the_three_operators_equal_the_reference(simd, case, expected, same_bits, keystream):
    gradients = case.gradients()
    assert same_bits(torch.ops.adpfl.unit_norms(gradients, case.order), expected.norms)
    clip_norm = torch.tensor([case.clip_norm], dtype=torch.float64)
    total = torch.full_like(expected.total, 5)
    counts = torch.ops.adpfl.clip_accumulate_(
        total, gradients, expected.norms, clip_norm, case.lattice.sensitivity
    )
    assert torch.equal(total, expected.total + 5)
    assert counts.tolist() == expected.counts
    made = torch.ops.adpfl.release(
        expected.total,
        clip_norm,
        keystream(case.step),
        noise_tables(case.law, case.scale_bits),
        case.lattice.sensitivity,
        case.scale_bits,
        case.law == "gaussian",
    )
    assert same_bits(made, expected.noised)


@pytest.mark.parametrize(("law", "scale_bits"), LAWS)
def test_half_a_million_draws(simd, key, keystream, law, scale_bits):
    count = 500_000
    draw = laplace_draws if law == "laplace" else gaussian_draws
    assert drawn(keystream(9), law, scale_bits, count).tolist() == [
        float(np.float32(value))
        for value in draw(key, scale_bits=scale_bits, step=9, first_index=0, count=count)
    ]


def drawn(state: torch.Tensor, law: str, scale_bits: int, count: int, tables: torch.Tensor | None = None):
    """The draws 2y as float32, by releasing zeros with C / (2 A) = 1."""
    zeros = torch.zeros(count, dtype=torch.int64)
    clip_norm = torch.tensor([2.0], dtype=torch.float64)
    tables = noise_tables(law, scale_bits) if tables is None else tables
    return torch.ops.adpfl.release(zeros, clip_norm, state, tables, 1, scale_bits, law == "gaussian")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(keystream, threads):
    before = torch.get_num_threads()
    gradients = [torch.randn(7, 70_000, generator=torch.Generator().manual_seed(1))]
    arguments = (noise_tables("gaussian", 20), 1 << 20, 20, True, 2, 50.0)
    one = torch.ops.adpfl.dp_release(gradients, keystream(0), *arguments)
    try:
        torch.set_num_threads(threads)
        many = torch.ops.adpfl.dp_release(gradients, keystream(0), *arguments)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(left, right) for left, right in zip(one, many, strict=True))


@pytest.mark.parametrize(("law", "scale_bits"), LAWS)
def test_ties_are_settled_as_the_reference_does(
    simd, key, keystream, forced_ties, monkeypatch, law, scale_bits
):
    tables = forced_ties(law, scale_bits)
    draw = laplace_draws if law == "laplace" else gaussian_draws
    settled = []
    tail = lattice._Source.tail

    def counting(source, indices, digit, position):
        settled.append((source.domain, digit))
        return tail(source, indices, digit, position)

    monkeypatch.setattr(lattice._Source, "tail", counting)
    wanted = draw(key, scale_bits=scale_bits, step=0, first_index=0, count=3000)
    assert len(settled) > 100
    assert len(set(settled)) == scale_bits // 10 + 1 + (4 if law == "gaussian" else 0)
    assert drawn(keystream(0), law, scale_bits, 3000, tables).tolist() == wanted.astype(np.float32).tolist()


# The percentile on the operator's side.


@pytest.mark.parametrize("percentile", [0, 7, 16.1, 50, 99.5, 100])
@pytest.mark.parametrize(("units", "earlier"), [(1, 0), (9, 0), (9, 40), (300, 17), (0, 5), (0, 0)])
def test_the_operator_selects_the_nearest_rank(keystream, percentile, units, earlier):
    generator = torch.Generator().manual_seed(3)
    gradients = [torch.randn(units, 50, generator=generator)]
    window = torch.rand(earlier, generator=generator, dtype=torch.float64) * 20
    if units > 4:
        gradients[0][3, 4] = float("inf")
    if earlier > 4:
        window[2] = float("nan")
    ranks = operators.percentile_ranks(percentile, units + earlier)
    arguments = (noise_tables("laplace", 20), 1 << 20, 20, False, 2)
    made = torch.ops.adpfl.dp_release(
        gradients, keystream(0), *arguments, 9.0, ranks=ranks, window=window, min_clip_norm=0.5
    )
    norms = torch.cat([reference.unit_norms(gradients, order=2), window])
    found = ops.nearest_rank_percentile(norms, percentile)
    assert made[1].item() == max(0.5, 9.0 if found is None else found)
    fixed = torch.ops.adpfl.dp_release(gradients, keystream(0), *arguments, made[1].item())
    assert torch.equal(made[0], fixed[0])
    assert torch.equal(made[3], fixed[3])


# What torch expects of an operator.

_TABLES = noise_tables("laplace", 10)


def operator_calls(keystream) -> list[tuple[str, tuple]]:
    gradients = [torch.randn(3, 40), torch.randn(3, 2, 2)]
    norms = reference.unit_norms(gradients, order=2)
    total, one = torch.zeros(44, dtype=torch.int64), torch.ones(1, dtype=torch.float64)
    fused = (gradients, keystream(0), _TABLES, 1000, 10, False, 2, 1.0)
    window = torch.ones(2, dtype=torch.float64)
    return [
        ("unit_norms", (gradients, 2)),
        ("clip_accumulate_", (total, gradients, norms, one, 1000)),
        ("release", (total, one, keystream(0), _TABLES, 1000, 10, False)),
        ("dp_release", fused),
        ("dp_release", (*fused, operators.percentile_ranks(50.0, 5), window, 1e-6)),
        ("dp_release", (*fused, None, None, 0.0, norms)),
    ]


@pytest.mark.parametrize("call", range(6))
def test_opcheck_passes(keystream, call):
    name, arguments = operator_calls(keystream)[call]
    results = torch.library.opcheck(getattr(torch.ops.adpfl, name).default, arguments)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.full)])
def test_a_compiled_step_equals_the_plain_one_and_moves_the_keystream(keystream, backend):
    def step(gradients, state):
        doubled = [2 * gradient for gradient in gradients]
        noised, _, norms, _ = torch.ops.adpfl.dp_release(doubled, state, _TABLES, 1000, 10, False, 2, 1.0)
        return noised / 3, norms

    gradients = [torch.randn(3, 40), torch.randn(3, 2, 2)]
    compiled = torch.compile(step, backend=backend, fullgraph=True)
    plain, traced = keystream(5), keystream(5)
    for moved in (6, 7):
        assert all(map(torch.equal, step(gradients, plain), compiled(gradients, traced)))
        assert plain[4] == traced[4] == moved


def test_two_identical_calls_draw_fresh_noise(keystream):
    state = keystream(0)
    arguments = ([torch.zeros(2, 100)], state, _TABLES, 1000, 10, False, 2, 1.0)
    assert not torch.equal(
        torch.ops.adpfl.dp_release(*arguments)[0], torch.ops.adpfl.dp_release(*arguments)[0]
    )


# Refusals: nothing is written, and the keystream stands still.


@needs_library
@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, [], "gradients is empty"),
        (0, [torch.ones(2, 3), torch.ones(3, 3)], "one number of units"),
        (0, [torch.ones(2, 3).double()], "must be float32, bfloat16 or float16"),
        (1, torch.zeros(4, dtype=torch.int64), "keystream has 4 entries; must have 5"),
        (1, torch.zeros(5), "keystream has another type"),
        (1, torch.tensor([0, 0, 0, 0, 1 << 32]), "keystream step is 4294967296"),
        (1, torch.tensor([0, 0, 0, 0, -1]), "keystream step is -1"),
        (2, _TABLES[:-1], "tables has"),
        (3, 0, "sensitivity is 0"),
        (3, (1 << 40) + 1, "sensitivity is 1099511627777"),
        (4, 15, "scale_bits is 15"),
        (6, 3, "order is 3"),
        (7, -1.0, "clip_norm is -1"),
        (7, float("nan"), "clip_norm is nan"),
        (8, torch.tensor([0, 1, 3]), r"ranks\[2\] is 3"),
        (8, torch.tensor([0, 1]), "ranks has 2 entries"),
        (11, torch.ones(3).double(), "norms has 3 entries; must have 2"),
    ],
)
def test_the_compiled_operator_refuses(keystream, place, value, message):
    arguments = [
        [torch.ones(2, 3)], keystream(0), _TABLES, 1000, 10, False, 2, 1.0, None, None, 0.0, None,
    ]  # fmt: skip
    arguments[place] = value
    before = arguments[1].clone()
    with pytest.raises(RuntimeError, match=message):
        torch.ops.adpfl.dp_release(*arguments)
    assert torch.equal(arguments[1], before)


def test_a_percentile_beyond_float32_is_refused(keystream):
    state = keystream(0)
    with pytest.raises((RuntimeError, PrivacyError), match="clip_norm is"):
        torch.ops.adpfl.dp_release(
            [torch.full((1, 1), 3e38)], state, _TABLES, 1000, 10, False, 2, 1.0,
            operators.percentile_ranks(50.0, 1),
        )  # fmt: skip
    assert state[4] == 0


# Large index spaces.


def test_noise_crosses_a_segment(key, keystream):
    if operators.EXTENSION.path is None:
        pytest.skip("a segment of noise takes the reference too long")
    near = 200
    noise = drawn(keystream(0), "laplace", 10, SEGMENT + near)
    wanted = laplace_draws(key, scale_bits=10, step=0, first_index=SEGMENT - near, count=2 * near)
    assert noise[SEGMENT - near :].tolist() == wanted.astype(np.float32).tolist()


@pytest.mark.full
@needs_library
def test_more_coordinates_than_32_bits_count(key, keystream):
    dimension = (1 << 31) + 5000
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 7 * dimension:
        pytest.skip("needs 16 GiB of free memory")
    gradient = torch.zeros(1, dimension, dtype=torch.bfloat16)
    gradient[0, -3000:] = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    made = torch.ops.adpfl.dp_release([gradient], keystream(0), _TABLES, 1 << 30, 10, False, 2, 1.0)[0]
    end = gradient[:, -4000:].clone()
    total = torch.zeros(4000, dtype=torch.int64)
    scale = LatticeScale(10, 1 << 30)
    reference.clip_accumulate_(
        total, [end], reference.unit_norms([end], order=2), clip_norm=1.0, lattice=scale
    )
    draws = laplace_draws(key, scale_bits=10, step=0, first_index=dimension - 4000, count=4000)
    wanted = (2 * total.numpy() + draws).astype(np.float64) * (1.0 / (1 << 31))
    assert made[-4000:].tolist() == wanted.astype(np.float32).tolist()


# Without the library.

_WITHOUT = """
import logging, sys, torch
logging.basicConfig(format="%(message)s")
from adpfl.kernels import extension
{break_it}
from adpfl.kernels import ops
from adpfl.kernels.keystream import KeystreamKey
from adpfl.kernels.lattice import LatticeScale
gradients = [torch.arange(6.0).reshape(2, 3)]
made = ops.dp_release(
    gradients, clip_norm=1.0, lattice=LatticeScale(20, 1000), law="laplace",
    key=KeystreamKey.from_bytes(bytes(range(32))), step=0,
)
print(ops.active_backend())
print(made.noised_sum.tolist())
"""


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (
            "import pathlib; extension._FOLDER = pathlib.Path('/nonexistent')",
            "no compiled library is installed",
        ),
        ("extension.INTERFACE_VERSION = 99", "this package needs 99"),
    ],
)
def test_the_fallback_serves_and_says_so_once(same_key, break_it, reason):
    if operators.EXTENSION.path is None and "99" in break_it:
        pytest.skip("no library to refuse")
    run = subprocess.run(
        [sys.executable, "-c", _WITHOUT.format(break_it=break_it)], capture_output=True, text=True, check=True
    )
    backend, noised = run.stdout.splitlines()
    assert backend.startswith("reference (PyTorch and NumPy): ")
    assert reason in backend
    assert run.stderr.count("reference (PyTorch and NumPy)") == 1
    here = ops.dp_release(
        [torch.arange(6.0).reshape(2, 3)], clip_norm=1.0, lattice=LatticeScale(20, 1000), law="laplace",
        key=same_key(), step=0,
    )  # fmt: skip
    assert noised == str(here.noised_sum.tolist())


def test_the_fallback_says_why_nothing_was_built(tmp_path):
    (tmp_path / "_native.absent").write_text("the compiler failed\n")
    told = subprocess.run(
        [sys.executable, "-c", _WITHOUT.format(
            break_it=f"import pathlib; extension._FOLDER = pathlib.Path({str(tmp_path)!r})"
        )],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert (
        "adpfl was built without compiled kernels, as the compiler failed; to mend it, install torch" in told
    )


def test_the_backend_says_what_runs():
    said = ops.active_backend()
    assert said == str(operators.EXTENSION)
    assert said.startswith(
        "compiled (cpu: " if operators.EXTENSION.path else "reference (PyTorch and NumPy): "
    )


# The packed tables.


@pytest.mark.parametrize(("law", "scale_bits"), LAWS)
def test_the_guide_says_what_the_thresholds_say(law, scale_bits):
    packed = noise_tables(law, scale_bits).numpy().view(np.uint32)
    size = (1 << GUIDE_BITS) + 4 * 1023
    for position in range(scale_bits // 10 + 1):
        guide, exact = np.split(packed[position * size : (position + 1) * size], [1 << GUIDE_BITS])
        table = digit_table(scale_bits, position)
        for bucket, entry in enumerate(guide.tolist()):
            edge = bucket << 20
            inside = [int(lead) for lead in table.leading if edge <= lead < edge + (1 << 20)]
            assert entry >> 31 == (len(inside) > 1)
            assert entry >> 21 & 1023 == int((table.leading < edge).sum())
            assert entry & 0x1FFFFF == (inside[0] - edge if inside else 1 << 20)
        rows = exact.reshape(-1, 4).tolist()
        for (leading, *tail), threshold in zip(rows, table.thresholds, strict=True):
            assert leading << 96 | tail[0] << 64 | tail[1] << 32 | tail[2] == (
                threshold >> TAIL_BITS << 96 | (threshold & (1 << TAIL_BITS) - 1) << 1
            )


_PEAK = """
import resource, torch
from adpfl.kernels.noise_tables import noise_tables
tables, key = noise_tables("laplace", 20), torch.zeros(5, dtype=torch.int64)
def release(gradients):
    return torch.ops.adpfl.dp_release(gradients, key, tables, 1 << 20, 20, False, 2, 1.0)
from adpfl.kernels import operators
release([torch.ones(2, 5000)])
gradients = [torch.ones(64, 1_000_000), torch.ones(64, 500_000, dtype=torch.bfloat16)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kept = release(gradients)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@needs_library
def test_a_release_takes_no_memory_that_grows_with_the_batch():
    run = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
    output, allowed = 4 * 1_500_000, 64 << 20
    assert int(run.stdout) < output + allowed, "the inputs hold 320 MB"
