"""DB-LLM: two bit planes a weight, their scales distilled on text that the model itself writes.

Chen et al., "DB-LLM: Accurate Dual-Binarization for Efficient LLMs", Findings of ACL 2024 (arXiv 2402.11960).
The authors' code was never released: this follows the paper, and where the paper leaves a choice, what was
measured here. It takes two steps.

1. Flexible dual binarization (format and nearest level in ``dual_binary``). Each row and group
   starts on the 2-bit grid {-s, 0, s, 2s}, that is a1 = 2s, a2 = -s, with 2s the largest magnitude times one
   of the `SHRINKS`. Then, in turn, each weight goes to its nearest level, and a1 and a2 are the least-squares
   solution for these planes::

       [n11 n12] [a1]   [b1.w]
       [n12 n22] [a2] = [b2.w]        n11 = |b1|, n22 = |b2|, n12 = b1.b2

   Neither half of a round raises the error. All of it is done for the mirrored grid {-2s, -s, 0, s} as well,
   and the best of all starts is kept, group by group.
2. Deviation-aware distillation (``distill``): a1 and a2 of all layers are trained together, so
   that the quantized model predicts what the full-precision model does, on text sampled from the latter
   (``generate``): no calibration data. Weights stay as they are, only their planes follow the scales, unless
   ``weight_lr`` says that they are trained, too.

Scales are rounded to the dtype they are stored in, and the planes chosen for the rounded scales. ``steps=0``
ends after the first step.

The paper trains for longer, at group 64; the defaults are for less than a minute on a small model.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from quantcheck.errors import QuantizationError
from quantcheck.methods.base import Calibration, PackedWeight, Progress, Quantized
from quantcheck.methods.layerwise import LinearMethod
from quantcheck.methods.packed.dual_binary import DualBinaryWeight, by_group, combine, nearest_planes, turned
from quantcheck.methods.parts.distill import BATCH, DualBinaryLinear, Recipe, distill
from quantcheck.methods.parts.generate import generate
from quantcheck.methods.parts.grids import effective_group_size
from quantcheck.methods.parts.walk import decoder_linears, naming
from quantcheck.spec import QuantSpec

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

SHRINKS = (1.0, 0.8, 0.6, 0.4)
ROUNDS = 10
AT_ONCE = 1 << 18
"""Weights that are fitted at once: rows are independent, and copies of a few stay in the cache."""
WINDOW = 128
"""Tokens of a window of generated text."""
EPOCHS = 4
"""How often each window is read; fresh ones in their place cost more and measured no better."""


class DbLlm(LinearMethod):
    """DB-LLM at 2 bits, per channel or grouped."""

    version = 1

    def check(self, spec: QuantSpec) -> None:
        """Refuse option values that make no sense."""
        Recipe.of(spec)

    def quantize_weight(self, weight: Tensor, spec: QuantSpec, scale_dtype: torch.dtype) -> DualBinaryWeight:
        """Binarize one weight, float32 [out, in], without distillation."""
        size = effective_group_size(spec.group_size, weight.shape[1])
        parts = torch.split(weight, max(1, AT_ONCE // weight.shape[1]))
        a1, a2 = (
            torch.cat(scales) for scales in zip(*(fit(by_group(part, size)) for part in parts), strict=True)
        )
        return DualBinaryWeight.nearest(weight, *stored(a1, a2, scale_dtype), spec.group_size)

    def quantize(
        self,
        model: nn.Module,
        spec: QuantSpec,
        *,
        calibration: Calibration | None = None,
        scale_dtype: torch.dtype,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Quantized:
        """Binarize every decoder Linear, then distil the scales; see `quantcheck.methods.base.Method`.

        Raises:
            SpecError: an option's value cannot be used.
            ModelError: the model's own predictions are NaN or Inf.
            QuantizationError: a scale does not fit ``scale_dtype``, or distillation did not converge.
        """
        recipe = Recipe.of(spec)
        start = super().quantize(
            model, spec, scale_dtype=scale_dtype, progress=None if recipe.steps else progress
        )
        if not recipe.steps:
            return start
        llama = cast("LlamaForCausalLM", model)
        length = min(WINDOW, llama.config.get_text_config().max_position_embeddings)
        windows = generate(llama, BATCH * -(-recipe.steps // EPOCHS), length)
        students = enrol(model, start, recipe)
        tell = _spread(progress, list(students), recipe.steps)
        with torch.enable_grad():
            distill(model, list(students.values()), windows, recipe, tell)
        weights: dict[str, PackedWeight] = {}
        for name, student in students.items():
            with naming(name), torch.no_grad():
                scales = stored(*student.scales(), scale_dtype)
                weights[name] = DualBinaryWeight.nearest(student.latent, *scales, spec.group_size)
        return Quantized.of(weights)


def fit(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a1 and a2 to the last dimension of ``weight``, float32 [..., n]; they have its other dimensions."""
    a1, a2 = grid(weight, 1.0)
    least = _error(weight, a1, a2)
    for side, shrink in product((1, -1), SHRINKS):
        found1, found2 = grid(weight, side * shrink)
        for _ in range(ROUNDS):
            found1, found2 = refine(weight, found1, found2)
        error = _error(weight, found1, found2)
        better = error < least
        a1, a2 = torch.where(better, found1, a1), torch.where(better, found2, a2)
        least = torch.where(better, error, least)
    return a1, a2


