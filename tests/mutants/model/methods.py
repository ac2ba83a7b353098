"""Faults in the algorithms: rounding, feedback, calibration, folding, and what is quantized at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from mutants import methods as broken
from mutants.model.fault import Fault, Kind, Plant, Site, all_of, altered, method
from quantcheck.methods.activations import ActivationQuantizer
from quantcheck.methods.base import PackedWeight
from quantcheck.methods.packed.grouped import GroupedWeight
from quantcheck.methods.parts.grids import Grid
from quantcheck.methods.parts.hessian import Hessian
from quantcheck.methods.rtn import Rtn
from quantcheck.models.text import Windows, evaluation_windows

GPTQ, LAYER = "quantcheck.methods.gptq:", "model.layers.1.mlp.down_proj"


def no_feedback(rest: Tensor, factor: Tensor, block_size: int, round_block: Any) -> None:
    """Round each column as it was: no error reaches a later one."""
    for i, column in enumerate(rest):
        round_block(i, column[None].clone(), factor[i : i + 1, i : i + 1])


def feedback_within_blocks(rest: Tensor, factor: Tensor, block_size: int, round_block: Any) -> None:
    """Make up for errors inside a block of columns and not beyond it."""
    for start in range(0, len(rest), block_size):
        block = slice(start, start + block_size)
        round_block(start, rest[block].clone(), factor[block, block])


def damped(percdamp: float) -> Plant:
    return altered(
        f"{GPTQ}inverse_factor", lambda real: lambda hessian, _, order: real(hessian, percdamp, order)
    )


class LastWindow(Hessian):
    """Forgets all sequences but the last."""

    def update(self, inputs: Tensor) -> None:
        self.__init__()  # type: ignore[misc]
        super().update(inputs)


@contextmanager
def order_not_undone(_: Site) -> Iterator[None]:
    """Store codes and groups of columns in the order in which they were rounded."""
    orders: list[Tensor] = []
    real = GroupedWeight.from_codes

    def noting(factor: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def inverse_factor(hessian: Tensor, percdamp: float, order: Tensor) -> Tensor:
            orders.append(order)
            return factor(hessian, percdamp, order)

        return inverse_factor

    def from_codes(codes: Tensor, *given: Any, g_idx: Tensor, **named: Any) -> GroupedWeight:
        return real(codes[:, orders[-1]], *given, g_idx=g_idx[orders[-1]], **named)

    with (
        altered(f"{GPTQ}inverse_factor", noting)(_),
        mock.patch.object(GroupedWeight, "from_codes", from_codes),
    ):
        yield


def unpropagated(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Feed every block what full-precision blocks put out, as if nothing before it was quantized."""
    kept: dict[nn.Module, dict[str, Tensor]] = {}

    def forward_block(block: nn.Module, hidden: Tensor, keywords: dict[str, Any]) -> Tensor:
        first = kept.setdefault(block, {name: tensor.clone() for name, tensor in block.named_parameters()})
        now = {name: tensor.clone() for name, tensor in block.named_parameters()}
        with torch.no_grad():
            for name, tensor in block.named_parameters():
                tensor.copy_(first[name])
            found = real(block, hidden, keywords)
            for name, tensor in block.named_parameters():
                tensor.copy_(now[name])
        return found

    return forward_block


def calibrated(change: Callable[[Tensor], Tensor]) -> Plant:
    """Give the method other windows than those that its figures are recorded under."""

    def alter(real: Any) -> Any:
        def quantize(*given: Any, calibration: Tensor, **named: Any) -> Any:
            return real(*given, calibration=change(calibration), **named)

        return quantize

    return altered("quantcheck.runner:quantize", alter)


