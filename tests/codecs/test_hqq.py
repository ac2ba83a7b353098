"""HQQ's bytes are the goldens, and what hqq would lose is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from quantcheck.codecs import CodecError, build
from quantcheck.codecs.affine import Affine, consecutive, convert
from quantcheck.codecs.base import Shape
from quantcheck.codecs.hqq import Hqq
from quantcheck.contracts import CodecContract

GOLDENS = {4: ("hqq_4bit_u8_16codes", 16), 2: ("hqq_2bit_u8_16codes", 16), 1: ("hqq_1bit_u8_16codes", 16)}


class TestHqqInBfloat16(CodecContract):
    """Another compute dtype than the registered one's."""

    codecs = (Hqq(4, torch.bfloat16),)
    examples = 10


def packed_column(codes: list[int], bits: int) -> list[int]:
    """Pack rows of one code each, as the goldens have them."""
    shape = Shape(len(codes), 1)
    ones = torch.ones(len(codes), 1, dtype=torch.float16)
    parts = {"codes": torch.tensor(codes, dtype=torch.uint8)[:, None], "scales": ones, "zero_points": ones}
    return [int(word) for word in build("hqq", bits).pack(parts, shape)["W_q"].flatten()]


@pytest.mark.parametrize("bits", GOLDENS)
def test_bytes_are_the_goldens(shared: Path, bits: int) -> None:
    goldens = json.loads((shared / "formats" / "golden_vectors.json").read_text(encoding="utf-8"))
    key, count = GOLDENS[bits]
    codes = goldens[f"codes_{bits}bit_first32"][:count]
    assert packed_column(codes, bits) == [int(byte, 16) for byte in goldens[key]]


def test_three_bits_fill_words_of_ten_as_the_golden_has_them(shared: Path) -> None:
    goldens = json.loads((shared / "formats" / "golden_vectors.json").read_text(encoding="utf-8"))
    codes = goldens["codes_3bit_first32"][:20]
    assert packed_column(codes, 3) == [int(word, 16) for word in goldens["hqq_3bit_32_20codes"]]


def test_eight_bits_are_bytes() -> None:
    assert packed_column([0, 255, 7], 8) == [0, 255, 7]


def test_groups_are_what_is_cut_into_blocks() -> None:
    """Two rows of two groups: the second row's groups are the low halves."""
    codes = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=torch.uint8)
    ones = torch.ones(2, 2, dtype=torch.float16)
    parts = {"codes": codes, "scales": ones, "zero_points": ones}
    stored = build("hqq", 4).pack(parts, Shape(2, 4, 2))
    assert stored["W_q"].tolist() == [[0x15, 0x26], [0x37, 0x48]]
    assert stored["scale"].shape == (4, 1)


@pytest.mark.parametrize(("bits", "rows", "blocks"), [(1, 12, 8), (2, 6, 4), (4, 3, 2)])
def test_groups_that_hqq_would_lose_are_refused(bits: int, rows: int, blocks: int) -> None:
    refused = build("hqq", bits).refusal(Shape(rows, 8))
    assert refused == f"rows times groups must come in multiples of {blocks}, got {rows}"


def test_groups_of_several_lengths_are_refused() -> None:
    refused = build("hqq", 8).refusal(Shape(1, 10, 4))
    assert refused == "columns must come in multiples of group_size 4, got 10"


def test_zero_points_between_codes_do_not_convert_to_whole_ones() -> None:
    shape, hqq = Shape(32, 32, 32), build("hqq", 4)
    codes = torch.arange(1024, dtype=torch.int32).remainder(16).to(torch.uint8).view(32, 32)
    ones = torch.ones(32, 1, dtype=torch.float16)
    for zero_point, fits in ((0.0, True), (15.0, True), (7.5, False), (-1.0, False), (16.0, False)):
        parts = {"codes": codes, "scales": ones, "zero_points": ones * zero_point}
        stored, target = hqq.pack(parts, shape), build("gptq_v1", 4)
        if fits:
            converted = target.unpack(convert(stored, hqq, target, shape), shape)
            assert torch.equal(target.weights(converted, shape), hqq.weights(parts, shape))
        else:
            with pytest.raises(CodecError, match=r"whole zero points in 0\.\.15"):
                convert(stored, hqq, target, shape)


def test_scales_that_the_compute_dtype_would_round_are_refused() -> None:
    shape = Shape(2, 4)
    scales = torch.tensor([[1.0], [1.0 + 2**-12]])
    affine = Affine(4, torch.zeros(2, 4, dtype=torch.uint8), scales, torch.zeros(2, 1), consecutive(shape))
    assert set(Hqq(4, torch.float32).from_affine(affine, shape)) == {"codes", "scales", "zero_points"}
    with pytest.raises(CodecError, match=r"scales of torch\.float32 .* do not fit torch\.float16"):
        Hqq(4).from_affine(affine, shape)
