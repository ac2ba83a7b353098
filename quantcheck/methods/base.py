"""What a method is, and what it leaves behind: a packed weight for each Linear, and what belongs to them.

A third party's method implements `Method`, or derives from one of the two bases of ``layerwise``; it returns
`PackedWeight` objects, most often `quantcheck.methods.packed.grouped.GroupedWeight`.
"""

from __future__ import annotations

import importlib
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, cast

from quantcheck.errors import QuantcheckError, QuantizationError
from quantcheck.registry import did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from quantcheck.methods.adapter import LowRankAdapter
    from quantcheck.spec import QuantSpec

MetaValue = int | float | str
Progress = Callable[[str, int, int], None]
"""Called with a layer name, the number of layers done and their total."""

Calibration: TypeAlias = "Tensor | Sequence[Mapping[str, Tensor]]"
"""What a calibrated method reads: token windows, int64 [n, length], or prepared inputs: what the model is
called with, by name, one unpadded example a call: ``input_ids`` or ``inputs_embeds``, and its picture's."""


class PackedWeight(ABC):
    """The stored form of one Linear's weight: packed tensors and a few numbers.

    ``format`` names the class in artifacts. Everything that is needed to compute is in `tensors` and `meta`,
    and what is stored is counted from `tensors` alone.
    """

    format: ClassVar[str]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """``(out_features, in_features)`` of the decoded weight."""

    @property
    @abstractmethod
    def nominal_bits(self) -> float:
        """Bits per weight as the method advertises them, without scales, zero points and masks."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done otherwise than asked for, and why, one sentence each: documented fallbacks."""
        return ()

    @property
    def stored_bits(self) -> int:
        """All bits of all stored tensors."""
        return sum(8 * tensor.element_size() * tensor.numel() for tensor in self.tensors().values())

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return everything that is stored, contiguous, by names without dots."""

    @abstractmethod
    def meta(self) -> dict[str, MetaValue]:
        """Return the numbers that `from_tensors` needs beside the tensors."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, MetaValue]) -> PackedWeight:
        """Put back together what `tensors` and `meta` gave.

        Raises:
            QuantizationError: the tensors do not fit together.
        """

    @abstractmethod
    def decode(self) -> Tensor:
        """Return the weight that the stored tensors stand for, float32 [out, in]."""

    @abstractmethod
    def levels_respected(self, weight: Tensor) -> bool:
        """Tell whether ``weight`` [out, in] fits this format.

        It does when, wherever weights share a scale, they take no more distinct values than codes can tell
        apart.
        """


@dataclass(frozen=True, eq=False)
class Quantized:
    """What a method made of a model.

    Attributes:
        weights: packed weight of each decoder Linear, by module path (``model.layers.0.self_attn.q_proj``).
        parameters: parameters beside the decoder Linears that the method changed, by their names, as they are
            stored: norm gains that took up a scale. They replace the model's own, so they cost no bits.
        adapters: low-rank adapters by the module path of their Linear.
        notes: documented fallbacks, one sentence each, that name the layer.
    """

    weights: dict[str, PackedWeight]
    parameters: dict[str, Tensor] = field(default_factory=dict)
    adapters: dict[str, LowRankAdapter] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, weights: dict[str, PackedWeight], parameters: dict[str, Tensor] | None = None) -> Quantized:
        """Gather the notes of ``weights``: each once, with the layers that it holds for."""
        layers: dict[str, list[str]] = {}
        for name, packed in weights.items():
            for note in packed.notes:
                layers.setdefault(note, []).append(name)
        notes = tuple(f"{note} ({len(names)} layers, {names[0]} first)" for note, names in layers.items())
        return cls(weights, parameters or {}, notes=notes)


class Method(Protocol):
    """A quantization method.

    Attributes:
        version: raised when the method's results change.
    """

    version: int

    def quantize(
        self,
        model: nn.Module,
        spec: QuantSpec,
        *,
        calibration: Calibration | None,
        scale_dtype: torch.dtype,
        seed: int,
        progress: Progress | None = None,
    ) -> Quantized:
        """Quantize every decoder Linear of ``model``, which may be left altered (callers pass a copy).

        A method whose capabilities say ``tuned`` is also given ``instructions``, tokenized examples to
        fine-tune on (`quantcheck.methods.parts.finetune.Examples`).

        Args:
            model: a LLaMA-family causal language model.
            spec: width, group size, grid and options; already checked against the method's capabilities.
            calibration: int64 token windows [n, length], fed one a batch, or prepared inputs; ``None`` for a
                method without calibration.
            scale_dtype: what scales are stored in; they are rounded to it before codes are computed.
            seed: of everything random.
            progress: told about each layer that is done.

        Returns:
            A packed weight for every decoder Linear, and what else changed.
        """
        ...


_FORMATS: dict[str, type[PackedWeight] | str] = {
    "grouped": "quantcheck.methods.packed.grouped:GroupedWeight",
    "mixed": "quantcheck.methods.packed.mixed:MixedWeight",
    "rotated": "quantcheck.methods.packed.rotated:RotatedWeight",
    "partially_binary": "quantcheck.methods.packed.partially_binary:PartiallyBinaryWeight",
    "residual_binary": "quantcheck.methods.packed.residual_binary:ResidualBinaryWeight",
    "dual_binary": "quantcheck.methods.packed.dual_binary:DualBinaryWeight",
    "normal_float": "quantcheck.methods.packed.normal_float:NormalFloatWeight",
}


def register_format(packed: type[PackedWeight]) -> type[PackedWeight]:
    """Make artifacts that hold ``packed`` loadable; usable as a class decorator.

    Raises:
        QuantizationError: another class has this format name.
    """
    if _FORMATS.setdefault(packed.format, packed) is not packed:
        raise QuantizationError(
            f"two packed weights are called {packed.format!r}; "
            f"rename the format of {packed.__module__}.{packed.__qualname__}"
        )
    return packed


def packed_format(name: str) -> type[PackedWeight]:
    """Return the class behind a format name, imported when it is a built-in one.

    Raises:
        QuantizationError: nobody registered that name.
    """
    if name not in _FORMATS:
        raise QuantizationError(
            f"unknown packed format {name!r}{did_you_mean(name, _FORMATS)}; "
            "import the package that registers it"
        )
    target = _FORMATS[name]
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return cast("type[PackedWeight]", getattr(importlib.import_module(module), attribute))


@contextmanager
def naming_the_method(spec: QuantSpec) -> Iterator[None]:
    """Turn whatever a method raises by mistake into a `QuantizationError` that says where."""
    try:
        yield
    except QuantcheckError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}, line {frame.lineno}"
        raise QuantizationError(f"{spec.method} raised {type(error).__name__}: {error} ({where})") from error
