"""Torchao's three layouts are the goldens; tiles of every depth lie as their formula says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from quantcheck.codecs import CodecError, build
from quantcheck.codecs.affine import Affine, consecutive, convert
from quantcheck.codecs.base import Shape
from quantcheck.codecs.torchao_tile_packed import TilePacked
from quantcheck.codecs.torchao_uintx import SHARDS, Uintx
from quantcheck.contracts import CodecContract


class TestTwoInnerTiles(CodecContract):
    """Tiles of the least depth."""

    codecs = (TilePacked(4, 2),)
    examples = 10


class TestFourInnerTiles(CodecContract):
    """Tiles of the depth between."""

    codecs = (TilePacked(4, 4),)
    examples = 10


class TestUintxInBfloat16(CodecContract):
    """Another scale dtype than the registered one's."""

    codecs = (Uintx(3, torch.bfloat16),)
    examples = 10


@pytest.mark.parametrize("bits", range(1, 8))
def test_shards_are_the_goldens(shared: Path, bits: int) -> None:
    goldens = json.loads((shared / "formats" / "golden_vectors.json").read_text(encoding="utf-8"))
    parts = {
        "codes": torch.tensor(goldens[f"codes_{bits}bit_first32"][:16], dtype=torch.uint8)[None],
        "scales": torch.ones(1, 1, dtype=torch.float16),
        "zero_points": torch.zeros(1, 1, dtype=torch.int32),
    }
    stored = build("torchao_uintx", bits).pack(parts, Shape(1, 16))
    shards = [stored[f"int{width}_shard"].flatten().tolist() for width in SHARDS[bits]]
    golden = goldens[f"torchao_uintx_{bits}bit_16codes_shards"]
    assert shards == [[int(byte, 16) for byte in shard] for shard in golden]


@pytest.mark.parametrize("bits", range(1, 8))
def test_the_shards_of_a_code_are_as_wide_as_the_code(bits: int) -> None:
    assert sum(SHARDS[bits]) == bits
    stored = build("torchao_uintx", bits).stored(Shape(3, 64))
    shards = [field.stored_bits for name, field in stored.items() if name.endswith("_shard")]
    assert sum(shards) == 3 * 64 * bits


def test_the_even_column_is_high(shared: Path) -> None:
    goldens = json.loads((shared / "formats" / "golden_vectors.json").read_text(encoding="utf-8"))
    stored = build("torchao_int4", 4).pack(tinygemm_parts(torch.tensor([[1, 2]]), 1), Shape(1, 2))
    assert stored["qdata"].tolist() == [[int(goldens["torchao_tile_prepack_codes[1,2]_byte"], 16)]]


