"""The artifact of one quantization: all that is shipped of it, in one file, and the model that uses it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from quantcheck.artifact_facts import ArtifactFacts, LayerFacts
from quantcheck.errors import DataError, ModelError, QuantizationError, SpecError
from quantcheck.methods import METHODS
from quantcheck.methods.activations import ActivationQuantizer
from quantcheck.methods.adapter import LowRankAdapter
from quantcheck.methods.base import (
    Calibration,
    MetaValue,
    Method,
    PackedWeight,
    Progress,
    Quantized,
    packed_format,
)
from quantcheck.methods.linear import ADAPTER, QuantizedLinear
from quantcheck.methods.parts.walk import linears, stacks
from quantcheck.spec import QuantSpec, refusal

FILE_VERSION = 2
METADATA_KEY = "quantcheck"


@dataclass(frozen=True, eq=False)
class Artifact:
    """What a method left of a model.

    Attributes:
        spec: id of the spec.
        method_version: of the method that made it.
        weights: packed weight of each quantized Linear, by module path.
        parameters: parameters beside these Linears that the method changed, by name.
        adapters: low-rank adapters by the module path of their Linear.
        notes: the method's documented fallbacks, one sentence each.
    """

    spec: str
    method_version: int
    weights: dict[str, PackedWeight]
    parameters: dict[str, Tensor] = field(default_factory=dict)
    adapters: dict[str, LowRankAdapter] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def bits_per_weight(self) -> float:
        """All stored bits, adapters' included, over the number of weights they stand for."""
        weights = sum(packed.stored_bits for packed in self.weights.values())
        return (weights + sum(adapter.stored_bits for adapter in self.adapters.values())) / self._count

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
            "adapters": {name: adapter.scaling for name, adapter in self.adapters.items()},
            "parameters": list(self.parameters),
            "notes": self.notes,
        }
        tensors = {
            f"{name}.{key}": tensor
            for name, packed in self.weights.items()
            for key, tensor in packed.tensors().items()
        }
        for name, adapter in self.adapters.items():
            tensors |= {_adapter_key(name, factor): getattr(adapter, factor) for factor in ADAPTER}
        tensors |= {_parameter_key(name): tensor for name, tensor in self.parameters.items()}
        tensors = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
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
            return cls(
                header["spec"],
                header["method_version"],
                _weights(header["layers"], stored),
                {name: stored[_parameter_key(name)] for name in header["parameters"]},
                _adapters(header["adapters"], stored),
                tuple(header["notes"]),
            )
        except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise QuantizationError(
                f"{path} is no readable quantcheck artifact ({error}); remove it and quantize again"
            ) from error

    def apply(self, model: nn.Module) -> nn.Module:
        """Swap Linears of ``model`` for quantized ones, in place and on their devices.

        They are those of the decoder blocks, and of the vision tower where the spec asks for it.

        Parameters that the method changed are written over the model's, and the inputs of the quantized
        Linears are rounded where the spec asks for it.

        Returns:
            ``model`` itself.

        Raises:
            ModelError: the model's Linears or parameters are not those of the artifact.
        """
        spec = QuantSpec.parse(self.spec)
        found = linears(model, vision=spec.vision)
        self._refuse_another(model, found)
        for name, linear in found.items():
            quantized = QuantizedLinear(
                self.weights[name],
                linear.bias,
                linear.weight.dtype,
                activation=ActivationQuantizer.of(spec),
                output_activation=ActivationQuantizer.of_outputs(spec, name),
                adapter=self.adapters.get(name),
            )
            model.set_submodule(name, quantized.to(linear.weight.device).train(linear.training))
        with torch.no_grad():
            for name, tensor in self.parameters.items():
                model.get_parameter(name).copy_(tensor)
        return model

    def _refuse_another(self, model: nn.Module, found: dict[str, nn.Linear]) -> None:
        shapes = {name: tuple(linear.weight.shape) for name, linear in found.items()}
        parameters = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        mismatch = sorted(
            (shapes.keys() ^ self.weights.keys()) | (self.parameters.keys() - parameters.keys())
        )
        if mismatch:
            raise ModelError(
                f"the artifact {self.spec} and the model do not share {mismatch[0]}; "
                "apply it to a fresh copy of the model it was made from"
            )
        stored: dict[str, tuple[int, ...]] = {name: packed.shape for name, packed in self.weights.items()}
        stored |= {name: tuple(tensor.shape) for name, tensor in self.parameters.items()}
        for name, shape in stored.items():
            if shape != (shapes | parameters)[name]:
                raise ModelError(
                    f"{name} is {(shapes | parameters)[name]} in the model, {shape} in the artifact "
                    f"{self.spec}; apply it to a fresh copy of the model it was made from"
                )


