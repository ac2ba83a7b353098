"""GPTQ's words, zero points and planes are those of the checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.codecs import build
from quantcheck.codecs.base import Codec, Shape
from quantcheck.codecs.gptq import v1, v2

NIBBLES = 0x11111111


def unsigned(words: torch.Tensor) -> list[int]:
    return [word % (1 << 32) for word in words.flatten().tolist()]


def parts_of(codec: Codec, shape: Shape, **given: torch.Tensor) -> dict[str, torch.Tensor]:
    zeros = {name: torch.zeros(field.shape, dtype=field.dtype) for name, field in codec.parts(shape).items()}
    return {**zeros, **given}


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, list[str]]:
    return json.loads((shared / "formats" / "golden_vectors.json").read_text())


def words_of(codec: Codec, codes: list[int]) -> list[str]:
    """Pack codes as the first of 32 out-features."""
    shape = Shape(32, len(codes))
    matrix = torch.zeros(32, len(codes), dtype=torch.uint8)
    matrix[0] = torch.tensor(codes)
    stored = codec.pack(parts_of(codec, shape, codes=matrix), shape)
    return [f"{word:#010x}" for word in unsigned(stored["qweight"][:, 0])]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_words_are_the_golden_ones(golden: dict[str, list[str]], bits: int) -> None:
    codes = golden[f"codes_{bits}bit_first32"]
    assert words_of(v2(bits), codes) == golden[f"dense_le_{bits}bit_32codes"]
    if bits == 3:
        assert words_of(v1(bits), codes) == golden["gptq_3bit_32codes"]


@pytest.mark.parametrize("bits", [3, 5, 6, 7])
def test_the_planar_words_are_the_golden_ones(golden: dict[str, list[str]], bits: int) -> None:
    codec = build("gptq_planar", bits)
    assert words_of(codec, golden[f"codes_{bits}bit_first32"]) == golden[f"gptq_p_planar_{bits}bit_32codes"]


def qzeros(codec: Codec, zero_points: list[int]) -> int:
    shape = Shape(8, 8)
    column = torch.tensor(zero_points, dtype=torch.uint8)[:, None]
    return unsigned(codec.pack(parts_of(codec, shape, zero_points=column), shape)["qzeros"])[0]


def test_zero_points_are_the_golden_ones(golden: dict[str, str]) -> None:
    assert f"{qzeros(v2(4), list(range(8))):#010x}" == golden["gptq_v2_qzeros_z=0..7"]
    assert f"{qzeros(v1(4), list(range(8))):#010x}" == golden["gptq_v1_qzeros_z=0..7_per_field_wrap"]
    assert f"{qzeros(v1(4), [8] * 8):#010x}" == golden["gptq_v1_sym_4bit_zero8_word"]
    naive = (qzeros(v2(4), list(range(8))) - NIBBLES) % (1 << 32)
    assert f"{naive:#010x}" == golden["gptq_v1_naive_word_subtract_0x11111111"]


@given(st.lists(st.integers(0, 15), min_size=8, max_size=8))
def test_zero_points_wrap_by_themselves(zero_points: list[int]) -> None:
    """As a subtraction of words does but for zero points of 0, whose borrow would reach the next."""
    fields = sum((zero_point - 1) % 16 << 4 * place for place, zero_point in enumerate(zero_points))
    assert qzeros(v1(4), zero_points) == fields
    naive = (qzeros(v2(4), zero_points) - NIBBLES) % (1 << 32)
    # Nothing lies above the word's last field, so its borrow is lost.
    assert (naive == fields) == (0 not in zero_points[:7])


@pytest.mark.parametrize("codec", [v1(3), v2(4), v2(8), build("gptq_planar", 5)], ids=lambda codec: codec.id)
def test_the_sign_bit_of_a_word_is_a_code_like_others(codec: Codec) -> None:
    shape = Shape(32, 32)
    top = torch.full((32, 32), (1 << codec.bits) - 1, dtype=torch.uint8)
    stored = codec.pack(parts_of(codec, shape, codes=top, zero_points=top[:, :1]), shape)
    assert bool((stored["qweight"] == -1).all())
    unpacked = codec.unpack(stored, shape)
    assert torch.equal(unpacked["codes"], top)
    assert torch.equal(unpacked["zero_points"], top[:, :1])


@pytest.mark.parametrize("bits", [3, 5, 6, 7])
def test_planes_take_the_size_of_the_stream(bits: int) -> None:
    shape = Shape(64, 96, 32)
    assert build("gptq_planar", bits).stored_bits(shape) == bits * (64 * 96 + 3 * 64) + 16 * 3 * 64 + 32 * 96


def test_planes_and_stream_of_three_bits_differ() -> None:
    shape = Shape(32, 32)
    codes = torch.arange(32 * 32, dtype=torch.int32).remainder(8).to(torch.uint8).view(32, 32)
    planar, stream = build("gptq_planar", 3), v2(3)
    words = [codec.pack(parts_of(codec, shape, codes=codes), shape)["qweight"] for codec in (planar, stream)]
    assert words[0].shape == words[1].shape
    assert not torch.equal(*words)
