"""SmoothQuant: outliers of the activations move into the weights, so that both can be rounded.

Xiao, Lin, Seznec, Wu, Demouth and Han, "SmoothQuant: Accurate and Efficient Post-Training Quantization for
Large Language Models", ICML 2023, equation 4. For each norm and the Linears that read it (q, k, v; gate, up),
with the maxima over all calibration tokens, and over the rows of all those Linears::

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)        gain <- gain / s        W <- W diag(s)

Then weights are rounded on the ``symr`` grid per output channel, and the inputs of all Linears, dynamically,
per token or ``per_tensor`` (``activations``). The maxima are those of the full-precision model.

Defaults follow the runs that the LLaMA3 study took over, those of the official ``ppl_eval`` script: alpha .85
(.5 in paper and code; at .5 the two sides share the burden), activations per token, and
``quantize_bmm_input``: what q, k and v put out is rounded, too, before positions are rotated in.

Where a channel is zero on all calibration data, the official code floors s at 1e-5, which would blow up the
gain; here it stays unscaled, which is noted. Left out: weights with one scale a matrix (the official
``per_tensor`` weights, for OPT), and static activation scales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from quantcheck.errors import DataError, SpecError
from quantcheck.methods.base import Calibration, Progress, Quantized
from quantcheck.methods.parts.folding import (
    Folding,
    Pair,
    dead_channels,
    norm_pairs,
    require_finite,
    same_function,
)
from quantcheck.methods.parts.walk import Arguments, block_inputs, decoder, forward_block, naming
from quantcheck.methods.rtn import Rtn
from quantcheck.spec import QuantSpec

FLOOR = 1e-5


@dataclass(frozen=True)
class SmoothQuantOptions:
    """The options of a ``smoothquant`` spec; those of activations are read by ``activations``.

    Attributes:
        alpha: how much of an outlier moves into the weights, 0 to 1.
    """

    alpha: float = 0.85

    @classmethod
    def of(cls, spec: QuantSpec) -> SmoothQuantOptions:
        """Read the options that ``spec`` gives.

        Raises:
            SpecError: ``alpha`` is not from 0 to 1.
        """
        options = cls(float(spec.option("alpha", cls.alpha)))
        if not 0 <= options.alpha <= 1:
            raise SpecError(f"{spec}: alpha must lie from 0 to 1, got {options.alpha:g}")
        return options


class SmoothQuant:
    """SmoothQuant at 2 to 8 bits of weights and activations."""

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
        """Smooth ``model``, then round its Linears; see `quantcheck.methods.base.Method`."""
        options = SmoothQuantOptions.of(spec)
        if calibration is None:
            raise DataError(f"{spec} needs calibration windows, int64 tokens [n, length]")
        parameters, notes = smooth(model, calibration, options.alpha, scale_dtype)
        rounding = replace(spec, grid="symr", options=())
        made = Rtn().quantize(model, rounding, scale_dtype=scale_dtype, progress=progress)
        return replace(made, parameters=parameters, notes=notes)


def smooth(
    model: nn.Module, calibration: Calibration, alpha: float, scale_dtype: torch.dtype
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Move outliers of what the norms put out into the Linears that read it, in place.

    Args:
        model: a LLaMA-family model, or a LLaVA.
        calibration: int64 token windows [n, length], or prepared inputs, that the outliers are found on.
        alpha: how much of an outlier moves, 0 to 1.
        scale_dtype: what gains are rounded to.

    Returns:
        The changed gains by parameter name, as ``scale_dtype``, and notes on what could not be smoothed.

    Raises:
        QuantizationError: the inputs are not finite, or a gain does not fit ``scale_dtype``.
        ModelError: the model is not of the LLaMA family.
    """
    stack = decoder(model)
    hidden, arguments = block_inputs(model, stack.blocks, calibration)
    parameters: dict[str, Tensor] = {}
    notes: list[str] = []
    with same_function(model, calibration[:1]):
        for index, block in enumerate(stack.blocks):
            layer, folding, peaks = f"{stack.path}.{index}.", Folding(block, scale_dtype), _Peaks(block)
            hidden = [peaks.forward(states, arguments[index]) for states in hidden]
            for pair, peak in peaks.of.items():
                name = layer + pair.readers[0]
                readers = [folding.weights[f"{reader}.weight"] for reader in pair.readers]
                with naming(name):
                    folding.fold(pair, smoothing_scale(require_finite(peak), readers, alpha))
                notes += [f"{name}: {note}" for note in dead_channels(peak)]
            folding.write(block)
            parameters |= {layer + changed: tensor for changed, tensor in folding.parameters.items()}
    return parameters, tuple(notes)


def smoothing_scale(peak: Tensor, readers: Sequence[Tensor], alpha: float) -> Tensor:
    """Return s [in] of equation 4, 1 for channels that are always zero.

    Args:
        peak: the largest magnitude of each input channel, float32 [in].
        readers: the weights [out, in] of all Linears with that input.
        alpha: the share of the inputs, 0 to 1.
    """
    columns = torch.stack([weight.abs().amax(dim=0) for weight in readers]).amax(dim=0)
    scale = peak.pow(alpha) / columns.clamp(min=FLOOR).pow(1 - alpha)
    return torch.where(peak == 0, 1.0, scale.clamp(min=FLOOR))


class _Peaks:
    """The largest magnitudes of what the norms of a block put out.

    Attributes:
        of: float32 [in] by the pair of a norm and its readers.
    """

    def __init__(self, block: nn.Module) -> None:
        self.of: dict[Pair, Tensor] = {}
        self._block = block

    def forward(self, hidden: Tensor, arguments: Arguments) -> Tensor:
        """Run the block on one window, [1, tokens, hidden], and remember."""
        with ExitStack() as hooks:
            for pair in norm_pairs(self._block):
                reader = self._block.get_submodule(pair.readers[0])
                hooks.callback(reader.register_forward_pre_hook(self._hook(pair)).remove)
            return forward_block(self._block, hidden, arguments)

    def _hook(self, pair: Pair) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def remember(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            peak = inputs[0].abs().flatten(0, -2).amax(dim=0).to(torch.float32)
            self.of[pair] = torch.maximum(self.of.get(pair, peak), peak)

        return remember
