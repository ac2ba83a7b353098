"""Four-bit codebooks in flat blocks, NF4 and FP4, and the 8-bit floats that code their scales in turn.

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", NeurIPS 2023, section 3, as bitsandbytes
0.50.2 computes it, bit for bit. The weight is flattened row by row and cut into blocks of 64, across rows
where 64 does not divide the in-features; the last block may be shorter. A code is the level nearest to
``w / absmax``, the lower one of two that are equally near.

- NF4: quantiles of the normal distribution, 8 above zero and 7 below, between which lies zero; scaled to
  -1..1.
- FP4: a sign, two bits of exponent and one of mantissa, ``(1 + m/2) 2^(4-e)``, ``m/16`` at ``e = 0``; over
  12.
- Nested floats (section 3, eq. 6): the 8-bit dynamic data type (Dettmers, "8-Bit Approximations for
  Parallelism in Deep Learning", ICLR 2016), whose fraction has one bit more for each decade, relative to the
  largest magnitude of each 256. Rounded to nearest, as bitsandbytes does on a GPU; its CPU kernel looks the
  code up in 65536 steps, and where a value lies that near to a midpoint it may take the other one.

Left out: bitsandbytes' other block sizes, and 2- and 3-bit codebooks, which it does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

from quantcheck.errors import QuantizationError

BITS = 4
BLOCK_SIZE = 64
NESTED_BLOCK_SIZE = 256
NORMAL_TAIL = 0.9677083
"""The probability of NF4's outermost quantile, which is scaled to 1."""

_SMALLEST_ABSMAX = 1e-38


@dataclass(frozen=True, eq=False)
class NestedFloats:
    """Floats in the 8-bit dynamic data type, relative to the largest magnitude of each 256.

    Attributes:
        codes: uint8 [n].
        absmax: float32 [ceil(n / 256)].
    """

    codes: Tensor
    absmax: Tensor

    @classmethod
    def of(cls, values: Tensor) -> NestedFloats:
        """Code float32 ``values`` [n]."""
        blocks = in_blocks(values, NESTED_BLOCK_SIZE)
        absmax = blocks.abs().amax(dim=1)
        codes = _nearest(relative(blocks, absmax), dynamic_map(values.device))
        return cls(codes.to(torch.uint8).flatten()[: values.numel()].contiguous(), absmax)

    def decode(self) -> Tensor:
        """Return the values that the codes stand for, float32 [n]."""
        scales = self.absmax.repeat_interleave(NESTED_BLOCK_SIZE)[: self.codes.numel()]
        return dynamic_map(self.codes.device)[self.codes.to(torch.int64)] * scales


def in_blocks(values: Tensor, size: int) -> Tensor:
    """Cut ``values``, flattened, into blocks [ceil(n / size), size], the last one filled up with zeros."""
    flat = values.flatten()
    return F.pad(flat, (0, -flat.numel() % size)).view(-1, size)


def encode(blocks: Tensor, absmax: Tensor, data_type: str) -> Tensor:
    """Return the code of the level nearest to ``blocks / absmax``, uint8 [n, size] for float32 [n, size]."""
    levels = codebook(data_type, blocks.device)
    order = levels.argsort(stable=True)
    ranks = _nearest(relative(blocks, absmax), levels[order])
    return order.to(torch.uint8)[ranks] if data_type == "fp4" else ranks.to(torch.uint8)


def codebook(data_type: str, device: torch.device | str) -> Tensor:
    """Return the 16 levels of ``nf4`` or ``fp4`` in the order of their codes, float32.

    Raises:
        QuantizationError: the data type is another.
    """
    if data_type not in _CODEBOOKS:
        raise QuantizationError(f"unknown data type {data_type!r}; known: {', '.join(_CODEBOOKS)}")
    return _CODEBOOKS[data_type]().to(device)


@cache
def _normal_float() -> Tensor:
    def quantiles(count: int) -> list[float]:
        probabilities = torch.linspace(NORMAL_TAIL, 0.5, count)[:-1]
        return [NormalDist().inv_cdf(probability) for probability in probabilities.tolist()]

    levels = torch.tensor(sorted([*quantiles(9), 0.0, *(-level for level in quantiles(8))]))
    return levels / levels.max()


@cache
def _float4() -> Tensor:
    magnitudes = torch.tensor(
        [
            (1 + mantissa / 2) * 2.0 ** (4 - exponent) if exponent else mantissa / 16
            for exponent in range(4)
            for mantissa in range(2)
        ]
    )
    return torch.cat([magnitudes, -magnitudes]) / magnitudes.max()


_CODEBOOKS = {"nf4": _normal_float, "fp4": _float4}


def dynamic_map(device: torch.device | str) -> Tensor:
    """Return the 256 values of the 8-bit dynamic data type, ascending, float32."""
    return _dynamic_map().to(device)


@cache
def _dynamic_map() -> Tensor:
    values = [torch.tensor([0.0, 1.0])]
    for fraction_bits in range(7):
        edges = torch.linspace(0.1, 1, 2**fraction_bits + 1)
        decade = 10.0 ** (fraction_bits - 6) * ((edges[:-1] + edges[1:]) / 2)
        values += [decade, -decade]
    return torch.cat(values).sort().values


def relative(blocks: Tensor, absmax: Tensor) -> Tensor:
    """Divide ``blocks`` [n, size] by their ``absmax`` [n]; a block of zeros stays one."""
    # bitsandbytes multiplies by the reciprocal, which is not always the quotient.
    return (blocks * (1.0 / absmax.clamp(min=_SMALLEST_ABSMAX))[:, None]).clamp(-1, 1)


def midpoints(levels: Tensor) -> Tensor:
    """Return the values halfway between ascending ``levels``, which still belong to the lower ones."""
    return (levels[:-1] + levels[1:]) / 2


def _nearest(values: Tensor, levels: Tensor) -> Tensor:
    """Return the rank of the nearest of ascending ``levels``, int32."""
    return torch.bucketize(values, midpoints(levels), out_int32=True)
