"""The CUDA kernels as nvcc compiled them, run by the emulated device, against the reference.

What this cannot show, such as ptxas's work, weak memory and speed, is listed in csrc/README.md.
"""

import re
import shutil

import pytest
import torch

from adpfl.kernels import lattice, operators, ops, reference
from adpfl.kernels.lattice import LatticeScale, gaussian_draws, laplace_draws
from adpfl.kernels.noise_tables import noise_tables

LAWS = [("laplace", 10), ("laplace", 20), ("laplace", 30), ("gaussian", 10), ("gaussian", 20)]
TABLES = noise_tables("laplace", 20)


@pytest.fixture(
    scope="module",
    params=[pytest.param("80", marks=pytest.mark.full), "90", pytest.param("100", marks=pytest.mark.full)],
)
def library(request, builder):
    return builder.build(request.param)


@pytest.fixture
def device(library, emulation):
    """The emulated device, for one architecture's PTX."""
    return emulation.Emulator(emulation.Library(library))


def test_the_fused_kernels_equal_the_reference(device, case, expected, same_bits, keystream):
    state = keystream(case.step)
    noised, used, norms, counts = device.dp_release(
        case.gradients(),
        state,
        noise_tables(case.law, case.scale_bits),
        case.lattice.sensitivity,
        case.scale_bits,
        case.law == "gaussian",
        case.order,
        case.clip_norm,
    )
    assert same_bits(norms, expected.norms)
    assert counts.tolist() == expected.counts
    assert used.tolist() == [case.clip_norm]
    assert same_bits(noised, expected.noised)
    assert state.tolist() == [*keystream(0)[:4].tolist(), case.step + 1]


def test_the_three_calls_equal_the_reference(device, case, expected, same_bits, keystream):
    gradients = case.gradients()
    assert same_bits(device.unit_norms(gradients, case.order), expected.norms)
    total = torch.full_like(expected.total, 5)
    counts = device.clip_accumulate_(
        total, gradients, expected.norms, case.clip_norm, case.lattice.sensitivity
    )
    assert torch.equal(total, expected.total + 5)
    assert counts.tolist() == expected.counts
    noised = device.release(
        expected.total,
        case.clip_norm,
        keystream(case.step),
        noise_tables(case.law, case.scale_bits),
        case.lattice.sensitivity,
        case.scale_bits,
        gaussian=case.law == "gaussian",
    )
    assert same_bits(noised, expected.noised)


@pytest.mark.parametrize("order", ["reverse", "shuffled"])
@pytest.mark.parametrize(("law", "scale_bits"), LAWS)
def test_the_order_of_blocks_and_threads_changes_no_bit(device, keystream, law, scale_bits, order):
    gradients = [torch.randn(3, 45_000, generator=torch.Generator().manual_seed(2))]
    arguments = (noise_tables(law, scale_bits), 1 << 20, scale_bits, law == "gaussian", 2, 100.0)
    forward = device.dp_release(gradients, keystream(0), *arguments)
    device.order = order
    other = device.dp_release(gradients, keystream(0), *arguments)
    assert all(torch.equal(left, right) for left, right in zip(forward, other, strict=True))


@pytest.mark.parametrize(("law", "scale_bits"), LAWS)
def test_a_hundred_thousand_draws(device, key, keystream, law, scale_bits):
    zeros = torch.zeros(100_000, dtype=torch.int64)
    made = device.release(
        zeros, 2.0, keystream(9), noise_tables(law, scale_bits), 1, scale_bits, gaussian=law == "gaussian"
    )
    draw = laplace_draws if law == "laplace" else gaussian_draws
    wanted = draw(key, scale_bits=scale_bits, step=9, first_index=0, count=100_000)
    assert torch.equal(made, torch.from_numpy(wanted).float())


