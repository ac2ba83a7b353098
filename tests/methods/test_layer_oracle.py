"""RTN and GPTQ give, on one seeded layer, what their official codes give."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quantcheck.methods.gptq import Gptq
from quantcheck.methods.grouped import GroupedWeight
from quantcheck.methods.hessian import Hessian
from quantcheck.methods.rtn import Rtn
from quantcheck.spec import QuantSpec

GPTQ_TOLERANCE = (
    1e-3  # relative, as the oracles' README gives it: a harmless change of H flips 0.02 % of the codes
)
BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class Layer:
    weight: Tensor
    inputs: Tensor
    hessian: Tensor
    results: dict[str, dict[str, Any]]

    def errors(self, decoded: Tensor) -> tuple[float, float]:
        """``||X (W - Wq)^T|| / ||X W^T||`` and ``||W - Wq|| / ||W||``, in float64."""
        weight, inputs, difference = (
            self.weight.double(),
            self.inputs.double(),
            (self.weight - decoded).double(),
        )
        out = torch.linalg.norm(inputs @ difference.T) / torch.linalg.norm(inputs @ weight.T)
        return out.item(), (torch.linalg.norm(difference) / torch.linalg.norm(weight)).item()


@pytest.fixture(scope="module")
def layer(shared: Path) -> Layer:
    module_spec = importlib.util.spec_from_file_location("oracle_layer", shared / "oracles" / "layer.py")
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    weight, inputs, *_ = module.make_layer()
    oracle = json.loads((shared / "oracles" / "layer_oracle.json").read_text())
    recorded = json.dumps(oracle)
    for array in (weight, inputs):
        assert hashlib.sha256(array.tobytes()).hexdigest() in recorded, "this numpy draws another layer"
    hessian = Hessian()
    hessian.update(torch.from_numpy(inputs))
    return Layer(torch.from_numpy(weight), torch.from_numpy(inputs), hessian.value(), oracle["results"])


def rows(method: str) -> Iterator[tuple[str, str]]:
    """Oracle keys and the spec that each stands for."""
    for bits in BITS:
        for group, suffix in (("pc", ""), ("g128", "-g128")):
            yield f"{method}/{bits}b/{group}/asym", f"{method}-w{bits}{suffix}"
            yield f"{method}/{bits}b/{group}/sym", f"{method}-w{bits}{suffix}-sym"
        if method == "gptq":
            yield f"gptq/{bits}b/pc/asym/actorder", f"gptq-w{bits}-act_order"
            yield f"gptq/{bits}b/g128/asym/actorder+static", f"gptq-w{bits}-g128-act_order-static_groups"


def quantize(layer: Layer, text: str, scale_dtype: torch.dtype = torch.float32) -> GroupedWeight:
    spec = QuantSpec.parse(text)
    if spec.method == "rtn":
        packed = Rtn().quantize_weight(layer.weight, spec, scale_dtype)
    else:
        packed = Gptq().quantize_weight(layer.weight, layer.hessian, spec, scale_dtype)
    assert isinstance(packed, GroupedWeight)
    return packed


@pytest.mark.parametrize(("key", "spec"), list(rows("rtn")))
def test_rtn_equals_the_official_code(layer: Layer, key: str, spec: str) -> None:
    decoded, expected = quantize(layer, spec).decode(), layer.results[key]
    out_error, weight_error = layer.errors(decoded)
    assert out_error == pytest.approx(expected["out_err"], rel=1e-12)
    assert weight_error == pytest.approx(expected["w_err"], rel=1e-12)
    assert decoded.double().sum().item() == pytest.approx(expected["wq_sum"], rel=1e-12)
    assert decoded[0, :6].tolist() == pytest.approx(expected["wq_row0"], abs=5e-7)
    assert len(decoded[0].unique()) == expected["levels_row0"]


@pytest.mark.parametrize(("key", "spec"), list(rows("gptq")))
def test_gptq_equals_the_official_code(layer: Layer, key: str, spec: str) -> None:
    decoded, expected = quantize(layer, spec).decode(), layer.results[key]
    out_error, weight_error = layer.errors(decoded)
    assert out_error == pytest.approx(expected["out_err"], rel=GPTQ_TOLERANCE)
    assert weight_error == pytest.approx(expected["w_err"], rel=GPTQ_TOLERANCE)
    assert decoded[0, :6].tolist() == pytest.approx(expected["wq_row0"], abs=5e-7)
    assert len(decoded[0].unique()) == expected["levels_row0"]


def test_every_row_of_the_two_methods_is_compared(layer: Layer) -> None:
    # The grid search "mse" is left out of RTN.
    ours = {key for key in layer.results if key.startswith(("rtn/", "gptq/")) and "mse" not in key}
    assert {key for method in ("rtn", "gptq") for key, _ in rows(method)} == ours


@pytest.mark.parametrize("spec", ["gptq-w3", "gptq-w2-g128", "gptq-w4-act_order"])
def test_another_scale_of_the_hessian_flips_hardly_a_code(layer: Layer, spec: str) -> None:
    packed = quantize(layer, spec)
    other = Gptq().quantize_weight(layer.weight, 3.3 * layer.hessian, QuantSpec.parse(spec), torch.float32)
    assert isinstance(other, GroupedWeight)
    assert (packed.codes() != other.codes()).double().mean() <= 1e-3
    assert layer.errors(other.decode())[0] == pytest.approx(
        layer.errors(packed.decode())[0], rel=GPTQ_TOLERANCE
    )


@pytest.mark.parametrize("spec", ["rtn-w4-g128", "gptq-w4-g128", "gptq-w2"])
def test_half_precision_scales_cost_hardly_anything(layer: Layer, spec: str) -> None:
    exact = layer.errors(quantize(layer, spec).decode())[0]
    assert layer.errors(quantize(layer, spec, torch.float16).decode())[0] == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("spec", ["rtn-w4", "rtn-w3-g128", "gptq-w4", "gptq-w3-g128"])
@pytest.mark.parametrize("mutant", ["scales", "codes"])
def test_broken_scales_or_codes_do_not_pass_for_the_official_code(
    layer: Layer, spec: str, mutant: str
) -> None:
    good = quantize(layer, spec)
    zeros = good.zeros()
    codes = (good.codes() + 1).clamp(max=2**good.bits - 1) if mutant == "codes" else good.codes()
    scales = good.scales * 1.05 if mutant == "scales" else good.scales
    assert isinstance(zeros, Tensor)
    broken = GroupedWeight.from_codes(codes, scales, zeros, bits=good.bits, group_size=good.group_size)
    assert layer.errors(broken.decode())[0] > 1.01 * layer.errors(good.decode())[0]
