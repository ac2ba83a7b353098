"""``pack-quantized`` against compressed-tensors in both forms, and its FP4.

The release that is installed packs densely. One that pads, 0.17.1, the last to do so, lies unpacked beside
the environment's packages, from where its packer alone is loaded (``make interop`` puts it there).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from quantcheck.codecs.base import Shape, Tensors
from quantcheck.codecs.compressed_tensors_fp4 import LEVELS

from .peers import REQUIRED, Fills, Peer, PeerTests, library

dense = library("compressed_tensors.compressors.pack_quantized.helpers")
compressor = library("compressed_tensors.compressors.pack_quantized.base").PackedQuantizationCompressor
fp4 = library("compressed_tensors.compressors.nvfp4.helpers")
quantization = library("compressed_tensors.quantization")
PADDED = "0.17.1"


def older() -> ModuleType:
    """Load the packer of the release that pads."""
    folder = Path(sys.prefix) / f"compressed-tensors-{PADDED}"
    path = folder / "compressed_tensors/compressors/pack_quantized/helpers.py"
    if not path.is_file() and not REQUIRED:
        pytest.skip(
            f"pip install --no-deps --target {folder.name} compressed-tensors=={PADDED}: {path} is missing"
        )
    spec = importlib.util.spec_from_file_location("padded_helpers", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Dense(Peer):
    library = "compressed-tensors"
    what = "pack_to_int32, unpack_from_int32"

    @property
    def helpers(self) -> ModuleType:
        return dense

    @property
    def middle(self) -> int:
        return 1 << self.codec.bits - 1

    def decode(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {
            "codes": self._unpack(stored["weight_packed"], (shape.rows, shape.cols), 1),
            "zero_points": self._unpack(stored["weight_zero_point"], (shape.rows, shape.groups), 0),
        }

    def encode(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {
            "weight_packed": self._pack(parts["codes"], 1),
            "weight_zero_point": self._pack(parts["zero_points"], 0),
        }

    def _pack(self, codes: Tensor, dim: int) -> Tensor:
        signed = (codes.int() - self.middle).to(torch.int8)
        return self.helpers.pack_to_int32(signed, self.codec.bits, packed_dim=dim).contiguous()

    def _unpack(self, words: Tensor, shape: tuple[int, int], dim: int) -> Tensor:
        signed = self.helpers.unpack_from_int32(words, self.codec.bits, torch.Size(shape), packed_dim=dim)
        return (signed.int() + self.middle).to(torch.uint8)


class Padded(Dense):
    version = PADDED

    @property
    def helpers(self) -> ModuleType:
        return older()


class Compressor(Peer):
    """The whole checkpoint of a layer, by the class that loads and saves it."""

    library = "compressed-tensors"
    what = "PackedQuantizationCompressor.compress, decompress"
    fills: ClassVar[Fills] = {"scales": ("ones", "powers")}

    def decode(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {"weights": compressor.decompress(dict(stored), self._scheme(shape))["weight"]}

    def encode(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        state = {
            "weight": self.codec.weights(parts, shape),
            "weight_scale": parts["scales"],
            "weight_zero_point": (parts["zero_points"].int() - (1 << self.codec.bits - 1)).to(torch.int8),
        }
        return {
            name: tensor.contiguous()
            for name, tensor in compressor.compress(state, self._scheme(shape)).items()
        }

    def _scheme(self, shape: Shape) -> object:
        strategy = {"strategy": "group", "group_size": shape.group_size} if shape.group_size else {}
        weights = quantization.QuantizationArgs(
            num_bits=self.codec.bits, symmetric=False, **(strategy or {"strategy": "channel"})
        )
        return quantization.QuantizationScheme(targets=["Linear"], weights=weights)


class Fp4(Peer):
    library = "compressed-tensors"
    what = "pack_fp4_to_uint8, unpack_fp4_from_uint8"

    def decode(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        size = shape.rows, shape.cols
        return {"levels": fp4.unpack_fp4_from_uint8(stored["weight_packed"], *size, dtype=torch.float32)}

    def expected(self, name: str, parts: Tensors, shape: Shape) -> Tensor:
        return torch.tensor(LEVELS)[parts["codes"].int()]

    def encode(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {"weight_packed": fp4.pack_fp4_to_uint8(self.expected("levels", parts, shape))}


class TestCompressedTensors(PeerTests):
    peers = (
        *(Dense("ct_dense", bits) for bits in range(1, 9)),
        *(Padded("ct_padded", bits) for bits in range(1, 9)),
        *(Compressor("ct_dense", bits) for bits in range(1, 9)),
        Fp4("ct_fp4", 4),
    )
