"""A kernel that checks what it is given, and lets gradients through: what the built-in ones derive from."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from quantcheck.kernels import KERNELS, KernelCapabilities, KernelError
from quantcheck.kernels.base import FAMILIES, Codebook, Grouped, Kernel, Operand, Planes

SCALE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A weight in a kernel's own layout.

    Attributes:
        shape: ``(out_features, in_features)``.
        dtype: of the inputs to come.
        device: of the weight, and of the inputs to come.
        layout: what the kernel made of it.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    layout: Any


class CheckedKernel(Kernel):
    """A kernel that refuses what does not fit; kernels implement `_prepare`, `_dequantize` and `_matmul`.

    The capabilities are those that it is registered with.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        name = vars(cls).get("name")
        if name in KERNELS.names() and "capabilities" not in vars(cls):
            cls.capabilities = KERNELS.entry(name).capabilities

    def prepare(self, weight: Operand, dtype: torch.dtype) -> Prepared:
        """Check a weight and bring it into the kernel's layout; see `Kernel.prepare`."""
        self._require_dtype(dtype)
        device = check_operand(weight, self.capabilities, self.name)
        return Prepared(weight.shape, dtype, device, self._prepare(weight))

    def dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        """Return the weight; see `Kernel.dequantize`.

        Raises:
            KernelError: the kernel has no such dtype.
        """
        self._require_dtype(dtype)
        if 0 in prepared.shape:
            return torch.empty(prepared.shape, dtype=dtype, device=prepared.device)
        return self._dequantize(prepared, dtype)

    def matmul(self, inputs: Tensor, prepared: Prepared, *, act_bits: int | None = None) -> Tensor:
        """Multiply; see `Kernel.matmul`.

        Raises:
            KernelError: the inputs are no matrix of the weight's in-features, of another dtype or device, or
                the kernel does not round to ``act_bits``.
        """
        if act_bits not in self.capabilities.act_bits:
            known = ", ".join(map(str, self.capabilities.act_bits))
            raise KernelError(f"{self.name}: act_bits must be one of {known}, got {act_bits}")
        found = inputs.shape[1:], inputs.dtype, inputs.device
        if found != (prepared.shape[1:], prepared.dtype, prepared.device):
            raise KernelError(
                f"{self.name}: inputs must be [tokens, {prepared.shape[1]}] of {prepared.dtype} on "
                f"{prepared.device}, got {tuple(inputs.shape)} of {inputs.dtype} on {inputs.device}"
            )
        if not self.capabilities.gradients:
            inputs = inputs.detach()
        product = _Product.apply(inputs, self, prepared, act_bits)  # type: ignore[no-untyped-call]
        return cast("Tensor", product)

    def product(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        """Multiply what `matmul` has checked, without gradients."""
        if 0 in inputs.shape or 0 in prepared.shape:
            return inputs.new_zeros(inputs.shape[0], prepared.shape[0])
        return self._matmul(inputs, prepared, act_bits)

    def gradient(self, outer: Tensor, prepared: Prepared) -> Tensor:
        """Return the gradient of the inputs, ``outer`` [tokens, out] times the weight; sums are float32."""
        weight = self.dequantize(prepared, torch.float32)
        return (outer.to(torch.float32) @ weight).to(outer.dtype)

    @abstractmethod
    def _prepare(self, weight: Any) -> Any:
        """Return the layout; the weight fits the capabilities."""

    @abstractmethod
    def _dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        """Decode a weight that has elements."""

    @abstractmethod
    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        """Multiply inputs and a weight that have elements."""

    def _require_dtype(self, dtype: torch.dtype) -> None:
        known = self.capabilities.dtypes
        if dtype not in [getattr(torch, name) for name in known]:
            raise KernelError(f"{self.name}: the dtype must be one of {', '.join(known)}, got {dtype}")


class _Product(torch.autograd.Function):
    """A kernel's product, differentiable by its inputs."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, kernel: CheckedKernel, prepared: Prepared, act_bits: int | None
    ) -> Tensor:
        ctx.kernel, ctx.prepared = kernel, prepared
        return kernel.product(inputs, prepared, act_bits)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.kernel.gradient(outer[0], ctx.prepared), None, None, None


def check_operand(weight: Operand, can: KernelCapabilities, name: str) -> torch.device:
    """Refuse a weight that is torn or that a kernel does not support, and return the device it lies on.

    Raises:
        KernelError: it says what was expected.
    """
    family = FAMILIES[can.weights]
    if not isinstance(weight, family):
        raise KernelError(f"{name} takes {family.__name__} weights, got {type(weight).__name__}")
    device, *others = {value.device for value in vars(weight).values() if isinstance(value, Tensor)}
    if others or device.type not in can.devices:
        found = ", ".join(map(str, (device, *others)))
        raise KernelError(f"{name}: a weight must lie on one device, {' or '.join(can.devices)}; got {found}")
    rows, cols = weight.shape
    for what, size, multiple in (("out", rows, can.out_multiple), ("in", cols, can.in_multiple)):
        if size < 0 or size % multiple:
            raise KernelError(f"{name}: {what}_features must be a multiple of {multiple}, got {size}")
    match weight:
        case Grouped():
            _check_grouped(weight, can, name)
        case Codebook():
            _check_codebook(weight, can, name)
        case Planes():
            _check_planes(weight, can, name)
    return device


def _check_grouped(weight: Grouped, can: KernelCapabilities, name: str) -> None:
    if weight.bits not in can.bits:
        known = ", ".join(map(str, can.bits))
        raise KernelError(f"{name}: bits must be one of {known}, got {weight.bits}")
    rows, cols = weight.shape
    _require(f"{name}: qweight", weight.qweight, _UINT8, (rows, -(-cols * weight.bits // 8)))
    groups = _groups(f"{name}: scales", weight.scales, (rows,))
    _check_order(f"{name}: g_idx", weight.g_idx, cols, groups, can)
    if weight.zero_points is None:
        if not can.symmetric:
            raise KernelError(f"{name} needs zero_points, got none")
        return
    if not can.zero_points:
        raise KernelError(f"{name} takes weights without zero_points alone")
    _require(f"{name}: zero_points", weight.zero_points, _UINT8, (rows, groups))
    _require_range(f"{name}: zero_points", weight.zero_points, (1 << weight.bits) - 1)


def _check_codebook(weight: Codebook, can: KernelCapabilities, name: str) -> None:
    weights, size = weight.shape[0] * weight.shape[1], weight.block_size
    if size < 1 or (can.group_sizes and size not in can.group_sizes):
        known = ", ".join(map(str, can.group_sizes)) or "at least 1"
        raise KernelError(f"{name}: block_size must be {known}, got {size}")
    _require(f"{name}: qweight", weight.qweight, _UINT8, (-(-weights // 2),))
    _require(f"{name}: levels", weight.levels, (torch.float32,), (16,))
    _require(f"{name}: absmax", weight.absmax, (torch.float32,), (-(-weights // size),))


def _check_planes(weight: Planes, can: KernelCapabilities, name: str) -> None:
    planes, (rows, cols) = weight.planes.shape[0], weight.shape
    shape = planes, rows, -(-cols // 8)
    _require(f"{name}: planes", weight.planes, _UINT8, shape)
    if weight.masks is not None:
        _require(f"{name}: masks", weight.masks, _UINT8, shape)
    groups = _groups(f"{name}: scales", weight.scales, (planes, rows))
    if weight.offsets is not None:
        _require(f"{name}: offsets", weight.offsets, (weight.scales.dtype,), (planes, rows, groups))
    _check_order(f"{name}: g_idx", weight.g_idx, cols, groups, can)


_UINT8 = (torch.uint8,)


def _require(what: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], shape: tuple[int, ...]) -> None:
    if tensor.dtype not in dtypes or tuple(tensor.shape) != shape:
        raise KernelError(
            f"{what} must be {' or '.join(map(str, dtypes))} of shape {shape}, got {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}"
        )


def _groups(what: str, scales: Tensor, leading: tuple[int, ...]) -> int:
    """Count the groups that there are scales for."""
    groups = scales.shape[-1] if scales.ndim else 0
    _require(what, scales, SCALE_DTYPES, (*leading, groups))
    return groups


def _check_order(what: str, g_idx: Tensor, cols: int, groups: int, can: KernelCapabilities) -> None:
    _require(what, g_idx, (torch.int32,), (cols,))
    _require_range(f"{what} names groups of scales: it", g_idx, groups - 1)
    if not can.g_idx and bool((g_idx.diff() < 0).any()):
        raise KernelError(f"{what} must not descend: groups lie in the order of their columns here")
    sizes = [cols if size is None else size for size in can.group_sizes]
    orders = [torch.arange(cols, device=g_idx.device) // max(size, 1) for size in sizes]
    if sizes and not any(torch.equal(g_idx.long(), order) for order in orders):
        known = ", ".join(map(str, can.group_sizes))
        raise KernelError(f"{what} must be that of a group_size of {known}")


def _require_range(what: str, values: Tensor, highest: int) -> None:
    if not values.numel():
        return
    smallest, largest = (int(value) for value in values.aminmax())
    if smallest < 0 or largest > highest:
        raise KernelError(f"{what} must lie in 0..{highest}, got {smallest}..{largest}")
