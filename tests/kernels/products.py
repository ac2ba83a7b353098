"""Products that a kernel is asked for, and how one is held to what float64 says of it."""

from __future__ import annotations

import torch
from torch import Tensor

from quantcheck.contracts.bounds import dequantized, multiplied
from quantcheck.contracts.kernel_subjects import moved
from quantcheck.kernels import build
from quantcheck.kernels.base import Operand
from quantcheck.strategies.operands import Product


def run(name: str, product: Product, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Decode the weight and multiply by it."""
    kernel, x = build(name), product.x().to(device)
    prepared = kernel.prepare(moved(product.weight.operand(), device), x.dtype)
    return kernel.dequantize(prepared, x.dtype), kernel.matmul(x, prepared, act_bits=product.act_bits)


def wrong(name: str, product: Product, device: str = "cpu") -> list[str]:
    """Say what is wrong with the weight and with the product; nothing where both are within their bounds."""
    kernel, dtype = build(name), getattr(torch, product.dtype)
    weight, result = run(name, product, device)
    accumulates = getattr(torch, kernel.capabilities.accumulates)
    found = dequantized(product.weight, dtype).wrong(weight), multiplied(product, accumulates).wrong(result)
    return [message for message in found if message]


def decoded(name: str, operand: Operand) -> Tensor:
    """Decode a weight, float32."""
    kernel = build(name)
    return kernel.dequantize(kernel.prepare(operand, torch.float32), torch.float32)
