"""Scales that move between the two sides of a product, which a block of LLaMA does not notice.

What one module writes and only Linears read can be divided by a scale per channel s, and the columns of those
Linears multiplied by it; AWQ and SmoothQuant do so to make the columns, or the inputs, easier to round::

    norm(x) * g             -> norm(x) * (g / s)        W x -> (W diag(s)) x     input_layernorm -> q, k, v
                                                                    post_attention_layernorm -> gate, up
    act(gate) * (U x)       -> act(gate) * (U x / s)                                     up -> down
    attention @ (V x)       -> attention @ (V x / s)                                      v -> o

The last one only where every value channel is read by one column of o: not under grouped-query attention,
where several heads share a value head (the official AWQ code skips it there, too).

A gain is rounded to the dtype that it is stored in before its readers take up ``g / stored``, so rounding
costs nothing. Rows of a Linear need no rounding: they are quantized afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantcheck.errors import ModelError, QuantizationError
from quantcheck.methods.base import Calibration
from quantcheck.methods.parts.walk import model_inputs

TOLERANCE = {torch.float32: 1e-3}
COARSE_TOLERANCE = 0.1
"""How far logits may move, relative, by the model's dtype: rounding stays far below."""


@dataclass(frozen=True)
class Pair:
    """A module and all the Linears that read what it writes, by their paths within a block."""

    writer: str
    readers: tuple[str, ...]


NORM_PAIRS = (
    Pair("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Pair("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
)
VALUE_PAIR = Pair("self_attn.v_proj", ("self_attn.o_proj",))
MLP_PAIR = Pair("mlp.up_proj", ("mlp.down_proj",))


def norm_pairs(block: nn.Module) -> tuple[Pair, ...]:
    """Name the pairs of ``block`` whose writer is a norm.

    Raises:
        ModelError: the block is not LLaMA's.
    """
    for pair in NORM_PAIRS:
        for path in (pair.writer, *pair.readers):
            _weight(block, path)
    return NORM_PAIRS


def all_pairs(block: nn.Module) -> tuple[Pair, ...]:
    """Name all pairs of ``block``; v -> o only without grouped-query attention.

    Raises:
        ModelError: the block is not LLaMA's.
    """
    heads, mlp = norm_pairs(block)
    _weight(block, "mlp.down_proj")
    if _weight(block, "self_attn.v_proj").shape != _weight(block, "self_attn.o_proj").shape:
        return heads, mlp, MLP_PAIR
    return heads, VALUE_PAIR, mlp, MLP_PAIR


def _weight(block: nn.Module, path: str) -> Tensor:
    try:
        return block.get_parameter(f"{path}.weight")
    except AttributeError as error:
        raise ModelError(
            f"{type(block).__name__} has no {path}: scales can be folded into LLaMA-family blocks only; "
            "use rtn or gptq"
        ) from error


class Folding:
    """The float32 weights of one block while scales are folded into them.

    Attributes:
        weights: by parameter name within the block (``mlp.up_proj.weight``); the block's own are not changed.
        columns: by the path of a Linear, the factors [in] that its columns took up.
        parameters: what changed beside weights of Linears, as it is stored, by parameter name within the
            block.
    """

    def __init__(self, block: nn.Module, scale_dtype: torch.dtype) -> None:
        self.weights = {
            name: parameter.detach().to(torch.float32) for name, parameter in block.named_parameters()
        }
        self.columns: dict[str, Tensor] = {}
        self.parameters: dict[str, Tensor] = {}
        self._scale_dtype = scale_dtype

    def fold(self, pair: Pair, scale: Tensor) -> None:
        """Divide what the writer of ``pair`` puts out by ``scale`` (float32 [channels], above 0).

        Raises:
            QuantizationError: a norm's gain, or a bias, does not fit the dtype it is stored in.
        """
        weight, bias = f"{pair.writer}.weight", f"{pair.writer}.bias"
        written = self.weights[weight]
        if written.ndim == 1:
            stored = self._store(weight, written / scale)
            scale = torch.where(stored == 0, scale, written / stored)
        else:
            self.weights[weight] = written / scale[:, None]
            if bias in self.weights:
                self._store(bias, self.weights[bias] / scale)
        for reader in pair.readers:
            self.weights[f"{reader}.weight"] = self.weights[f"{reader}.weight"] * scale
            self.columns[reader] = scale

    def write(self, block: nn.Module) -> None:
        """Put the folded weights into ``block``."""
        with torch.no_grad():
            for name, tensor in self.weights.items():
                block.get_parameter(name).copy_(tensor)

    def _store(self, name: str, exact: Tensor) -> Tensor:
        stored = exact.to(self._scale_dtype)
        self.parameters[name], self.weights[name] = stored, stored.to(torch.float32)
        lost = ~torch.isfinite(stored) | ((stored == 0) & (exact != 0))
        if lost.any():
            raise QuantizationError(
                f"{name}: {float(exact[lost][0]):.3g}, with a scale folded in, does not fit "
                f"{self._scale_dtype}; use scale_dtype=torch.float32, or check the layer for runaway inputs"
            )
        return self.weights[name]


def require_finite(statistic: Tensor) -> Tensor:
    """Return ``statistic``, which was taken of a layer's calibration inputs, if all of it is finite.

    Raises:
        QuantizationError: it holds NaN or Inf.
    """
    if torch.isfinite(statistic).all():
        return statistic
    raise QuantizationError(
        "the layer's calibration inputs hold NaN or Inf; check the model, or load it in float32"
    )


def dead_channels(magnitudes: Tensor) -> tuple[str, ...]:
    """Say how many input channels were zero on all calibration data, if any.

    A scale cannot be found for them, and stays 1.
    """
    dead = int((magnitudes == 0).sum())
    text = f"{dead} of {len(magnitudes)} input channels are zero on all calibration data and stay unscaled"
    return (text,) if dead else ()


@contextmanager
def same_function(model: nn.Module, calibration: Calibration) -> Iterator[None]:
    """Check that what is done to ``model`` inside leaves its logits on ``calibration`` as they were.

    Raises:
        ModelError: it does not, since the model uses its norms in another way than LLaMA; or the logits held
            NaN or Inf before.
    """
    before = _logits(model, calibration)
    yield
    # Last, since the methods name the layer where it began.
    if not torch.isfinite(before).all():
        raise ModelError("the model puts out NaN or Inf on calibration data; load it in float32, or check it")
    moved = float(torch.linalg.norm(_logits(model, calibration) - before) / torch.linalg.norm(before))
    if not moved <= TOLERANCE.get(next(model.parameters()).dtype, COARSE_TOLERANCE):
        raise ModelError(
            f"folding scales into {type(model).__name__} changed what it computes (its logits moved by "
            f"{moved:.1%}): it is no LLaMA-family model; use rtn or gptq"
        )


@torch.no_grad()
def _logits(model: nn.Module, calibration: Calibration) -> Tensor:
    """The logits of all tokens, float32 [tokens, vocabulary]."""
    calls = model_inputs(model, calibration)
    return torch.cat([model(**inputs, use_cache=False).logits.to(torch.float32)[0] for inputs in calls])
