"""What bitsandbytes quantizes we read, and what we pack it reads, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantcheck.codecs import build
from quantcheck.codecs.base import Shape
from quantcheck.codecs.normal_float import codebook, dynamic_map
from quantcheck.methods.parts.linear4bit import import_bitsandbytes

NAMES = ("bnb_nf4", "bnb_fp4", "bnb_nf4_nested", "bnb_fp4_nested")
INTEROP = settings(max_examples=15, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def functional() -> Any:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is in the extra quantcheck[finetune]")
    return import_bitsandbytes().functional


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """A weight of any small shape, whose last block may be short and whose last byte may be half full."""
    rows, cols = draw(st.integers(1, 9)), draw(st.integers(1, 150))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 16)))
    return torch.randn(rows, cols, generator=generator)


def saved(packed: Tensor, state: Any) -> dict[str, Tensor]:
    """Name what bitsandbytes made as its checkpoint does; the offset is a tensor here."""
    stored = {"weight": packed, "weight.absmax": state.absmax}
    if state.nested:
        stored["weight.nested_absmax"] = state.state2.absmax
        stored["weight.nested_offset"] = state.offset[None]
    return stored


@pytest.mark.parametrize("name", NAMES)
@INTEROP
@given(weight=weights())
def test_what_bitsandbytes_packs_decodes_here(functional: Any, name: str, weight: Tensor) -> None:
    packed, state = functional.quantize_4bit(
        weight, quant_type=name[4:7], blocksize=64, compress_statistics=name.endswith("_nested")
    )
    codec, shape = build(name, 4), Shape(*weight.shape, 64)
    stored = saved(packed, state)
    parts = codec.unpack(stored, shape)
    again = codec.pack(parts, shape)
    if weight.numel() % 2:
        # What no weight lies in: theirs is the code of zero.
        assert int(stored["weight"][-1]) & 15 == (7 if name.startswith("bnb_nf4") else 0)
        stored["weight"][-1] &= 0xF0
    assert all(torch.equal(again[key], stored[key]) for key in stored)
    assert torch.equal(codec.weights(parts, shape), dequantized(functional, stored, name, weight.shape))


@pytest.mark.parametrize("name", NAMES)
@INTEROP
@given(seed=st.integers(0, 1 << 16), rows=st.integers(1, 9), cols=st.integers(1, 150))
def test_what_is_packed_here_decodes_in_bitsandbytes(
    functional: Any, name: str, seed: int, rows: int, cols: int
) -> None:
    codec, shape, generator = build(name, 4), Shape(rows, cols, 64), torch.Generator().manual_seed(seed)
    parts = {
        part: torch.rand(field.shape, generator=generator)
        if field.dtype.is_floating_point
        else torch.randint(0, (field.high or 255) + 1, field.shape, generator=generator, dtype=torch.uint8)
        for part, field in codec.parts(shape).items()
    }
    theirs = dequantized(functional, codec.pack(parts, shape), name, (rows, cols))
    assert torch.equal(codec.weights(parts, shape), theirs)


def dequantized(functional: Any, stored: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Read a checkpoint in bitsandbytes, with what its format repeats filled in.

    One long row of whole blocks: where blocks cross rows its 0.50.2 takes wrong scales on some processors.
    """
    data_type, absmax = name[4:7], stored["weight.absmax"]
    size = shape[0] * shape[1]
    facts: dict[str, Any] = {
        "quant_type": data_type,
        "absmax": absmax,
        "blocksize": 64,
        "quant_map": codebook(data_type, "cpu"),
        "dtype": "float32",
        "shape": (1, 64 * len(absmax)),
    }
    if name.endswith("_nested"):
        facts |= {
            "nested_absmax": stored["weight.nested_absmax"],
            "nested_blocksize": 256,
            "nested_quant_map": dynamic_map("cpu"),
            "nested_dtype": "float32",
            "nested_offset": stored["weight.nested_offset"].item(),
        }
    packed = torch.zeros(32 * len(absmax), 1, dtype=torch.uint8)
    packed[: len(stored["weight"])] = stored["weight"]
    state = functional.QuantState.from_dict(facts, device=torch.device("cpu"))
    weight: Tensor = functional.dequantize_4bit(packed, state)
    return weight.flatten()[:size].view(shape)


def test_the_even_weight_is_high(shared: Path) -> None:
    goldens = json.loads((shared / "formats" / "golden_vectors.json").read_text(encoding="utf-8"))
    parts = {"codes": torch.tensor([[1, 2]], dtype=torch.uint8), "absmax": torch.ones(1)}
    stored = build("bnb_nf4", 4).pack(parts, Shape(1, 2, 64))
    assert stored["weight"].tolist() == [[int(goldens["bnb_4bit_codes[1,2]_byte"], 16)]]


def test_bytes_and_blocks_run_on_across_rows() -> None:
    """Three rows of 43: the second row begins in a low half, the second block inside it."""
    codes = torch.arange(129).remainder(16).to(torch.uint8).view(3, 43)
    parts = {"codes": codes, "absmax": torch.tensor([1.0, 2.0, 4.0])}
    codec, shape = build("bnb_nf4", 4), Shape(3, 43, 64)
    stored = codec.pack(parts, shape)
    assert stored["weight"].shape == (65, 1)
    assert int(stored["weight"][21]) == int(codes[0, 42]) << 4 | int(codes[1, 0])
    assert int(stored["weight"][64]) == int(codes[2, 42]) << 4
    scales = codec.weights(parts, shape) / codebook("nf4", "cpu")[codes.int()]
    assert (float(scales[1, 20]), float(scales[1, 21]), float(scales[2, 42])) == (1.0, 2.0, 4.0)


def test_stored_bits_are_those_of_the_paper() -> None:
    shape = Shape(256, 512, 64)
    weights = shape.rows * shape.cols
    assert build("bnb_nf4", 4).stored_bits(shape) == weights * (4 + 32 / 64)
    assert build("bnb_nf4_nested", 4).stored_bits(shape) == weights * (4 + 8 / 64 + 32 / (64 * 256)) + 32
