"""GGUF against gguf-py: its dequantizers for all formats, its quantizers where it has them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from quantcheck.codecs.base import Shape, Tensors

from .peers import Peer, PeerTests, library

quants = library("gguf.quants")
gguf = library("gguf")


class Reads(Peer):
    library = "gguf"
    what = "quants.dequantize"

    @property
    def type(self) -> int:
        return getattr(gguf.GGMLQuantizationType, self.codec.name.removeprefix("gguf_").upper())

    def decode(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {"weights": self._dequantize(stored["blocks"].numpy())}

    def _dequantize(self, blocks: np.ndarray) -> Tensor:
        with np.errstate(all="ignore"):
            return torch.from_numpy(quants.dequantize(blocks, self.type))


class Writes(Reads):
    what = "quants.quantize, quants.dequantize"

    def quantize(self, weight: Tensor, shape: Shape) -> tuple[dict[str, Tensor], Tensor]:
        blocks = quants.quantize(weight.numpy(), self.type)
        return {"blocks": torch.from_numpy(blocks)}, self._dequantize(blocks)


class TestGguf(PeerTests):
    peers = (
        Writes("gguf_q4_0", 4),
        Writes("gguf_q5_0", 5),
        Writes("gguf_q8_0", 8),
        Reads("gguf_q2_k", 2),
        Reads("gguf_q3_k", 3),
        Reads("gguf_q4_k", 4),
        Reads("gguf_q5_k", 5),
        Reads("gguf_q6_k", 6),
        Writes("gguf_tq1_0", 2),
        Writes("gguf_tq2_0", 2),
    )
