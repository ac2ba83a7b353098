"""Other libraries' own code for the pack formats: what `benchmarks.codecs` times beside ours.

Each function prepares what one library does with one weight: arguments are brought into the form that it
takes beforehand, and what it returns is brought into ours afterwards, so that neither is timed.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.codec_case import Case, Work
from quantcheck.codecs.compressed_tensors_fp4 import LEVELS
from quantcheck.codecs.torchao_uintx import SHARDS

PADDED = "0.17.1"
"""The last release of compressed-tensors that pads."""


def gptq(case: Case) -> Iterator[Work]:
    """Pack as gptqmodel turns AWQ into GPTQ, unpack as its checkpoint converter does."""
    from gptqmodel.quantization.awq.utils.packing_utils import pack_exllama
    from gptqmodel.utils.model_dequant import unpack_cols, unpack_rows

    bits, stored, first = case.bits, case.stored, int(case.codec.name == "gptq_v1")
    codes, zero_points = case.across("codes"), case.across("zero_points") - first & (1 << case.bits) - 1
    yield Work(
        "pack",
        "gptqmodel pack_exllama",
        lambda: pack_exllama(codes, zero_points, bits),
        lambda packed: {"qweight": packed[0], "qzeros": packed[1]},
    )
    yield Work(
        "unpack",
        "gptqmodel unpack_rows, unpack_cols",
        lambda: (unpack_rows(stored["qweight"], bits), unpack_cols(stored["qzeros"], bits)),
        lambda found: {"codes": found[0].T, "zero_points": found[1].T + first & (1 << bits) - 1},
    )


def gptq_blocks(case: Case) -> Iterator[Work]:
    """Encode as gptqmodel packs whole models, by its C++."""
    from gptqmodel.nn_modules.qlinear.pack_block_ext import pack_block_cpu
    from gptqmodel.utils.cpp import load_pack_block_extension

    if case.codec.name != "gptq_v2" or case.bits == 3:
        return
    if load_pack_block_extension() is None:
        raise ImportError("pack_block_cpu does not compile here")
    parts, bits, threads = case.parts, case.bits, torch.get_num_threads()
    weights = case.codec.weights(parts, case.shape)
    scales, zero_points = (parts[name].T.float().contiguous() for name in ("scales", "zero_points"))
    g_idx = parts["g_idx"].long()
    yield Work(
        "encode",
        "gptqmodel pack_block_cpu",
        lambda: pack_block_cpu(weights, scales, zero_points.int(), g_idx, bits, 32, 8192, threads),
        lambda packed: {"qweight": packed[0], "qzeros": packed[1]},
        compiled=True,
    )


def gptq_planar(case: Case) -> Iterator[Work]:
    """Pack and unpack by gptqmodel's planar functions."""
    from gptqmodel.utils import planar_packing as planar

    bits, stored = case.bits, case.stored
    codes, zero_points = case.across("codes"), case.across("zero_points")
    yield Work(
        "pack",
        "gptqmodel planar_pack_rows, planar_pack_cols",
        lambda: (planar.planar_pack_rows(codes, bits), planar.planar_pack_cols(zero_points, bits)),
        lambda packed: {"qweight": packed[0], "qzeros": packed[1]},
    )
    yield Work(
        "unpack",
        "gptqmodel planar_unpack_rows, planar_unpack_cols",
        lambda: (
            planar.planar_unpack_rows(stored["qweight"], bits),
            planar.planar_unpack_cols(stored["qzeros"], bits),
        ),
        lambda found: {"codes": found[0].T, "zero_points": found[1].T},
    )


def awq_gemm(case: Case) -> Iterator[Work]:
    """Pack and unpack by gptqmodel's AutoAWQ code."""
    from gptqmodel.quantization.awq.utils import packing_utils as awq

    stored, codes, zero_points = case.stored, case.across("codes"), case.across("zero_points")
    yield Work(
        "pack",
        "gptqmodel pack_awq",
        lambda: awq.pack_awq(codes, zero_points, 4),
        lambda packed: {"qweight": packed[0], "qzeros": packed[1]},
    )
    yield Work(
        "unpack",
        "gptqmodel unpack_awq, reverse_awq_order",
        lambda: awq.reverse_awq_order(*awq.unpack_awq(stored["qweight"], stored["qzeros"], 4), 4),
        lambda found: {"codes": found[0].T & 15, "zero_points": found[1].T & 15},
    )


def llm_awq(case: Case) -> Iterator[Work]:
    """Pack by gptqmodel's copy of llm-awq; it has nothing that unpacks."""
    from gptqmodel.nn_modules.qlinear.gemv_fast_awq import pack_intweight

    codes = case.parts["codes"].int()
    yield Work(
        "pack",
        "gptqmodel pack_intweight",
        lambda: pack_intweight(codes, interleave=4, kstride=64),
        lambda packed: {"qweight": packed},
    )


