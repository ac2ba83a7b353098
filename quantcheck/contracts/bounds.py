"""What a kernel ought to compute, in float64, and how far from it rounding alone can lead.

Every bound follows from the model of rounding of Higham, Accuracy and Stability of Numerical Algorithms, 2nd
ed., SIAM 2002: an operation of unit roundoff ``u`` is off by a factor ``1 + d``, ``|d| <= u`` (2.4), and
``n`` such factors by at most ``gamma_n = n u / (1 - n u)`` (lemma 3.1), in any order (section 3.1).

- A weight is a sum of ``t`` exact addends ``a`` (one, ``scale (code - zero_point)``, for integer codes), made
  in float32 and rounded once to the dtype asked for, of ``u_w``: ``|w' - w| <= e_w sum|a|`` with ``1 + e_w =
  (1 + gamma_t)(1 + u_w)``.
- A product is a sum of ``n`` addends ``x w'``, ``n`` the inputs of the row that are not zero. Each of them is
  rounded when it is made, at most ``n - 1`` times as they are added up, in any order, and once more where
  scales are multiplied in after a group is added up: ``|y' - y| <= e sum|x| sum|a|`` with ``1 + e = (1 + e_w)
  (1 + gamma_(n+1))``, ``u`` being that of the dtype that sums are kept in. The result is rounded to the
  inputs' dtype: ``u_out (|y| + that)`` more.
- Rounded activations are ``x' = q s`` with ``s = max(max|x|, 1e-5) / (2^(b-1) - 1)``, ``q = round(x / s)``,
  in float32, half to even. The roundings of ``s`` (its floor and its inverse are among them) and that of the
  quotient move ``x / s`` by at most ``gamma_4``; where a half lies that near, both neighbours are allowed:
  ``x'`` may be off by one step ``s``. Elsewhere ``q`` is exact and ``x'``, multiplied by ``s`` now or later,
  off by ``gamma_3``, and by another ``u`` of the inputs' dtype in a kernel that multiplies by ``x'`` instead
  of ``q``. What ``x'`` is off by counts times ``sum|a|``, and takes part in all that follows.
- Rounding into the subnormal range is off by half of the smallest subnormal. Operands are drawn so that
  float32 does not get there; float16 does.

What float64 itself rounds is added. Where the largest finite number of a dtype lies within reach, Inf of the
right sign is right, too. Where the float64 result is NaN or Inf, so must be the kernel's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantcheck.strategies.operands import Product, WeightRecipe

SMALLEST_PEAK = 1e-5
FLOAT64 = torch.finfo(torch.float64).eps / 2
FLOAT32 = torch.finfo(torch.float32).eps / 2


@dataclass(frozen=True, eq=False)
class Expected:
    """A result, and how far off a kernel may be.

    Attributes:
        values: float64.
        bound: float64, of the same shape.
        dtype: of the kernel's result.
    """

    values: Tensor
    bound: Tensor
    dtype: torch.dtype

    def of(self, rows: Tensor) -> Expected:
        """Return what is expected of some rows."""
        return Expected(self.values[rows], self.bound[rows], self.dtype)

    def wrong(self, got: Tensor) -> str:
        """Say what is wrong with a kernel's result: dtype, shape, or its worst element; empty: nothing."""
        if got.dtype != self.dtype or got.shape != self.values.shape:
            return f"is {got.dtype} {tuple(got.shape)}, expected {self.dtype} {tuple(self.values.shape)}"
        found = got.detach().cpu().double()
        finite = self.values.isfinite()
        off = (found - self.values).abs()
        overflown = (found == self.values.sign() * torch.inf) & (
            self.values.abs() + self.bound >= torch.finfo(self.dtype).max
        )
        bad = torch.where(finite, ~(off <= self.bound) & ~overflown, found.isfinite())
        if not bad.any():
            return ""
        excess = torch.where(bad, (off / self.bound).nan_to_num(torch.inf, torch.inf), -1.0)
        place = tuple(int(i) for i in torch.unravel_index(excess.argmax(), bad.shape))
        return (
            f"is {float(found[place]):.9g} at {place}, expected {float(self.values[place]):.9g} "
            f"± {float(self.bound[place]):.2g} ({int(bad.sum())} of {bad.numel()} are wrong)"
        )


