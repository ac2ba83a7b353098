"""BiLLM: one bit a weight, a second one for a few salient columns.

Huang et al., "BiLLM: Pushing the Limit of Post-Training Quantization for LLMs", ICML 2024. The weight is
binarized in blocks of ``group_size`` columns (all of them, if none is given), each block at once, as the
blocks before left it; its errors are fed back to later blocks only (``feedback``). In a block, with S its
saliency (``binarize``; the magnitude metric takes S = W), there are three sets of weights:

1. *Salient*: the n columns with the largest sums of |S|, n = 1 .. 49 and below the block's width, for which
   binarizing salient and other columns in two steps each gives S the least squared error.
2. *Tail* and *dense*, the bell-shaped split of the other columns: where |S| >= t and where not, with t of 81
   quantiles, .10 to .90, for which binarizing the two in one step each gives S the least squared error.
   Salient columns count as zeros in the quantiles.

The weights then get signs, mean and scale by row and set, in two steps for the salient set.

The search above is the official code's. In the paper it minimizes the error of W, not of S: columns are still
ranked by S, but errors and t are W's, and quantiles are of the other columns alone. That is
``search=weight_order1``, with the other columns binarized in one step while n is searched, as they will be;
``search=weight_order2`` takes two, as the official code does, and keeps salient columns few. ``saliency``
with ``hessian`` nearly always ends at the .90 quantile.

Dead input columns (zero on all calibration data) count as zeros, but come out as a level of their set, since
signs have no zero, and are reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quantcheck.errors import QuantizationError
from quantcheck.methods.base import PackedWeight
from quantcheck.methods.layerwise import HessianMethod
from quantcheck.methods.packed.residual_binary import BinaryBlock, ResidualBinaryWeight
from quantcheck.methods.parts.binarize import SalienceOptions, binarize, dead_column_notes, squared_error
from quantcheck.methods.parts.feedback import sweep
from quantcheck.methods.parts.grids import effective_group_size
from quantcheck.methods.parts.hessian import dead_columns
from quantcheck.spec import QuantSpec

MOST_SALIENT = 49
QUANTILES = torch.linspace(0.1, 0.9, 81).numpy()
CHUNK = 1 << 17  # weights searched at a time: they stay in the cache, and a wide block in memory


@dataclass(frozen=True)
class BiLlmOptions(SalienceOptions):
    """The options of a ``billm`` spec.

    Attributes:
        search: what the sets are searched on: ``saliency``, ``weight_order1`` or ``weight_order2``.
    """

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        **SalienceOptions.CHOICES,
        "search": ("saliency", "weight_order1", "weight_order2"),
    }

    search: str = "saliency"


class BiLlm(HessianMethod):
    """BiLLM, nominally of 1.1 bits, in blocks of any number of columns."""

    version = 1

    def check(self, spec: QuantSpec) -> None:
        """Refuse option values that make no sense."""
        BiLlmOptions.of(spec)

    def quantize_weight(
        self, weight: Tensor, hessian: Tensor, spec: QuantSpec, scale_dtype: torch.dtype
    ) -> PackedWeight:
        """Quantize one weight, float32 [out, in], given H, float32 [in, in]."""
        options = BiLlmOptions.of(spec)
        factor = options.factor(hessian)
        group_size = effective_group_size(spec.group_size, weight.shape[1])
        rest = weight.masked_fill(dead_columns(hessian), 0).T.contiguous()
        blocks: list[BinaryBlock] = []

        def round_block(_: int, block: Tensor, within: Tensor) -> Tensor:
            salient, tail = find_sets(block, options.saliency(block, within), options.search)
            rows = max(MOST_SALIENT, CHUNK // len(block))
            parts = zip(torch.split(block, rows, dim=1), torch.split(tail, rows, dim=1), strict=True)
            packed = [_binarized(values, salient, tails, scale_dtype) for values, tails in parts]
            blocks.append(BinaryBlock.joined(packed))
            for values, part in zip(torch.split(block, rows, dim=1), packed, strict=True):
                values.sub_(part.decode())
            return block.div_(within.diagonal()[:, None])

        sweep(rest, factor, group_size, round_block)
        return ResidualBinaryWeight.from_blocks(
            blocks,
            group_size=group_size,
            scale_dtype=scale_dtype,
            fallbacks=dead_column_notes(hessian),
        )


def find_sets(block: Tensor, saliency: Tensor, search: str) -> tuple[Tensor, Tensor]:
    """Find the salient columns of a block of the weight, and the tail of the others.

    Args:
        block: float32 [n, out].
        saliency: of its weights, float32 [n, out].
        search: see `BiLlmOptions`.

    Returns:
        Which columns are salient, bool [n], and which weights of the others are tail, bool [others, out].
    """
    on_saliency = search == "saliency"
    searched, order = (saliency, 2) if on_saliency else (block, int(search[-1]))
    ranking = saliency.abs().sum(dim=1).argsort(descending=True, stable=True)
    salient = torch.zeros(len(block), dtype=torch.bool, device=block.device)
    salient[ranking[: count_salient(searched[ranking], order)]] = True
    # A copy of the searched weights at a time: without a group size each is as large as the weight.
    thresholds = _quantiles(searched.masked_fill(salient[:, None], 0) if on_saliency else searched[~salient])
    others = searched[~salient]
    errors = torch.stack([split_errors(part, thresholds) for part in _parts(others)]).sum(dim=0)
    return salient, others.abs_() >= thresholds[errors.argmin()]


def count_salient(ranked: Tensor, order: int) -> int:
    """Return how many of the first rows of ``ranked`` are best binarized apart from the others.

    Args:
        ranked: what is searched, float32 [n, out], the most salient column of the weight first.
        order: steps in which the others are binarized; the salient ones get two.

    Returns:
        A number from 1 to 49 below n, the smallest of equals; 0 for a single column.
    """
    candidates = range(1, min(MOST_SALIENT, len(ranked) - 1) + 1)
    if not candidates:
        return 0
    errors = ranked.new_zeros(len(candidates), dtype=torch.float64)
    for part in _parts(ranked):
        errors += torch.stack(
            [squared_error(part[:n], 2) + squared_error(part[n:], order) for n in candidates]
        )
    return candidates[int(errors.argmin())]


def split_errors(others: Tensor, thresholds: Tensor) -> Tensor:
    """Return the squared error of splitting rows at each threshold and binarizing both sets in one step.

    It is ``sum r^2 - n mean^2 - n scale^2`` for each row and set. With a row sorted, the dense set is a range
    of it and the tail what lies on both sides, so that all sums are differences of running sums; and ``n
    scale = sum|r - mean|`` is twice what the weights below the mean lack.

    Args:
        others: float32 [n, out].
        thresholds: [t].

    Returns:
        float64 [t], summed over all rows.
    """
    ordered = others.T.contiguous().sort(dim=1).values.double()
    sums = F.pad(ordered.cumsum(dim=1), (1, 0))
    limits = thresholds.double().expand(len(ordered), -1).contiguous()
    low = torch.searchsorted(ordered, -limits, right=True)
    high = torch.searchsorted(ordered, limits).maximum(low)

    def tail(end: Tensor) -> tuple[Tensor, Tensor]:
        """Count and sum the tail weights among the lowest ``end`` of each row."""
        above = sums.gather(1, end.maximum(high)) - sums.gather(1, high)
        return end.minimum(low) + (end - high).clamp(min=0), sums.gather(1, end.minimum(low)) + above

    def dense(end: Tensor) -> tuple[Tensor, Tensor]:
        count, total = tail(end)
        return end - count, sums.gather(1, end) - total

    errors = ordered.square().sum().expand(len(thresholds))
    for lowest in (tail, dense):
        count, total = lowest(torch.full_like(low, ordered.shape[1]))
        mean = total / count.clamp(min=1)
        below, below_total = lowest(torch.searchsorted(ordered, mean))
        distance = 2 * (below * mean - below_total)
        errors = errors - ((total.square() + distance.square()) / count.clamp(min=1)).sum(dim=0)
    return errors


def _quantiles(values: Tensor) -> Tensor:
    """Return those of the magnitudes; ``values`` are overwritten."""
    # torch.quantile refuses more than 2^24 numbers, and rounds otherwise.
    found = np.quantile(values.abs_().flatten().cpu().numpy(), QUANTILES, overwrite_input=True)
    return torch.from_numpy(found).to(values)


def _parts(matrix: Tensor) -> Iterator[Tensor]:
    for part in torch.split(matrix, max(MOST_SALIENT, CHUNK // len(matrix)), dim=1):
        yield part.contiguous()


def _binarized(block: Tensor, salient: Tensor, tail: Tensor, scale_dtype: torch.dtype) -> BinaryBlock:
    others = block[~salient]
    packed = BinaryBlock.of(
        salient,
        tail,
        dense=binarize(others, mask=~tail, scale_dtype=scale_dtype)[0],
        tails=binarize(others, mask=tail, scale_dtype=scale_dtype)[0],
        salients=binarize(block[salient], 2, scale_dtype=scale_dtype),
    )
    del others  # as large as the weight, where there is no group size
    lost = (packed.decode() == 0).all(dim=0) & (block != 0).any(dim=0)
    if lost.any():
        raise QuantizationError(
            f"weights of at most {float(block[:, lost].abs().max()):.3g} vanish in {scale_dtype}; "
            "use scale_dtype=torch.float32, or check the layer for vanishing weights"
        )
    return packed