def noise(windows: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(int(windows.max()) + 1, windows.shape, generator=generator)


def test_set(*, digest: bool) -> Plant:
    """Calibrate on the evaluation text, under its own digest or under that of the calibration text."""

    def alter(real: Any) -> Any:
        def calibration_windows(source: Any, tokenizer: Any, context_length: int) -> Windows:
            honest = real(source, tokenizer, context_length)
            text = replace(source, name="encyclopedia", path=source.path.with_name("encyclopedia.txt"))
            found = evaluation_windows(text, tokenizer, context_length)
            taken = replace(honest, ids=found.inputs[: len(honest)])
            if not digest:
                taken.__dict__["digest"] = honest.digest
            return taken

        return calibration_windows

    return altered("quantcheck.models.calibration:calibration_windows", alter)


unguarded = altered("quantcheck.models.calibration:shared_windows", lambda _: lambda *_: ())


def rounding(change: Callable[[Tensor], Tensor]) -> Plant:
    """Round codes otherwise than to the nearest."""

    def quantize(self: Grid, weight: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        codes = change(weight / scale).add_(zero_point)
        return codes.clamp_(self.lowest_code, self.highest_code).to(torch.uint8)

    return altered("quantcheck.methods.parts.grids:Grid.quantize", lambda _: quantize)


def stochastic(values: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (values + torch.rand(values.shape, generator=generator)).floor()


def weights(change: Callable[[Tensor], Tensor]) -> Plant:
    """Change every weight before it is rounded."""

    def alter(real: Any) -> Any:
        def quantize_weight(self: Rtn, weight: Tensor, *given: Any) -> PackedWeight:
            return real(self, change(weight), *given)

        return quantize_weight

    return altered("quantcheck.methods.rtn:Rtn.quantize_weight", alter)


def clipped(weight: Tensor) -> Tensor:
    limit = 3 * weight.std(dim=1, keepdim=True)
    return weight.clamp(-limit, limit)


def rounded_before(weight: Tensor) -> Tensor:
    step = weight.abs().amax() / 127
    return (weight / step).round() * step


def asked_for(**changes: Any) -> Plant:
    """Quantize by another spec than the one asked for."""

    def alter(real: Any) -> Any:
        def quantize_weight(self: Rtn, weight: Tensor, spec: Any, scale_dtype: torch.dtype) -> PackedWeight:
            return real(self, weight, replace(spec, **changes), scale_dtype)

        return quantize_weight

    return altered("quantcheck.methods.rtn:Rtn.quantize_weight", alter)


def beside(glob: str, change: Callable[[Tensor], Tensor]) -> Plant:
    """Change a parameter that is no decoder Linear's, and ship it."""

    def alter(real: Any) -> Any:
        def quantize(self: Rtn, model: nn.Module, *given: Any, **named: Any) -> Any:
            made = real(self, model, *given, **named)
            return replace(made, parameters={glob: change(model.get_parameter(glob).detach().clone())})

        return quantize

    return altered("quantcheck.methods.layerwise:LinearMethod.quantize", alter)


def folded_twice(real: Any) -> Any:
    def smooth(model: nn.Module, *given: Any) -> Any:
        before = {name: gain.detach().clone() for name, gain in model.named_parameters()}
        found, notes = real(model, *given)
        return {
            name: (gain.float() ** 2 / before[name]).to(gain.dtype) for name, gain in found.items()
        }, notes

    return smooth


def at_alpha(alpha: float) -> Callable[[Any], Any]:
    return lambda real: lambda model, windows, _, dtype: real(model, windows, alpha, dtype)


def activations(change: Callable[[ActivationQuantizer, Tensor], Tensor]) -> Plant:
    return altered("quantcheck.methods.activations:ActivationQuantizer.__call__", lambda _: change)


def on_a_static_grid(self: ActivationQuantizer, inputs: Tensor) -> Tensor:
    scale = 8.0 / ((1 << (self.bits - 1)) - 1)
    return (inputs / scale).round().clamp(-127, 127) * scale


def per_tensor(self: ActivationQuantizer, inputs: Tensor) -> Tensor:
    return _rounded(inputs, inputs.abs().amax(dim=(-2, -1), keepdim=True), self.bits)


def a_bit_fewer(self: ActivationQuantizer, inputs: Tensor) -> Tensor:
    return _rounded(inputs, inputs.abs().amax(dim=-1, keepdim=True), self.bits - 1)


def _rounded(inputs: Tensor, peak: Tensor, bits: int) -> Tensor:
    scale = peak.clamp(min=1e-5) / ((1 << (bits - 1)) - 1)
    return (inputs / scale).round() * scale


def scales_of_binarized(real: Any) -> Any:
    return lambda values, mask, _, dtype: real(values, mask, "binarized", dtype)


def left_as_it_was(real: Any) -> Any:
    """Put one full-precision layer back."""

    def apply(self: Any, model: nn.Module, *given: Any, **named: Any) -> nn.Module:
        kept = model.get_submodule(LAYER)
        real(self, model, *given, **named)
        model.set_submodule(LAYER, kept)
        return model

    return apply


def computed_in_full(real: Any) -> Any:
    """Hold the quantized weights, and multiply by the others."""

    def apply(self: Any, model: nn.Module, *given: Any, **named: Any) -> nn.Module:
        kept = {name: model.get_submodule(name) for name in self.weights}
        real(self, model, *given, **named)
        for name, linear in kept.items():
            model.get_submodule(name).forward = linear.forward  # type: ignore[method-assign]
        return model

    return apply


def least_salient(real: Any) -> Any:
    return lambda saliency, low, group_size: real(-saliency, low, group_size)


def _fault(name: str, spec: str, what: str, plant: Plant, **more: Any) -> Fault:
    return Fault(name, Kind.METHOD, spec, what, plant, **more)


def function(name: str, spec: str, what: str, path: str, alter: Callable[[Any], Any]) -> Fault:
    return _fault(name, spec, what, altered(path, alter))


# fmt: off
FAULTS = (
    function("no-feedback-w4", "gptq-w4", "GPTQ without error feedback",
        f"{GPTQ}sweep", lambda _: no_feedback),
    function("no-feedback-w3", "gptq-w3-g128", "GPTQ without error feedback",
        f"{GPTQ}sweep", lambda _: no_feedback),
    function("feedback-in-blocks", "gptq-w3-g128", "error feedback that ends with its block",
        f"{GPTQ}sweep", lambda _: feedback_within_blocks),
    _fault("damping-100-times", "gptq-w4", "damping of 1 instead of .01", damped(1.0)),
    _fault("damping-twice", "gptq-w3-g128", "damping of .02 instead of .01", damped(0.02)),
    _fault("order-not-undone", "gptq-w4-g128-act_order", "codes stored in the order of rounding",
        order_not_undone),
    function("not-sequential", "gptq-w3-g128", "Hessians of the full-precision model's inputs",
        "quantcheck.methods.parts.walk:forward_block", unpropagated),
    function("last-window-only", "gptq-w4", "Hessians of the last window alone",
        "quantcheck.methods.layerwise:Hessian", lambda _: LastWindow),
    _fault("noise-gptq", "gptq-w3-g128", "calibrated on random tokens", calibrated(noise)),
    _fault("noise-awq", "awq-w4", "calibrated on random tokens", calibrated(noise)),
    _fault("one-window", "gptq-w4", "calibrated on the first window again and again",
        calibrated(lambda windows: windows[:1].expand_as(windows).contiguous())),
    _fault("half-the-windows", "gptq-w3-g128", "calibrated on half of the windows",
        calibrated(lambda windows: windows[: len(windows) // 2])),
    _fault("test-set", "gptq-w3-g128", "calibrated on the test set", test_set(digest=True)),
    _fault("test-set-hidden", "gptq-w3-g128", "calibrated on the test set, under the other digest",
        all_of(unguarded, test_set(digest=False))),
    _fault("test-set-awq", "awq-w4", "calibrated on the test set", test_set(digest=True)),
    function("awq-unscaled", "awq-w4", "AWQ whose search ends at alpha 0",
        "quantcheck.methods.awq:RATIOS", lambda _: (0.0,)),
    function("awq-unclipped", "awq-w4", "AWQ that does not clip",
        "quantcheck.methods.awq:CLIPS", lambda _: (1.0,)),
    function("awq-overclipped", "awq-w4", "AWQ that clips at .55 at once",
        "quantcheck.methods.awq:CLIPS", lambda _: (0.55,)),
    function("smoothquant-folded-twice", "smoothquant-w8a8", "gains divided by the scale twice",
        "quantcheck.methods.smoothquant:smooth", folded_twice),
    function("smoothquant-alpha", "smoothquant-w8a8", "alpha of .5 instead of .85",
        "quantcheck.methods.smoothquant:smooth", at_alpha(0.5)),
    function("activations-declined", "smoothquant-w8a8", "activations left in floating point",
        "quantcheck.methods.activations:ActivationQuantizer.of", lambda _: lambda spec: None),
    _fault("activations-unrounded", "smoothquant-w8a8", "activations said to be rounded, and not",
        activations(lambda _, inputs: inputs)),
    _fault("activations-per-tensor", "smoothquant-w8a8", "one activation scale a sequence",
        activations(per_tensor)),
    _fault("activations-static", "smoothquant-w8a8", "one activation scale for all inputs",
        activations(on_a_static_grid)),
    _fault("activations-7-bits", "smoothquant-w8a8", "activations at 7 bits, said to be at 8",
        activations(a_bit_fewer)),
    _fault("rounded-down", "rtn-w4", "codes rounded down", rounding(torch.floor)),
    _fault("rounded-to-zero", "rtn-w8", "codes rounded towards zero", rounding(torch.trunc)),
    _fault("rounded-at-random", "rtn-w4", "codes rounded at random", rounding(stochastic)),
    _fault("outliers-clipped", "rtn-w4", "weights clipped at three standard deviations", weights(clipped)),
    _fault("outliers-clipped-w8", "rtn-w8", "weights clipped at three standard deviations", weights(clipped)),
    _fault("rounded-before", "rtn-w4", "weights rounded to 8 bits a matrix before", weights(rounded_before)),
    _fault("group-twice", "rtn-w4-g128", "groups of 256 columns instead of 128", asked_for(group_size=256)),
    _fault("symmetric", "rtn-w4", "a symmetric grid instead of an asymmetric one", asked_for(grid="sym")),
    _fault("bit-fewer", "rtn-w4", "3 bits stored, 4 asked for", method("rtn", broken.FewerBits())),
    _fault("twice-the-bits", "rtn-w4", "8 bits stored, 4 asked for", method("rtn", broken.MoreBits())),
    _fault("full-precision", "rtn-w4", "the full-precision model, called quantized",
        method("rtn", broken.FloatKept())),
    function("computed-in-full", "gptq-w4", "layers that compute with the full-precision weights",
        "quantcheck.methods.artifact:Artifact.apply", computed_in_full),
    _fault("layer-left-out", "rtn-w4", "one layer left in full precision",
        altered("quantcheck.methods.artifact:Artifact.apply", left_as_it_was)),
    _fault("final-norm", "rtn-w4", "the last norm's gain 1 % too large",
        beside("model.norm.weight", lambda gain: gain * 1.01)),
    _fault("embedding-rounded", "rtn-w4", "the embedding rounded to 8 bits on the way",
        beside("model.embed_tokens.weight", rounded_before)),
    function("least-salient", "pbllm-w2-g128", "8 bits for the least salient weights",
        "quantcheck.methods.pbllm:find_salient", least_salient),
    function("binary-scale", "pbllm-w2-g128", "scales of signs fitted to the binarized weights alone",
        "quantcheck.methods.pbllm:_signs", scales_of_binarized),
)
# fmt: on
