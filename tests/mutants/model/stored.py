"""Faults in what is stored: scales, zero points, codes, layers, and what belongs to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mutants.model.fault import Fault, Kind, Plant, layers, recoded, rescaled, stored
from quantcheck.methods.artifact import Artifact
from quantcheck.methods.packed.grouped import GroupedWeight
from quantcheck.methods.packed.normal_float import NormalFloatWeight
from quantcheck.methods.packed.residual_binary import RESIDUAL, ResidualBinaryWeight
from quantcheck.methods.packed.rotated import RotatedWeight
from quantcheck.methods.rtn import Rtn
from quantcheck.spec import QuantSpec

DOWN = "model.layers.1.mlp.down_proj"
QUERY = "model.layers.1.self_attn.q_proj"
EVERY = "*"


def scaled(factor: float) -> Callable[[GroupedWeight], GroupedWeight]:
    return lambda packed: rescaled(packed, packed.scales * factor)


def one_step_up(packed: GroupedWeight) -> GroupedWeight:
    return rescaled(packed, torch.nextafter(packed.scales, torch.full_like(packed.scales, torch.inf)))


def scales_in_bfloat16(packed: GroupedWeight) -> GroupedWeight:
    return rescaled(packed, packed.scales.to(torch.bfloat16))


def one_scale_overflows(packed: GroupedWeight) -> GroupedWeight:
    scales = packed.scales.clone()
    scales[3] *= 1e8
    return rescaled(packed, scales)


def one_scale_lost(packed: GroupedWeight) -> GroupedWeight:
    scales = packed.scales.clone()
    scales[3, 0] = 0
    return rescaled(packed, scales)


def zeros_shifted(rows: slice, packed: GroupedWeight) -> GroupedWeight:
    zeros = packed.zeros()
    assert isinstance(zeros, Tensor)
    shifted = zeros.to(torch.int16)
    shifted[rows] += 1
    return recoded(packed, zeros=shifted.clamp(max=(1 << packed.bits) - 1))


def groups_swapped(rows: slice, packed: GroupedWeight) -> GroupedWeight:
    scales = packed.scales.clone()
    scales[rows] = scales[rows].roll(1, dims=1)
    return rescaled(packed, scales)


def two_rows_swapped(packed: GroupedWeight) -> GroupedWeight:
    scales = packed.scales.clone()
    scales[[4, 5]] = scales[[5, 4]]
    return rescaled(packed, scales)


def one_code(bit: int, packed: GroupedWeight) -> GroupedWeight:
    codes = packed.codes().clone()
    codes[7, 11] ^= 1 << bit
    return recoded(packed, codes)


def row_shifted(packed: GroupedWeight) -> GroupedWeight:
    codes = packed.codes().clone()
    codes[7] = codes[7].roll(1)
    return recoded(packed, codes)


def transposed(packed: GroupedWeight) -> GroupedWeight:
    return recoded(packed, packed.codes().T.contiguous())


def nibbles_swapped(packed: GroupedWeight) -> GroupedWeight:
    return replace(packed, qweight=packed.qweight << 4 | packed.qweight >> 4)


def last_column_dropped(packed: GroupedWeight) -> GroupedWeight:
    codes, zeros = packed.codes().clone(), packed.zeros()
    assert isinstance(zeros, Tensor)
    codes[:, -1] = zeros[:, -1]
    return recoded(packed, codes)


def row_mirrored(packed: GroupedWeight) -> GroupedWeight:
    scales = packed.scales.clone()
    scales[7] *= -1
    return rescaled(packed, scales)


def order_dropped(packed: GroupedWeight) -> GroupedWeight:
    assert packed.g_idx is not None
    return replace(packed, g_idx=None)


def rounded_again(bits: int, *, hidden: bool = False) -> Callable[[GroupedWeight], GroupedWeight]:
    """Store a layer at another width, said so or hidden in fields of the width asked for."""

    def alter(packed: GroupedWeight) -> GroupedWeight:
        spec = QuantSpec.parse(f"rtn-w{bits}")
        made = Rtn().quantize_weight(packed.decode(), spec, packed.scales.dtype)
        assert isinstance(made, GroupedWeight)
        return recoded(made, bits=packed.bits) if hidden else made

    return alter


def swapped(one: str, other: str) -> Plant:
    def change(artifact: Artifact) -> Artifact:
        weights = dict(artifact.weights)
        weights[one], weights[other] = weights[other], weights[one]
        return replace(artifact, weights=weights)

    return stored(change)


def parameters(alter: Callable[[Tensor], Tensor]) -> Plant:
    """Alter the norm gains that took up a scale."""

    def change(artifact: Artifact) -> Artifact:
        assert artifact.parameters
        return replace(
            artifact,
            parameters={name: alter(tensor) for name, tensor in artifact.parameters.items()},
        )

    return stored(change)


def gains_dropped(artifact: Artifact) -> Artifact:
    assert artifact.parameters
    return replace(artifact, parameters={})


def adapters_dropped(artifact: Artifact) -> Artifact:
    assert artifact.adapters
    return replace(artifact, adapters={})


def adapters_scaled(factor: float) -> Plant:
    def change(artifact: Artifact) -> Artifact:
        assert artifact.adapters
        adapters = {
            name: replace(adapter, scaling=adapter.scaling * factor)
            for name, adapter in artifact.adapters.items()
        }
        return replace(artifact, adapters=adapters)

    return stored(change)


def one_adapter_dropped(artifact: Artifact) -> Artifact:
    adapters = dict(artifact.adapters)
    del adapters[QUERY]
    return replace(artifact, adapters=adapters)


def residual_dropped(packed: ResidualBinaryWeight) -> ResidualBinaryWeight:
    mean, scale = packed.mean.clone(), packed.scale.clone()
    mean[:, RESIDUAL], scale[:, RESIDUAL] = 0, 0
    return replace(packed, mean=mean, scale=scale)


def offset_dropped(packed: NormalFloatWeight) -> NormalFloatWeight:
    assert packed.offset is not None
    return replace(packed, offset=torch.zeros_like(packed.offset))


def columns_unscaled(packed: RotatedWeight) -> RotatedWeight:
    return replace(packed, column_scales=torch.ones_like(packed.column_scales))


def seed_lost(packed: RotatedWeight) -> RotatedWeight:
    return replace(packed, seed=packed.seed + 1)


def _fault(name: str, spec: str, what: str, plant: Plant) -> Fault:
    return Fault(name, Kind.STORED, spec, what, plant)


def _layers(name: str, spec: str, what: str, glob: str, alter: Callable[[Any], Any]) -> Fault:
    return _fault(name, spec, what, layers(glob, alter))


ROW, ROWS = slice(9, 10), slice(None)

# fmt: off
FAULTS = (
    _layers("scale-2-percent", "rtn-w4", "one layer's scales 2 % too large", DOWN, scaled(1.02)),
    _layers("scale-2-percent-gptq", "gptq-w3-g128", "one layer's scales 2 % too large", DOWN, scaled(1.02)),
    _layers("scale-2-percent-w8", "rtn-w8", "one layer's scales 2 % too large", DOWN, scaled(1.02)),
    _layers("scales-5-percent", "rtn-w4", "all scales 5 % too large", EVERY, scaled(1.05)),
    _layers("scales-1-percent-small", "awq-w4", "all scales 1 % too small", EVERY, scaled(0.99)),
    _layers("scales-one-step", "rtn-w4", "all scales one float16 step up, 0.07 %", EVERY, one_step_up),
    _layers("scales-bfloat16", "rtn-w8", "all scales rounded to bfloat16", EVERY, scales_in_bfloat16),
    _layers("scale-overflows", "rtn-w4", "one row's scale overflows float16", DOWN, one_scale_overflows),
    _layers("scale-lost", "rtn-w4-g128", "the scale of one group of one row is 0", DOWN, one_scale_lost),
    _layers("zero-one-row", "rtn-w4", "one row's zero point one too large",
        DOWN, partial(zeros_shifted, ROW)),
    _layers("zero-one-layer", "rtn-w4", "one layer's zero points one too large",
        DOWN, partial(zeros_shifted, ROWS)),
    _layers("zero-all", "gptq-w4", "all zero points one too large", EVERY, partial(zeros_shifted, ROWS)),
    _layers("zero-all-w8", "rtn-w8", "all zero points one too large", EVERY, partial(zeros_shifted, ROWS)),
    _layers("groups-one-row", "rtn-w4-g128", "the groups of one row take each other's scales",
        DOWN, partial(groups_swapped, ROW)),
    _layers("groups-one-layer", "gptq-w3-g128", "the groups of one layer take each other's scales",
        DOWN, partial(groups_swapped, ROWS)),
    _layers("groups-all", "rtn-w4-g128", "all groups take each other's scales",
        EVERY, partial(groups_swapped, ROWS)),
    _layers("rows-swapped", "rtn-w4", "two rows of one layer take each other's scales",
        QUERY, two_rows_swapped),
    _layers("code-top-bit", "rtn-w4", "the top bit of one code flipped", DOWN, partial(one_code, 3)),
    _layers("code-low-bit", "rtn-w8", "the lowest bit of one code flipped", DOWN, partial(one_code, 0)),
    _layers("row-shifted", "rtn-w4", "the codes of one row one column off", DOWN, row_shifted),
    _layers("row-mirrored", "rtn-w4", "one row's scale negative", DOWN, row_mirrored),
    _layers("codes-transposed", "rtn-w4", "one square layer's codes transposed", QUERY, transposed),
    _layers("nibbles-one-layer", "rtn-w4", "one layer's nibbles in the other order", DOWN, nibbles_swapped),
    _layers("nibbles-all", "gptq-w4", "all nibbles in the other order", EVERY, nibbles_swapped),
    _layers("last-column", "rtn-w4", "the last column of every layer dropped", EVERY, last_column_dropped),
    _layers("order-dropped", "gptq-w4-g128-act_order", "the order of columns not stored",
        EVERY, order_dropped),
    _layers("layer-half-bits", "rtn-w4", "one layer at 2 bits", DOWN, rounded_again(2)),
    _layers("layer-half-bits-hidden", "rtn-w4", "one layer at 2 bits in fields of 4",
        DOWN, rounded_again(2, hidden=True)),
    _layers("layer-bit-fewer", "rtn-w4", "one layer at 3 bits", DOWN, rounded_again(3)),
    _layers("layer-bit-fewer-hidden", "awq-w4", "one layer at 3 bits in fields of 4",
        QUERY, rounded_again(3, hidden=True)),
    _layers("bit-fewer-hidden", "rtn-w8", "every layer at 7 bits in fields of 8",
        EVERY, rounded_again(7, hidden=True)),
    _fault("key-value-swapped", "rtn-w4", "keys and values of one block change places",
        swapped("model.layers.1.self_attn.k_proj", "model.layers.1.self_attn.v_proj")),
    _fault("blocks-swapped", "gptq-w4", "the output projections of two blocks change places",
        swapped("model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj")),
    _fault("awq-not-folded", "awq-w4", "scaled columns, and gains as they were", stored(gains_dropped)),
    _fault("smoothquant-not-folded", "smoothquant-w8a8", "scaled columns, and gains as they were",
        stored(gains_dropped)),
    _fault("gains-1-percent", "smoothquant-w8a8", "folded gains 1 % too large",
        parameters(lambda gain: gain * 1.01)),
    _fault("adapters-dropped", "qlora-w4", "no adapter is loaded", stored(adapters_dropped)),
    _fault("adapter-dropped", "qlora-w4", "one adapter is not loaded", stored(one_adapter_dropped)),
    _fault("adapters-twice", "qlora-w4", "adapters scaled twice", adapters_scaled(2.0)),
    _layers("residual-dropped", "billm-w1.1-g128", "the second step of salient columns dropped",
        EVERY, residual_dropped),
    _layers("offset-dropped", "nf4-w4", "the offset of doubly quantized scales dropped",
        EVERY, offset_dropped),
    _layers("columns-unscaled", "quip-w4", "one layer's columns not scaled back", DOWN, columns_unscaled),
    _layers("rotation-lost", "quip-w4", "one layer rotated back by another seed", DOWN, seed_lost),
)
# fmt: on
