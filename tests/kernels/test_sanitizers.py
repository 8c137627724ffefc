"""The CUDA kernels as nvcc compiled them, under sanitizers for addresses, undefined behaviour and threads.

What each of them proves, and what none can, is listed in csrc/README.md.
"""

import re
from pathlib import Path

import pytest
import torch

from adpfl.kernels import operators
from adpfl.kernels.noise_tables import noise_tables

TABLES = noise_tables("laplace", 20)
ORDERS = ("forward", "reverse", "shuffled")


def replace_once(folder: Path, name: str, old: str, new: str) -> None:
    """Changes the one place of a source file where `old` stands."""
    text = (folder / name).read_text()
    assert text.count(old) == 1, f"{name} holds {old!r} {text.count(old)} times"
    (folder / name).write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def sanitizer_called(builder, tmp_path_factory):
    """A sanitizer by its name, where this machine can use it."""
    missing = {}

    def find(name: str):
        sanitizer = builder.SANITIZERS[name]
        if name not in missing:
            missing[name] = builder.why_not(sanitizer, tmp_path_factory.mktemp("probe"))
        if missing[name]:
            pytest.skip(missing[name])
        return sanitizer

    return find


@pytest.fixture(scope="module")
def small_blocks(builder, tmp_path_factory):
    """The kernels with blocks of 64 threads in pass 2, which ThreadSanitizer follows faster.

    Pass 1 keeps its 128: with more numbers each, its threads would not hold them in registers. The selection
    keeps its 256, one for each value of a byte.
    """
    return builder.variant(
        tmp_path_factory.mktemp("small_blocks"),
        lambda folder: replace_once(folder, "cuda/draws.cuh", "kThreads = 256;", "kThreads = 64;"),
    )


@pytest.fixture
def started(emulation):
    """Starts programs, and asks each at the end whether its sanitizer had anything to say."""
    devices = []

    def start(program: Path, sanitizer):
        devices.append(emulation.Sanitized(program, sanitizer))
        return devices[-1]

    yield start
    for device in devices:
        assert not device.close()


@pytest.fixture(
    params=[
        pytest.param((sanitizer, architecture, blocks), marks=() if usual else pytest.mark.full)
        for sanitizer, blocks in (("address", "launched"), ("thread", "small"), ("thread", "launched"))
        for architecture in ("80", "90", "100")
        for usual in [architecture == "90" and (sanitizer, blocks) != ("thread", "launched")]
        if blocks == "small" or sanitizer == "address" or architecture == "90"
    ],
    ids="-".join,
)
def device(request, builder, emulation, sanitizer_called, small_blocks, started):
    """The emulated device under a sanitizer: one architecture's PTX, blocks as launched or small."""
    name, architecture, blocks = request.param
    sanitizer = sanitizer_called(name)
    program = small_blocks if blocks == "small" else builder.KERNELS
    return emulation.Emulator(started(builder.build_sanitized(architecture, sanitizer, program), sanitizer))


@pytest.mark.sampled(16)
@pytest.mark.parametrize("order", ORDERS)
def test_the_kernels_are_clean_and_equal_the_reference(device, case, expected, same_bits, keystream, order):
    device.order = order
    tables = noise_tables(case.law, case.scale_bits)
    gaussian = case.law == "gaussian"
    lattice, gradients = case.lattice, case.gradients()
    noised, _, norms, counts = device.dp_release(
        gradients, keystream(case.step), tables, lattice.sensitivity, case.scale_bits, gaussian, case.order,
        case.clip_norm,
    )  # fmt: skip
    assert same_bits(norms, expected.norms)
    assert counts.tolist() == expected.counts
    assert same_bits(noised, expected.noised)
    total = torch.zeros_like(expected.total)
    device.clip_accumulate_(total, gradients, expected.norms, case.clip_norm, lattice.sensitivity)
    assert torch.equal(total, expected.total)
    noised = device.release(
        total, case.clip_norm, keystream(case.step), tables, lattice.sensitivity, case.scale_bits,
        gaussian=gaussian,
    )  # fmt: skip
    assert same_bits(noised, expected.noised)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("percentile", "units", "earlier"), [(0, 1, 0), (7, 9, 40), (99.5, 300, 700), (50, 0, 5), (50, 0, 0)]
)
def test_the_selection_is_clean(device, keystream, percentile, units, earlier, order):
    device.order = order
    generator = torch.Generator().manual_seed(3)
    gradients = [torch.randn(units, 50, generator=generator)]
    window = torch.rand(earlier, generator=generator, dtype=torch.float64) * 20
    ranks = operators.percentile_ranks(percentile, units + earlier)
    _, used, norms, _ = device.dp_release(
        gradients, keystream(0), TABLES, 1 << 20, 20, False, 2, 9.0, ranks, window, 0.5
    )
    seen = torch.sort(torch.cat([norms, window])).values
    assert used.item() == (max(0.5, seen[int(ranks[-1]) - 1].item()) if len(seen) else 9.0)


# Planted bugs, in the sources of the project's kernels. Each is for the sanitizer that must tell of it.

