"""What the methods' packed weights give to kernels decodes to what they decode to, bit for bit."""

from __future__ import annotations

import pytest
import torch

from quantcheck.contracts.base import quantize_weight
from quantcheck.kernels import KernelError
from quantcheck.kernels.base import Codebook, Grouped, Operand, Planes
from quantcheck.methods import METHODS
from quantcheck.methods.base import PackedWeight
from quantcheck.methods.packed.normal_float import NormalFloatWeight
from quantcheck.spec import QuantSpec
from tests.kernels.products import decoded

FAMILY = {Grouped: "grouped", Codebook: "codebook", Planes: "planes"}


def packed(spec: str, dtype: torch.dtype = torch.float16) -> PackedWeight:
    generator = torch.Generator().manual_seed(0)
    weight, inputs = (torch.randn(rows, 72, generator=generator) for rows in (24, 200))
    parsed = QuantSpec.parse(spec)
    return quantize_weight(METHODS.resolve(parsed.method), weight, inputs.T @ inputs / 200, parsed, dtype)


def assert_same(weight: PackedWeight, operand: Operand) -> None:
    family = FAMILY[type(operand)]
    for name in (f"reference_{family}", f"cpu_{family}"):
        assert torch.equal(decoded(name, operand), weight.decode()), name


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("grid", ["", "-sym"])
def test_grouped_codes(bits: int, grid: str) -> None:
    weight = packed(f"rtn-w{bits}-g16{grid}")
    assert_same(weight, weight.operand())


def test_groups_out_of_order() -> None:
    weight = packed("gptq-w3-g16-act_order")
    assert weight.g_idx is not None
    assert_same(weight, weight.operand())


@pytest.mark.parametrize("spec", ["dbllm-w2-g16-steps=0", "billm-w1.1-g16"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_bit_planes(spec: str, dtype: torch.dtype) -> None:
    weight = packed(spec, dtype)
    assert_same(weight, weight.operand())


@pytest.mark.parametrize("data_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [True, False])
def test_codebooks(data_type: str, double_quant: bool) -> None:
    matrix = torch.randn(7, 37, generator=torch.Generator().manual_seed(0))
    weight = NormalFloatWeight.quantize(matrix, data_type, double_quant=double_quant)
    assert_same(weight, weight.operand())


def test_shifted_blocks_are_no_codebook() -> None:
    shifts = torch.ones(2)
    weight = NormalFloatWeight.quantize(torch.randn(2, 64), double_quant=True, shifts=shifts)
    with pytest.raises(KernelError, match="shift a block"):
        weight.operand()
