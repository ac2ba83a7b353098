"""The layer Hessian that GPTQ and its descendants share, and the factor of its inverse.

For the layer objective ``||X W^T - X W_q^T||^2`` it is ``H = 2/N sum_i X_i^T X_i`` over N calibration
sequences X_i [tokens, in] (Frantar et al., 2023, section 3). Its scale does not change any result. float32
throughout: half precision loses positive definiteness.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from quantcheck.errors import QuantizationError


class Hessian:
    """Accumulates ``H`` over sequences, float32 [in, in] on the device of the inputs."""

    def __init__(self) -> None:
        self._gram: Tensor | None = None
        self._sequences = 0

    def update(self, inputs: Tensor) -> None:
        """Add one sequence, [..., in]; leading dimensions are its tokens."""
        tokens = inputs.reshape(-1, inputs.shape[-1]).to(torch.float32)
        if self._gram is None:
            self._gram = torch.zeros(tokens.shape[1], tokens.shape[1], device=tokens.device)
        self._gram.addmm_(tokens.T, tokens)
        self._sequences += 1

    def value(self) -> Tensor:
        """``H``, float32 [in, in].

        Raises:
            QuantizationError: no sequence was added, or the inputs held NaN or Inf.
        """
        if self._gram is None:
            raise QuantizationError(
                "the layer received no calibration input; it must take part in every forward pass"
            )
        if not torch.isfinite(self._gram).all():
            raise QuantizationError(
                "the layer's calibration inputs hold NaN or Inf; check the model, or load it in float32"
            )
        return self._gram * (2.0 / self._sequences)


def dead_columns(hessian: Tensor) -> Tensor:
    """Input columns that were zero on all of the calibration data, bool [in]."""
    return hessian.diagonal() == 0


def inverse_factor(hessian: Tensor, percdamp: float) -> Tensor:
    """The upper factor U of ``(H + percdamp mean(diag H) I)^-1 = U^T U``, float32 [in, in].

    Row i of U holds, up to ``U_ii``, how columns i, i+1, ... must change to make up for an error in column i
    (GPTQ, section 3.3, step 3: Cholesky reformulation). Dead columns must have got a non-zero diagonal
    before.

    Raises:
        QuantizationError: the damped Hessian is not positive definite.
    """
    damped = hessian.clone()
    damped.diagonal().add_(percdamp * hessian.diagonal().mean())
    lower, failed = torch.linalg.cholesky_ex(damped)
    if not failed:
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if failed:
        raise QuantizationError(
            f"the Hessian is not positive definite at percdamp={percdamp:g}; raise percdamp (such as percdamp={max(0.1, 10 * percdamp):g}) "
            "or calibrate on more windows of different text"
        )
    return cast("Tensor", upper)
