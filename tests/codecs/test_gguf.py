"""GGUF's types: sizes, what each refuses, and the corners of their layouts."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantcheck.codecs import CODECS, CodecError, build
from quantcheck.codecs.affine import Affine, AffineFormat, consecutive, convert
from quantcheck.codecs.base import Shape
from quantcheck.codecs.gguf.blocks import AffineBlocks, BlockFormat
from quantcheck.codecs.gguf.q4_k import Q4K
from quantcheck.codecs.gguf.q6_k import Q6K
from quantcheck.codecs.gguf.q8_0 import Q8_0
from quantcheck.codecs.gguf.tq1_0 import TQ1_0
from quantcheck.codecs.gguf.tq2_0 import TQ2_0

PROPERTY = settings(max_examples=30)
BITS_PER_WEIGHT = {
    "gguf_q4_0": 4.5,
    "gguf_q5_0": 5.5,
    "gguf_q8_0": 8.5,
    "gguf_q2_k": 2.625,
    "gguf_q3_k": 3.4375,
    "gguf_q4_k": 4.5,
    "gguf_q5_k": 5.5,
    "gguf_q6_k": 6.5625,
    "gguf_tq1_0": 1.6875,
    "gguf_tq2_0": 2.0625,
}
AFFINE = ("gguf_q4_0", "gguf_q5_0", "gguf_q8_0", "gguf_tq1_0", "gguf_tq2_0")


def codec_of(name: str) -> BlockFormat:
    codec = build(name, CODECS.entry(name).capabilities.bits[0])
    assert isinstance(codec, BlockFormat)
    return codec


def shape_of(codec: BlockFormat, rows: int = 1, count: int = 1) -> Shape:
    return Shape(rows, count * codec.cols_multiple, codec.group_sizes[0])


def zeros(codec: BlockFormat, shape: Shape) -> dict[str, Tensor]:
    return {name: torch.zeros(field.shape, dtype=field.dtype) for name, field in codec.parts(shape).items()}


@pytest.mark.parametrize(("name", "bits"), BITS_PER_WEIGHT.items())
def test_a_weight_takes_the_bits_that_ggml_says(name: str, bits: float) -> None:
    codec = codec_of(name)
    shape = shape_of(codec, rows=3, count=5)
    assert codec.stored_bits(shape) == bits * 3 * shape.cols
    assert codec.pack(zeros(codec, shape), shape)["blocks"].nbytes * 8 == bits * 3 * shape.cols


@pytest.mark.parametrize("name", BITS_PER_WEIGHT)
def test_columns_that_fill_no_block_are_refused(name: str) -> None:
    codec = codec_of(name)
    shape = shape_of(codec)
    for wrong in (
        Shape(1, shape.cols + 16, shape.group_size),
        Shape(1, shape.cols, 64),
        Shape(1, shape.cols),
    ):
        with pytest.raises(CodecError, match="cannot hold"):
            codec.pack(zeros(codec, shape), wrong)


@pytest.mark.parametrize("name", BITS_PER_WEIGHT)
def test_another_width_is_refused(name: str) -> None:
    with pytest.raises(CodecError, match="bits, not 7"):
        type(codec_of(name))(7)


@pytest.mark.parametrize("name", BITS_PER_WEIGHT)
@PROPERTY
@given(pattern=st.integers(-(2**15), 2**15 - 1))
def test_a_block_scale_keeps_all_its_bits(name: str, pattern: int) -> None:
    """NaN with its payload, infinities, subnormals and minus zero."""
    codec = codec_of(name)
    shape = shape_of(codec, rows=2, count=3)
    parts = zeros(codec, shape)
    for unit in {"d", "dmin"} & parts.keys():
        parts[unit] = torch.full(parts[unit].shape, pattern, dtype=torch.int16).view(torch.float16)
    unpacked = codec.unpack(codec.pack(parts, shape), shape)
    for unit in {"d", "dmin"} & parts.keys():
        assert torch.equal(unpacked[unit].view(torch.int16), parts[unit].view(torch.int16))


def test_six_bit_scales_split_as_drawn() -> None:
    codec = Q4K(4)
    parts = zeros(codec, shape_of(codec))
    parts["scales"] = torch.tensor([[1, 2, 3, 4, 0b10_0101, 0, 0, 0b11_1111]], dtype=torch.uint8)
    parts["minima"] = torch.tensor([[5, 6, 7, 8, 0b01_1010, 0, 0, 0]], dtype=torch.uint8)
    stored = codec.pack(parts, shape_of(codec))["blocks"][0, 4:16].tolist()
    first = [0b10_000001, 2, 3, 0b11_000100]
    second = [0b01_000101, 6, 7, 8]
    assert stored == first + second + [0b1010_0101, 0, 0, 0b0000_1111]


def test_signed_bytes_are_twos_complement() -> None:
    eight, six = Q8_0(8), Q6K(6)
    parts = zeros(eight, shape_of(eight))
    parts["codes"][0, :4] = torch.tensor([0, 127, 128, 255], dtype=torch.uint8)
    assert eight.pack(parts, shape_of(eight))["blocks"][0, 2:6].tolist() == [0x80, 0xFF, 0x00, 0x7F]
    parts = zeros(six, shape_of(six))
    parts["scales"][0, :3] = torch.tensor([-128, -1, 127], dtype=torch.int8)
    assert six.pack(parts, shape_of(six))["blocks"][0, 192:195].tolist() == [0x80, 0xFF, 0x7F]


def test_every_five_trits_are_the_digits_of_their_byte() -> None:
    """All 243, at every byte that holds five, as an exact fraction rounded up to 256ths."""
    codec = TQ1_0(2)
    digits = torch.tensor(list(product(range(3), repeat=5)), dtype=torch.uint8)
    numbers = [sum(int(digit) * 3 ** (4 - power) for power, digit in enumerate(row)) for row in digits]
    expected = torch.tensor([-(-number * 256 // 243) for number in numbers], dtype=torch.uint8)
    shape = shape_of(codec, rows=len(digits))
    parts = zeros(codec, shape)
    parts["codes"][:, :160] = digits.repeat_interleave(32, 1)
    parts["codes"][:, 160:240] = digits.repeat_interleave(16, 1)
    parts["codes"][:, 240:] = digits[:, :4].repeat_interleave(4, 1)
    stored = codec.pack(parts, shape)["blocks"]
    assert torch.equal(stored[:, :48], expected.unsqueeze(1).expand(-1, 48))
    four = torch.tensor([-(-(number - number % 3) * 256 // 243) for number in numbers], dtype=torch.uint8)
    assert torch.equal(stored[:, 48:52], four.unsqueeze(1).expand(-1, 4))
    assert torch.equal(codec.unpack({"blocks": stored}, shape)["codes"], parts["codes"])
    assert codec.place("codes", shape, (0, 0)) == ()


def test_every_byte_is_read_as_a_fraction_in_base_three() -> None:
    """Also the 13 that no five digits make."""
    codec = TQ1_0(2)
    shape = shape_of(codec, rows=256)
    stored = torch.arange(256, dtype=torch.uint8).unsqueeze(1).repeat(1, codec.block_bytes)
    codes = codec.unpack({"blocks": stored}, shape)["codes"]
    for byte in range(256):
        fraction, expected = Fraction(byte, 256), []
        for _ in range(5):
            digit = int(3 * fraction)
            fraction = 3 * fraction - digit
            expected.append(digit)
        assert codes[byte, 0:160:32].tolist() == expected
        assert codes[byte, 175:240:16].tolist() == expected
        assert codes[byte, 240:256:4].tolist() == expected[:4]


@pytest.mark.parametrize("lane", range(4))
def test_a_fourth_ternary_level_is_refused_in_both_directions(lane: int) -> None:
    codec = TQ2_0(2)
    shape = shape_of(codec)
    parts = zeros(codec, shape)
    parts["codes"][0, 32 * lane] = 3
    with pytest.raises(CodecError, match=r"codes must lie in 0..2, got 0..3"):
        codec.pack(parts, shape)
    stored = torch.zeros(1, codec.block_bytes, dtype=torch.uint8)
    stored[0, 0] = 3 << 2 * lane
    with pytest.raises(CodecError, match=r"codes in blocks must lie in 0..2, got 0..3"):
        codec.unpack({"blocks": stored}, shape)


def affine_for(codec: BlockFormat, zero_point: float, codes: list[int]) -> tuple[Affine, Shape]:
    """Two blocks of these codes, over and over."""
    shape = shape_of(codec, count=2)
    repeated = torch.tensor(codes, dtype=torch.uint8).repeat(shape.cols)[: shape.cols].unsqueeze(0)
    scales = torch.tensor([[0.5, -3.0]])
    zero_points = torch.full((1, 2), zero_point)
    return Affine(codec.bits, repeated, scales, zero_points, consecutive(shape)), shape


@pytest.mark.parametrize("name", AFFINE)
def test_codes_are_moved_to_the_zero_point_of_the_type(name: str) -> None:
    """Weights stay bit-equal as long as the codes stay in range."""
    codec = codec_of(name)
    assert isinstance(codec, AffineBlocks)
    for zero_point in (codec.zero_point, codec.zero_point - 1):
        affine, shape = affine_for(codec, zero_point, [0, 1])
        parts = codec.from_affine(affine, shape)
        assert int(parts["codes"].min()) == codec.zero_point - zero_point
        assert torch.equal(codec.weights(parts, shape), affine.weights())
        assert torch.equal(codec.to_affine(parts, shape).weights(), affine.weights())


@pytest.mark.parametrize("name", AFFINE)
def test_what_a_type_cannot_say_is_refused(name: str) -> None:
    codec = codec_of(name)
    assert isinstance(codec, AffineBlocks)
    top = codec.parts(shape_of(codec))["codes"].high
    assert top is not None
    for zero_point, code in (
        (codec.zero_point - 1, top),
        (codec.zero_point + 1, 0),
        (codec.zero_point + 0.5, 1),
        (float("nan"), 1),
    ):
        with pytest.raises(CodecError, match="whole levels"):
            codec.from_affine(*affine_for(codec, zero_point, [code]))
    affine, shape = affine_for(codec, codec.zero_point, [0])
    fine = Affine(affine.bits, affine.codes, affine.scales + 2**-14, affine.zero_points, affine.g_idx)
    with pytest.raises(CodecError, match=r"torch.float16 exactly"):
        codec.from_affine(fine, shape)
    turned = Affine(affine.bits, affine.codes, affine.scales, affine.zero_points, affine.g_idx.flip(0))
    with pytest.raises(CodecError, match="g_idx"):
        codec.from_affine(turned, shape)


@pytest.mark.parametrize(("name", "other"), [("gguf_q4_0", "gptq_v2"), ("gguf_q8_0", "gptq_v1")])
def test_a_type_converts_to_gptq_and_back(name: str, other: str) -> None:
    codec = codec_of(name)
    gptq = build(other, codec.bits)
    assert isinstance(gptq, AffineFormat)
    shape = shape_of(codec, rows=8, count=2)
    generator = torch.Generator().manual_seed(0)
    parts = zeros(codec, shape)
    parts["codes"] = torch.randint(
        0, 1 << codec.bits, parts["codes"].shape, dtype=torch.uint8, generator=generator
    )
    parts["d"] = torch.randn(parts["d"].shape, generator=generator).half()
    stored = codec.pack(parts, shape)
    there = convert(stored, codec, gptq, shape)
    assert torch.equal(gptq.weights(gptq.unpack(there, shape), shape), codec.weights(parts, shape))
    assert torch.equal(convert(there, gptq, codec, shape)["blocks"], stored["blocks"])