NORMS = "ILi2E"
SUM = "ILi2E|clip_factors|LawE1ELi20E|advance"
BUGS = {
    "no barrier in the norms' tree": (
        "thread", "cuda/norms.cuh",
        "__syncthreads();\n    if (threadIdx.x < half) {", "if (threadIdx.x < half) {", NORMS, "data race",
    ),
    "no barrier between a byte's bins and their use": (
        "thread", "cuda/norms.cuh",
        "__syncthreads();\n    const unsigned int mine", "const unsigned int mine", SUM, "data race",
    ),
    "two blocks at one address": (
        "thread", "cuda/norms.cuh", "partials[unit * chunks + chunk] = sum", "partials[unit * chunks] = sum",
        NORMS, "data race",
    ),
    "a store past a shared variable": (
        "address", "cuda/norms.cuh", "shared[threadIdx.x - half][lane] =", "shared[threadIdx.x][lane] =",
        NORMS, "heap-buffer-overflow",
    ),
    "a load between two shared variables": (
        "address", "cuda/norms.cuh", "for (int each = 0; each < warp; ++each)",
        "for (int each = 0; each < warp + 2; ++each)", SUM, "use-after-poison",
    ),
    "a store past a buffer": (
        "address", "cuda/sum_release.cuh", "if (left >= kOwn) {", "if (left > 0) {",
        SUM, "heap-buffer-overflow",
    ),
    "a load past a row": (
        "address", "cuda/gradients.cuh", "start + kPerVector<Number> <= count)", "start < count)",
        NORMS, "heap-buffer-overflow",
    ),
    "a misaligned vector load": (
        "address", "cuda/sum_release.cuh", " && misalignment(row + start) == 0", "",
        SUM, "misaligned address",
    ),
    "a barrier that some pass by": (
        "address", "cuda/sum_release.cuh", "    __syncthreads();\n  }\n#pragma unroll 1",
        "    if (threadIdx.x > 7) __syncthreads();\n  }\n#pragma unroll 1", SUM, "divergent barrier",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(
    builder, emulation, sanitizer_called, small_blocks, keystream, tmp_path, bug
):
    name, file, old, new, kernels, report = BUGS[bug]
    sanitizer = sanitizer_called(name)
    spoilt = builder.build_sanitized_with_bug(
        sanitizer,
        builder.KERNELS if name == "address" else small_blocks,
        tmp_path,
        lambda folder: replace_once(folder, file, old, new),
        kernels,
    )
    gradients = [torch.randn(2, 20_003, generator=torch.Generator().manual_seed(0))]
    device = emulation.Emulator(emulation.Sanitized(spoilt, sanitizer))
    device.order = "shuffled"
    ranks = operators.percentile_ranks(50.0, 2)
    calls = {
        NORMS: lambda: device.unit_norms(gradients, 2),
        SUM: lambda: device.dp_release(gradients, keystream(0), TABLES, 1 << 20, 20, False, 2, 1.0, ranks),
    }
    with pytest.raises(emulation.EmulationError, match=report):
        calls[kernels]()
    device.device.close()


# What the project's kernels do not use, in two kernels of the tests' own.


def run_companion(device, kernel: str, blocks: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """A companion kernel's answer, and the right one."""
    numbers = torch.arange(1, 64 * blocks + 1, dtype=torch.int32)
    buffers = [torch.full_like(numbers, -1)]
    right = numbers.view(-1, 32).flip(1).reshape(-1)
    if kernel == "sum":
        buffers = [torch.full((blocks,), -1, dtype=torch.int32), *torch.zeros(2, 1, dtype=torch.int32)]
        right = numbers.sum(dtype=torch.int32).view(1)
    device.allow(numbers, writable=False)
    for buffer in buffers:
        device.allow(buffer, writable=True)
    status, report = device.call(kernel, [numbers, *buffers, blocks])
    assert not status
    assert not report, report
    return buffers[-1], right


@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize("kernel", ["reverse", "sum"])
@pytest.mark.parametrize("name", ["address", "thread"])
def test_the_companion_is_clean(builder, sanitizer_called, started, name, kernel, order):
    sanitizer = sanitizer_called(name)
    device = started(builder.build_sanitized("90", sanitizer, builder.COMPANION), sanitizer)
    device.reset(order)
    made, right = run_companion(device, kernel)
    assert torch.equal(made, right)


COMPANION_BUGS = {
    "no barrier of the warp": ("reverse", "  __syncwarp();\n"),
    "no fence before the ticket": ("sum", "    __threadfence();  // the partial sum before the ticket\n"),
    "no fence behind the ticket": (
        "sum",
        "    __threadfence();  // the ticket before the others' partial sums\n",
    ),
}


@pytest.mark.parametrize("bug", COMPANION_BUGS)
def test_a_bug_planted_in_the_companion_is_caught(builder, emulation, sanitizer_called, tmp_path, bug):
    kernel, line = COMPANION_BUGS[bug]
    sanitizer = sanitizer_called("thread")
    spoilt = builder.build_sanitized_with_bug(
        sanitizer, builder.COMPANION, tmp_path, lambda folder: replace_once(folder, "companion.cu", line, "")
    )
    device = emulation.Sanitized(spoilt, sanitizer)
    device.reset(emulation.ORDERS["forward"])
    with pytest.raises(AssertionError, match="data race"):
        run_companion(device, kernel)
    device.close()


def test_a_bug_that_was_not_planted_fails_the_test(builder, sanitizer_called, tmp_path):
    sanitizer = sanitizer_called("thread")
    with pytest.raises(AssertionError, match="holds 'nothing like this' 0 times"):
        builder.build_sanitized_with_bug(
            sanitizer,
            builder.COMPANION,
            tmp_path / "missing",
            lambda folder: replace_once(folder, "companion.cu", "nothing like this", ""),
        )
    with pytest.raises(AssertionError, match="nvcc made nothing of the bug"):
        builder.build_sanitized_with_bug(
            sanitizer,
            builder.COMPANION,
            tmp_path / "idle",
            lambda folder: replace_once(
                folder, "companion.cu", "Two kernels that use", "Two kernels, that use"
            ),
        )


def test_a_sanitizer_that_is_not_there_is_named(builder, tmp_path):
    absent = builder.Sanitizer("absent", "", "", (), ("-fsanitize=no-such-thing",), ())
    assert re.match(
        "the compiler has no absent sanitizer: .*no-such-thing", builder.why_not(absent, tmp_path)
    )
