"""Other libraries' products with quantized weights: what `benchmarks.kernels` times beside ours.

Each function brings one weight into what one library computes with, beforehand, and yields the routines that
multiply by it; the same ones run on a CPU and on a GPU, where the library has a kernel for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantcheck.codecs import bitstream, build
from quantcheck.codecs.base import Shape
from quantcheck.kernels.base import Codebook, Grouped, Operand, Planes
from quantcheck.kernels.reference import centre
from quantcheck.kernels.tokens import round_tokens

Multiply = Callable[[Tensor], Tensor]
"""Inputs [tokens, in] to [tokens, out]."""


@dataclass(frozen=True, eq=False)
class Weight:
    """A quantized weight, and what it is to be multiplied with.

    Attributes:
        operand: on the device that runs.
        dtype: of the inputs.
        group_size: columns that share a scale; ``None``: all.
        act_bits: width that inputs are rounded to; ``None``: left as they are.
    """

    operand: Operand
    dtype: torch.dtype
    group_size: int | None
    act_bits: int | None

    @property
    def codes(self) -> Tensor:
        """Unpack integer codes, uint8 [out, in]."""
        assert isinstance(self.operand, Grouped)
        return bitstream.unpack(self.operand.qweight, self.operand.bits, self.operand.in_features)


Peer = Callable[[Weight], Iterator[tuple[str, Multiply]]]

COARSEST = {"gptqmodel, TorchLinear": torch.float16, "gptqmodel, TritonV2Linear": torch.float16}
"""What a peer rounds weights to, where that is coarser than its inputs."""


def plain(weight: Weight) -> Iterator[tuple[str, Multiply]]:
    """Decode with a few of torch's operations, then multiply by `F.linear`."""
    operand, dtype = weight.operand, weight.dtype

    def decode() -> Tensor:
        match operand:
            case Grouped():
                return _grouped(operand, weight.group_size, dtype)
            case Codebook():
                return _codebook(operand, dtype)
            case Planes():
                return _planes(operand, weight.group_size, dtype)

    yield "torch, dequantize then linear", lambda x: F.linear(_rounded(x, weight.act_bits), decode())


def _rounded(x: Tensor, act_bits: int | None) -> Tensor:
    if act_bits is None:
        return x
    steps, scales = round_tokens(x, act_bits)
    return (steps * scales).to(x.dtype)


def _fields(packed: Tensor, bits: int, cols: int) -> Tensor:
    """Read a row's fields by shifting each byte, where they do not straddle bytes."""
    if 8 % bits:
        return bitstream.unpack(packed, bits, cols)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return (packed[..., None] >> shifts & (1 << bits) - 1).flatten(-2)[..., :cols]


def _grouped(weight: Grouped, group_size: int | None, dtype: torch.dtype) -> Tensor:
    rows, cols = weight.shape
    codes = _fields(weight.qweight, weight.bits, cols).view(rows, -1, group_size or cols).to(dtype)
    zero_points: Tensor | float = centre(weight.bits)
    if weight.zero_points is not None:
        zero_points = weight.zero_points.to(dtype)[:, :, None]
    return ((codes - zero_points) * weight.scales.to(dtype)[:, :, None]).view(rows, cols)


def _codebook(weight: Codebook, dtype: torch.dtype) -> Tensor:
    codes = _fields(weight.qweight, 4, 2 * weight.qweight.numel()).int()
    levels = weight.levels[codes].view(-1, weight.block_size) * weight.absmax[:, None]
    return levels.view(weight.shape).to(dtype)


def _planes(weight: Planes, group_size: int | None, dtype: torch.dtype) -> Tensor:
    planes, (rows, cols) = len(weight.planes), weight.shape
    bits = _fields(weight.planes, 1, cols).view(planes, rows, -1, group_size or cols).to(dtype)
    signs = 2 * bits - 1 if weight.signed else bits
    return (signs * weight.scales.to(dtype)[..., None]).sum(0).view(rows, cols)


def unquantized(weight: Weight) -> Iterator[tuple[str, Multiply]]:
    """Multiply by the weight that was decoded once: what quantization competes with."""
    if weight.act_bits is None:
        reference = build_reference(weight)
        yield "torch, linear, not quantized", lambda x: F.linear(x, reference)


def build_reference(weight: Weight) -> Tensor:
    """Decode by the plain reference, rounded once."""
    from quantcheck.kernels import build as kernel

    family = {Grouped: "grouped", Codebook: "codebook", Planes: "planes"}[type(weight.operand)]
    reference = kernel(f"reference_{family}")
    return reference.dequantize(reference.prepare(weight.operand, weight.dtype), weight.dtype)


