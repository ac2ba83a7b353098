"""AWQ: columns that large activations meet are scaled up before rounding, and ranges are clipped.

Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan and Han, "AWQ: Activation-aware Weight Quantization for
On-Device LLM Compression and Acceleration", MLSys 2024, sections 3.2 and 3.3. With Q the rounding of RTN and
m_j the mean of |X_j| over all calibration tokens:

1. *Scale.* For each writer and the Linears that read it (``folding``), of alpha = 0, .05 .. .95 the one whose

    s = clamp(m^alpha, 1e-4)        s <- s / sqrt(max(s) min(s))

   gives the least mean squared error, with Q(W diag(s)) diag(1/s) for the readers' weights W. The error is
   that of what the readers lie in puts out: all of the attention for q, k and v, all of the MLP for gate and
   up, a lone Linear itself for o and down. Of equals the smaller alpha; then s is folded.
2. *Clip.* In every Linear but q and k, each row of each group is clamped to the best of 1, .95 .. .55 of its
   largest magnitude, by the mean squared error of the group's part of the output, on every (T // 512)-th of T
   tokens.
3. *Round* with RTN.

Inputs are those of the full-precision model throughout, as in the official code: errors of quantized blocks
are not propagated. The paper's text also weighs s by the weights' magnitude; the official code does not, and
neither is done here. The official grid is that of ``grids``, but for groups without both signs: there it does
not stretch the range to zero while it clamps the zero point, and a group of large positive weights collapses
to one level. Here the range always holds zero. Groups need not divide the in-features; the last is shorter.

Of examples that differ in length, such as pictures with their texts, each counts alike in 1.

A channel that is zero on all calibration data stays unscaled, which is noted; the official code floors it at
1e-4 and would shrink its column. Options: ``scale`` and ``clip``, both on; without both it is RTN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quantcheck.errors import DataError, QuantizationError
from quantcheck.methods.base import Calibration, PackedWeight, Progress, Quantized
from quantcheck.methods.parts.folding import (
    Folding,
    Pair,
    all_pairs,
    dead_channels,
    require_finite,
    same_function,
)
from quantcheck.methods.parts.grids import Grid, effective_group_size, fit_groups, group_index
from quantcheck.methods.parts.walk import Arguments, block_inputs, decoder, forward_block, naming
from quantcheck.methods.rtn import Rtn
from quantcheck.spec import QuantSpec

RATIOS = tuple(step / 20 for step in range(20))
SMALLEST_SCALE = 1e-4
CLIPS = tuple(1 - step / 20 for step in range(10))
CLIP_TOKENS = 512
UNCLIPPED = ("self_attn.q_proj", "self_attn.k_proj")


@dataclass(frozen=True)
class AwqOptions:
    """The options of an ``awq`` spec.

    Attributes:
        scale: search for scales and fold them.
        clip: search for the clipping of ranges.
    """

    scale: bool = True
    clip: bool = True

    @classmethod
    def of(cls, spec: QuantSpec) -> AwqOptions:
        """Read the options that ``spec`` gives."""
        return cls(**dict(spec.options))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rounding:
    """How weights are rounded: ``Q`` in the formulas.

    Attributes:
        grid: the family of grids.
        group_size: consecutive columns that share a scale; ``None`` is per channel.
    """

    grid: Grid
    group_size: int | None

    def __call__(self, weight: Tensor) -> Tensor:
        """Return what ``weight``, float32 [out, in], decodes to once it is rounded."""
        group_size = effective_group_size(self.group_size, weight.shape[1])
        columns = group_index(weight.shape[1], group_size, weight.device)
        scales, zero_points = (part[:, columns] for part in fit_groups(self.grid, weight, group_size))
        return (self.grid.quantize(weight, scales, zero_points) - zero_points).mul_(scales)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module: what it was given, and the tensor it gave back."""

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    output: Tensor


