"""compressed-tensors' two forms of one name, and its FP4, are the library's bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from quantcheck.codecs import CodecError
from quantcheck.codecs.base import Codec, Shape
from quantcheck.codecs.compressed_tensors import dense, padded
from quantcheck.codecs.compressed_tensors_fp4 import MAGNITUDES, Fp4Packed


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, list[str]]:
    return json.loads((shared / "formats" / "golden_vectors.json").read_text())


def filled(codec: Codec, shape: Shape, **given: torch.Tensor) -> dict[str, torch.Tensor]:
    zeros = {name: torch.zeros(field.shape, dtype=field.dtype) for name, field in codec.parts(shape).items()}
    return {**zeros, **given}


def row_words(words: torch.Tensor) -> list[str]:
    return [f"{word % (1 << 32):#010x}" for word in words.flatten().tolist()]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("form", "make"), [("dense", dense), ("padded", padded)])
def test_the_words_are_the_golden_ones(golden: dict[str, list[str]], bits: int, form: str, make) -> None:
    codes = torch.tensor([golden[f"codes_{bits}bit_first32"]], dtype=torch.uint8)
    expected = golden[f"{form}_le_{bits}bit_32codes"]
    codec = make(bits)
    stored = codec.pack(filled(codec, Shape(1, 32), codes=codes), Shape(1, 32))
    assert row_words(stored["weight_packed"]) == expected
    zeros = filled(codec, Shape(32, 1), zero_points=codes.T.contiguous())
    assert row_words(codec.pack(zeros, Shape(32, 1))["weight_zero_point"]) == expected


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_forms_are_one_where_the_width_divides_a_word(bits: int) -> None:
    shape = Shape(3, 70)
    codes = torch.arange(3 * 70).remainder(1 << bits).to(torch.uint8).view(3, 70)
    packed = []
    for make in (dense, padded):
        codec = make(bits, act_order=False)
        packed.append(codec.pack(filled(codec, shape, codes=codes), shape)["weight_packed"])
    assert torch.equal(*packed) == (32 % bits == 0)


@pytest.mark.parametrize(("bits", "cols"), [(3, 10), (5, 6), (6, 5), (7, 4)])
def test_short_rows_have_the_same_shape_in_both_forms(bits: int, cols: int) -> None:
    for width, same in ((cols, True), (64, False)):
        shape = Shape(2, width)
        shapes = [make(bits).stored(shape)["weight_packed"].shape for make in (dense, padded)]
        assert (shapes[0] == shapes[1]) is same


def test_one_form_refuses_the_words_of_the_other() -> None:
    shape = Shape(2, 64)
    old, new = padded(3, act_order=False), dense(3)
    stored = old.pack(filled(old, shape), shape)
    with pytest.raises(
        CodecError, match=r"weight_packed must be torch.int32 of shape \(2, 6\), got .* \(2, 7\)"
    ):
        new.unpack(stored, shape)


def test_another_weight_shape_is_refused() -> None:
    shape, codec = Shape(2, 64), dense(4)
    stored = codec.pack(filled(codec, shape), shape)
    assert stored["weight_shape"].tolist() == [2, 64]
    stored["weight_shape"] = torch.tensor([2, 63])
    with pytest.raises(CodecError, match=r"weight_shape says \[2, 63\], expected \[2, 64\]"):
        codec.unpack(stored, shape)


def test_optional_tensors_come_and_go_with_the_codec() -> None:
    shape = Shape(2, 64, 32)
    always = {"weight_packed", "weight_scale", "weight_shape"}
    assert dense(4, symmetric=True).stored(shape).keys() == always
    assert dense(4).stored(shape).keys() == always | {"weight_zero_point"}
    assert padded(4).stored(shape).keys() == always | {"weight_zero_point", "weight_g_idx"}


def test_even_columns_of_fp4_lie_in_the_low_half(golden: dict[str, str]) -> None:
    shape, codec = Shape(1, 16, 16), Fp4Packed()
    codes = torch.tensor([[1, 2] * 8], dtype=torch.uint8)
    stored = codec.pack(filled(codec, shape, codes=codes), shape)
    assert {f"{byte:#04x}" for byte in stored["weight_packed"].flatten().tolist()} == {
        golden["ct_fp4/nvfp4_codes[1,2]_byte"]
    }


def test_fp4_codes_stand_for_sign_exponent_and_mantissa() -> None:
    shape, codec = Shape(1, 16, 16), Fp4Packed()
    parts = filled(codec, shape, codes=torch.arange(16, dtype=torch.uint8)[None])
    parts["scales"].fill_(3.0)
    parts["global_scale"].fill_(2.0)
    weights = codec.weights(parts, shape)[0].tolist()
    for code, weight in enumerate(weights):
        exponent, mantissa = code >> 1 & 3, code & 1
        magnitude = mantissa / 2 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1)
        assert MAGNITUDES[code & 7] == magnitude
        assert weight == (-1.5 if code & 8 else 1.5) * magnitude


def test_fp4_takes_four_and_a_half_bits_a_weight() -> None:
    assert Fp4Packed().stored_bits(Shape(6, 64, 16)) == 4.5 * 6 * 64 + 32
