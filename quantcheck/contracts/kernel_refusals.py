"""What a kernel promises about operands that it does not support: an error that says what it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch

from quantcheck.contracts.kernel_subjects import (
    KernelTests,
    Subject,
    dtype_of,
    moved,
    tensors_of,
    with_tensors,
)
from quantcheck.kernels import KernelCapabilities, KernelError
from quantcheck.kernels.base import FAMILIES, Grouped, Operand, Planes
from quantcheck.strategies.kernels import plain_weight, zero_points
from quantcheck.strategies.operands import CodebookRecipe, GroupedRecipe, PlanesRecipe, WeightRecipe

DTYPES = ("float64", "float32", "bfloat16", "float16")
ACT_BITS = (None, 2, 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True)
class Misfit:
    """An operand that must be refused.

    Attributes:
        what: is wrong with it.
        operand: the weight.
        named: what the message must name.
    """

    what: str
    operand: Operand
    named: str


class KernelRefusalPromises(KernelTests):
    """The tests on what is refused; see `quantcheck.contracts.KernelContract`."""

    def test_weights_that_are_not_supported_are_refused(self, kernel: Subject) -> None:
        """Another family, width, zero points, g_idx, group size or multiple: a `KernelError` that says so."""
        for misfit in _unsupported(kernel.can, kernel.bits):
            _refused_weight(kernel, misfit)

    def test_weights_whose_tensors_do_not_fit_are_refused(self, kernel: Subject) -> None:
        """Another shape or dtype of one tensor, or a group that is not there."""
        for misfit in _torn(kernel.can, kernel.bits):
            _refused_weight(kernel, misfit)

    def test_dtypes_that_are_not_supported_are_refused(self, kernel: Subject) -> None:
        """When a weight is prepared for them; the message names one that is."""
        made, can = kernel.made(), kernel.can
        operand = moved(_plain(can, kernel.bits), kernel.device)
        for name in [name for name in DTYPES if name not in can.dtypes]:
            with pytest.raises(KernelError) as caught:
                made.prepare(operand, dtype_of(name))
                pytest.fail(f"{kernel.id} takes {name}, and declares {', '.join(can.dtypes)}")
            _says(kernel, name, can.dtypes[0], caught.value)

    def test_inputs_that_do_not_fit_are_refused(self, kernel: Subject) -> None:
        """Other columns, other dimensions, integers, other activation widths."""
        made, dtype = kernel.made(), dtype_of(kernel.can.dtypes[0])
        prepared = made.prepare(moved(_plain(kernel.can, kernel.bits), kernel.device), dtype)
        cols = 2 * kernel.can.in_multiple
        others = [bits for bits in ACT_BITS if bits not in kernel.can.act_bits][:1]
        for what, x, act_bits, named in (
            ("a column more", torch.ones(3, cols + 1, dtype=dtype), kernel.act_bits, str(cols)),
            ("a column less", torch.ones(3, cols - 1, dtype=dtype), kernel.act_bits, str(cols)),
            ("one dimension", torch.ones(cols, dtype=dtype), kernel.act_bits, str(cols)),
            ("three dimensions", torch.ones(2, 3, cols, dtype=dtype), kernel.act_bits, str(cols)),
            ("integers", torch.ones(3, cols, dtype=torch.int32), kernel.act_bits, kernel.can.dtypes[0]),
            *(
                (f"act_bits={bits}", torch.ones(3, cols, dtype=dtype), bits, str(kernel.can.act_bits[0]))
                for bits in others
            ),
        ):
            with pytest.raises(KernelError) as caught:
                made.matmul(x.to(kernel.device), prepared, act_bits=act_bits)
                pytest.fail(f"{kernel.id} takes inputs of {what}: {x.dtype} {tuple(x.shape)}")
            _says(kernel, what, named, caught.value)


def _refused_weight(kernel: Subject, misfit: Misfit) -> None:
    with pytest.raises(KernelError) as caught:
        kernel.made().prepare(moved(misfit.operand, kernel.device), dtype_of(kernel.can.dtypes[0]))
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(misfit.operand).items()}
        pytest.fail(f"{kernel.id} takes a weight of {misfit.what}: {shapes}")
    _says(kernel, misfit.what, misfit.named, caught.value)


def _says(kernel: Subject, what: str, named: str, error: KernelError) -> None:
    assert named in str(error), f"{kernel.id} refuses {what}, and does not name {named}: {error}"


def _plain(can: KernelCapabilities, bits: int) -> Operand:
    return plain_weight(can, bits).operand()


def _unsupported(can: KernelCapabilities, bits: int) -> Iterator[Misfit]:
    """List weights beyond the capabilities."""
    strangers: tuple[WeightRecipe, ...] = GroupedRecipe(8, 8), CodebookRecipe(8, 8), PlanesRecipe(8, 8)
    for family, stranger in zip(FAMILIES, strangers, strict=True):
        if family != can.weights:
            yield Misfit(f"the {family} family", stranger.operand(), FAMILIES[can.weights].__name__)
    plain = plain_weight(can, bits)
    if can.out_multiple > 1:
        odd = replace(plain, out_features=2 * can.out_multiple - 1)
        yield Misfit(f"{odd.out_features} rows", odd.operand(), str(can.out_multiple))
    if can.in_multiple > 1:
        odd = replace(plain, in_features=2 * can.in_multiple - 1)
        yield Misfit(f"{odd.in_features} columns", odd.operand(), str(can.in_multiple))
    sizes = [size for size in can.group_sizes if size is not None]
    other_size = max(sizes, default=4) + 1
    if isinstance(plain, CodebookRecipe):
        if sizes:
            yield Misfit(f"{other_size=}", replace(plain, block_size=other_size).operand(), "block_size")
        return
    wide = replace(plain, in_features=-(-3 * other_size // can.in_multiple) * can.in_multiple)
    if can.group_sizes:
        yield Misfit(f"{other_size=}", replace(wide, group_size=other_size).operand(), "group_size")
    if not can.g_idx:
        shuffled = replace(wide, group_size=min(sizes, default=2), shuffled=True)
        yield Misfit("groups in no order", shuffled.operand(), "g_idx")
    if isinstance(plain, PlanesRecipe):
        return
    for width in [width for width in range(1, 9) if width not in can.bits][:2]:
        yield Misfit(f"{width} bits", replace(plain, bits=width).operand(), str(max(can.bits)))
    for kind in {"none", "random"} - set(zero_points(can)):
        yield Misfit(f"zero points {kind}", replace(plain, zero_points=kind).operand(), "zero_points")


def _torn(can: KernelCapabilities, bits: int) -> Iterator[Misfit]:
    """List weights one tensor of which does not fit the others."""
    recipe = plain_weight(can, bits)
    if isinstance(recipe, PlanesRecipe):
        recipe = replace(recipe, masks="random", offsets=True)
    if isinstance(recipe, GroupedRecipe):
        recipe = replace(recipe, zero_points=zero_points(can)[-1])
    operand = recipe.operand()
    for name, tensor in tensors_of(operand).items():
        # With fewer scales a row, it might be g_idx or the zero points that do not fit.
        shorter = tensor[..., :-1, :] if name == "scales" else tensor[..., :-1]
        yield Misfit(f"{name} one shorter", with_tensors(operand, {name: shorter}), name)
        other = torch.int16 if tensor.is_floating_point() else torch.float32
        yield Misfit(f"{name} of {other}", with_tensors(operand, {name: tensor.to(other)}), name)
    if isinstance(operand, Grouped | Planes):
        for group in (-1, operand.scales.shape[-1]):
            strange = operand.g_idx.clone()
            strange[0] = group
            yield Misfit(f"a column of group {group}", with_tensors(operand, {"g_idx": strange}), "g_idx")
