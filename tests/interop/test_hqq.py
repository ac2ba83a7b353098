"""HQQ's packed weights against hqq: its bit packing and its quantizer, computing in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from quantcheck.codecs.base import Shape, Tensors

from .peers import Peer, PeerTests, group_size, library

Quantizer = library("hqq.core.quantize").Quantizer


class Hqq(Peer):
    library = "hqq"
    what = "Quantizer.pack, unpack, quantize, dequantize"

    @property
    def packing(self) -> str:
        return Quantizer.bit_to_packing[self.codec.bits]

    def decode(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        codes = Quantizer.unpack[self.packing](stored["W_q"])[: shape.rows * shape.groups]
        weights = Quantizer.dequantize(stored["W_q"], self._meta(stored, shape))
        return {"codes": codes.reshape(shape.rows, shape.cols), "weights": weights}

    def encode(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {"W_q": Quantizer.pack[self.packing](parts["codes"].reshape(-1, group_size(shape)))}

    def quantize(self, weight: Tensor, shape: Shape) -> tuple[dict[str, Tensor], Tensor]:
        packed, meta = Quantizer.quantize(
            weight,
            nbits=self.codec.bits,
            group_size=group_size(shape),
            axis=1,
            optimize=False,
            device="cpu",
        )
        stored = {"W_q": packed, "scale": meta["scale"].half(), "zero": meta["zero"].half()}
        return stored, Quantizer.dequantize(packed, self._meta(stored, shape))

    def _meta(self, stored: Tensors, shape: Shape) -> dict[str, object]:
        return {
            "nbits": self.codec.bits,
            "packing": self.packing,
            "view_as_float": False,
            "compute_dtype": torch.float32,
            "scale": stored["scale"].float(),
            "zero": stored["zero"].float(),
            "shape": (shape.rows, shape.cols),
            "group_size": group_size(shape),
            "axis": 1,
        }


class TestHqq(PeerTests):
    peers = tuple(Hqq("hqq", bits) for bits in (1, 2, 3, 4, 8))
