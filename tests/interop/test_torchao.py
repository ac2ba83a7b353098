"""Torchao's shards and scales against torchao; its int4 packers run on GPUs alone."""

from __future__ import annotations

import torch
from torch import Tensor

from quantcheck.codecs.base import Shape, Tensors
from quantcheck.codecs.torchao_uintx import SHARDS

from .peers import Peer, PeerTests, group_size, library

bitpacking = library("torchao.prototype.dtypes.uintx.bitpacking")
utils = library("torchao.quantization.utils")
primitives = library("torchao.quantization.quant_primitives")


class Shards(Peer):
    library = "torchao"
    what = "bitpacking.pack, unpack, dequantize_affine"
    pack, unpack = staticmethod(bitpacking.pack), staticmethod(bitpacking.unpack)

    def holds(self, shape: Shape) -> bool:
        return shape.cols % group_size(shape) == 0

    def decode(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        shards = [stored[f"int{width}_shard"] for width in SHARDS[self.codec.bits]]
        codes = self.unpack(shards, self.codec.bits, -1)
        weights = primitives.dequantize_affine(
            codes,
            (1, group_size(shape)),
            stored["scale"].float(),
            stored["zero_point"],
            torch.uint8,
            output_dtype=torch.float32,
        )
        return {"codes": codes, "weights": weights}

    def encode(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        shards = self.pack(parts["codes"], self.codec.bits, -1)
        return {
            f"int{width}_shard": shard for width, shard in zip(SHARDS[self.codec.bits], shards, strict=True)
        }


class ShardsOnCpu(Shards):
    what = "bitpacking.pack_cpu, unpack_cpu, dequantize_affine"
    pack, unpack = staticmethod(bitpacking.pack_cpu), staticmethod(bitpacking.unpack_cpu)


class Scales(Peer):
    library = "torchao"
    what = "pack_tinygemm_scales_and_zeros, unpack_tinygemm_scales_and_zeros"

    def decode(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        scales, shifts = utils.unpack_tinygemm_scales_and_zeros(stored["scale_and_zero"])
        return {"scales": scales.squeeze(2), "shifts": shifts.squeeze(2)}

    def encode(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {"scale_and_zero": utils.pack_tinygemm_scales_and_zeros(parts["scales"], parts["shifts"])}


class TestShards(PeerTests):
    peers = tuple(kind("torchao_uintx", bits) for kind in (Shards, ShardsOnCpu) for bits in range(1, 8))


class TestScales(PeerTests):
    peers = (Scales("torchao_int4", 4), Scales("torchao_tile_packed", 4))
