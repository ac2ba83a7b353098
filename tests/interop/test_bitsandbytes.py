"""NF4 and FP4 against bitsandbytes: its CPU quantizer and dequantizer.

Left out, since bitsandbytes is wrong there (docs/findings.md): rows in multiples of 16 that end inside a
block, and weights of one byte. Zeros are compared without their signs: FP4 has two
codes for them, and the second one is -0.0 on one of its paths and 0.0 on another.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantcheck.codecs.base import Shape, Tensors

from .peers import Peer, PeerTests, library

functional = library("bitsandbytes.functional")
BLOCK_SIZE = 64


class FourBits(Peer):
    library = "bitsandbytes"
    what = "quantize_4bit, dequantize_4bit"

    def holds(self, shape: Shape) -> bool:
        straddles = shape.cols % BLOCK_SIZE != 0 and shape.cols % 16 == 0
        return shape.rows * shape.cols > 2 and not straddles

    @property
    def nested(self) -> bool:
        return self.codec.name.endswith("_nested")

    @property
    def data_type(self) -> str:
        return self.codec.name.split("_")[1]

    def decode(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        state = functional.QuantState(
            absmax=stored["weight.absmax"],
            shape=torch.Size((shape.rows, shape.cols)),
            dtype=torch.float32,
            blocksize=BLOCK_SIZE,
            code=functional.get_4bit_type(self.data_type, device="cpu"),
            quant_type=self.data_type,
        )
        if self.nested:
            state.nested, state.offset = True, stored["weight.nested_offset"][0]
            state.state2 = functional.QuantState(
                absmax=stored["weight.nested_absmax"],
                blocksize=256,
                code=functional.create_dynamic_map(),
                dtype=torch.float32,
            )
        return {"weights": unsigned(functional.dequantize_4bit(stored["weight"], state))}

    def expected(self, name: str, parts: Tensors, shape: Shape) -> Tensor:
        return unsigned(super().expected(name, parts, shape))

    def quantize(self, weight: Tensor, shape: Shape) -> tuple[dict[str, Tensor], Tensor]:
        packed, state = functional.quantize_4bit(
            weight, blocksize=BLOCK_SIZE, compress_statistics=self.nested, quant_type=self.data_type
        )
        decoded = functional.dequantize_4bit(packed, state)
        if weight.numel() % 2:
            packed[-1] &= 0xF0  # there the half byte to spare holds the code of a zero
        stored = {"weight": packed, "weight.absmax": state.absmax}
        if self.nested:
            stored["weight.nested_absmax"] = state.state2.absmax
            stored["weight.nested_offset"] = state.offset.reshape(1)
        return stored, unsigned(decoded)


def unsigned(weights: Tensor) -> Tensor:
    """Make all zeros positive."""
    return weights + 0.0


class TestFourBits(PeerTests):
    peers = tuple(FourBits(f"bnb_{name}", 4) for name in ("nf4", "nf4_nested", "fp4", "fp4_nested"))
