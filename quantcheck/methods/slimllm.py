"""SliM-LLM: groups of columns that matter more get a bit from groups that matter less.

Huang et al., "SliM-LLM: Salience-Driven Mixed-Precision Quantization for Large Language Models", ICML 2025. A
layer of N bits, in groups of g columns, U the factor of the inverse Hessian (``hessian.inverse_factor``):

1. *Salience-determined bit allocation.* A group's salience is the sum of ``w^2 / U_jj^2`` over its weights.
   With k pairs, the k least salient groups have N - 1 bits and the k most salient ones N + 1, so the mean
   stays N. Rounding every group to nearest, ``sum q (log q - log p)`` of q, the softmax over the layer's
   *outputs* with quantized weights, from p, that with its own (both at least 1e-6), is summed over the tokens
   of a window and averaged over windows; the k of the least divergence wins.
2. *Salience-weighted quantizer calibration.* When the sweep reaches a group, each row's range is scaled by
   one of 101 factors in 1 +- .1 (``grids``) for the least ``sum |w_hat - w|^2.4``, in which salient weights
   count ``lambda_salience`` times. Salient are those whose score ``w^2 / U_jj^2`` is not below the least one
   that lies more than two standard deviations from the group's mean score.
3. GPTQ's sweep (``feedback``), a block a group, so that all grids are fitted to compensated columns.

A group of 1 bit is ``mean(w) +- mean|w|``, by the sign of ``w - mean(w)``, and has nothing to search for.

Both official code and paper are here; the first is the default:

========================  ====================================  ======================================
option                    official code                         paper
========================  ====================================  ======================================
``paper_salience``        sum of ``w^2 / U_jj^2``               mean of ``w^2 / [H^-1]_jj^2``
``double_pointer``        k = 1 .. G/2 - 1 of G groups          k = 0 .. G/2: no allocation and a full
                                                                one are candidates, too
``symmetric_start``       see below; off by default             asymmetric grids throughout
========================  ====================================  ======================================

The official code's ``lambda_salience`` is 1, which weights nothing. It damps H by .01, whatever H's scale,
before step 1, and by ``percdamp`` on top before step 3, for which the salience is computed again; so do we.
Its quantizer starts out symmetric and turns asymmetric at the first group of N or more bits: groups of N - 1
>= 2 bits that come before it have an asymmetric range with a symmetric grid's zero point. With allocations
loaded from files, as for the published figures, it does not, and here it does only with ``symmetric_start``:
on stories260K at group 16 that costs .08 nats of mean NLL at 3 bits, .017 at 4 bits. The official code fails
where a group has no outlying score (here nothing is salient then) and where there are no candidates for k,
with fewer than four groups in a row (here all groups have N bits, which is reported). Left out: SliM-LLM+,
which trains clipping ranges.

Measured on stories260K at group 16, in nats of mean NLL at 2 / 3 / 4 bits: 2.140 / .385 / .053 by default,
2.352 / .449 / .063 with ``paper_salience``, 2.001 / .206 / .035 with ``double_pointer`` (four groups a row:
the default has no choice but k = 1), 2.240 / .434 / .056 with ``lambda_salience=10``.

Candidates for k differ by two groups, so one product with the whole weight and one with two groups' columns a
candidate give all their outputs; nothing but the divergences is kept between windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantcheck.errors import DataError, SpecError
from quantcheck.methods.base import Calibration, Progress, Quantized
from quantcheck.methods.layerwise import HessianMethod
from quantcheck.methods.packed.mixed import MixedWeight
from quantcheck.methods.parts.binarize import dead_column_notes
from quantcheck.methods.parts.feedback import column_by_column, sweep
from quantcheck.methods.parts.grids import AROUND_ONE, Grid, Search, centre, group_index, power_error
from quantcheck.methods.parts.hessian import Hessian, dead_columns, inverse_factor
from quantcheck.methods.parts.walk import walk
from quantcheck.spec import QuantSpec

ABSOLUTE_DAMP = 0.01
LEAST_PROBABILITY = 1e-6
OUTLYING = 2  # standard deviations
UNALLOCATED = "a row of so few groups has no candidates for an allocation: all groups have the same width"


@dataclass(frozen=True)
class SlimOptions:
    """The options of a ``slimllm`` spec.

    Attributes:
        lambda_salience: how often a salient weight's error counts in the search for ranges.
        paper_salience: mean of ``w^2 / [H^-1]_jj^2`` instead of the sum of ``w^2 / U_jj^2``.
        double_pointer: also try no allocation, and one of all groups.
        symmetric_start: misplace the zero points of groups of fewer bits that come first.
        percdamp: what is added to diag(H), as a fraction of its mean.
    """

    lambda_salience: float = 1.0
    paper_salience: bool = False
    double_pointer: bool = False
    symmetric_start: bool = False
    percdamp: float = 0.01

    @classmethod
    def of(cls, spec: QuantSpec) -> SlimOptions:
        """Read the options that ``spec`` gives."""
        return cls(**dict(spec.options))  # type: ignore[arg-type]

    def pairs(self, groups: int) -> range:
        """Return the candidates for k, given the number of groups in a row."""
        return range(groups // 2 + 1) if self.double_pointer else range(1, groups // 2)

    def spread(self, factor: Tensor) -> Tensor:
        """Return what a weight of each column is divided by for its score, [in]."""
        return factor.square().sum(dim=0) if self.paper_salience else factor.diagonal()

    def salience(self, weight: Tensor, factor: Tensor, group_size: int) -> Tensor:
        """Return the salience of each group of columns, [groups]."""
        columns = weight.square().sum(dim=0) / self.spread(factor).square()
        parts = torch.split(columns, group_size)
        return torch.stack([part.mean() if self.paper_salience else part.sum() for part in parts])


class SlimLlm(HessianMethod):
    """SliM-LLM at a mean of 2 to 7 bits, grouped."""

    version = 1

    def check(self, spec: QuantSpec) -> None:
        """Refuse a spec without a group size."""
        group_size_of(spec)

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
        """Quantize the decoder Linears in sequence; see `quantcheck.methods.base.Method`."""
        self.check(spec)
        if calibration is None:
            raise DataError(f"{spec} needs calibration windows, int64 tokens [n, length]")
        divergences: dict[nn.Linear, Divergence] = {}

        def look_again(linear: nn.Linear, hessian: Hessian) -> Divergence | None:
            divergences[linear] = Divergence(linear, hessian.value(), spec, scale_dtype)
            return divergences[linear] if divergences[linear].candidates else None

        def quantize_linear(linear: nn.Linear, hessian: Hessian) -> MixedWeight:
            pairs = divergences.pop(linear).best()
            return self.quantize_weight(
                linear.weight.to(torch.float32), hessian.value(), spec, scale_dtype, pairs
            )

        return Quantized.of(walk(model, calibration, Hessian, quantize_linear, progress, again=look_again))

    def quantize_weight(
        self,
        weight: Tensor,
        hessian: Tensor,
        spec: QuantSpec,
        scale_dtype: torch.dtype,
        pairs: int | None = None,
    ) -> MixedWeight:
        """Quantize one weight, float32 [out, in], given H, float32 [in, in].

        Args:
            weight: not written to.
            hessian: not written to.
            spec: of a group size.
            scale_dtype: what scales and means are stored in.
            pairs: groups that give a bit to as many others; ``None``: there is no allocation to be had.
        """
        options, bits = SlimOptions.of(spec), int(spec.bits)
        group_size, in_features = group_size_of(spec), weight.shape[1]
        dead = dead_columns(hessian)
        rest = weight.T.contiguous().masked_fill_(dead[:, None], 0)
        factor = inverse_factor(hessian, options.percdamp, _in_order(hessian), ABSOLUTE_DAMP)
        salience = options.salience(rest.T, factor, group_size)
        widths = allocation(salience, bits, pairs or 0)
        rounding = _Rounding(bits, widths.tolist(), group_size, options, options.spread(factor), scale_dtype)
        codes, scales, zero_points, means = rounding.run(rest, factor)
        notes: tuple[str, ...] = () if pairs is not None else (UNALLOCATED,)
        if (widths[group_index(in_features, group_size, weight.device)] == 1).logical_and(dead).any():
            notes += dead_column_notes(hessian)
        return MixedWeight.from_codes(
            codes.T,
            widths,
            scales.T.to(scale_dtype),
            zero_points.T,
            means.T.to(scale_dtype),
            bits=bits,
            group_size=min(group_size, in_features),
            fallbacks=notes,
        )


class Divergence:
    """How far the outputs of one Linear are from its own, for each candidate number of pairs.

    Attributes:
        candidates: the numbers of pairs.
        totals: the divergence with each, summed over windows, float64 [candidates].
    """

    def __init__(self, linear: nn.Linear, hessian: Tensor, spec: QuantSpec, scale_dtype: torch.dtype) -> None:
        options, self._bits, self._group_size = SlimOptions.of(spec), int(spec.bits), group_size_of(spec)
        self.candidates = options.pairs(-(-linear.in_features // self._group_size))
        self.totals = torch.zeros(len(self.candidates), dtype=torch.float64)
        self.windows = 0
        self._linear, self._scale_dtype = linear, scale_dtype
        self._rising: list[int] = []
        if self.candidates:
            factor = inverse_factor(hessian, 0.0, _in_order(hessian), ABSOLUTE_DAMP)
            alive = self._weight().masked_fill(dead_columns(hessian), 0)
            self._rising = options.salience(alive, factor, self._group_size).argsort(stable=True).tolist()

    def update(self, inputs: Tensor) -> None:
        """Take in the inputs of one window, [..., tokens, in]."""
        self.windows += 1
        tokens = inputs.reshape(-1, inputs.shape[-1]).to(torch.float32)
        weight = self._weight()
        bias = None if self._linear.bias is None else self._linear.bias.to(torch.float32)
        own = _log_probabilities(F.linear(tokens, weight, bias))
        rounded = self._round(weight, self._bits)
        outputs = F.linear(tokens, rounded, bias)
        for pairs in range(self.candidates.stop):
            if pairs:
                for group, bits in (
                    (self._rising[pairs - 1], self._bits - 1),
                    (self._rising[-pairs], self._bits + 1),
                ):
                    part = slice(group * self._group_size, (group + 1) * self._group_size)
                    change = self._round(weight[:, part], bits) - rounded[:, part]
                    outputs.addmm_(tokens[:, part], change.T)
            if pairs in self.candidates:
                theirs = _log_probabilities(outputs)
                divergence = (theirs.exp() * (theirs - own)).sum()
                self.totals[self.candidates.index(pairs)] += divergence.cpu()

    def best(self) -> int | None:
        """Return the number of pairs of the least divergence; ``None`` without candidates."""
        return self.candidates[int(self.totals.argmin())] if self.candidates else None

    def _weight(self) -> Tensor:
        return self._linear.weight.to(torch.float32)

    def _round(self, weight: Tensor, bits: int) -> Tensor:
        """Round each group of ``weight`` [out, n] to nearest."""
        parts = torch.split(weight, self._group_size, dim=1)
        grid = _grid(bits, self._scale_dtype)
        return torch.cat([_Group.fit(grid, part).round(part) for part in parts], dim=1)


def allocation(salience: Tensor, bits: int, pairs: int) -> Tensor:
    """Return the bits of each group, int64 [groups]: the ``pairs`` least salient ones give one each away."""
    rising = salience.argsort(stable=True)
    widths = torch.full_like(rising, bits)
    widths[rising[:pairs]] -= 1
    widths[rising[len(rising) - pairs :]] += 1
    return widths


def group_size_of(spec: QuantSpec) -> int:
    """Return the group size of ``spec``.

    Raises:
        SpecError: it has none.
    """
    if spec.group_size is None:
        raise SpecError(f"{spec}: slimllm needs a group size, such as {spec}-g128")
    return spec.group_size


@dataclass(frozen=True)
class _Rounding:
    """One pass over the groups; matrices are transposed as in ``feedback``."""

    bits: int
    widths: list[int]
    group_size: int
    options: SlimOptions
    spread: Tensor
    scale_dtype: torch.dtype

    def run(self, rest: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Quantize ``rest`` [in, out], which is overwritten.

        Returns:
            Codes [in, out], and scales, zero points and means [groups, out].
        """
        codes = torch.empty_like(rest, dtype=torch.uint8)
        groups: list[_Group] = []

        def round_block(start: int, block: Tensor, within: Tensor) -> Tensor:
            columns = block.T.contiguous()
            search = self._search(columns, self.spread[start : start + len(block)])
            grid = self._grid(start // self.group_size, search)
            group = _Group.fit(grid, columns)
            groups.append(group)

            def round_column(i: int, column: Tensor) -> Tensor:
                codes[start + i] = group.codes(column[:, None])[:, 0]
                return group.decode(codes[start + i, :, None])[:, 0]

            return column_by_column(block, within, round_column)

        sweep(rest, factor, self.group_size, round_block)
        scalars = zip(*((group.scale, group.zero_point, group.mean) for group in groups), strict=True)
        scales, zero_points, means = (torch.cat(parts, dim=1).T for parts in scalars)
        return codes, scales, zero_points, means

    def _grid(self, group: int, search: Search) -> Grid:
        grid = _grid(self.widths[group], self.scale_dtype, search)
        misplaced = self.options.symmetric_start and max(self.widths[: group + 1]) < self.bits
        return _MisplacedZeros(**vars(grid)) if misplaced else grid

    def _search(self, columns: Tensor, spread: Tensor) -> Search:
        if self.options.lambda_salience == 1:
            return Search(AROUND_ONE, power_error)
        salient = _salient((columns / spread).square())
        times = torch.where(salient, self.options.lambda_salience, 1.0)

        def weighted_error(weight: Tensor, codes: Tensor, decoded: Tensor) -> Tensor:
            return (decoded - weight).abs_().pow_(2.4).mul_(times).sum(dim=-1)

        return Search(AROUND_ONE, weighted_error)


@dataclass(frozen=True, eq=False)
class _Group:
    """The grid of one group: ``w = mean + scale (code - zero_point)``, each float32 [out, 1].

    The mean is 0 but at 1 bit, where the scale is that of the symmetric grid, ``2 mean|w|``.
    """

    grid: Grid
    scale: Tensor
    zero_point: Tensor
    mean: Tensor

    @classmethod
    def fit(cls, grid: Grid, columns: Tensor) -> _Group:
        """Fit ``grid`` to ``columns`` [out, n]."""
        scale, zero_point = grid.fit(columns)
        mean = columns.mean(dim=1) if grid.signs else torch.zeros_like(scale)
        mean = mean.to(grid.scale_dtype).to(torch.float32)
        return cls(grid, scale[:, None], zero_point[:, None], mean[:, None])

    def codes(self, columns: Tensor) -> Tensor:
        """Return the uint8 codes of ``columns`` [out, n]."""
        return self.grid.quantize(columns - self.mean, self.scale, self.zero_point)

    def decode(self, codes: Tensor) -> Tensor:
        """Return what ``codes`` [out, n] stand for."""
        return self.mean + self.scale * (codes - self.zero_point)

    def round(self, columns: Tensor) -> Tensor:
        """Round ``columns`` [out, n] to nearest."""
        return self.decode(self.codes(columns))


def _grid(bits: int, scale_dtype: torch.dtype, search: Search | None = None) -> Grid:
    return Grid("asym", bits, scale_dtype, search) if bits > 1 else Grid("sym", bits, scale_dtype)


class _MisplacedZeros(Grid):
    """Asymmetric ranges with the zero point of the symmetric grids: ``symmetric_start``."""

    def affine(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and zero point of the ranges ``low`` to ``high``."""
        scale, zero_point = super().affine(low, high)
        return scale, torch.full_like(zero_point, centre(self.bits))


def _salient(scores: Tensor) -> Tensor:
    """Find the weights of a group that count more, bool, given the scores of all of its weights."""
    outlying = (scores - scores.mean()).abs() > OUTLYING * scores.std()
    return scores >= torch.where(outlying, scores, math.inf).min()


def _log_probabilities(outputs: Tensor) -> Tensor:
    return outputs.log_softmax(dim=-1).clamp_(min=math.log(LEAST_PROBABILITY))


def _in_order(hessian: Tensor) -> Tensor:
    return torch.arange(len(hessian), device=hessian.device)
