"""Two bases for methods that quantize one Linear at a time: without data, and with a Hessian.

A method of one's own is a class with a ``version`` and a ``quantize_weight``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from quantcheck.errors import DataError
from quantcheck.methods.base import Calibration, PackedWeight, Progress, Quantized
from quantcheck.methods.parts.hessian import Hessian
from quantcheck.methods.parts.walk import linears, naming, walk
from quantcheck.spec import QuantSpec


class _Layerwise(ABC):
    version: int

    def check(self, spec: QuantSpec) -> None:  # noqa: B027 - there is nothing to refuse by default
        """Refuse option values before any work."""


class LinearMethod(_Layerwise):
    """A method that looks at the weight alone."""

    @abstractmethod
    def quantize_weight(self, weight: Tensor, spec: QuantSpec, scale_dtype: torch.dtype) -> PackedWeight:
        """Quantize one weight, float32 [out, in]."""

    @torch.no_grad()
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
        """Quantize every Linear by itself; see `quantcheck.methods.base.Method`."""
        self.check(spec)
        found = linears(model, vision=spec.vision)
        weights: dict[str, PackedWeight] = {}
        for name, linear in found.items():
            with naming(name):
                weights[name] = self.quantize_weight(linear.weight.to(torch.float32), spec, scale_dtype)
            if progress is not None:
                progress(name, len(weights), len(found))
        return Quantized.of(weights)


class HessianMethod(_Layerwise):
    """A method that looks at the weight and at the Hessian of its calibration inputs."""

    @abstractmethod
    def quantize_weight(
        self, weight: Tensor, hessian: Tensor, spec: QuantSpec, scale_dtype: torch.dtype
    ) -> PackedWeight:
        """Quantize one weight, float32 [out, in], given H, float32 [in, in]; neither may be written to."""

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

        def quantize_linear(linear: nn.Linear, hessian: Hessian) -> PackedWeight:
            return self.quantize_weight(linear.weight.to(torch.float32), hessian.value(), spec, scale_dtype)

        return Quantized.of(
            walk(
                model,
                calibration,
                Hessian,
                quantize_linear,
                progress,
                true_sequential=bool(spec.option("true_sequential", False)),
                vision=spec.vision,
            )
        )