@pytest.mark.parametrize(("law", "scale_bits"), LAWS)
def test_ties_are_settled_as_the_reference_does(device, key, keystream, forced_ties, law, scale_bits):
    tables = forced_ties(law, scale_bits)
    zeros = torch.zeros(3000, dtype=torch.int64)
    made = device.release(zeros, 2.0, keystream(0), tables, 1, scale_bits, gaussian=law == "gaussian")
    draw = laplace_draws if law == "laplace" else gaussian_draws
    wanted = draw(key, scale_bits=scale_bits, step=0, first_index=0, count=3000)
    assert torch.equal(made, torch.from_numpy(wanted).float())


@pytest.mark.parametrize("percentile", [0, 7, 50, 99.5, 100])
@pytest.mark.parametrize(("units", "earlier"), [(1, 0), (9, 0), (9, 40), (300, 700), (0, 5), (0, 0)])
def test_the_device_selects_the_nearest_rank(device, keystream, percentile, units, earlier):
    generator = torch.Generator().manual_seed(3)
    gradients = [torch.randn(units, 50, generator=generator)]
    window = torch.rand(earlier, generator=generator, dtype=torch.float64) * 20
    if units > 4:
        gradients[0][3, 4] = float("inf")
        gradients[0][0] = 0
    if earlier > 4:
        window[2] = float("nan")
        window[4] = window[3]
    noised, used, norms, counts = device.dp_release(
        gradients, keystream(0), TABLES, 1 << 20, 20, False, 2, 9.0,
        operators.percentile_ranks(percentile, units + earlier), window, 0.5,
    )  # fmt: skip
    found = ops.nearest_rank_percentile(torch.cat([norms, window]), percentile)
    assert used.item() == max(0.5, 9.0 if found is None else found)
    fixed = device.dp_release(gradients, keystream(0), TABLES, 1 << 20, 20, False, 2, used.item())
    assert torch.equal(noised, fixed[0])
    assert torch.equal(counts, fixed[3])


def test_two_identical_launches_draw_fresh_noise(device, key, keystream):
    state = keystream(6)
    gradients = [torch.randn(2, 3000, generator=torch.Generator().manual_seed(1))]
    arguments = (TABLES, 1 << 20, 20, False, 2, 1.0)
    first, second = (device.dp_release(gradients, state, *arguments)[0] for _ in range(2))
    assert state[4] == 8
    scale = LatticeScale(20, 1 << 20)
    total = torch.zeros(3000, dtype=torch.int64)
    norms = reference.unit_norms(gradients, order=2)
    reference.clip_accumulate_(total, gradients, norms, clip_norm=1.0, lattice=scale)
    for step, made in ((6, first), (7, second)):
        wanted = reference.release(total, clip_norm=1.0, lattice=scale, law="laplace", key=key, step=step)
        assert torch.equal(made, wanted)


@pytest.mark.parametrize(("dtype", "order"), [(torch.float32, 2), (torch.bfloat16, 1), (torch.float16, 2)])
def test_gradients_are_read_twice_and_the_result_is_written_once(device, keystream, dtype, order):
    units, coordinates = 3, 81_920
    gradients = [torch.randn(units, coordinates).to(dtype)]
    noised = device.dp_release(gradients, keystream(0), TABLES, 1 << 20, 20, False, order, 1.0)[0]
    (size, read, _), *others = device.traffic()
    assert size == units * coordinates * dtype.itemsize
    assert read == 2 * size
    written = [each for each in others if each[0] == noised.numel() * 4]
    assert written == [(4 * coordinates, 0, 4 * coordinates)]
    # The rest is norms, their partial sums and factors; and the tables, whose size does not grow.
    rest = sum(each[0] for each in others) - 4 * coordinates - 4 * TABLES.numel()
    assert rest <= 0.02 * (2 * size + 4 * coordinates)


def test_more_tensors_than_one_launch_holds_cost_an_integer_sum(device, keystream):
    gradients = list(torch.randn(257, 2, 100))
    noised = device.dp_release(gradients, keystream(0), TABLES, 1 << 20, 20, False, 2, 1.0)[0]
    tensors, others = device.traffic()[:257], device.traffic()[257:]
    assert all(read == 2 * size for size, read, _ in tensors)
    # Each launch adds to its own coordinates, and the last reads them all.
    total = 8 * noised.numel()
    (summed,) = [each for each in others if each[0] == total]
    assert summed[1] == pytest.approx(2 * total, rel=0.1)
    assert summed[2] == pytest.approx(total, rel=0.1)