def unit(dtype: torch.dtype) -> float:
    """Return the unit roundoff; where integers are added up, that of float32, which they are scaled in."""
    return torch.finfo(dtype).eps / 2 if dtype.is_floating_point else FLOAT32


def gamma(roundings: Tensor | int, u: float) -> Tensor:
    """Bound the relative error of so many roundings, ``n u / (1 - n u)``; Inf from ``n u = 1`` on."""
    nu = torch.as_tensor(roundings, dtype=torch.float64) * u
    return torch.where(nu < 1, nu / (1 - nu), torch.inf)


def dequantized(weight: WeightRecipe, dtype: torch.dtype) -> Expected:
    """Decode a weight to ``dtype``."""
    terms = weight.terms()
    values, magnitudes = terms.sum(0), terms.abs().sum(0)
    error = _weight_error(len(terms), dtype) + gamma(len(terms), FLOAT64)
    return Expected(values, error * magnitudes + _subnormal(dtype) / 2, dtype)


def multiplied(product: Product, accumulates: torch.dtype) -> Expected:
    """Multiply inputs by the transposed weight, with sums in ``accumulates``."""
    x = product.x()
    if product.act_bits is None:
        values, spread = x.double(), torch.zeros(x.shape, dtype=torch.float64)
    else:
        values, spread = rounded(x.double(), product.act_bits)
        spread = spread + ((1 + gamma(3, FLOAT32)) * (1 + unit(x.dtype)) - 1) * values.abs()
    terms = product.weight.terms()
    return _sums(values, spread, terms.transpose(1, 2), x.dtype, accumulates)


def gradient(product: Product, outer: Tensor, accumulates: torch.dtype) -> Expected:
    """Multiply the gradient of the result, ``outer`` [tokens, out], by the weight."""
    return _sums(
        outer.double(), torch.zeros_like(outer.double()), product.weight.terms(), outer.dtype, accumulates
    )


def rounded(x: Tensor, act_bits: int) -> tuple[Tensor, Tensor]:
    """Round each row of ``x`` to its grid; beside it, a step where rounding may go either way, else 0."""
    if not x.shape[1]:
        return x, x
    peak = x.abs().amax(1, keepdim=True)
    step = peak.clamp(min=SMALLEST_PEAK) / (2 ** (act_bits - 1) - 1)
    quotient = x / step
    from_half = ((quotient - quotient.floor()) - 0.5).abs()
    either = from_half <= gamma(4, FLOAT32) * quotient.abs()
    return quotient.round() * step, torch.where(either, step, 0.0)


def _sums(x: Tensor, spread: Tensor, terms: Tensor, dtype: torch.dtype, accumulates: torch.dtype) -> Expected:
    """Multiply ``x``, each of which may be off by ``spread``, by the sum of ``terms``."""
    matrix, magnitudes = terms.sum(0), terms.abs().sum(0)
    values, reach = x.matmul(matrix), x.abs() + spread
    count = (reach != 0).sum(1, keepdim=True)
    error = (1 + _weight_error(len(terms), dtype)) * (1 + gamma(count + 1, unit(accumulates))) - 1
    error = error + gamma(count + len(terms) + 1, FLOAT64)
    bound = error * reach.matmul(magnitudes) + spread.matmul(magnitudes)
    bound = bound + _subnormal(dtype) * reach.sum(1, keepdim=True) + count * _subnormal(accumulates)
    return Expected(values, bound + unit(dtype) * (values.abs() + bound) + _subnormal(dtype), dtype)


def _weight_error(terms: int, dtype: torch.dtype) -> Tensor:
    # Float32 weights are rounded to no other dtype.
    rounding = unit(dtype) if unit(dtype) > FLOAT32 else 0.0
    return (1 + gamma(terms, FLOAT32)) * (1 + rounding) - 1


def _subnormal(dtype: torch.dtype) -> float:
    """Return the smallest number above zero."""
    if not dtype.is_floating_point:
        return 0.0
    limits = torch.finfo(dtype)
    return limits.smallest_normal * limits.eps
