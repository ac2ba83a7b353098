"""The dense bitstream loses nothing, wastes nothing and refuses what it cannot hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcheck.codecs import CodecError
from quantcheck.codecs.base import Shape
from quantcheck.codecs.bitstream import (
    STRIP,
    Bitstream,
    pack,
    pack_words,
    packed_width,
    unpack,
    unpack_words,
)

PROPERTY = settings(max_examples=80, deadline=None, derandomize=True)


@st.composite
def code_matrices(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    bits = draw(st.integers(1, 8))
    shape = draw(st.tuples(st.integers(0, 5), st.integers(0, 35)))
    codes = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1)))
    return torch.from_numpy(codes), bits


@PROPERTY
@given(code_matrices())
def test_unpack_gives_back_what_was_packed(matrix: tuple[torch.Tensor, int]) -> None:
    codes, bits = matrix
    packed = pack(codes, bits)
    assert packed.shape == (codes.shape[0], -(-codes.shape[1] * bits // 8))
    assert torch.equal(unpack(packed, bits, codes.shape[1]), codes)


@PROPERTY
@given(code_matrices())
def test_each_row_is_one_little_endian_number(matrix: tuple[torch.Tensor, int]) -> None:
    codes, bits = matrix
    for row, packed in zip(codes.tolist(), pack(codes, bits), strict=True):
        number = sum(code << bits * position for position, code in enumerate(row))
        assert bytes(packed.tolist()) == number.to_bytes(packed_width(len(row), bits), "little")


@PROPERTY
@given(code_matrices())
def test_words_are_the_stream_in_little_endian(matrix: tuple[torch.Tensor, int]) -> None:
    codes, bits = matrix
    words = pack_words(codes, bits)
    assert words.shape == (codes.shape[0], -(-codes.shape[1] * bits // 32))
    assert torch.equal(unpack_words(words, bits, codes.shape[1]), codes)
    for stream, row in zip(pack(codes, bits).tolist(), words.tolist(), strict=True):
        assert b"".join(word.to_bytes(4, "little", signed=True) for word in row)[: len(stream)] == bytes(
            stream
        )


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("cols", [STRIP // 2 - 3, STRIP + 5])
def test_rows_beyond_a_strip_are_packed_alike(bits: int, cols: int) -> None:
    codes = torch.arange(5 * cols).remainder_(2**bits - 1).to(torch.uint8).view(5, cols)
    packed = pack(codes, bits)
    assert torch.equal(packed, torch.cat([pack(row[None], bits) for row in codes]))
    assert torch.equal(unpack(packed, bits, cols), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_goldens_are_the_streams_words(shared: Path, bits: int) -> None:
    golden = json.loads((shared / "formats" / "golden_vectors.json").read_text())
    codes = torch.tensor([golden[f"codes_{bits}bit_first32"]], dtype=torch.uint8)
    words = [f"{word % (1 << 32):#010x}" for word in pack_words(codes, bits)[0].tolist()]
    assert words == golden[f"dense_le_{bits}bit_32codes"]


def test_as_a_codec_it_holds_codes_alone() -> None:
    codec, shape = Bitstream(3), Shape(2, 5)
    codes = torch.arange(10, dtype=torch.uint8).view(2, 5) % 8
    stored = codec.pack({"codes": codes}, shape)
    assert torch.equal(stored["packed"], pack(codes, 3))
    assert codec.stored_bits(shape) == 2 * 2 * 8
    assert torch.equal(codec.weights(codec.unpack(stored, shape), shape), codes.float())


def test_three_bit_codes_straddle_bytes_as_drawn() -> None:
    assert pack(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 0]], dtype=torch.uint8), 3).tolist() == [
        [0xD1, 0x58, 0x1F]
    ]


def test_a_transposed_matrix_packs_like_its_copy() -> None:
    codes = torch.arange(15, dtype=torch.uint8).reshape(3, 5).T
    assert torch.equal(pack(codes, 4), pack(codes.contiguous(), 4))


@pytest.mark.parametrize("bits", range(1, 8))
def test_a_code_that_needs_more_bits_is_refused(bits: int) -> None:
    with pytest.raises(
        CodecError,
        match=re.escape(f"must lie in 0..{2**bits - 1}, got {2**bits} in a matrix of shape (1, 3)"),
    ):
        pack(torch.tensor([[0, 2**bits, 1]], dtype=torch.uint8), bits)


@pytest.mark.parametrize(
    "codes", [torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int32), torch.zeros(3, dtype=torch.uint8)]
)
def test_another_dtype_or_rank_is_refused(codes: torch.Tensor) -> None:
    with pytest.raises(CodecError, match=re.escape(f"got {codes.dtype} of shape {tuple(codes.shape)}")):
        pack(codes, 4)


@pytest.mark.parametrize("bits", [0, 9])
def test_widths_outside_one_to_eight_are_refused(bits: int) -> None:
    with pytest.raises(CodecError, match=f"1 to 8 bits, not {bits}"):
        pack(torch.zeros(1, 1, dtype=torch.uint8), bits)


@pytest.mark.parametrize("cols", [-1, 4, 11])
def test_rows_of_another_length_are_refused(cols: int) -> None:
    packed = pack(torch.zeros(2, 8, dtype=torch.uint8), 3)
    with pytest.raises(CodecError, match=r"take -?\d+ bytes a row"):
        unpack(packed, 3, cols)
