"""Layers that give the gradients of their weights apart for each unit, in one ordinary backward pass.

A backward pass holds all that per-unit gradients need, a layer's input and the gradient of its output; only
its last sum, over the batch, takes the units together. Here every weight is replaced by U equal copies, one a
unit, as a view that takes no memory. The gradient of the summed loss by copy u is unit u's gradient.

Functions that read a weight are exchanged for ones that know of the copies, by a rule for each kind of layer.
Any other function that is handed a trainable weight is refused: its gradient would be lost in silence.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_ATEN: Final[Any] = torch.ops.aten


class UnsupportedLayerError(Exception):
    """A function without a rule was handed a trainable weight."""


def channels_last(images: Tensor) -> Tensor:
    """Images (N, C, *size), 2D or 3D, with the channels innermost: convolutions then reorder nothing."""
    layout = torch.channels_last if images.ndim == 4 else torch.channels_last_3d
    if images.shape[1] == 1:  # both layouts at once for torch, which would go on in the other
        return torch.empty_like(images, memory_format=layout).copy_(images)
    return images.contiguous(memory_format=layout)


class UnitWeights(TorchFunctionMode):
    """Within this context a forward pass reads U copies of each weight, one for each unit.

    Its batch must be (U * k, channels, *size): k records of the first unit, then of the second, and so on.
    Differentiate by `copies`; the weights themselves take no part.

    Args:
        weights: the trainable weights.
        units: U.

    Raises:
        UnsupportedLayerError: out of the forward pass, at the first function without a rule.
    """

    def __init__(self, weights: Iterable[nn.Parameter], units: int) -> None:
        super().__init__()
        self._units = units
        self._copies = {id(weight): self._expanded(weight).requires_grad_() for weight in weights}

    @property
    def copies(self) -> list[Tensor]:
        """(U, *shape) for each weight, in the order given."""
        return list(self._copies.values())

    def of(self, weight: Tensor | None) -> Tensor | None:
        """A weight's copies; those of a frozen one have no gradient."""
        if weight is None:
            return None
        return self._copies[id(weight)] if id(weight) in self._copies else self._expanded(weight)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Apply the function's rule if it reads a trainable weight; else the function itself."""
        del types
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name == "__get__" or not self._reads_weight(
            (args, tuple(kwargs.values()))
        ):  # __get__: an attribute
            return func(*args, **kwargs)
        if func not in _RULES:
            raise UnsupportedLayerError(f"{name} has no rule for per-unit gradients")
        return _RULES[func](self, *args, **kwargs)

    def _expanded(self, weight: Tensor) -> Tensor:
        return weight.detach().expand(self._units, *weight.shape)

    def _reads_weight(self, argument: object) -> bool:
        if isinstance(argument, (list, tuple)):
            return any(self._reads_weight(entry) for entry in argument)
        return id(argument) in self._copies


@dataclass(frozen=True)
class _Geometry:
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int