def test_noise_crosses_segments(builder, emulation, key, keystream, tmp_path, monkeypatch):
    # A segment of 2^26 coordinates is too long for the emulated device: here one has 2^12, in both.
    sources = shutil.copytree(builder.KERNELS.sources, tmp_path / "csrc")
    header = (sources / "dp_release.h").read_text()
    short = header.replace("kSegmentBits = 26;", "kSegmentBits = 12;")
    assert short != header
    (sources / "dp_release.h").write_text(short)
    monkeypatch.setattr(lattice, "SEGMENT_BITS", 12)
    device = emulation.Emulator(emulation.Library(builder.build("90", sources)))
    for law, scale_bits in LAWS:
        zeros = torch.zeros(15_000, dtype=torch.int64)
        tables = noise_tables(law, scale_bits)
        made = device.release(zeros, 2.0, keystream(1), tables, 1, scale_bits, gaussian=law == "gaussian")
        draw = laplace_draws if law == "laplace" else gaussian_draws
        wanted = draw(key, scale_bits=scale_bits, step=1, first_index=0, count=15_000)
        assert torch.equal(made, torch.from_numpy(wanted).float()), (law, scale_bits)


# Where a CPU kernel would raise, a device cannot: what it writes tells nothing.


@pytest.mark.parametrize("step", [1 << 32, -1, (1 << 63) - 1])
@pytest.mark.parametrize(("law", "scale_bits"), LAWS)
def test_an_exhausted_keystream_releases_nothing(device, keystream, law, scale_bits, step):
    state = keystream(step)
    noised = device.dp_release(
        [torch.ones(2, 3000)],
        state,
        noise_tables(law, scale_bits),
        1000,
        scale_bits,
        law == "gaussian",
        2,
        1.0,
    )[0]
    assert torch.isnan(noised).all()
    assert state[4] == step


def test_a_percentile_beyond_float32_releases_nothing(device, keystream):
    noised, used, _, counts = device.dp_release(
        [torch.full((1, 40), 3e38)], keystream(0), TABLES, 1000, 20, False, 2, 1.0,
        operators.percentile_ranks(50.0, 1),
    )  # fmt: skip
    assert torch.isnan(noised).all()
    assert torch.isnan(used).all()
    assert counts.tolist() == [-1, -1]


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, float("nan"), float("inf"), 1e-39, 1e39])
def test_a_clip_norm_out_of_range_sums_and_releases_nothing(device, keystream, clip_norm):
    total = torch.arange(40)
    gradients = [torch.ones(1, 40)]
    counts = device.clip_accumulate_(total, gradients, torch.ones(1).double(), clip_norm, 1000)
    assert torch.equal(total, torch.arange(40))
    assert counts.tolist() == [-1, -1]
    assert torch.isnan(device.release(total, clip_norm, keystream(0), TABLES, 1000, 20, gaussian=False)).all()


# Planted bugs: the emulated device reports each of them, and the clean kernels run above without a report.


def planted(pattern: str, replacement: str, place: int | None, kernel: str):
    """Changes one match of a pattern in one kernel's PTX, or all of them."""

    def change(ptx: str) -> str:
        name = next(name for name in re.findall(r"\.entry (\w+)", ptx) if kernel in name)
        start = ptx.index(f".entry {name}")
        end = ptx.find(".entry", start + 1)
        end = len(ptx) if end < 0 else end
        body = ptx[start:end]
        if place is None:
            return ptx[:start] + re.sub(pattern, replacement, body) + ptx[end:]
        match = list(re.finditer(pattern, body))[place]
        changed = body[: match.start()] + match.expand(replacement) + body[match.end() :]
        return ptx[:start] + changed + ptx[end:]

    return change