def ct_dense(case: Case) -> Iterator[Work]:
    """Pack and unpack by the release of compressed-tensors that is installed."""
    from compressed_tensors.compressors.pack_quantized import helpers

    return _compressed_tensors(case, helpers, "")


def ct_padded(case: Case) -> Iterator[Work]:
    """Pack and unpack by the last release that pads, where it lies unpacked beside the packages."""
    package = Path(sys.prefix) / f"compressed-tensors-{PADDED}/compressed_tensors"
    path = package / "compressors/pack_quantized/helpers.py"
    if not path.is_file():
        raise ImportError(f"{path} is missing")
    spec = importlib.util.spec_from_file_location("padded_helpers", path)
    assert spec is not None
    assert spec.loader is not None
    helpers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(helpers)
    return _compressed_tensors(case, helpers, f" ({PADDED})")


def _compressed_tensors(case: Case, helpers: ModuleType, release: str) -> Iterator[Work]:
    bits, stored, middle = case.bits, case.stored, 1 << case.bits - 1
    codes, zero_points = (
        (case.parts[name].int() - middle).to(torch.int8) for name in ("codes", "zero_points")
    )
    yield Work(
        "pack",
        f"compressed-tensors pack_to_int32{release}",
        lambda: (helpers.pack_to_int32(codes, bits), helpers.pack_to_int32(zero_points, bits, packed_dim=0)),
        lambda packed: {"weight_packed": packed[0], "weight_zero_point": packed[1]},
    )
    yield Work(
        "unpack",
        f"compressed-tensors unpack_from_int32{release}",
        lambda: (
            helpers.unpack_from_int32(stored["weight_packed"], bits, codes.shape),
            helpers.unpack_from_int32(stored["weight_zero_point"], bits, zero_points.shape, packed_dim=0),
        ),
        lambda found: {"codes": found[0].int() + middle, "zero_points": found[1].int() + middle},
    )


def ct_fp4(case: Case) -> Iterator[Work]:
    """Pack and unpack levels, which compressed-tensors has no codes for."""
    from compressed_tensors.compressors.nvfp4 import helpers

    packed, levels = case.stored["weight_packed"], torch.tensor(LEVELS)
    values = levels[case.parts["codes"].int()]
    yield Work(
        "pack",
        "compressed-tensors pack_fp4_to_uint8, of levels",
        lambda: helpers.pack_fp4_to_uint8(values),
        lambda found: {"weight_packed": found},
    )
    yield Work(
        "unpack",
        "compressed-tensors unpack_fp4_from_uint8, to levels",
        lambda: helpers.unpack_fp4_from_uint8(packed, *values.shape, dtype=torch.float32),
        lambda found: {"codes": _coded(found)},
    )


def _coded(levels: Tensor) -> Tensor:
    """Return the codes of E2M1 levels; the sign alone tells the two zeros apart."""
    magnitudes = torch.bucketize(levels.abs(), torch.tensor(LEVELS[:8]))
    return magnitudes + 8 * levels.signbit()


def bitsandbytes(case: Case) -> Iterator[Work]:
    """Decode by bitsandbytes' C++; it packs only what it has quantized itself."""
    from bitsandbytes import functional

    stored, kind = case.stored, case.codec.name.split("_")[1]
    state = functional.QuantState(
        absmax=stored["weight.absmax"],
        shape=torch.Size((case.shape.rows, case.shape.cols)),
        dtype=torch.float32,
        blocksize=64,
        code=functional.get_4bit_type(kind, device="cpu"),
        quant_type=kind,
    )
    if "weight.nested_absmax" in stored:
        state.nested, state.offset = True, stored["weight.nested_offset"][0]
        state.state2 = functional.QuantState(
            absmax=stored["weight.nested_absmax"],
            blocksize=256,
            code=functional.create_dynamic_map(),
            dtype=torch.float32,
        )
    yield Work(
        "decode",
        "bitsandbytes dequantize_4bit",
        lambda: functional.dequantize_4bit(stored["weight"], state),
        lambda weights: {"weights": weights},
        compiled=True,
    )


def hqq(case: Case) -> Iterator[Work]:
    """Pack and unpack by hqq."""
    from hqq.core.quantize import Quantizer

    packing, groups = Quantizer.bit_to_packing[case.bits], case.shape.rows * case.shape.groups
    matrix, packed = case.parts["codes"].view(groups, -1), case.stored["W_q"]
    yield Work(
        "pack",
        "hqq Quantizer.pack",
        lambda: Quantizer.pack[packing](matrix),
        lambda found: {"W_q": found},
    )
    yield Work(
        "unpack",
        "hqq Quantizer.unpack",
        lambda: Quantizer.unpack[packing](packed),
        lambda found: {"codes": found[:groups].reshape(case.shape.rows, case.shape.cols)},
    )


