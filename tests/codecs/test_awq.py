"""AWQ's two layouts are those of AutoAWQ and llm-awq."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from quantcheck.codecs import CodecError
from quantcheck.codecs.affine import Affine, consecutive
from quantcheck.codecs.awq_gemm import AwqGemm
from quantcheck.codecs.base import Shape
from quantcheck.codecs.llm_awq import LlmAwq


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, object]:
    return json.loads((shared / "formats" / "golden_vectors.json").read_text())


def gemm_parts(codes: torch.Tensor, zero_points: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"codes": codes, "zero_points": zero_points, "scales": torch.ones(zero_points.shape).half()}


def test_the_word_of_eight_columns_is_the_golden_one(golden: dict[str, object]) -> None:
    column = torch.arange(8, dtype=torch.uint8)[:, None]
    stored = AwqGemm().pack(gemm_parts(column, column), Shape(8, 1))
    assert f"{int(stored['qweight']):#x}" == golden["awq_gemm_word_for_columns_0..7"]
    assert torch.equal(stored["qzeros"], stored["qweight"])


def test_zero_points_are_stored_as_they_are() -> None:
    zeros = torch.zeros(8, 1, dtype=torch.uint8)
    assert int(AwqGemm().pack(gemm_parts(zeros, zeros), Shape(8, 1))["qzeros"]) == 0


def test_the_interleaved_words_are_the_golden_ones(golden: dict[str, object]) -> None:
    shape = Shape(4, 64)
    codes = (5 * torch.arange(4)[:, None] + torch.arange(64)).remainder(16).to(torch.uint8)
    ones = torch.ones(4, 1).half()
    stored = LlmAwq().pack({"codes": codes, "scales": ones, "scaled_zeros": ones}, shape)
    assert list(stored["qweight"].shape) == golden["llmawq_shape"]
    first = [f"{word % (1 << 16):#06x}" for word in stored["qweight"][0, :16].tolist()]
    assert first == golden["llmawq_int16_N4_K64_code=(5r+k)%16_first16"]


@pytest.mark.parametrize(
    ("cols", "group_size", "padded"),
    [(64, None, 16), (128, None, 8), (1024, 128, 8), (1152, 128, 16), (64, 64, 16), (64, 32, 32)],
)
def test_scales_are_padded_to_whole_words_of_zeros(cols: int, group_size: int | None, padded: int) -> None:
    shape, codec = Shape(4, cols, group_size), LlmAwq()
    scales = torch.full((4, shape.groups), 2.0).half()
    codes = torch.zeros(4, cols, dtype=torch.uint8)
    stored = codec.pack({"codes": codes, "scales": scales, "scaled_zeros": -scales}, shape)
    for name, value in (("scales", 2.0), ("scaled_zeros", -2.0)):
        assert tuple(stored[name].shape) == (padded, 4)
        assert bool((stored[name][: shape.groups] == value).all())
        assert not bool(stored[name][shape.groups :].any())


@pytest.mark.parametrize("codec", [AwqGemm(), LlmAwq()], ids=lambda codec: codec.id)
def test_a_shorter_last_group_is_refused(codec: AwqGemm | LlmAwq) -> None:
    with pytest.raises(CodecError, match="groups must fill the columns, got 192 columns at group_size 128"):
        codec.unpack({}, Shape(8, 192, 128))


def test_a_scaled_zero_that_half_precision_rounds_is_refused() -> None:
    shape, codec = Shape(4, 64), LlmAwq()
    codes = torch.zeros(4, 64, dtype=torch.uint8)
    scales = torch.full((4, 1), 1 + 2**-10).half()
    exact = Affine(4, codes, scales, torch.full((4, 1), 8.0), consecutive(shape))
    assert torch.equal(codec.weights(codec.from_affine(exact, shape), shape), exact.weights())
    rounded = Affine(4, codes, scales, torch.full((4, 1), 7.0), consecutive(shape))
    with pytest.raises(CodecError, match=r"scaled_zeros of torch\.float32 .* do not fit torch\.float16"):
        codec.from_affine(rounded, shape)


def test_a_scaled_zero_that_is_no_zero_point_is_refused() -> None:
    shape, codec = Shape(4, 64), LlmAwq()
    parts = {
        "codes": torch.ones(4, 64, dtype=torch.uint8),
        "scales": torch.full((4, 1), 3.0).half(),
        "scaled_zeros": torch.full((4, 1), -10.0).half(),
    }
    with pytest.raises(CodecError, match="an affine twin of llm_awq-w4 cannot express 256 of 256 weights"):
        codec.to_affine(parts, shape)


def test_weights_that_differ_in_the_sign_of_zero_alone_are_refused() -> None:
    """A code under its zero point, scaled by 0, is -0.0; a product and a sum make it 0.0."""
    shape = Shape(4, 64)
    zeros = torch.zeros(4, 64, dtype=torch.uint8)
    affine = Affine(4, zeros, torch.zeros(4, 1).half(), torch.ones(4, 1), consecutive(shape))
    with pytest.raises(CodecError, match="llm_awq-w4 cannot express 256 of 256 weights bit for bit"):
        LlmAwq().from_affine(affine, shape)