def test_tiles_are_the_goldens(shared: Path) -> None:
    goldens = json.loads((shared / "formats" / "golden_vectors.json").read_text(encoding="utf-8"))
    rows, cols = torch.arange(8)[:, None], torch.arange(128)
    codes = (5 * rows + 3 * cols + cols // 7) % 16
    stored = build("torchao_tile_packed", 4).pack(tinygemm_parts(codes, 4), Shape(8, 128, 32))
    assert list(stored["qdata"].shape) == goldens["tile_packed_N8_K128_ikt8_code=(5n+3k+k//7)%16_shape"]
    words = [word & 0xFFFFFFFF for word in stored["qdata"].flatten()[:8].tolist()]
    assert words == [int(word, 16) for word in goldens["tile_packed_first8words"]]


@pytest.mark.parametrize("inner_k_tiles", [2, 4, 8])
def test_tiles_are_packed_from_the_bytes_of_plain_int4(inner_k_tiles: int) -> None:
    """As the CUDA kernel reads them: per lane, bytes 0, 4, 8 and 12 on; high halves low in the word."""
    shape = Shape(16, 256, 32)
    codes = torch.randint(0, 16, (16, 256), generator=torch.Generator().manual_seed(0))
    parts = tinygemm_parts(codes, shape.groups)
    plain = build("torchao_int4", 4).pack(parts, shape)["qdata"].tolist()
    tiles = TilePacked(4, inner_k_tiles).pack(parts, shape)["qdata"]
    for down, across, lane, pair in ((0, 0, 0, 0), (1, 0, 31, inner_k_tiles // 2 - 1), (0, 1, 13, 0)):
        if across >= tiles.shape[1]:
            continue
        first = (across * inner_k_tiles + 2 * pair) * 8 + lane % 4
        read = [plain[8 * down + lane // 4][first + step] for step in (0, 4, 8, 12)]
        word = sum((byte >> 4) << 4 * i | (byte & 15) << 4 * (4 + i) for i, byte in enumerate(read))
        assert int(tiles[down, across, lane, pair]) & 0xFFFFFFFF == word


def test_scale_and_shift_lie_side_by_side_by_group() -> None:
    parts = tinygemm_parts(torch.zeros(3, 4), 2)
    parts["scales"] = torch.arange(6).view(3, 2).bfloat16()
    parts["shifts"] = -parts["scales"]
    stored = build("torchao_int4", 4).pack(parts, Shape(3, 4, 2))
    expected = [[[0, 0], [2, -2], [4, -4]], [[1, -1], [3, -3], [5, -5]]]
    assert stored["scale_and_zero"].tolist() == expected


@pytest.mark.parametrize("name", ["torchao_int4", "torchao_tile_packed"])
def test_zero_points_convert_where_bfloat16_holds_the_shift(name: str) -> None:
    shape, codec = Shape(8, 128, 32), build(name, 4)
    codes = torch.arange(1024, dtype=torch.int32).remainder(16).to(torch.uint8).view(8, 128)
    gptq = build("gptq_v2", 4)
    for scale, zero_point in ((0.25, 0), (0.25, 15), (0.2001953125, 8)):
        affine = Affine(
            4, codes, torch.full((8, 4), scale), torch.full((8, 4), float(zero_point)), consecutive(shape)
        )
        parts = codec.from_affine(affine, shape)
        assert torch.equal(codec.weights(parts, shape), affine.weights())
        assert torch.equal(codec.to_affine(parts, shape).zero_points, affine.zero_points)
    stored = codec.pack(parts, shape)
    converted = gptq.unpack(convert(stored, codec, gptq, shape), shape)
    assert torch.equal(gptq.weights(converted, shape), affine.weights())


def test_a_shift_that_bfloat16_would_round_is_refused() -> None:
    shape, codec = Shape(1, 4), build("torchao_int4", 4)
    scale = torch.tensor([[255.0]])
    affine = Affine(4, torch.zeros(1, 4, dtype=torch.uint8), scale, torch.tensor([[3.0]]), consecutive(shape))
    with pytest.raises(CodecError, match=r"shifts of torch\.float64 .* do not fit torch\.bfloat16"):
        codec.from_affine(affine, shape)


def test_what_the_kernels_do_not_take_is_refused() -> None:
    codec = build("torchao_tile_packed", 4)
    assert codec.refusal(Shape(8, 128, 32)) is None
    assert codec.refusal(Shape(4, 128, 32)) == "rows must come in multiples of 8, got 4"
    assert codec.refusal(Shape(8, 64, 32)) == "columns must come in multiples of 128, got 64"
    assert codec.refusal(Shape(8, 128, 16)) == "group_size must be one of 32, 64, 128, 256, got 16"
    assert codec.refusal(Shape(8, 128, 256)) == "columns must come in multiples of group_size 256, got 128"


def tinygemm_parts(codes: torch.Tensor, groups: int) -> dict[str, torch.Tensor]:
    return {
        "codes": codes.to(torch.uint8),
        "scales": torch.ones(codes.shape[0], groups, dtype=torch.bfloat16),
        "shifts": torch.zeros(codes.shape[0], groups, dtype=torch.bfloat16),
    }
