"""Operands that do not fit are refused before anything is computed, and the message says what would."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from quantcheck.kernels import KernelCapabilities, KernelError, build
from quantcheck.kernels.base import Grouped, Operand
from quantcheck.kernels.checked import check_operand
from quantcheck.strategies.operands import CodebookRecipe, GroupedRecipe, PlanesRecipe

GROUPED: Grouped = GroupedRecipe(4, 12, 3, 4, zero_points="random").operand()
CAN = KernelCapabilities("grouped", bits=(3, 4))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (CodebookRecipe(4, 4).operand(), "takes Grouped weights, got Codebook"),
        (replace(GROUPED, bits=5), "bits must be one of 3, 4, got 5"),
        (replace(GROUPED, qweight=GROUPED.qweight[:, 1:]), "qweight must be torch.uint8 of shape (4, 5)"),
        (
            replace(GROUPED, scales=GROUPED.scales.double()),
            "scales must be torch.float32 or torch.float16",
        ),
        (replace(GROUPED, scales=torch.tensor(1.0)), "scales must be"),
        (replace(GROUPED, g_idx=GROUPED.g_idx.long()), "g_idx must be torch.int32 of shape (12,)"),
        (
            replace(GROUPED, g_idx=GROUPED.g_idx + 1),
            "g_idx names groups of scales: it must lie in 0..2",
        ),
        (replace(GROUPED, zero_points=GROUPED.scales), "zero_points must be torch.uint8 of shape (4, 3)"),
        (
            replace(GROUPED, zero_points=torch.full((4, 3), 8, dtype=torch.uint8)),
            "in 0..7, got 8..8",
        ),
        (replace(GROUPED, g_idx=GROUPED.g_idx.to("meta")), "one device"),
    ],
)
def test_a_weight_that_does_not_fit_is_refused(weight: Operand, message: str) -> None:
    with pytest.raises(KernelError, match=re.escape(message)):
        check_operand(weight, CAN, "it")


@pytest.mark.parametrize(
    ("can", "message"),
    [
        (replace(CAN, zero_points=False), "takes weights without zero_points"),
        (replace(CAN, g_idx=False), "g_idx must not descend"),
        (replace(CAN, group_sizes=(4, None)), "g_idx must be that of a group_size of 4, None"),
        (replace(CAN, in_multiple=8), "in_features must be a multiple of 8, got 12"),
        (replace(CAN, out_multiple=8), "out_features must be a multiple of 8, got 4"),
        (replace(CAN, devices=("cuda",)), "one device, cuda; got cpu"),
    ],
)
def test_a_weight_beyond_the_capabilities_is_refused(can: KernelCapabilities, message: str) -> None:
    check_operand(GROUPED, CAN, "it")
    with pytest.raises(KernelError, match=re.escape(message)):
        check_operand(replace(GROUPED, g_idx=GROUPED.g_idx.flip(0)), can, "it")


def test_a_weight_without_zero_points_is_refused_where_they_are_needed() -> None:
    with pytest.raises(KernelError, match="needs zero_points"):
        check_operand(replace(GROUPED, zero_points=None), replace(CAN, symmetric=False), "it")


def test_other_families_are_checked_too() -> None:
    codebook, planes = CodebookRecipe(3, 5).operand(), PlanesRecipe(3, 5, offsets=True).operand()
    with pytest.raises(KernelError, match="block_size must be at least 1, got 0"):
        check_operand(replace(codebook, block_size=0), KernelCapabilities("codebook", (4,)), "it")
    with pytest.raises(KernelError, match="block_size must be 32, got 64"):
        only = KernelCapabilities("codebook", (4,), group_sizes=(32,))
        check_operand(codebook, only, "it")
    with pytest.raises(KernelError, match="masks must be"):
        torn = replace(planes, masks=planes.planes[:1])
        check_operand(torn, KernelCapabilities("planes", (1,)), "it")


def test_inputs_that_do_not_fit_are_refused() -> None:
    kernel = build("reference_grouped")
    prepared = kernel.prepare(GROUPED, torch.float32)
    for inputs in (torch.ones(2, 11), torch.ones(12), torch.ones(2, 12, dtype=torch.float16)):
        with pytest.raises(KernelError, match=r"inputs must be \[tokens, 12\] of torch.float32 on cpu, got"):
            kernel.matmul(inputs, prepared)
    with pytest.raises(KernelError, match="act_bits must be one of None, got 8"):
        kernel.matmul(torch.ones(2, 12), prepared, act_bits=8)
    with pytest.raises(KernelError, match=r"dtype must be one of float32, .*, got torch.float64"):
        kernel.prepare(GROUPED, torch.float64)
    with pytest.raises(KernelError, match=r"got torch\.int8"):
        kernel.dequantize(prepared, torch.int8)
