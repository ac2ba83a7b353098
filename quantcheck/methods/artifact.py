"""The artifact of one quantization: packed weights by layer, in one file, and the model that uses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from quantcheck.artifact_facts import ArtifactFacts, LayerFacts
from quantcheck.errors import DataError, ModelError, QuantizationError, SpecError
from quantcheck.methods import METHODS
from quantcheck.methods.base import MetaValue, Method, PackedWeight, Progress, packed_format
from quantcheck.methods.linear import QuantizedLinear
from quantcheck.methods.walk import decoder_blocks, decoder_linears
from quantcheck.spec import QuantSpec, refusal

FILE_VERSION = 1
METADATA_KEY = "quantcheck"


@dataclass(frozen=True, eq=False)
class Artifact:
    """What a method left of a model.

    Attributes:
        spec: id of the spec.
        method_version: of the method that made it.
        weights: packed weight of each decoder Linear, by module path.
    """

    spec: str
    method_version: int
    weights: dict[str, PackedWeight]

    @property
    def bits_per_weight(self) -> float:
        """All stored bits over the number of weights they stand for."""
        return sum(packed.stored_bits for packed in self.weights.values()) / self._count

    @property
    def nominal_bits(self) -> float:
        """Advertised bits per weight, averaged over weights."""
        return sum(packed.nominal_bits * _size(packed) for packed in self.weights.values()) / self._count

    @property
    def _count(self) -> int:
        return sum(_size(packed) for packed in self.weights.values())

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, the same bytes for the same artifact."""
        layers = {
            name: {"format": packed.format, "meta": packed.meta()} for name, packed in self.weights.items()
        }
        header = {
            "version": FILE_VERSION,
            "spec": self.spec,
            "method_version": self.method_version,
            "layers": layers,
        }
        tensors = {
            f"{name}.{key}": tensor.cpu().contiguous()
            for name, packed in self.weights.items()
            for key, tensor in packed.tensors().items()
        }
        # All metadata under one key: safetensors does not keep the order of several.
        save_file(tensors, path, metadata={METADATA_KEY: json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path) -> Artifact:
        """Read what `save` wrote, onto the CPU.

        Raises:
            QuantizationError: the file is not there, is damaged, or is no artifact of this version.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})[METADATA_KEY])
                if header["version"] != FILE_VERSION:
                    raise ValueError(f"file version {header['version']}, not {FILE_VERSION}")
                stored = {key: file.get_tensor(key) for key in file.keys()}
            return cls(header["spec"], header["method_version"], _weights(header["layers"], stored))
        except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise QuantizationError(
                f"{path} is no readable quantcheck artifact ({error}); remove it and quantize again"
            ) from error

    def apply(self, model: nn.Module) -> nn.Module:
        """Swap the decoder Linears of ``model`` for quantized ones, in place and on their devices.

        Returns:
            ``model`` itself.

        Raises:
            ModelError: the model's decoder Linears are not those of the artifact.
        """
        linears = decoder_linears(model)
        mismatch = sorted(linears.keys() ^ self.weights.keys())
        if mismatch:
            raise ModelError(
                f"the artifact {self.spec} and the model do not share the decoder Linear {mismatch[0]}; "
                "apply it to a fresh copy of the model it was made from"
            )
        for name, linear in linears.items():
            packed = self.weights[name]
            if packed.shape != tuple(linear.weight.shape):
                raise ModelError(
                    f"{name} is {tuple(linear.weight.shape)} in the model, {packed.shape} in the artifact "
                    f"{self.spec}; apply it to a fresh copy of the model it was made from"
                )
        for name, linear in linears.items():
            quantized = QuantizedLinear(self.weights[name], linear.bias, linear.weight.dtype)
            model.set_submodule(name, quantized.to(linear.weight.device).train(linear.training))
        return model


def quantize(
    model: nn.Module,
    spec: QuantSpec,
    *,
    scale_dtype: torch.dtype,
    calibration: Tensor | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Artifact:
    """Quantize ``model``, which may be left altered, by the method that ``spec`` names.

    Arguments are those of `quantcheck.methods.base.Method.quantize`. Random numbers are seeded for the call,
    float32 products keep full precision, and the model is put into eval mode.

    Raises:
        SpecError: the method is unknown or does not support the spec.
        DataError: the method needs calibration windows and got none.
        ModelError: there is no decoder, or a weight is NaN or Inf.
        QuantizationError: the method failed, or did not return every decoder Linear once.
    """
    entry = METHODS.entry(spec.method)
    refused = refusal(spec, entry.capabilities)
    if refused is not None:
        raise SpecError(f"{spec}: {refused}")
    if entry.capabilities.calibrated and calibration is None:
        raise DataError(f"{spec} needs calibration windows, int64 tokens [n, length]")
    shapes = {name: tuple(linear.weight.shape) for name, linear in decoder_linears(model).items()}
    _refuse_non_finite(model)
    target = METHODS.resolve(spec.method)
    method: Method = target() if isinstance(target, type) else target
    model.eval()
    with _reproducible(model, seed):
        weights = method.quantize(
            model, spec, calibration=calibration, scale_dtype=scale_dtype, seed=seed, progress=progress
        )
    _refuse_incomplete(spec, shapes, weights)
    return Artifact(str(spec), method.version, {name: weights[name] for name in shapes})


def inspect(model: nn.Module) -> ArtifactFacts:
    """Look at the weights that ``model`` really computes with, layer by layer."""
    modules = {f"model.layers.{path}": module for path, module in decoder_blocks(model).named_modules()}
    expected = tuple(
        name for name, module in modules.items() if isinstance(module, nn.Linear | QuantizedLinear)
    )
    layers = tuple(
        _facts(name, module) for name, module in modules.items() if isinstance(module, QuantizedLinear)
    )
    return ArtifactFacts(expected, layers)


def _facts(name: str, module: QuantizedLinear) -> LayerFacts:
    packed, weight = module.packed, module.weight
    finite = torch.isfinite(weight)
    return LayerFacts(
        name,
        weights=_size(packed),
        stored_bits=packed.stored_bits,
        nominal_bits=packed.nominal_bits,
        finite=bool(finite.all()),
        decoded=_same_bits(weight, packed.decode().to(weight.dtype)),
        levels_respected=packed.levels_respected(weight.where(finite, 0)),
    )


def _same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors hold the same bits: a NaN that was stored is no difference."""
    integers = {2: torch.int16, 4: torch.int32}[left.element_size()]
    return torch.equal(left.view(integers), right.view(integers))


def _size(packed: PackedWeight) -> int:
    return packed.shape[0] * packed.shape[1]


def _weights(layers: dict[str, dict[str, object]], stored: dict[str, Tensor]) -> dict[str, PackedWeight]:
    weights: dict[str, PackedWeight] = {}
    for name, layer in layers.items():
        prefix = f"{name}."
        tensors = {
            key.removeprefix(prefix): tensor for key, tensor in stored.items() if key.startswith(prefix)
        }
        meta: dict[str, MetaValue] = dict(layer["meta"])  # type: ignore[call-overload]
        weights[name] = packed_format(str(layer["format"])).from_tensors(tensors, meta)
    return weights


def _refuse_non_finite(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError(
                f"{name} holds NaN or Inf; a model must be finite before it is quantized: "
                "check how the checkpoint was saved"
            )


def _refuse_incomplete(
    spec: QuantSpec, shapes: dict[str, tuple[int, ...]], weights: dict[str, PackedWeight]
) -> None:
    mismatch = sorted(shapes.keys() ^ weights.keys())
    if mismatch:
        raise QuantizationError(
            f"{spec.method} must return every decoder Linear and nothing else; see {mismatch[0]}"
        )
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise QuantizationError(
                f"{spec.method} returned {name} as {weights[name].shape}, the model has {shape}"
            )


@contextmanager
def _reproducible(model: nn.Module, seed: int) -> Iterator[None]:
    """Seeded random numbers and no TF32, both put back afterwards."""
    precision = torch.get_float32_matmul_precision()
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