def quanto(case: Case) -> Iterator[Work]:
    """Pack and unpack by optimum-quanto's Python, and unpack by its C++."""
    import optimum.quanto.library  # noqa: F401
    from optimum.quanto.tensor.packed import pack_weights

    plain = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)
    bits, packed, groups = case.bits, case.stored["weight._data._data"], case.shape.rows * case.shape.groups
    matrix, unpack = case.parts["codes"].view(groups, -1), torch.ops.quanto.unpack

    def read(found: Tensor) -> dict[str, Tensor]:
        return {"codes": found[:groups].reshape(case.shape.rows, case.shape.cols)}

    yield Work(
        "pack",
        "optimum-quanto pack_weights",
        lambda: pack_weights(matrix, bits),
        lambda found: {"weight._data._data": found},
    )
    yield Work(
        "unpack",
        "optimum-quanto quanto::unpack, plain",
        lambda: unpack.default.redispatch(plain, packed, bits),
        read,
    )
    try:
        unpack(packed, bits)
    except Exception as error:
        raise ImportError(f"quanto_cpp does not compile here: {error}") from error
    yield Work(
        "unpack", "optimum-quanto quanto::unpack, C++", lambda: unpack(packed, bits), read, compiled=True
    )


def torchao_uintx(case: Case) -> Iterator[Work]:
    """Pack and unpack by torchao, in the way that it has for CPUs and in the other one."""
    from torchao.prototype.dtypes.uintx import bitpacking

    bits, codes, names = case.bits, case.parts["codes"], [f"int{width}_shard" for width in SHARDS[case.bits]]
    shards = [case.stored[name] for name in names]
    for suffix in ("_cpu", ""):
        pack, unpack = (getattr(bitpacking, name + suffix) for name in ("pack", "unpack"))
        yield Work(
            "pack",
            f"torchao pack{suffix}",
            lambda pack=pack: pack(codes, bits, -1),
            lambda found: dict(zip(names, found, strict=True)),
        )
        yield Work(
            "unpack",
            f"torchao unpack{suffix}",
            lambda unpack=unpack: unpack(shards, bits, -1),
            lambda found: {"codes": found},
        )


def gguf(case: Case) -> Iterator[Work]:
    """Decode by gguf-py's NumPy; it packs only what it has quantized itself."""
    from gguf import GGMLQuantizationType, quants

    blocks = case.stored["blocks"].numpy()
    type_ = GGMLQuantizationType[case.codec.name.removeprefix("gguf_").upper()]
    yield Work(
        "decode",
        "gguf quants.dequantize",
        lambda: quants.dequantize(blocks, type_),
        lambda weights: {"weights": torch.from_numpy(weights)},
    )


def bitstream(case: Case) -> Iterator[Work]:
    """Pack and unpack single bits by NumPy."""
    import numpy as np

    if case.bits != 1:
        return
    codes, packed = case.parts["codes"].numpy(), case.stored["packed"].numpy()
    yield Work(
        "pack",
        "numpy packbits",
        lambda: np.packbits(codes, axis=1, bitorder="little"),
        lambda found: {"packed": torch.from_numpy(found)},
        compiled=True,
    )
    yield Work(
        "unpack",
        "numpy unpackbits",
        lambda: np.unpackbits(packed, axis=1, count=codes.shape[1], bitorder="little"),
        lambda found: {"codes": torch.from_numpy(found)},
        compiled=True,
    )


PEERS: dict[str, tuple[Callable[[Case], Iterator[Work]], ...]] = {
    "bitstream": (bitstream,),
    "gptq_v1": (gptq,),
    "gptq_v2": (gptq, gptq_blocks),
    "gptq_planar": (gptq_planar,),
    "awq_gemm": (awq_gemm,),
    "llm_awq": (llm_awq,),
    "ct_dense": (ct_dense,),
    "ct_padded": (ct_padded,),
    "ct_fp4": (ct_fp4,),
    "bnb": (bitsandbytes,),
    "hqq": (hqq,),
    "quanto": (quanto,),
    "torchao_uintx": (torchao_uintx,),
    "gguf": (gguf,),
}
"""By codec, or by the first word of its name. Nothing here packs torchao's int4, whose packers need a GPU."""


def peers(case: Case, left_out: dict[str, str]) -> list[Work]:
    """Prepare what libraries have for a format; who cannot be imported is noted in ``left_out``."""
    name, found = case.codec.name, list[Work]()
    for prepare in PEERS.get(name, PEERS.get(name.split("_")[0], ())):
        try:
            found.extend(prepare(case))
        except ImportError as error:
            left_out[prepare.__name__] = str(error)
    return found