GAUSSIAN = "sum_release_kernelILNS_3LawE2ELi20E"
LAPLACE = "sum_release_kernelILNS_3LawE1ELi20E"
NORMS = "partial_norms_kernelILi2E"
BARRIER = r"bar\.sync\s+0;"
STORE_PARTIAL = "_ZN5adpfl20partial_norms_kernelILi2EEEvNS_11TensorTableEllllPd_param_5"
BUGS = {
    "no barrier after the guides are loaded": (LAPLACE, BARRIER, "", 0, "race in shared memory"),
    "no barrier before the waiting list": (GAUSSIAN, BARRIER, "", 2, "race in shared memory"),
    "no barrier in the tree": (NORMS, BARRIER, "", 1, "race in shared memory"),
    "a barrier that few reach": (
        LAPLACE,
        r"(mov\.u32\s+(%r\d+), %tid\.x;)",
        "\\1 setp.gt.u32 %p1, \\2, 100; @%p1 bra $BUG; bar.sync 0;\n$BUG:\n",
        0,
        "divergent barrier",
    ),
    "a misaligned vector load": (
        LAPLACE,
        r"(ld\.global\.nc\.v4\.u32\s+\{[^}]*\}, \[%rd\d+)\]",
        r"\1+4]",
        None,
        "misaligned access of 16 bytes",
    ),
    "a store past the end": (
        LAPLACE,
        r"(st\.global\.cs\.v4\.f32 \[%rd\d+)\]",
        r"\1+1073741824]",  # far enough that no other array of the test lies there
        0,
        "outside of global memory",
    ),
    "a store past shared memory": (
        LAPLACE,
        r"(st\.shared\.u32\s+\[%r\d+)\]",
        r"\1+65536]",
        None,
        "outside of shared memory",
    ),
    "two blocks at one address": (
        NORMS,
        r"st\.global\.f64\s+\[(%rd\d+)\], (%fd\d+);",
        rf"ld.param.u64 \1, [{STORE_PARTIAL}]; st.global.f64 [\1], \2;",
        0,
        "race with another block in global memory",
    ),
    "a lane that leaves before a shuffle": (
        NORMS,
        r"(?=shfl\.sync\.down\.b32)",
        "mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 7; @%p1 ret; ",
        0,
        "divergent barrier or shuffle",
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(builder, emulation, keystream, tmp_path, bug):
    kernel, pattern, replacement, place, report = BUGS[bug]
    change = planted(pattern, replacement, place, kernel)
    device = emulation.Emulator(emulation.Library(builder.build_with_bug("90", tmp_path, change)))
    gaussian = kernel == GAUSSIAN
    gradients = [torch.randn(2, 70_001, generator=torch.Generator().manual_seed(0))]
    tables = noise_tables("gaussian" if gaussian else "laplace", 20)
    device.order = "shuffled"
    with pytest.raises(emulation.EmulationError, match=report):
        device.dp_release(gradients, keystream(0), tables, 1 << 20, 20, gaussian, 2, 1.0)


@pytest.mark.parametrize(
    "line",
    [
        "frobnicate.u32 %r1, %r2;",
        "add.sat.s32 %r1, %r2, %r3;",
        "mul.rz.f64 %fd1, %fd2, %fd3;",
        "fma.rn.ftz.f32 %f1, %f2, %f3, %f4;",
        "ld.volatile.global.u32 %r1, [%rd1];",
        "ld.local.u32 %r1, [%rd1];",
        "atom.global.min.u32 %r1, [%rd1], 1;",
        "membar.cta;",
        "bar.sync 1;",
        "cvt.rni.s32.f64 %r1, %fd1;",
        "mov.u32 %r1, %clock;",
    ],
)
def test_unknown_ptx_is_an_error(builder, tmp_path, line):
    with pytest.raises(AssertionError, match="UnknownPtxError"):
        builder.build_with_bug("90", tmp_path, planted(r"(?=bar\.sync)", line + " ", 0, NORMS))
