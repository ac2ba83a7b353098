"""GPTQ, AWQ and their relatives against gptqmodel: its packers, its readers and its plain CPU module."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor, nn

from quantcheck.codecs.base import Shape, Tensors

from .peers import Fills, Peer, PeerTests, group_size, library

model = library("gptqmodel.utils.model")
model_dequant = library("gptqmodel.utils.model_dequant")
planar = library("gptqmodel.utils.planar_packing")
awq = library("gptqmodel.quantization.awq.utils.packing_utils")
awq_fast = library("gptqmodel.nn_modules.qlinear.gemv_fast_awq")
TorchLinear = library("gptqmodel.nn_modules.qlinear.torch").TorchLinear
FORMAT = library("gptqmodel.quantization").FORMAT
NAMES = ("qweight", "qzeros", "scales", "g_idx")
BORROWED = ("top", "middle")
"""Zero points other than 0, which gptqmodel adds to and takes from as whole words (docs/findings.md)."""


class Module(Peer):
    """A linear layer that holds the tensors of version 2, as gptqmodel computes with them."""

    library = "gptqmodel"
    what = "TorchLinear.pack_original, dequantize_weight, forward"
    fills: ClassVar[Fills] = {"scales": ("ones", "powers")}
    format = "gptq_v2"

    def holds(self, shape: Shape) -> bool:
        return shape.group_size in (None, 16, 32, 64, 128) and shape.cols % group_size(shape) == 0

    def decode(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        module = self._module(shape)
        for name in NAMES:
            module.register_buffer(name, stored[name].clone())
        self._load(module)
        module.post_init()
        module.eval()
        identity = torch.eye(shape.cols, dtype=torch.float16)
        return {"weights": module.dequantize_weight().T, "forward": module(identity).T}

    def expected(self, name: str, parts: Tensors, shape: Shape) -> Tensor:
        return super().expected("weights" if name == "forward" else name, parts, shape)

    def encode(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        module, linear = self._module(shape), nn.Linear(shape.cols, shape.rows, bias=False)
        linear.weight.data = self.codec.weights(parts, shape)
        self._pack(module, linear.requires_grad_(False), parts)
        return {name: getattr(module, name) for name in NAMES}

    def _module(self, shape: Shape) -> nn.Module:
        return TorchLinear(
            bits=self.codec.bits,
            group_size=group_size(shape),
            sym=False,
            desc_act=True,
            in_features=shape.cols,
            out_features=shape.rows,
            register_buffers=True,
            format=FORMAT(self.format),
        )

    def _load(self, module: nn.Module) -> None:
        pass

    def _pack(self, module: nn.Module, linear: nn.Module, parts: Tensors) -> None:
        scales, zero_points = parts["scales"].float(), parts["zero_points"].float()
        module.pack_original(linear, scales, zero_points, parts["g_idx"])


class ModuleOfBlocks(Module):
    """The same, packed by the code that gptqmodel packs whole models with."""

    what = "TorchLinear.pack_block, dequantize_weight, forward"

    def shapes(self) -> list[Shape]:
        sizes = product((32, 64), (32, 64, 96, 256), (None, 32, 128))
        return [shape for shape in (Shape(*size) for size in sizes) if self.holds(shape)]

    def _pack(self, module: nn.Module, linear: nn.Module, parts: Tensors) -> None:
        scales, zero_points = parts["scales"].float(), parts["zero_points"].float()
        module.pack_block(linear, scales, zero_points, parts["g_idx"])


class PlanarModule(ModuleOfBlocks):
    format = "gptq_p"


class VersionOne(ModuleOfBlocks):
    """Version 1, turned into version 2 on loading and back on saving, word by word."""

    what = "convert_gptq_v1_to_v2_format_module, convert_gptq_v2_to_v1_format_module"
    fills: ClassVar[Fills] = {"scales": ("ones", "powers"), "zero_points": BORROWED}
    format = "gptq"

    def _load(self, module: nn.Module) -> None:
        model.convert_gptq_v1_to_v2_format_module(module, self.codec.bits, torch.int32)

    def _pack(self, module: nn.Module, linear: nn.Module, parts: Tensors) -> None:
        super()._pack(module, linear, parts)
        config = SimpleNamespace(bits=self.codec.bits, pack_dtype=torch.int32)
        model.convert_gptq_v2_to_v1_format_module(module, config)


class FieldByField(Peer):
    """Zero points of version 1, 0 among them, as gptqmodel's checkpoint converter reads them."""

    library = "gptqmodel"
    what = "model_dequant._correct_gptq_v1_qzeros, _revert_gptq_v1_qzeros_correction"

    def decode(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {"qzeros": model_dequant._correct_gptq_v1_qzeros(stored["qzeros"], self.codec.bits)}

    def expected(self, name: str, parts: Tensors, shape: Shape) -> Tensor:
        return self._version_two(parts, shape)

    def encode(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        qzeros = self._version_two(parts, shape)
        return {"qzeros": model_dequant._revert_gptq_v1_qzeros_correction(qzeros, self.codec.bits)}

    def _version_two(self, parts: Tensors, shape: Shape) -> Tensor:
        return Peer("gptq_v2", self.codec.bits).codec.pack(parts, shape)["qzeros"]


class Planes(Peer):
    library = "gptqmodel"
    what = "planar_pack_rows, planar_pack_cols, planar_unpack_rows, planar_unpack_cols"

    def decode(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        codes = planar.planar_unpack_rows(stored["qweight"], self.codec.bits)
        zero_points = planar.planar_unpack_cols(stored["qzeros"], self.codec.bits)
        return {"codes": codes.T.to(torch.uint8), "zero_points": zero_points.T.to(torch.uint8)}

    def encode(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {
            "qweight": planar.planar_pack_rows(parts["codes"].T, self.codec.bits),
            "qzeros": planar.planar_pack_cols(parts["zero_points"].T, self.codec.bits),
        }


class AwqGemm(Peer):
    library = "gptqmodel"
    what = "pack_awq, dequantize_gemm"

    def decode(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        tensors = (stored[name] for name in ("qweight", "qzeros", "scales"))
        return {"weights": awq.dequantize_gemm(*tensors, self.codec.bits, group_size(shape)).T}

    def encode(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        codes, zero_points = (parts[name].T.int().contiguous() for name in ("codes", "zero_points"))
        qweight, qzeros = awq.pack_awq(codes, zero_points, self.codec.bits)
        return {"qweight": qweight, "qzeros": qzeros}


class AwqFast(Peer):
    library = "gptqmodel"
    what = "gemv_fast_awq.pack_intweight"

    def encode(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        return {"qweight": awq_fast.pack_intweight(parts["codes"].int(), interleave=4, kstride=64)}


class TestGptq(PeerTests):
    peers = (
        *(kind("gptq_v2", bits) for kind in (Module, ModuleOfBlocks) for bits in (2, 3, 4, 8)),
        *(kind("gptq_v1", bits) for kind in (VersionOne, FieldByField) for bits in (2, 3, 4, 8)),
        *(kind("gptq_planar", bits) for kind in (PlanarModule, Planes) for bits in (3, 5, 6, 7)),
    )


class TestAwq(PeerTests):
    peers = (AwqGemm("awq_gemm", 4), AwqFast("llm_awq", 4))