def quantize(
    model: nn.Module,
    spec: QuantSpec,
    *,
    scale_dtype: torch.dtype,
    calibration: Calibration | None = None,
    instructions: object | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Artifact:
    """Quantize ``model``, which may be left altered, by the method that ``spec`` names.

    Arguments are those of `quantcheck.methods.base.Method.quantize`; ``instructions`` go to a method that is
    ``tuned``. Random numbers are seeded for the call,
    float32 products keep full precision, and the model is put into eval mode.

    Raises:
        SpecError: the method is unknown or does not support the spec.
        DataError: the method needs calibration windows or instructions and got none.
        ModelError: there is no decoder, or a weight is NaN or Inf.
        QuantizationError: the method failed, or did not return every decoder Linear once.
    """
    entry = METHODS.entry(spec.method)
    refused = refusal(spec, entry.capabilities)
    if refused is not None:
        raise SpecError(f"{spec}: {refused}")
    if entry.capabilities.calibrated and calibration is None:
        raise DataError(f"{spec} needs calibration windows, int64 tokens [n, length]")
    if entry.capabilities.tuned and instructions is None:
        raise DataError(f"{spec} is fine-tuned: it needs instructions, tokenized examples")
    ActivationQuantizer.of(spec)
    shapes = {name: tuple(linear.weight.shape) for name, linear in linears(model, vision=spec.vision).items()}
    names = {name for name, _ in model.named_parameters()}
    _refuse_non_finite(model)
    target = METHODS.resolve(spec.method)
    method: Method = target() if isinstance(target, type) else target
    extra: dict[str, Any] = {"instructions": instructions} if entry.capabilities.tuned else {}
    model.eval()
    with _reproducible(model, seed):
        made = method.quantize(
            model,
            spec,
            calibration=calibration,
            scale_dtype=scale_dtype,
            seed=seed,
            progress=progress,
            **extra,
        )
    _refuse_incomplete(spec, shapes, made, names)
    weights = {name: made.weights[name] for name in shapes}
    return Artifact(str(spec), method.version, weights, made.parameters, made.adapters, made.notes)


def inspect(model: nn.Module, *, vision: bool = False) -> ArtifactFacts:
    """Look at the weights that ``model`` really computes with, layer by layer.

    Args:
        model: a quantized model.
        vision: whether its vision tower was to be quantized, too.
    """
    modules = {path: module for stack in stacks(model, vision=vision) for path, module in stack.modules()}
    expected = tuple(
        name for name, module in modules.items() if isinstance(module, nn.Linear | QuantizedLinear)
    )
    layers = tuple(
        _facts(name, module) for name, module in modules.items() if isinstance(module, QuantizedLinear)
    )
    return ArtifactFacts(expected, layers)


def _facts(name: str, module: QuantizedLinear) -> LayerFacts:
    packed, weight, adapter = module.packed, module.weight, module.adapter
    finite = torch.isfinite(weight)
    return LayerFacts(
        name,
        weights=_size(packed),
        stored_bits=packed.stored_bits + (0 if adapter is None else adapter.stored_bits),
        nominal_bits=packed.nominal_bits,
        finite=bool(finite.all()),
        decoded=same_bits(weight, packed.decode().to(weight.dtype)),
        levels_respected=packed.levels_respected(weight.where(finite, 0)),
        act_bits=None if module.activation is None else module.activation.bits,
        kernel=module.kernel,
        digest=_digest(packed, adapter),
    )


def _digest(packed: PackedWeight, adapter: LowRankAdapter | None) -> str:
    stored, scaling = packed.tensors(), None if adapter is None else adapter.scaling
    if adapter is not None:
        stored = stored | {_adapter_key("", factor): getattr(adapter, factor) for factor in ADAPTER}
    header = [packed.format, packed.meta(), scaling]
    return tensors_digest(stored, json.dumps(header, sort_keys=True))


def tensors_digest(tensors: Mapping[str, Tensor], header: str = "") -> str:
    """The first 8 hex digits of a SHA-256 over ``header`` and tensors: names, dtypes, shapes and bits."""
    sha = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()[:8]


def same_bits(left: Tensor, right: Tensor) -> bool:
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


def _adapter_key(name: str, factor: str) -> str:
    return f"adapters/{name}.{factor}"


def _parameter_key(name: str) -> str:
    return f"parameters/{name}"


def _adapters(scalings: dict[str, float], stored: dict[str, Tensor]) -> dict[str, LowRankAdapter]:
    adapters = {}
    for name, scaling in scalings.items():
        lora_a, lora_b = (stored[_adapter_key(name, factor)] for factor in ADAPTER)
        adapters[name] = LowRankAdapter(lora_a, lora_b, scaling)
    return adapters


def _refuse_non_finite(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError(
                f"{name} holds NaN or Inf; a model must be finite before it is quantized: "
                "check how the checkpoint was saved"
            )


def _refuse_incomplete(
    spec: QuantSpec, shapes: dict[str, tuple[int, ...]], made: Quantized, parameters: set[str]
) -> None:
    mismatch = sorted(shapes.keys() ^ made.weights.keys())
    if mismatch:
        raise QuantizationError(
            f"{spec.method} must return every decoder Linear and nothing else; see {mismatch[0]}"
        )
    returned = [(name, packed.shape) for name, packed in made.weights.items()]
    returned += [(name, adapter.shape) for name, adapter in made.adapters.items()]
    for name, shape in returned:
        if shape != shapes.get(name):
            raise QuantizationError(
                f"{spec.method} returned {name} as {shape}, the model has {shapes.get(name, 'none')}"
            )
    for name, tensor in made.parameters.items():
        if name not in parameters:
            raise QuantizationError(f"{spec.method} changed {name}, which is no parameter of the model")
        if not torch.isfinite(tensor).all():
            raise QuantizationError(f"{spec.method} left NaN or Inf in {name}, as {tensor.dtype}")


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
