"""What was found in a quantized model, as plain numbers: the gate decides on them without torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

WEIGHTS, OUTPUTS = "artifact/weights", "artifact/outputs"
GAINS, ROWS = "artifact/gains", "artifact/rows"
DECODE = "decode"
"""Torch's own product with the decoded weight, in the place of a kernel's name."""


@dataclass(frozen=True)
class LayerFacts:
    """One quantized Linear.

    Attributes:
        name: module path.
        weights: number of weights.
        stored_bits: all bits of its packed tensors, and of its adapter.
        nominal_bits: bits per weight as the method advertises them.
        finite: whether every weight it computes with is finite.
        decoded: whether those weights are, bit for bit, what its packed tensors decode to.
        levels_respected: whether they take no more distinct values a group than the packed form can tell
            apart.
        act_bits: width that its inputs are rounded to; ``None`` where they stay in floating point.
        kernel: what multiplies, `DECODE` or the name of a kernel.
        digest: of all that is stored of it, its adapter included: 8 hex digits.
        differs: whether it computes with other weights than the full-precision Linear, bit for bit; ``None``
            where it was not compared.
        weight_error: ``||W^ - W||^2 / ||W||^2`` (Frobenius) of the decoded weight, without adapter, from the
            full-precision one with the scales that the method folded into it; ``None`` where it was not
            compared, or what was folded is not known.
        gain: ``<W^, W> / ||W||^2`` likewise: a scale that is off moves it, and hardly anything else does.
        row_error: the largest relative squared error of a row (of a channel, where `weight_error` is that of
            products) likewise: it tells of what is wrong with one row only.
    """

    name: str
    weights: int
    stored_bits: int
    nominal_bits: float
    finite: bool
    decoded: bool
    levels_respected: bool
    act_bits: int | None = None
    kernel: str = DECODE
    digest: str = ""
    differs: bool | None = None
    weight_error: float | None = None
    gain: float | None = None
    row_error: float | None = None


@dataclass(frozen=True)
class BlockFacts:
    """One decoder block, fed what the full-precision block before it puts out.

    Attributes:
        name: module path.
        output_error: ``||B^(h) - B(h)||^2 / ||B(h) - h||^2``: how far what the quantized block adds to its
            input h lies from what the full-precision one adds, over all tokens.
    """

    name: str
    output_error: float


@dataclass(frozen=True)
class ArtifactFacts:
    """A whole model.

    Attributes:
        expected_layers: every Linear inside the blocks that the spec asks to quantize, by module path.
        layers: those of them that are quantized.
        notes: the method's documented fallbacks, one sentence each.
        beside: digest of the parameters beside the decoder Linears that differ from the full-precision
            model's, names and values: 8 hex digits; empty where none does.
        blocks: the decoder blocks on calibration windows; empty where there is no text for them.
        fed: digest of those windows; empty without them.
        reference_untouched: whether the full-precision model, after all was measured, is as it was loaded;
            ``None`` where that was not looked at.
        outside: parameters of a multimodal model that the spec leaves alone (vision tower, projector,
            embeddings) and that are not the full-precision model's, bit for bit, by name; ``None`` for a
            model of texts.
    """

    expected_layers: tuple[str, ...]
    layers: tuple[LayerFacts, ...]
    notes: tuple[str, ...] = ()
    beside: str = ""
    blocks: tuple[BlockFacts, ...] = ()
    fed: str = ""
    reference_untouched: bool | None = None
    outside: tuple[str, ...] | None = None

    @property
    def quantized_layers(self) -> tuple[str, ...]:
        """Names of the quantized Linears."""
        return tuple(layer.name for layer in self.layers)

    @property
    def unquantized(self) -> tuple[str, ...]:
        """Names of the expected Linears that are not quantized."""
        quantized = set(self.quantized_layers)
        return tuple(name for name in self.expected_layers if name not in quantized)

    @property
    def bpw(self) -> float:
        """Stored bits over weights of the quantized Linears; NaN when there are none."""
        return _ratio(sum(layer.stored_bits for layer in self.layers), self.weights)

    @property
    def nominal_bits(self) -> float:
        """Advertised bits per weight, averaged over weights; NaN when nothing is quantized."""
        return _ratio(math.fsum(layer.nominal_bits * layer.weights for layer in self.layers), self.weights)

    @property
    def finite(self) -> bool:
        """Whether every weight of the quantized Linears is finite."""
        return all(layer.finite for layer in self.layers)

    @property
    def decoded(self) -> bool:
        """Whether every quantized Linear computes with what its packed tensors decode to."""
        return all(layer.decoded for layer in self.layers)

    @property
    def levels_respected(self) -> bool:
        """Whether no group of any quantized Linear has more levels than its packed form can tell apart."""
        return all(layer.levels_respected for layer in self.layers)

    @property
    def digest(self) -> str:
        """Digest of all that was stored: every layer, and the parameters beside them; 16 hex digits."""
        parts = " ".join((*(f"{layer.name}={layer.digest}" for layer in self.layers), self.beside))
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    @property
    def differs(self) -> bool:
        """Whether any layer computes with other weights than in full precision."""
        return any(layer.differs for layer in self.layers)

    def errors(self, metric: str) -> Mapping[str, float]:
        """Errors by the name of the block (`OUTPUTS`) or layer (`WEIGHTS`, `GAINS`, `ROWS`), where known."""
        if metric == OUTPUTS:
            return {block.name: block.output_error for block in self.blocks}
        field = {WEIGHTS: "weight_error", GAINS: "gain", ROWS: "row_error"}[metric]
        errors = {layer.name: getattr(layer, field) for layer in self.layers}
        return {name: error for name, error in errors.items() if error is not None}

    def without_activations(self, act_bits: int | None) -> tuple[str, ...]:
        """Names of the quantized Linears whose inputs are not rounded to ``act_bits``."""
        return tuple(layer.name for layer in self.layers if layer.act_bits != act_bits)

    @property
    def really_quantized(self) -> bool:
        """Whether there is a decoder, and all of it is quantized and computes with what is stored."""
        return bool(self.expected_layers) and not self.unquantized and self.decoded and self.levels_respected

    @property
    def weights(self) -> int:
        """Number of weights of the quantized Linears."""
        return sum(layer.weights for layer in self.layers)


def _ratio(amount: float, count: int) -> float:
    return amount / count if count else math.nan