def int4pack(weight: Weight) -> Iterator[tuple[str, Multiply]]:
    """Multiply by torch's own int4 kernel for CPUs, and by torchao's tensor on top of it, in bfloat16.

    In float32 that kernel has no vector code: 128 tokens take it hundreds of times as long as any other.
    """
    operand, size = weight.operand, weight.group_size
    if not _four_bits(weight) or operand.qweight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return
    assert isinstance(operand, Grouped)
    assert operand.zero_points is not None
    assert size is not None
    scales = operand.scales.to(weight.dtype)
    shifts = (8 - operand.zero_points.to(weight.dtype)) * scales
    scale_and_zero = torch.stack([scales.T, shifts.T], dim=2).contiguous()
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight.codes.int(), 1)
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    yield "torch, _weight_int4pack_mm_for_cpu", lambda x: multiply(x, packed, size, scale_and_zero)

    from torchao.prototype.quantization.int4.int4_opaque_tensor import Int4OpaqueTensor

    opaque = Int4OpaqueTensor(packed, scale_and_zero, [1, size], torch.Size(operand.shape))
    yield "torchao, Int4OpaqueTensor", lambda x: F.linear(x, opaque)


def _four_bits(weight: Weight) -> bool:
    return isinstance(weight.operand, Grouped) and weight.operand.bits == 4 and weight.act_bits is None


def torchao_int8(weight: Weight) -> Iterator[tuple[str, Multiply]]:
    """Multiply by torchao's int8 tensor, which rounds its inputs token by token."""
    operand = weight.operand
    if weight.act_bits != 8 or not isinstance(operand, Grouped) or operand.bits != 8:
        return
    if operand.zero_points is not None or weight.group_size is not None:
        return
    from torchao.quantization import Int8Tensor, PerRow
    from torchao.quantization.quantize_.workflows import QuantizeTensorToInt8Kwargs

    tensor = Int8Tensor(
        (weight.codes.int() - 128).to(torch.int8),
        operand.scales.to(weight.dtype),
        [1, operand.in_features],
        weight.dtype,
        act_quant_kwargs=QuantizeTensorToInt8Kwargs(granularity=PerRow()),
    )
    yield "torchao, Int8Tensor", lambda x: F.linear(x, tensor)


def gptqmodel(weight: Weight) -> Iterator[tuple[str, Multiply]]:
    """Multiply by gptqmodel's plain module, and on a GPU by its Triton one."""
    operand = weight.operand
    if not isinstance(operand, Grouped) or weight.act_bits is not None or operand.zero_points is None:
        return
    if operand.bits not in (2, 3, 4, 8):
        return
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    yield "gptqmodel, TorchLinear", _module(weight, TorchLinear)
    if operand.qweight.device.type == "cuda" and operand.bits != 3:
        from gptqmodel.nn_modules.qlinear.tritonv2 import TritonV2Linear

        yield "gptqmodel, TritonV2Linear", _module(weight, TritonV2Linear)


def _module(weight: Weight, kind: Any) -> Any:
    from gptqmodel.quantization import FORMAT

    operand, size = weight.operand, weight.group_size
    assert isinstance(operand, Grouped)
    rows, cols = operand.shape
    parts = {
        "codes": weight.codes,
        "zero_points": operand.zero_points,
        "scales": operand.scales,
        "g_idx": operand.g_idx,
    }
    stored = build("gptq_v2", operand.bits).pack(parts, Shape(rows, cols, size))
    module = kind(
        bits=operand.bits,
        group_size=size or cols,
        sym=False,
        desc_act=False,
        in_features=cols,
        out_features=rows,
        register_buffers=True,
        format=FORMAT.GPTQ_V2,
    )
    for name, tensor in stored.items():
        module.register_buffer(name, tensor.clone())
    module = module.to(operand.qweight.device)
    module.post_init()
    return module.eval()


def bitsandbytes(weight: Weight) -> Iterator[tuple[str, Multiply]]:
    """Multiply by bitsandbytes' NF4, and in bfloat16 on a CPU by its packing for that, too."""
    operand = weight.operand
    if not isinstance(operand, Codebook):
        return
    import bitsandbytes as bnb
    from bitsandbytes import functional

    def state() -> Any:
        return functional.QuantState(
            absmax=operand.absmax.clone(),
            shape=torch.Size(operand.shape),
            dtype=weight.dtype,
            blocksize=operand.block_size,
            code=operand.levels.clone(),
            quant_type="nf4",
        )

    # There the first of two codes is the high one.
    packed, loaded = (operand.qweight << 4 | operand.qweight >> 4)[:, None], state()
    yield "bitsandbytes, matmul_4bit", lambda x: bnb.matmul_4bit(x, packed, loaded)
    on_cpu = packed.device.type == "cpu"
    if on_cpu and weight.dtype == torch.bfloat16 and functional.has_avx512bf16():
        for_cpu, its_state = functional._convert_weight_packed_for_cpu(packed.clone(), state())
        yield "bitsandbytes, packed for CPU", lambda x: bnb.matmul_4bit(x, for_cpu, its_state)


PEERS: tuple[Peer, ...] = (plain, unquantized, int4pack, torchao_int8, gptqmodel, bitsandbytes)