def grid(weight: Tensor, shrink: float) -> tuple[Tensor, Tensor]:
    """Return a1 and a2 of the 2-bit grid that reaches to ``shrink`` times the largest magnitude.

    Where all weights are zero that is taken as 1, so that they decode to exactly 0; the grid is mirrored for
    a negative ``shrink``.
    """
    peak = weight.abs().amax(dim=-1)
    a1 = shrink * torch.where(peak == 0, 1.0, peak)
    return a1, -a1 / 2


def refine(weight: Tensor, a1: Tensor, a2: Tensor) -> tuple[Tensor, Tensor]:
    """Send ``weight`` to its nearest levels and solve for the scales that are best for these planes.

    A group keeps its scales where planes coincide or one is empty, so that there is no one solution, and
    where the solution would change the order of the levels.
    """
    b1, b2 = nearest_planes(weight, a1[..., None], a2[..., None])
    n11, n22, n12 = (plane.sum(-1).to(weight.dtype) for plane in (b1, b2, b1 & b2))
    y1, y2 = ((weight * plane).sum(-1) for plane in (b1, b2))
    determinant = n11 * n22 - n12 * n12
    solved1, solved2 = (n22 * y1 - n12 * y2) / determinant, (n11 * y2 - n12 * y1) / determinant
    sign = turned(a1)
    ordered = (determinant > 0) & (sign * solved2 < 0) & (sign * (solved1 + solved2) > 0)
    return torch.where(ordered, solved1, a1), torch.where(ordered, solved2, a2)


def stored(a1: Tensor, a2: Tensor, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Round a1 and a2 to ``scale_dtype``, keeping the order of the levels.

    Raises:
        QuantizationError: a scale overflows ``scale_dtype``, or underflows to zero.
    """
    rounded1, rounded2 = a1.to(scale_dtype), a2.to(scale_dtype)
    for exact, rounded in ((a1, rounded1), (a2, rounded2)):
        lost = ~torch.isfinite(rounded) | (rounded == 0)
        if lost.any():
            raise QuantizationError(
                f"a scale of {float(exact[lost][0]):.3g} does not fit {scale_dtype}; "
                "use scale_dtype=torch.float32, or check the layer for runaway or vanishing weights"
            )
    merged = rounded1 + rounded2 == 0
    return torch.where(merged, rounded1 * (1 + 2 * torch.finfo(scale_dtype).eps), rounded1), rounded2


def enrol(model: nn.Module, start: Quantized, recipe: Recipe) -> dict[str, DualBinaryLinear]:
    """Swap the decoder Linears of ``model``, made float32 and frozen, for students; return them by path."""
    model.to(torch.float32).requires_grad_(False)
    students = {
        name: DualBinaryLinear(
            linear, cast("DualBinaryWeight", start.weights[name]), trains_weight=recipe.weight_lr > 0
        )
        for name, linear in decoder_linears(model).items()
    }
    for name, student in students.items():
        model.set_submodule(name, student)
    return students


def _error(weight: Tensor, a1: Tensor, a2: Tensor) -> Tensor:
    """Return the squared error of the nearest levels, summed over the last dimension of ``weight``."""
    high, low = a1[..., None], a2[..., None]
    return (weight - combine(*nearest_planes(weight, high, low), high, low)).square_().sum(-1)


def _spread(progress: Progress | None, names: list[str], steps: int) -> Callable[[int], None]:
    """Tell of training as of layers that are done: all are trained together, so of the share of steps."""
    told = 0

    def after_step(step: int) -> None:
        nonlocal told
        while progress is not None and told < len(names) * step // steps:
            told += 1
            progress(names[told - 1], told, len(names))

    return after_step