class _Convolution(torch.autograd.Function):
    """A convolution, transposed or not; weight copies (U, *kernel), bias copies (U, channels)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.geometry = geometry
        return torch.convolution(
            images,
            channels_last(weight[0]),
            None if bias is None else bias[0],
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.transposed,
            geometry.output_padding,
            geometry.groups,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        images, weight = ctx.saved_tensors
        outer = channels_last(outer)
        by_images = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            kernel = channels_last(weight[0])
            by_images = _convolution_backward(outer, images, kernel, ctx.geometry, (True, False, False))[0]
        if ctx.needs_input_grad[1]:
            by_weight = outer.new_empty(weight.shape)
            records = len(images) // len(weight)
            for unit, row in enumerate(by_weight):
                those = slice(unit * records, (unit + 1) * records)
                row.copy_(_kernel_gradient(outer[those], images[those], row, ctx.geometry))
        if ctx.needs_input_grad[2]:
            pixels = tuple(range(3, outer.ndim + 1))
            by_bias = outer.view(len(weight), -1, *outer.shape[1:]).sum(dim=(1, *pixels))
        return by_images, by_weight, by_bias, None


def _kernel_gradient(outer: Tensor, images: Tensor, kernel: Tensor, geometry: _Geometry) -> Tensor:
    """Gradient of one unit's loss by the kernel, whose values are not read.

    For a single 3D record torch leaves oneDNN for a loop that is up to 17 times slower. There a depth plane
    of the kernel is taken as a 2D kernel, and the depths as a batch: the same sums, and channels last makes
    every one of these batches a view.
    """
    if images.ndim < 5 or len(images) > 1 or geometry.groups > 1:
        gradient: Tensor = _convolution_backward(outer, images, kernel, geometry, (False, True, False))[1]
        return gradient
    source, result = (outer, images) if geometry.transposed else (images, outer)
    source, result = source[0].transpose(0, 1), result[0].transpose(0, 1)  # (depth, channels, height, width)
    plane = _Geometry(geometry.stride[1:], geometry.padding[1:], geometry.dilation[1:], False, [0, 0], 1)
    planes = []
    for depth in range(kernel.shape[2]):
        first = (
            depth * geometry.dilation[0] - geometry.padding[0]
        )  # the source plane that result plane 0 meets
        step = geometry.stride[0]
        start = max(0, -(first // step))
        stop = min(len(result), (len(source) - 1 - first) // step + 1)
        if start >= stop:
            planes.append(torch.zeros_like(kernel[:, :, depth]))
            continue
        met = source[first + start * step : first + (stop - 1) * step + 1 : step]
        planes.append(
            _convolution_backward(result[start:stop], met, kernel[:, :, depth], plane, (False, True, False))[
                1
            ]
        )
    return torch.stack(planes, dim=2)


def _convolution_backward(
    outer: Tensor, images: Tensor, kernel: Tensor, geometry: _Geometry, wanted: tuple[bool, bool, bool]
) -> Any:
    return _ATEN.convolution_backward(
        outer,
        images,
        kernel,
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.transposed,
        geometry.output_padding,
        geometry.groups,
        wanted,
    )


class _GroupNorm(torch.autograd.Function):
    """A group normalisation; weight and bias copies (U, channels)."""

    @staticmethod
    def forward(  # noqa: PLR0917 - torch's calling convention
        ctx: Any, images: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, epsilon: float
    ) -> Tensor:
        images = channels_last(images)  # the backward kernel takes for granted that both its inputs lie alike
        records, channels = images.shape[:2]
        normalised, mean, inverse_deviation = _ATEN.native_group_norm(
            images,
            None if weight is None else weight[0],
            None if bias is None else bias[0],
            records,
            channels,
            images[0, 0].numel(),
            groups,
            epsilon,
        )
        ctx.save_for_backward(images, mean, inverse_deviation, weight)
        ctx.units = len(weight if weight is not None else bias)  # type: ignore[arg-type] # one of them is there
        ctx.groups = groups
        return normalised  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        images, mean, inverse_deviation, weight = ctx.saved_tensors
        outer = channels_last(outer)
        records, channels = len(images) // ctx.units, images.shape[1]
        rows = []
        for unit in range(ctx.units):
            those = slice(unit * records, (unit + 1) * records)
            rows.append(
                _ATEN.native_group_norm_backward(
                    outer[those],
                    images[those],
                    mean[those],
                    inverse_deviation[those],
                    None if weight is None else weight[0],
                    records,
                    channels,
                    images[0, 0].numel(),
                    ctx.groups,
                    (True, True, True),  # the kernel for channels last writes all three, asked or not
                )
            )
        by_images, by_weight, by_bias = zip(*rows, strict=True)
        return (
            torch.cat(by_images) if ctx.needs_input_grad[0] else None,
            torch.stack(by_weight) if ctx.needs_input_grad[1] else None,
            torch.stack(by_bias) if ctx.needs_input_grad[2] else None,
            None,
            None,
        )


def _convolution_rule(  # noqa: PLR0917 - torch's signature
    weights: UnitWeights,
    input: Tensor,  # noqa: A002 - torch's name for it
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] | int = 1,
    padding: Sequence[int] | int | str = 0,
    dilation: Sequence[int] | int = 1,
    groups: int = 1,
) -> Any:
    if isinstance(padding, str):
        raise UnsupportedLayerError(f"a convolution's padding {padding!r} has no rule; give it in pixels")
    axes = weight.ndim - 2
    geometry = _Geometry(
        _each(stride, axes), _each(padding, axes), _each(dilation, axes), False, [0] * axes, groups
    )
    return _apply(_Convolution, input, weights.of(weight), weights.of(bias), geometry)


def _transposed_convolution_rule(  # noqa: PLR0917 - torch's signature
    weights: UnitWeights,
    input: Tensor,  # noqa: A002 - torch's name for it
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] | int = 1,
    padding: Sequence[int] | int = 0,
    output_padding: Sequence[int] | int = 0,
    groups: int = 1,
    dilation: Sequence[int] | int = 1,
) -> Any:
    axes = weight.ndim - 2
    geometry = _Geometry(
        _each(stride, axes),
        _each(padding, axes),
        _each(dilation, axes),
        True,
        _each(output_padding, axes),
        groups,
    )
    return _apply(_Convolution, input, weights.of(weight), weights.of(bias), geometry)


def _group_norm_rule(  # noqa: PLR0917 - torch's signature
    weights: UnitWeights,
    input: Tensor,  # noqa: A002 - torch's name for it
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    return _apply(_GroupNorm, input, weights.of(weight), weights.of(bias), num_groups, eps)


def _instance_norm_rule(  # noqa: PLR0917 - torch's signature
    weights: UnitWeights,
    input: Tensor,  # noqa: A002 - torch's name for it
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,  # noqa: FBT001, FBT002 - torch's signature
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """An instance normalisation is a group normalisation with a group for each channel."""
    del momentum, running_var
    if running_mean is not None or not use_input_stats:
        raise UnsupportedLayerError("instance_norm with running statistics has no rule")
    return _apply(_GroupNorm, input, weights.of(weight), weights.of(bias), input.shape[1], eps)


def _apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    return function.apply(*args)  # type: ignore[no-untyped-call] # torch gives it no types


def _each(value: Sequence[int] | int, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value)


_RULES: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    functional.conv2d: _convolution_rule,
    functional.conv3d: _convolution_rule,
    functional.conv_transpose2d: _transposed_convolution_rule,
    functional.conv_transpose3d: _transposed_convolution_rule,
    functional.group_norm: _group_norm_rule,
    functional.instance_norm: _instance_norm_rule,
}