class Awq:
    """AWQ at 1 to 8 bits, per channel or grouped."""

    version = 1

    @torch.no_grad()
    def quantize(
        self,
        model: nn.Module,
        spec: QuantSpec,
        *,
        calibration: Calibration | None,
        scale_dtype: torch.dtype,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Quantized:
        """Quantize block by block on full-precision inputs; see `quantcheck.methods.base.Method`."""
        options = AwqOptions.of(spec)
        if calibration is None:
            raise DataError(f"{spec} needs calibration windows, int64 tokens [n, length]")
        rounding, rtn = Rounding(Grid.of(spec, scale_dtype), spec.group_size), replace(spec, options=())
        stack = decoder(model)
        total = len(stack.linears())
        hidden, arguments = block_inputs(model, stack.blocks, calibration)
        weights: dict[str, PackedWeight] = {}
        parameters: dict[str, Tensor] = {}
        notes: list[str] = []
        with same_function(model, calibration[:1]):
            for index, block in enumerate(stack.blocks):
                layer = f"{stack.path}.{index}."
                seen = _Observed(block)
                hidden = [seen.forward(states, arguments[index]) for states in hidden]
                folding = Folding(block, scale_dtype)
                if options.scale:
                    notes += _scale(block, layer, seen, folding, rounding)
                for path, inputs in seen.inputs.items():
                    with naming(layer + path):
                        weight = folding.weights[f"{path}.weight"]
                        if options.clip and path not in UNCLIPPED:
                            weight = clip(weight, sample(inputs) / folding.columns.get(path, 1), rounding)
                        weights[layer + path] = Rtn().quantize_weight(weight, rtn, scale_dtype)
                    if progress is not None:
                        progress(layer + path, len(weights), total)
                folding.write(block)
                parameters |= {layer + name: tensor for name, tensor in folding.parameters.items()}
        return Quantized(weights, parameters, notes=tuple(notes))


def scale_at(magnitudes: Tensor, ratio: float) -> Tensor:
    """Return s [in] for the mean magnitudes of the input channels and alpha = ``ratio``."""
    scale = torch.ones_like(magnitudes)
    alive = magnitudes > 0
    if alive.any():
        raised = magnitudes[alive].pow(ratio).clamp(min=SMALLEST_SCALE)
        scale[alive] = raised / (raised.max() * raised.min()).sqrt()
    return scale


def search_scale(
    module: nn.Module,
    readers: Mapping[str, Tensor],
    magnitudes: Tensor,
    calls: Sequence[Call],
    rounding: Rounding,
) -> tuple[Tensor, float]:
    """Search for the scale of the columns of ``readers`` at which ``module`` errs least.

    Args:
        module: what is inspected; it is not changed.
        readers: weights, float32 [out, in], by their parameter names within ``module``.
        magnitudes: mean magnitudes of the readers' common input, float32 [in].
        calls: what calibration fed the module, and what it put out.
        rounding: what scaled weights are rounded by.

    Returns:
        The scale, float32 [in], and its alpha.

    Raises:
        QuantizationError: no alpha gives a finite error.
    """
    least, best = (math.inf, math.inf), None
    # From the middle outwards: the sooner a good one is found, the sooner the others are given up.
    for ratio in sorted(RATIOS, key=lambda ratio: abs(ratio - 0.5)):
        scale = scale_at(magnitudes, ratio)
        candidates = {name: rounding(weight * scale).div_(scale) for name, weight in readers.items()}
        error = output_error(module, candidates, calls, limit=least[0])
        if math.isfinite(error) and (error, ratio) < least:
            least, best = (error, ratio), scale
    if best is None:
        raise QuantizationError(
            "rounding leaves no finite output at any scale; check the model, or load it in float32"
        )
    return best, least[1]


def output_error(
    module: nn.Module, weights: Mapping[str, Tensor], calls: Sequence[Call], *, limit: float = math.inf
) -> float:
    """Return the mean squared change of what ``module`` puts out when it computes with ``weights``.

    Args:
        module: what is inspected; it is not changed.
        weights: by their parameter names within ``module``.
        calls: what the module was given, and what it put out.
        limit: an error above it, or NaN, is infinite: the calls that are left are not made.
    """
    weights = {name: weight.to(module.get_parameter(name).dtype) for name, weight in weights.items()}
    error = 0.0
    for call in calls:
        output = _first(functional_call(module, weights, call.arguments, dict(call.keywords)))
        error += (output - call.output).to(torch.float32).square().mean().item()
        if not error / len(calls) <= limit:
            return math.inf
    return error / len(calls)


def clip(weight: Tensor, inputs: Tensor, rounding: Rounding) -> Tensor:
    """Clamp each row of each group of ``weight`` to the limit at which its part of the output errs least.

    Args:
        weight: float32 [out, in].
        inputs: float32 [tokens, in].
        rounding: what clamped weights are rounded by.

    Returns:
        The clamped weight, float32 [out, in].
    """
    group_size = effective_group_size(rounding.group_size, weight.shape[1])
    groups = zip(torch.split(weight, group_size, 1), torch.split(inputs, group_size, 1), strict=True)
    return torch.cat([_clip_group(part, columns, rounding) for part, columns in groups], dim=1)


def sample(inputs: Sequence[Tensor]) -> Tensor:
    """Take every ``T // 512``-th of all T tokens.

    Args:
        inputs: of each window or example, [..., in].

    Returns:
        float32 [n, in] with 512 <= n < 1024, or all tokens of fewer.

    Raises:
        QuantizationError: they hold NaN or Inf.
    """
    windows = [window.flatten(0, -2) for window in inputs]
    starts = [0, *accumulate(map(len, windows))]
    stride = max(starts[-1] // CLIP_TOKENS, 1)
    taken = [window[-start % stride :: stride] for start, window in zip(starts, windows, strict=False)]
    return require_finite(torch.cat(taken).to(torch.float32))


def _scale(block: nn.Module, layer: str, seen: _Observed, folding: Folding, rounding: Rounding) -> list[str]:
    """Search for the scales of ``block`` and fold them; say which channels were left out."""
    notes: list[str] = []
    for pair in all_pairs(block):
        inspected = _inspected(pair)
        readers = {
            f"{reader}.weight".removeprefix(f"{inspected}."): folding.weights[f"{reader}.weight"]
            for reader in pair.readers
        }
        magnitudes = _mean_magnitudes(seen.inputs[pair.readers[0]])
        notes += [f"{layer}{pair.readers[0]}: {note}" for note in dead_channels(magnitudes)]
        with naming(layer + pair.readers[0]):
            scale, _ = search_scale(
                block.get_submodule(inspected), readers, magnitudes, seen.calls[inspected], rounding
            )
            folding.fold(pair, scale)
    return notes


def _clip_group(weight: Tensor, inputs: Tensor, rounding: Rounding) -> Tensor:
    peak = weight.abs().amax(dim=1, keepdim=True)
    limit, least = peak, torch.full_like(peak, math.inf)
    for share in CLIPS:
        clipped = weight.clamp(-share * peak, share * peak)
        error = (inputs @ (rounding(clipped) - weight).T).square_().mean(dim=0)[:, None]
        limit = torch.where(error < least, share * peak, limit)
        least = torch.minimum(error, least)
    return weight.clamp(-limit, limit)


def _mean_magnitudes(inputs: Sequence[Tensor]) -> Tensor:
    windows = [window.to(torch.float32).abs().flatten(0, -2).mean(dim=0) for window in inputs]
    return require_finite(torch.stack(windows).mean(dim=0))


def _inspected(pair: Pair) -> str:
    """Name the module whose output is compared: what several readers lie in, or the only reader."""
    first = pair.readers[0]
    return first.rpartition(".")[0] if len(pair.readers) > 1 else first


def _first(output: Any) -> Tensor:
    # Attention gives back its weights, too.
    return cast("Tensor", output[0] if isinstance(output, tuple) else output)


class _Observed:
    """What the calibration windows feed the Linears and the inspected modules of one block.

    Attributes:
        inputs: by the path of a Linear, its input [..., in] for each window.
        calls: by the path of an inspected module, its calls.
    """

    def __init__(self, block: nn.Module) -> None:
        self.inputs: dict[str, list[Tensor]] = {}
        self.calls: dict[str, list[Call]] = {}
        self._block = block

    def forward(self, hidden: Tensor, arguments: Arguments) -> Tensor:
        """Run the block on one window, and remember."""
        inspected = {_inspected(pair) for pair in all_pairs(self._block)}
        with ExitStack() as hooks:
            for path, module in self._block.named_modules():
                if isinstance(module, nn.Linear) or path in inspected:
                    hook = self._hook(path, path in inspected)
                    hooks.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            return forward_block(self._block, hidden, arguments)

    def _hook(self, path: str, inspected: bool) -> Callable[..., None]:
        def remember(module: nn.Module, inputs: Any, keywords: dict[str, Any], output: Any) -> None:
            if isinstance(module, nn.Linear):
                self.inputs.setdefault(path, []).append(inputs[0])
            if inspected:
                self.calls.setdefault(path, []).append(Call(inputs, keywords, _first(output)))

        return remember
