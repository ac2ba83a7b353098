"""GGUF's types against their definition, read one code after the other with nothing but Python's numbers."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantcheck.codecs import CODECS, build
from quantcheck.codecs.base import Shape
from quantcheck.codecs.gguf.blocks import BlockFormat

PROPERTY = settings(max_examples=25)
SCALES_BEHIND = {"gguf_q2_k": 80, "gguf_q3_k": 108, "gguf_q6_k": 208, "gguf_tq1_0": 52, "gguf_tq2_0": 64}
"""Where ``d`` lies in the types that do not start with it."""
Reader = Callable[[bytes], Iterator[float]]


def half(block: bytes, start: int) -> float:
    (value,) = struct.unpack_from("<e", block, start)
    return float(value)


def nibbles(block: bytes, start: int) -> list[int]:
    """Of 16 bytes, all low ones first."""
    return [byte & 15 for byte in block[start : start + 16]] + [
        byte >> 4 for byte in block[start : start + 16]
    ]


def q4_0(block: bytes) -> Iterator[float]:
    for code in nibbles(block, 2):
        yield (code - 8) * half(block, 0)


def q5_0(block: bytes) -> Iterator[float]:
    high = int.from_bytes(block[2:6], "little")
    for position, low in enumerate(nibbles(block, 6)):
        yield ((low | (high >> position & 1) << 4) - 16) * half(block, 0)


def q8_0(block: bytes) -> Iterator[float]:
    for code in struct.unpack_from("32b", block, 2):
        yield code * half(block, 0)


def two_bits(block: bytes, start: int) -> Iterator[int]:
    """Of 64 bytes: each half gives its bits 1..0, then 3..2, and so on."""
    for first in (start, start + 32):
        for shift in (0, 2, 4, 6):
            for byte in block[first : first + 32]:
                yield byte >> shift & 3


def q2_k(block: bytes) -> Iterator[float]:
    d, dmin = half(block, 80), half(block, 82)
    for position, code in enumerate(two_bits(block, 16)):
        scale, minimum = block[position // 16] & 15, block[position // 16] >> 4
        yield d * scale * code - dmin * minimum


def q3_k(block: bytes) -> Iterator[float]:
    a, b, c = (int.from_bytes(block[start : start + 4], "little") for start in (96, 100, 104))
    low, pairs = 0x0F0F0F0F, 0x03030303
    words = (
        a & low | (c & pairs) << 4,
        b & low | (c >> 2 & pairs) << 4,
        a >> 4 & low | (c >> 4 & pairs) << 4,
        b >> 4 & low | (c >> 6 & pairs) << 4,
    )
    scales = struct.pack("<4I", *words)
    for position, code in enumerate(two_bits(block, 32)):
        missing = 0 if block[position % 32] & 1 << position // 32 else 4
        yield half(block, 108) * (scales[position // 16] - 32) * (code - missing)


def six_bits(packed: bytes) -> Iterator[tuple[int, int]]:
    """The scale and the minimum of each group of a Q4_K or Q5_K block."""
    for group in range(4):
        yield packed[group] & 63, packed[group + 4] & 63
    for group in range(4):
        low, top = packed[group + 8], (packed[group] >> 6, packed[group + 4] >> 6)
        yield low % 16 + 16 * top[0], low // 16 + 16 * top[1]


def pairs_of_groups(block: bytes, start: int) -> Iterator[int]:
    """Of 128 bytes: 32 of them hold a group in their low nibbles and the next one in their high nibbles."""
    for first in range(start, start + 128, 32):
        yield from (byte % 16 for byte in block[first : first + 32])
        yield from (byte // 16 for byte in block[first : first + 32])


def q4_k(block: bytes) -> Iterator[float]:
    groups = list(six_bits(block[4:16]))
    for position, code in enumerate(pairs_of_groups(block, 16)):
        scale, minimum = groups[position // 32]
        yield half(block, 0) * scale * code - half(block, 2) * minimum


def q5_k(block: bytes) -> Iterator[float]:
    groups = list(six_bits(block[4:16]))
    for position, low in enumerate(pairs_of_groups(block, 48)):
        scale, minimum = groups[position // 32]
        code = low + 16 * bool(block[16 + position % 32] & 1 << position // 32)
        yield half(block, 0) * scale * code - half(block, 2) * minimum


def q6_k(block: bytes) -> Iterator[float]:
    scales = struct.unpack_from("16b", block, 192)
    for position, top in enumerate(two_bits(block, 128)):
        part, rest = divmod(position, 128)
        byte = block[64 * part + rest % 64]
        low = byte % 16 if rest < 64 else byte // 16
        yield half(block, 208) * scales[position // 16] * (low + 16 * top - 32)


def tq2_0(block: bytes) -> Iterator[float]:
    for code in two_bits(block, 0):
        yield half(block, 64) * (code - 1)


def tq1_0(block: bytes) -> Iterator[float]:
    for first, last, digits in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        for digit in range(1, digits + 1):
            for byte in block[first:last]:
                yield half(block, 52) * (byte * 3**digit // 256 % 3 - 1)


READERS: dict[str, Reader] = {
    f"gguf_{reader.__name__}": reader
    for reader in (q4_0, q5_0, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, tq1_0, tq2_0)
}


def codec_of(name: str) -> BlockFormat:
    codec = build(name, CODECS.entry(name).capabilities.bits[0])
    assert isinstance(codec, BlockFormat)
    return codec


def without_threes(block: bytes, count: int) -> bytes:
    """Clear the pairs of bits that no ternary code has."""
    return bytes(byte & ~(3 * (byte & byte >> 1 & 0x55)) for byte in block[:count]) + block[count:]


def bit_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the same floats, signs of zeros included; a NaN is a NaN."""
    same = (one.view(torch.int32) == other.view(torch.int32)) | (one.isnan() & other.isnan())
    return one.shape == other.shape and bool(same.all())


