"""GGUF's types against gguf-py, the package of llama.cpp, in both directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quantcheck.codecs import CODECS, build
from quantcheck.codecs.base import Shape
from quantcheck.codecs.gguf.blocks import BlockFormat

gguf = pytest.importorskip("gguf", reason="gguf-py is not installed (the extra interop)")

NAMES = [name for name in CODECS.names() if name.startswith("gguf")]
QUANTIZED = ("gguf_q4_0", "gguf_q5_0", "gguf_q8_0", "gguf_tq1_0", "gguf_tq2_0")
ROWS, BLOCKS = 5, 4


def case(name: str) -> tuple[BlockFormat, Shape, object]:
    codec = build(name, CODECS.entry(name).capabilities.bits[0])
    assert isinstance(codec, BlockFormat)
    kind = gguf.GGMLQuantizationType[name.removeprefix("gguf_").upper()]
    assert gguf.GGML_QUANT_SIZES[kind] == (codec.cols_multiple, codec.block_bytes)
    return codec, Shape(ROWS, BLOCKS * codec.cols_multiple, codec.group_sizes[0]), kind


@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_we_pack_decode_there_to_the_same_weights(name: str) -> None:
    codec, shape, kind = case(name)
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for part, field in codec.parts(shape).items():
        if field.dtype.is_floating_point:
            parts[part] = torch.randn(field.shape, generator=generator).to(field.dtype)
        else:
            assert field.high is not None
            parts[part] = torch.randint(
                field.low, field.high + 1, field.shape, dtype=field.dtype, generator=generator
            )
    theirs = gguf.dequantize(codec.pack(parts, shape)["blocks"].numpy(), kind)
    assert theirs.dtype == np.float32
    ours = codec.weights(parts, shape)
    assert torch.equal(ours.view(torch.int32), torch.from_numpy(theirs).view(torch.int32))


@pytest.mark.parametrize("name", QUANTIZED)
def test_bytes_that_are_packed_there_come_back_from_here(name: str) -> None:
    codec, shape, kind = case(name)
    weights = np.random.default_rng(0).standard_normal((shape.rows, shape.cols), dtype=np.float32)
    stored = torch.from_numpy(gguf.quantize(weights, kind))
    parts = codec.unpack({"blocks": stored}, shape)
    assert torch.equal(codec.pack(parts, shape)["blocks"], stored)
    theirs = torch.from_numpy(gguf.dequantize(stored.numpy(), kind))
    assert torch.equal(codec.weights(parts, shape).view(torch.int32), theirs.view(torch.int32))
