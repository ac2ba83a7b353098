"""gptqmodel on the CPU: its plain linear layer, and the one that calls torch's fused 4-bit product."""

from __future__ import annotations

import os
from typing import Any, ClassVar, cast

import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.nn_modules.qlinear.torch_fused import TorchFusedLinear
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.codecs.base import Shape
from quantcheck.codecs.gptq import v2
from quantcheck.kernels.base import Grouped
from quantcheck.kernels.checked import CheckedKernel, Prepared

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "1")


class Torch(CheckedKernel):
    """``TorchLinear`` in version 2 of the format, with scales in float32, which holds those of any dtype."""

    name: ClassVar[str] = "gptqmodel_torch"
    module: ClassVar[Any] = TorchLinear

    def _prepare(self, weight: Grouped) -> Any:
        rows, cols = weight.shape
        if not rows * cols:
            return None
        group_size = -(-cols // weight.scales.shape[1])
        zero_points = weight.zero_points
        if zero_points is None:
            zero_points = torch.full(weight.scales.shape, 1 << (weight.bits - 1), dtype=torch.uint8)
        parts = {
            "codes": bitstream.unpack(weight.qweight, weight.bits, cols),
            "zero_points": zero_points,
            "scales": torch.zeros(weight.scales.shape, dtype=torch.float16),
            "g_idx": weight.g_idx,
        }
        stored = v2(weight.bits).pack(parts, Shape(rows, cols, group_size))
        stored["scales"] = weight.scales.T.float().contiguous()
        module = self.module(
            bits=weight.bits,
            group_size=self.group_size(cols, group_size),
            sym=weight.zero_points is None,
            desc_act=True,
            in_features=cols,
            out_features=rows,
            register_buffers=True,
        )
        for name, tensor in stored.items():
            module.register_buffer(name, tensor)
        with torch.compiler.set_stance("force_eager"):
            module.post_init()
        return module.eval()

    def group_size(self, cols: int, group_size: int) -> int:
        """Return the group size that the layer is told: with ``g_idx`` it needs none, and refuses most."""
        return cols

    def _dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            return cast("Tensor", prepared.layout.dequantize_weight().T.to(dtype))

    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            return cast("Tensor", prepared.layout(inputs))


class Fused(Torch):
    """``TorchFusedLinear``, for whose product the layer is transformed on its first call."""

    name: ClassVar[str] = "gptqmodel_fused"
    module: ClassVar[Any] = TorchFusedLinear

    def group_size(self, cols: int, group_size: int) -> int:
        """Return the group size that the product needs."""
        return group_size

    def _prepare(self, weight: Grouped) -> Any:
        # The first call gives up what decodes the weight, so there is a layer for each purpose.
        return super()._prepare(weight), super()._prepare(weight)

    def _dequantize(self, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            return cast("Tensor", prepared.layout[0].dequantize_weight().T.to(dtype))

    def _matmul(self, inputs: Tensor, prepared: Prepared, act_bits: int | None) -> Tensor:
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            return cast("Tensor", prepared.layout[1](inputs))
