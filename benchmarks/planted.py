"""Faults planted in quantized models, and what each does to every window: outcomes to replay.

A fault alters what is stored of a real model, or how it was made: scales, zero points, codes, widths, error
feedback. Strengths are chosen so that perplexity moves by anything from nothing to many times. Nothing here
is a stand-in: every case is a model that was quantized, altered and measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantcheck.methods.artifact import Artifact, quantize
from quantcheck.methods.packed.grouped import GroupedWeight
from quantcheck.metrics.text import BATCH_TOKENS, ReferenceOutputs, measure_text
from quantcheck.models.load import LoadedModel
from quantcheck.models.text import Windows
from quantcheck.spec import QuantSpec

Alter = Callable[[GroupedWeight], GroupedWeight]
Outcomes = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Fault:
    """One way to break a model, or to change it harmlessly.

    Attributes:
        name: what is done, and where.
        plant: makes the broken artifact of the sound one.
    """

    name: str
    plant: Callable[[Artifact], Artifact]


@dataclass(frozen=True, eq=False)
class Bench:
    """A model with all that its faults are made and measured with; ``calibrations`` are disjoint draws."""

    loaded: LoadedModel
    windows: Windows
    calibrations: tuple[Tensor, ...]
    outputs: ReferenceOutputs

    def quantized(self, spec: str, draw: int = 0) -> Artifact:
        """Quantize with one draw of the calibration windows."""
        return quantize(
            self.loaded.fresh(),
            QuantSpec.parse(spec),
            scale_dtype=torch.float16,
            calibration=self.calibrations[draw],
            seed=draw,
        )

    def outcomes(
        self,
        artifact: Artifact | None,
        *,
        dtype: torch.dtype = torch.float32,
        batch_tokens: int = BATCH_TOKENS,
    ) -> Outcomes:
        """What every window says of an artifact, by metric; of the full-precision model for ``None``."""
        model = self.loaded.model if artifact is None else artifact.apply(self.loaded.fresh()).eval()
        if dtype is not torch.float32:
            model = model.to(dtype)
        measured = measure_text(model, self.windows, reference=self.outputs, batch_tokens=batch_tokens)
        return {name.partition("/")[0]: one.outcomes for name, one in measured.items()}


def faults(bench: Bench, spec: str) -> Iterator[Fault]:
    """Every fault for one spec, a grouped one with zero points."""
    for percent in (0.5, 2.0, 5.0, 10.0, 20.0):
        grow = _scaled(1 + percent / 100)
        yield _everywhere(f"scales {percent:g} % off, all layers", grow)
        yield _in(f"scales {percent:g} % off, one block", grow, "layers.1.")
        yield _in(f"scales {percent:g} % off, one layer", grow, "layers.1.mlp.down_proj")
    for where in ("layers.1.mlp.down_proj", "layers.0.self_attn.q_proj", "layers.2.self_attn.v_proj"):
        yield _in(f"zero points off by one, {where}", _zeros_off, where)
        yield _in(f"scales of neighbouring rows swapped, {where}", _rows_rolled, where)
        yield _in(f"scales of neighbouring groups swapped, {where}", _groups_rolled, where)
        yield _in(f"two rows of codes swapped, {where}", _two_rows, where)
        yield _in(f"codes off by one in one column of eight, {where}", _codes_off, where)
        yield _in(f"greatest code never used, {where}", _clipped, where)
        yield _in(f"zeros in place of a row of scales, {where}", _row_lost, where)
    for name, alter in (
        ("zero points off by one", _zeros_off),
        ("scales of neighbouring rows swapped", _rows_rolled),
        ("greatest code never used", _clipped),
        ("codes off by one in one column of eight", _codes_off),
        ("scales rounded to powers of two", _powers_of_two),
    ):
        yield _everywhere(f"{name}, all layers", alter)
    yield from _made_otherwise(bench, spec)


def _made_otherwise(bench: Bench, spec: str) -> Iterator[Fault]:
    """Another width, no error feedback, calibration on noise: in all layers, or in one block."""
    parsed = QuantSpec.parse(spec)
    fewer = bench.quantized(str(replace(parsed, bits=parsed.bits - 1)))
    others = {"one bit fewer": fewer}
    if parsed.method == "gptq":
        others["no error feedback"] = bench.quantized(str(replace(parsed, method="rtn")))
        noise = torch.randint(
            bench.loaded.model.config.vocab_size,
            bench.calibrations[0].shape,
            generator=torch.Generator().manual_seed(1),
        )
        others["calibrated on noise"] = replace(bench, calibrations=(noise,)).quantized(spec)
    for name, other in others.items():
        yield Fault(f"{name}, all layers", lambda _, other=other: other)
        for where in ("layers.0.", "layers.2.", "layers.1.mlp.down_proj"):
            yield Fault(f"{name}, {where}", lambda sound, other=other, at=where: _mixed(sound, other, at))


def _mixed(sound: Artifact, other: Artifact, where: str) -> Artifact:
    return replace(
        sound,
        weights={
            name: other.weights[name] if where in name else weight for name, weight in sound.weights.items()
        },
    )


def _in(name: str, alter: Alter, where: str) -> Fault:
    def plant(sound: Artifact) -> Artifact:
        assert any(where in layer for layer in sound.weights), where
        changed = {
            layer: alter(weight)
            for layer, weight in sound.weights.items()
            if where in layer and isinstance(weight, GroupedWeight)
        }
        return replace(sound, weights={**sound.weights, **changed})

    return Fault(name, plant)


def _everywhere(name: str, alter: Alter) -> Fault:
    return _in(name, alter, "")


def _scaled(factor: float) -> Alter:
    return lambda weight: replace(weight, scales=weight.scales * factor)


def _rows_rolled(weight: GroupedWeight) -> GroupedWeight:
    return replace(weight, scales=weight.scales.roll(1, dims=0).contiguous())


def _groups_rolled(weight: GroupedWeight) -> GroupedWeight:
    return replace(weight, scales=weight.scales.roll(1, dims=1).contiguous())


def _powers_of_two(weight: GroupedWeight) -> GroupedWeight:
    return replace(weight, scales=weight.scales.float().log2().round().exp2().to(weight.scales.dtype))


def _row_lost(weight: GroupedWeight) -> GroupedWeight:
    scales = weight.scales.clone()
    scales[0] = 0
    return replace(weight, scales=scales)


def _zeros_off(weight: GroupedWeight) -> GroupedWeight:
    zeros = weight.zeros()
    assert isinstance(zeros, Tensor)
    moved = zeros.to(torch.int16).add(1).clamp(max=(1 << weight.bits) - 1)
    return _repacked(weight, weight.codes(), moved)


def _two_rows(weight: GroupedWeight) -> GroupedWeight:
    codes = weight.codes().clone()
    codes[[0, 1]] = codes[[1, 0]]
    return _repacked(weight, codes, weight.zeros())


def _codes_off(weight: GroupedWeight) -> GroupedWeight:
    codes = weight.codes().to(torch.int16)
    codes[:, ::8] = (codes[:, ::8] + 1).clamp(max=(1 << weight.bits) - 1)
    return _repacked(weight, codes.to(torch.uint8), weight.zeros())


def _clipped(weight: GroupedWeight) -> GroupedWeight:
    return _repacked(weight, weight.codes().clamp(max=(1 << weight.bits) - 2), weight.zeros())


def _repacked(weight: GroupedWeight, codes: Tensor, zeros: Tensor | float) -> GroupedWeight:
    return GroupedWeight.from_codes(
        codes,
        weight.scales,
        zeros if isinstance(zeros, Tensor) else None,
        bits=weight.bits,
        group_size=weight.group_size,
        g_idx=weight.g_idx,
    )