def test_every_registered_type_has_a_reader() -> None:
    assert READERS.keys() == {name for name in CODECS.names() if name.startswith("gguf")}


@pytest.mark.parametrize("name", READERS)
@PROPERTY
@given(data=st.data(), rows=st.integers(1, 2), count=st.integers(1, 2))
def test_random_bytes_decode_as_defined(name: str, data: st.DataObject, rows: int, count: int) -> None:
    """Whatever the bytes, among them scales that are NaN or infinite."""
    codec = codec_of(name)
    size = codec.block_bytes
    blocks = [data.draw(st.binary(min_size=size, max_size=size)) for _ in range(rows * count)]
    check(codec, blocks, Shape(rows, count * codec.cols_multiple, codec.group_sizes[0]))


@pytest.mark.parametrize("name", READERS)
@PROPERTY
@given(
    byte=st.integers(0, 255), scale=st.sampled_from((0.0, -0.0, 1.0, -6.1e-5, 65504.0, math.inf, math.nan))
)
@example(byte=0xFF, scale=math.nan)
@example(byte=0x80, scale=-0.0)
def test_blocks_of_one_byte_decode_as_defined(name: str, byte: int, scale: float) -> None:
    codec = codec_of(name)
    block = bytearray([byte] * codec.block_bytes)
    struct.pack_into("<e", block, SCALES_BEHIND.get(name, 0), scale)
    check(codec, [bytes(block)], Shape(1, codec.cols_multiple, codec.group_sizes[0]))


def check(codec: BlockFormat, blocks: list[bytes], shape: Shape) -> None:
    """Weights are the definition's; and the parts, packed again, make the same bytes."""
    if codec.name == "gguf_tq2_0":
        blocks = [without_threes(block, 64) for block in blocks]
    stored = torch.frombuffer(bytearray(b"".join(blocks)), dtype=torch.uint8).reshape(shape.rows, -1)
    parts = codec.unpack({"blocks": stored}, shape)
    expected = [weight for block in blocks for weight in READERS[codec.name](block)]
    weights = codec.weights(parts, shape)
    assert bit_equal(weights, torch.tensor(expected, dtype=torch.float32).reshape(shape.rows, shape.cols))
    if codec.name != "gguf_tq1_0":  # where several bytes stand for the same codes
        assert torch.equal(codec.pack(parts, shape)["blocks"], stored)
