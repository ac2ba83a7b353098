"""Quanto's bytes are the goldens; its shifts convert where they are zero points in other words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from quantcheck.codecs import CodecError, build
from quantcheck.codecs.affine import convert
from quantcheck.codecs.base import Shape
from quantcheck.codecs.quanto import DATA, SCALE, SHIFT, Quanto
from quantcheck.contracts import CodecContract


class TestQuantoInFloat32(CodecContract):
    """Another dtype than the registered one's."""

    codecs = (Quanto(2, torch.float32),)
    examples = 10


def parts_of(codes: torch.Tensor, scale: float = 1.0, shift: float = 0.0) -> dict[str, torch.Tensor]:
    ones = torch.ones(codes.shape[0], 1, dtype=torch.float16)
    return {"codes": codes, "scales": ones * scale, "shifts": ones * shift}


@pytest.mark.parametrize("bits", [2, 4])
def test_bytes_are_the_goldens(shared: Path, bits: int) -> None:
    goldens = json.loads((shared / "formats" / "golden_vectors.json").read_text(encoding="utf-8"))
    codes = torch.tensor(goldens[f"codes_{bits}bit_first32"][:16], dtype=torch.uint8)[:, None]
    stored = build("quanto", bits).pack(parts_of(codes), Shape(16, 1))
    assert stored[DATA].flatten().tolist() == [int(byte, 16) for byte in goldens[f"quanto_{bits}bit_16codes"]]


def test_rows_that_do_not_fill_the_blocks_are_filled_up_with_zeros() -> None:
    codes = torch.tensor([[1], [2], [3], [1], [2]], dtype=torch.uint8)
    stored = build("quanto", 2).pack(parts_of(codes), Shape(5, 1))
    # Blocks of two rows: 1 2 | 3 1 | 2 - | - -.
    assert stored[DATA].tolist() == [[0b00_10_11_01], [0b00_00_01_10]]
    assert stored[SCALE].shape == stored[SHIFT].shape == (5, 1)


def test_the_shift_is_taken_off() -> None:
    codes = torch.tensor([[0, 1, 15]], dtype=torch.uint8)
    weights = build("quanto", 4).weights(parts_of(codes, 0.5, 2.0), Shape(1, 3))
    assert weights.tolist() == [[-2.0, -1.5, 5.5]]


def test_shifts_convert_where_they_are_whole_multiples_of_the_scale() -> None:
    shape, quanto, gptq = Shape(32, 32), build("quanto", 4), build("gptq_v2", 4)
    codes = torch.arange(1024, dtype=torch.int32).remainder(16).to(torch.uint8).view(32, 32)
    for zero_point in (0, 7, 15):
        parts = parts_of(codes, 0.375, 0.375 * zero_point)
        converted = gptq.unpack(convert(quanto.pack(parts, shape), quanto, gptq, shape), shape)
        assert bool((converted["zero_points"] == zero_point).all())
        assert torch.equal(gptq.weights(converted, shape), quanto.weights(parts, shape))
        back = quanto.unpack(convert(gptq.pack(converted, shape), gptq, quanto, shape), shape)
        assert all(torch.equal(back[name], parts[name]) for name in parts)


def test_shifts_that_no_zero_point_says_are_refused() -> None:
    codes = torch.arange(16, dtype=torch.uint8).view(1, 16)
    quanto, parts = build("quanto", 4), parts_of(codes, 0.1, 0.25)
    with pytest.raises(CodecError, match="do not say the same weights in float32"):
        convert(quanto.pack(parts, Shape(1, 16)), quanto, build("hqq", 4), Shape(1, 16))
