"""Affine formats convert into each other bit for bit, or say why they cannot."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcheck.codecs import CODECS, CodecError, build
from quantcheck.codecs.affine import Affine, AffineFormat, consecutive, convert
from quantcheck.codecs.base import Shape
from quantcheck.codecs.compressed_tensors import dense, padded

WORDS = ("gptq_v1", "gptq_v2", "gptq_planar", "awq_gemm", "llm_awq", "ct_dense", "ct_padded")
SHAPE = Shape(32, 128, 32)
KEEPS_ORDER = ("gptq_v1", "gptq_v2", "gptq_planar", "ct_padded")


def affine_codecs(bits: int) -> list[AffineFormat]:
    made = [build(name, bits) for name in WORDS if bits in CODECS.entry(name).capabilities.bits]
    return [codec for codec in made if isinstance(codec, AffineFormat)]


PAIRS = [
    pytest.param(source, target, id=f"{source.id}-to-{target.name}")
    for bits in (2, 3, 4, 5, 8)
    for source, target in product(affine_codecs(bits), repeat=2)
    if source != target
]


def an_affine(bits: int, seed: int, zero_points: str = "random") -> Affine:
    generator = torch.Generator().manual_seed(seed)
    grouped = (SHAPE.rows, SHAPE.groups)
    fill = {"low": 0, "top": (1 << bits) - 1}
    zeros = torch.randint(0, 1 << bits, grouped, generator=generator)
    if zero_points in fill:
        zeros = torch.full(grouped, fill[zero_points])
    codes = torch.randint(0, 1 << bits, (SHAPE.rows, SHAPE.cols), generator=generator, dtype=torch.uint8)
    scales = 2.0 ** torch.randint(-6, 4, grouped, generator=generator)
    return Affine(bits, codes, scales, zeros.float(), consecutive(SHAPE))


def bits_of(weights: torch.Tensor) -> torch.Tensor:
    return weights.view(torch.int32)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_pair_converts_to_bit_equal_weights(source: AffineFormat, target: AffineFormat) -> None:
    @settings(max_examples=6)
    @given(seed=st.integers(0, 999), zero_points=st.sampled_from(["low", "top", "random"]))
    def promise(seed: int, zero_points: str) -> None:
        affine = an_affine(source.bits, seed, zero_points)
        stored = source.pack(source.from_affine(affine, SHAPE), SHAPE)
        converted = target.unpack(convert(stored, source, target, SHAPE), SHAPE)
        assert torch.equal(bits_of(target.weights(converted, SHAPE)), bits_of(affine.weights()))

    promise()


@pytest.mark.parametrize(("source", "target"), [pair for pair in PAIRS if pair.values[0].name in KEEPS_ORDER])
def test_groups_out_of_order_convert_or_are_refused(source: AffineFormat, target: AffineFormat) -> None:
    affine = an_affine(source.bits, 7)
    shuffled = Affine(
        affine.bits, affine.codes, affine.scales, affine.zero_points, affine.g_idx.flip(0).contiguous()
    )
    stored = source.pack(source.from_affine(shuffled, SHAPE), SHAPE)
    if target.name not in KEEPS_ORDER:
        with pytest.raises(CodecError, match="has no g_idx: groups must lie in the order of their columns"):
            convert(stored, source, target, SHAPE)
        return
    converted = target.unpack(convert(stored, source, target, SHAPE), SHAPE)
    assert torch.equal(target.weights(converted, SHAPE), shuffled.weights())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("zero_point", ["low", "top"])
def test_version_1_of_gptq_becomes_version_2_and_back(bits: int, zero_point: str) -> None:
    first, second = build("gptq_v1", bits), build("gptq_v2", bits)
    assert isinstance(first, AffineFormat)
    stored = first.pack(first.from_affine(an_affine(bits, 0, zero_point), SHAPE), SHAPE)
    converted = convert(stored, first, second, SHAPE)
    assert int(converted["qzeros"].unique()) == (0 if zero_point == "low" else -1)
    back = convert(converted, second, first, SHAPE)
    assert all(torch.equal(back[name], stored[name]) for name in stored)


def test_a_scale_that_does_not_fit_is_refused_by_name() -> None:
    affine = an_affine(4, 0)
    affine.scales[0, 0] = 1e6
    target = build("gptq_v2", 4)
    assert isinstance(target, AffineFormat)
    with pytest.raises(CodecError, match=r"gptq_v2-w4: scales of torch.float32 .* do not fit torch.float16"):
        target.from_affine(affine, SHAPE)


@pytest.mark.parametrize("zero_point", [0.5, -1.0, 16.0, float("nan")])
@pytest.mark.parametrize("name", ["gptq_v2", "awq_gemm", "llm_awq", "ct_dense"])
def test_a_zero_point_that_is_no_code_is_refused(name: str, zero_point: float) -> None:
    affine = an_affine(4, 0)
    affine.zero_points[0, 0] = zero_point
    target = build(name, 4)
    assert isinstance(target, AffineFormat)
    with pytest.raises(CodecError, match=r"has whole zero points in 0\.\.15 alone"):
        target.from_affine(affine, SHAPE)


def test_other_widths_and_formats_that_are_not_affine_are_refused() -> None:
    with pytest.raises(CodecError, match="gptq_v1-w3 has codes of 3 bits, awq_gemm-w4 of 4"):
        convert({}, build("gptq_v1", 3), build("awq_gemm", 4), SHAPE)
    with pytest.raises(CodecError, match="ct_fp4-w4 holds no affine codes"):
        convert({}, build("ct_fp4", 4), build("awq_gemm", 4), SHAPE)


@pytest.mark.parametrize("make", [dense, padded])
def test_symmetric_codecs_take_centred_zero_points_alone(make) -> None:
    codec, affine = make(4, symmetric=True), an_affine(4, 0)
    with pytest.raises(CodecError, match="is symmetric: its zero points are 8 alone"):
        codec.from_affine(affine, SHAPE)
    affine.zero_points.fill_(8)
    stored = codec.pack(codec.from_affine(affine, SHAPE), SHAPE)
    assert "weight_zero_point" not in stored
    gptq = build("gptq_v1", 4)
    converted = convert(stored, codec, gptq, SHAPE)
    assert int(converted["qzeros"].unique()) == 0x77777777
    assert torch.equal(gptq.weights(gptq.unpack(converted, SHAPE), SHAPE), affine.weights())
