"""A real library beside one of our codecs: what each packs, the other must decode, bit for bit."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quantcheck.codecs import build
from quantcheck.codecs.base import Codec, Shape, Tensors
from quantcheck.contracts.base import examples
from quantcheck.strategies.codecs import Parts, packed, shapes_of

Fills = Mapping[str, tuple[str, ...]]
EXAMPLES = 40
ALIKE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
REQUIRED = os.environ.get("QUANTCHECK_INTEROP") == "required"


def library(module: str) -> Any:
    """Import a library's module; where it is missing the tests are skipped, or red if it is required."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if REQUIRED:
            return importlib.import_module(module)
        why = f"{module} is not installed: pip install 'quantcheck[interop]'"
        return pytest.importorskip(module, reason=why, exc_type=ImportError)


@dataclass
class Tally:
    """What one test compared.

    Attributes:
        library: name of the distribution.
        codec: the format.
        bits: its width.
        what: the functions of the library that ran.
        direction: what was asked of the library.
        cases: how many tensors were compared.
        version: of the library.
    """

    library: str = ""
    codec: str = ""
    bits: int = 0
    what: str = ""
    direction: str = ""
    cases: int = 0
    version: str = ""

    def about(self, peer: Peer, direction: str) -> None:
        """Take over what is known of the peer."""
        self.library, self.codec, self.bits = peer.library, peer.codec.name, peer.codec.bits
        self.what, self.direction, self.version = peer.what, direction, peer.version

    def same(self, theirs: Tensor, ours: Tensor, where: str) -> None:
        """Fail unless two tensors are the same in dtype, shape and every bit; a NaN is a NaN."""
        self.cases += 1
        assert theirs.dtype == ours.dtype and theirs.shape == ours.shape, (
            f"{where}: {self.library} has {theirs.dtype} {tuple(theirs.shape)}, "
            f"we {ours.dtype} {tuple(ours.shape)}"
        )
        equal = bits(theirs) == bits(ours)
        if ours.is_floating_point():
            equal |= theirs.isnan() & ours.isnan()
        assert equal.all(), (
            f"{where}: {int((~equal).sum())} of {equal.numel()} values differ, first {self.library}'s "
            f"{theirs[~equal][0].item()} and our {ours[~equal][0].item()}"
        )


class Peer:
    """A library's own code for one format at one width; a library offers what it has of three directions.

    Attributes:
        library: name of the distribution.
        what: its functions that run.
        fills: how parts by name are filled, where the library does not take what the strategies draw.
    """

    library: ClassVar[str]
    what: ClassVar[str]
    fills: ClassVar[Fills] = {}

    def __init__(self, name: str, bits: int) -> None:
        self.codec: Codec = build(name, bits)

    @property
    def version(self) -> str:
        """The release that is installed."""
        return version(self.library)

    def holds(self, shape: Shape) -> bool:
        """Whether the library takes such a weight; none takes one without rows or columns."""
        return True

    def decode(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        """Read our tensors: parts by their names, or ``weights`` in the library's dtype."""
        raise NotImplementedError

    def encode(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        """Pack our parts: stored tensors by their names."""
        raise NotImplementedError

    def quantize(self, weight: Tensor, shape: Shape) -> tuple[dict[str, Tensor], Tensor]:
        """Quantize a float32 weight: all stored tensors, and what the library itself decodes them to."""
        raise NotImplementedError

    def expected(self, name: str, parts: Tensors, shape: Shape) -> Tensor:
        """Return what `decode` must find."""
        return self.codec.weights(parts, shape) if name == "weights" else parts[name]

    def recipes(self) -> st.SearchStrategy[Parts]:
        """Draw parts that the library takes."""
        return packed(self.codec, self.shapes(), kinds=self.fills)

    def shapes(self) -> list[Shape]:
        """List shapes that both take."""
        return [shape for shape in shapes_of(self.codec) if shape.rows and shape.cols and self.holds(shape)]


class PeerTests:
    """The directions, for each of ``peers`` that offers them."""

    peers: ClassVar[tuple[Peer, ...]]

    def __init_subclass__(cls) -> None:
        for name in [name for name in dir(cls) if name.startswith("test_")]:
            if not any(offers(peer, name) for peer in cls.peers):
                setattr(cls, name, None)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test ``test_decode_...`` for each peer that has a ``decode`` of its own."""
        chosen = [peer for peer in self.peers if offers(peer, metafunc.function.__name__)]
        metafunc.parametrize(
            "peer", chosen, ids=[f"{type(peer).__name__}-{peer.codec.id}" for peer in chosen]
        )

    def test_decode_there_what_we_pack(self, peer: Peer, tally: Tally) -> None:
        tally.about(peer, "reads ours")

        @examples(EXAMPLES)
        @given(peer.recipes())
        def decodes(recipe: Parts) -> None:
            parts, shape = recipe.build(peer.codec), recipe.shape
            for name, theirs in peer.decode(peer.codec.pack(parts, shape), shape).items():
                ours = peer.expected(name, parts, shape).to(theirs.dtype)
                tally.same(theirs, ours, f"{name} of {recipe}")

        decodes()

    def test_encode_there_and_decode_here(self, peer: Peer, tally: Tally) -> None:
        tally.about(peer, "packs the same")

        @examples(EXAMPLES)
        @given(peer.recipes())
        def encodes(recipe: Parts) -> None:
            parts, shape = recipe.build(peer.codec), recipe.shape
            ours, theirs = peer.codec.pack(parts, shape), peer.encode(parts, shape)
            for name, tensor in theirs.items():
                tally.same(tensor, ours[name], f"{name} of {recipe}")
            for name, tensor in peer.codec.unpack({**ours, **theirs}, shape).items():
                tally.same(parts[name], tensor, f"{name} of {recipe}")

        encodes()

    def test_quantize_there_and_decode_here(self, peer: Peer, tally: Tally) -> None:
        tally.about(peer, "quantizes for us")

        @examples(EXAMPLES)
        @given(st.sampled_from(peer.shapes()), st.integers(0, 1 << 20), st.sampled_from((1.0, 1e-3, 100.0)))
        def quantizes(shape: Shape, seed: int, spread: float) -> None:
            weight = spread * torch.randn(
                shape.rows, shape.cols, generator=torch.Generator().manual_seed(seed)
            )
            stored, theirs = peer.quantize(weight, shape)
            parts = peer.codec.unpack(stored, shape)
            where = f"weights of {shape}, seed {seed}"
            tally.same(theirs, peer.expected("weights", parts, shape).to(theirs.dtype), where)
            for name, tensor in peer.codec.pack(parts, shape).items():
                tally.same(stored[name], tensor, f"{name} of {shape}, seed {seed}")

        quantizes()


def offers(peer: Peer, test: str) -> bool:
    """Whether a peer has the method that the test's name starts with."""
    method = test.split("_")[1]
    return getattr(type(peer), method) is not getattr(Peer, method)


def group_size(shape: Shape) -> int:
    """Return the group size in the words of libraries that know no ``None``."""
    return shape.group_size or shape.cols


def bits(tensor: Tensor) -> Tensor:
    """See a tensor as integers."""
    return tensor.contiguous().view(ALIKE[tensor.element_size()]) if tensor.is_floating_point() else tensor
