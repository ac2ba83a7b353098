"""Errors a user can act on: each message names the cause and the way out."""

from __future__ import annotations


class QuantcheckError(Exception):
    """The base of every error that quantcheck raises on purpose."""


class SpecError(QuantcheckError):
    """A quantization spec, method name or option that cannot be used."""


class ModelError(QuantcheckError):
    """A model that is not there, or cannot be gated."""


class DataError(QuantcheckError):
    """An evaluation or calibration text, or a task, that cannot be used."""


class QuantizationError(QuantcheckError):
    """A method that could not quantize a layer (singular Hessian, overflowing scale, ...)."""


class BaselineError(QuantcheckError):
    """A baseline or policy file that cannot be read, or must not be written."""


class CacheError(QuantcheckError):
    """A cache folder that cannot be used."""


class MissingPackageError(QuantcheckError):
    """A feature whose package is not installed."""

    def __init__(self, feature: str, package: str) -> None:
        super().__init__(f"{feature} needs {package}, which is not installed: pip install '{package}'")
