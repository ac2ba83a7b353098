"""How far a quantized model lies from the one it was made of, layer by layer, before anything is evaluated.

*Weights.* ``||W^ - W||^2 / ||W||^2`` of each Linear. A method that folds scales (``parts.folding``) rounds
``W diag(s)``, so that is what its weight is compared with: s of what a norm writes is known exactly from the
gain before and after, ``s = g / g'``. Scales between two Linears, up -> down and v -> o, are stored nowhere;
but a channel contributes the product of the row u_j that writes it and the column d_j that reads it, which
no scale changes. Where norms took up scales, such a pair has one error, that of the products::

    sum_j ||d^_j u^_j' - d_j u_j'||^2 / sum_j ||d_j||^2 ||u_j||^2

The gain ``<W^, W> / ||W||^2`` and the largest error of a row, or of a channel, come of the same sums.

*Outputs.* What each decoder block adds to its input, against what the full-precision block adds to the same
input: ``||B^(h) - B(h)||^2 / ||B(h) - h||^2``, where full-precision blocks made h of calibration windows.
Folded scales do not matter to it, errors do not pile up from block to block, and adapters and rounded
activations count.

*Outside.* Of a multimodal model the spec leaves all alone but decoder blocks, final norm and head (and the
blocks of the vision tower, where it asks for them): the rest must be the full-precision model's, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from quantcheck.artifact_facts import ArtifactFacts, BlockFacts
from quantcheck.methods.artifact import same_bits, tensors_digest
from quantcheck.methods.base import Calibration
from quantcheck.methods.linear import QuantizedLinear
from quantcheck.methods.parts.folding import MLP_PAIR, NORM_PAIRS, VALUE_PAIR, Pair
from quantcheck.methods.parts.walk import (
    TEXT_DECODER,
    Stack,
    block_inputs,
    decoder,
    forward_block,
    stacks,
    vision_tower,
)


@dataclass(frozen=True)
class WeightError:
    """How far a decoded weight lies from the full-precision one, as `LayerFacts` tells it."""

    weight_error: float
    gain: float
    row_error: float


_SCALED = {f"{pair.writer}.weight" for pair in NORM_PAIRS} | {
    f"{pair.writer}.bias" for pair in (VALUE_PAIR, MLP_PAIR)
}


@torch.no_grad()
def compared(
    facts: ArtifactFacts,
    model: nn.Module,
    reference: nn.Module,
    parameters: Mapping[str, Tensor],
    calibration: Calibration | None,
) -> ArtifactFacts:
    """Add to the facts of a quantized model how far it lies from the full-precision one.

    Args:
        facts: from `quantcheck.methods.artifact.inspect` of ``model``.
        model: the quantized model.
        reference: the full-precision model, of the same architecture, on the same device.
        parameters: what the method changed beside the Linears, as it is stored: an artifact's.
        calibration: int64 tokens [n, length], or prepared inputs, to feed the blocks; ``None``: none.

    Returns:
        ``facts`` with ``differs`` and errors of each layer, ``beside``, ``blocks`` and ``outside``.
    """
    errors = weight_errors(model, reference, parameters)
    layers = tuple(
        replace(
            layer,
            differs=not same_bits(
                _weight(model, layer.name), reference.get_parameter(f"{layer.name}.weight")
            ),
            **(asdict(errors[layer.name]) if layer.name in errors else {}),
        )
        for layer in facts.layers
    )
    blocks = () if calibration is None else tuple(output_errors(model, reference, calibration))
    return replace(
        facts,
        layers=layers,
        beside=_beside(model, reference),
        blocks=blocks,
        outside=changed_outside(model, reference, facts.expected_layers),
    )


@torch.no_grad()
def weight_errors(
    model: nn.Module, reference: nn.Module, parameters: Mapping[str, Tensor]
) -> dict[str, WeightError]:
    """The error of each quantized Linear's decoded weight, by module path.

    Left out are all Linears where the method changed a parameter outside of the blocks, and those of a block
    where it changed another one than norm gains and the biases that go with them: the weights may have taken
    up what nobody can tell.
    """
    every = {path: block for stack in _stacks(reference) for path, block in _blocks(stack)}
    if not all(name.startswith(tuple(every)) for name in parameters):
        return {}
    errors: dict[str, WeightError] = {}
    for path, block in every.items():
        quantized = model.get_submodule(path.removesuffix("."))
        changed = {
            name.removeprefix(path): tensor for name, tensor in parameters.items() if name.startswith(path)
        }
        if changed.keys() <= _SCALED:
            found = _Block(quantized, block, changed).errors()
            errors |= {path + name: error for name, error in found.items()}
    return errors


@torch.no_grad()
def output_errors(model: nn.Module, reference: nn.Module, calibration: Calibration) -> Iterator[BlockFacts]:
    """The relative squared error of what each decoder block of ``model`` adds.

    One block's inputs are held at a time. In half precision the rounding of the block's output counts, too.
    """
    stack = decoder(reference)
    hidden, arguments = block_inputs(reference, stack.blocks, calibration)
    for index, (quantized, block) in enumerate(zip(decoder(model).blocks, stack.blocks, strict=True)):
        error = added = 0.0
        for window, states in enumerate(hidden):
            exact = forward_block(block, states, arguments[index])
            error += _squares(forward_block(quantized, states, arguments[index]).float() - exact.float())
            added += _squares(exact.float() - states.float())
            hidden[window] = exact
        yield BlockFacts(f"{stack.path}.{index}", _share(error, added))


def changed_outside(
    model: nn.Module, reference: nn.Module, expected: Iterable[str]
) -> tuple[str, ...] | None:
    """Name the parameters of a multimodal model that the spec leaves alone and that are not as they were.

    Args:
        model: the quantized model.
        reference: the full-precision model.
        expected: module paths of the Linears that the spec asks to quantize.

    Returns:
        Parameters that either model lacks, or that differ in a bit, in order; ``None`` for a model of texts.
    """
    language, tower = decoder(reference).path, vision_tower(reference)
    if language == TEXT_DECODER:
        return None
    asked = tower is not None and any(name.startswith(f"{tower.path}.") for name in expected)
    quantized = [stack.path for stack in stacks(reference, vision=asked)]
    inside = tuple(f"{path}." for path in (*quantized, f"{language.removesuffix('layers')}norm", "lm_head"))
    kept, found = dict(reference.named_parameters()), dict(model.named_parameters())
    return tuple(
        name
        for name in kept | found
        if not name.startswith(inside)
        and not (name in kept and name in found and same_bits(found[name], kept[name]))
    )


@dataclass(frozen=True)
class _Block:
    """A decoder block, quantized and not, and the parameters beside its Linears that were changed."""

    quantized: nn.Module
    reference: nn.Module
    changed: Mapping[str, Tensor]

    def errors(self) -> dict[str, WeightError]:
        """Errors by the Linears' paths within the block."""
        scales = dict(self._scales())
        paths = [path for path, part in self.quantized.named_modules() if isinstance(part, QuantizedLinear)]
        pairs = [pair for pair in self._pairs() if {pair.writer, *pair.readers} <= set(paths)]
        joint = {path: pair for pair in pairs for path in (pair.writer, *pair.readers)}
        errors = {}
        for path in paths:
            if path not in joint:
                errors[path] = relative_error(*self._weights(path, scales))
        for pair in pairs:
            error = product_error(self._weights(pair.writer, scales), self._weights(pair.readers[0], scales))
            errors |= dict.fromkeys((pair.writer, *pair.readers), error)
        return errors

    def _scales(self) -> Iterator[tuple[str, Tensor]]:
        """The factors [in] that the columns of Linears took up from norms, by path."""
        for pair in NORM_PAIRS:
            stored = self.changed.get(f"{pair.writer}.weight")
            if stored is None:
                continue
            gain = self.reference.get_parameter(f"{pair.writer}.weight").float()
            stored = stored.to(gain)
            # A gain of zero feeds zeros, for which no scale is found.
            scale = torch.where(stored == 0, 1.0, gain / stored)
            yield from ((reader, scale) for reader in pair.readers)

    def _pairs(self) -> Iterator[Pair]:
        """The pairs of Linears between which scales may have moved."""
        if self.changed:
            yield MLP_PAIR
            written, read = (self.reference.get_parameter(f"self_attn.{part}_proj.weight") for part in "vo")
            if len(written) == read.shape[1]:  # else heads share values, and no scale can move
                yield VALUE_PAIR

    def _weights(self, path: str, scales: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The decoded weight and the full-precision one as it was rounded, float32 [out, in]."""
        exact = self.reference.get_parameter(f"{path}.weight").float()
        scaled = exact * scales[path] if path in scales else exact
        return _quantized(self.quantized, path).packed.decode(), scaled


@torch.no_grad()
def relative_error(decoded: Tensor, exact: Tensor) -> WeightError:
    """How far ``decoded`` [rows, in] lies from ``exact``."""
    apart = decoded - exact
    error, along, whole = (_inner(*pair, dim=1) for pair in ((apart, apart), (apart, exact), (exact, exact)))
    return _weight_error(error, along, whole)


@torch.no_grad()
def product_error(writer: tuple[Tensor, Tensor], reader: tuple[Tensor, Tensor]) -> WeightError:
    """How far the channels' products lie apart; scales between the two Linears do not matter.

    Args:
        writer: decoded and full-precision weight, [channels, in], of the Linear that writes the channels.
        reader: those of the Linear that reads them, [out, channels].
    """
    products = []
    for left, right in ((0, 0), (0, 1), (1, 1)):
        written = _inner(writer[left], writer[right], dim=1)
        products.append(written * _inner(reader[left], reader[right], dim=0))
    decoded, mixed, whole = products
    return _weight_error(decoded - 2 * mixed + whole, mixed - whole, whole)


def _inner(left: Tensor, right: Tensor, dim: int) -> Tensor:
    return (left * right).sum(dim, dtype=torch.float64)


def _weight_error(error: Tensor, along: Tensor, whole: Tensor) -> WeightError:
    """Sum up rows: squared errors, inner products of the error with the exact row, and the row's squares."""
    rows = torch.where(whole == 0, torch.where(error == 0, 0.0, math.inf), error / whole)
    return WeightError(
        _share(float(error.sum()), float(whole.sum())),
        1 + _share(float(along.sum()), float(whole.sum())),
        float(rows.max()),
    )


def _stacks(model: nn.Module) -> tuple[Stack, ...]:
    return stacks(model, vision=vision_tower(model) is not None)


def _blocks(stack: Stack) -> Iterator[tuple[str, nn.Module]]:
    for index, block in enumerate(stack.blocks):
        yield f"{stack.path}.{index}.", block


def _beside(model: nn.Module, reference: nn.Module) -> str:
    """Digest of the parameters of ``model``, where packed weights are buffers, that the reference has not."""
    kept = dict(reference.named_parameters())
    changed = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name not in kept or not same_bits(parameter, kept[name])
    }
    return tensors_digest(changed) if changed else ""


def _weight(model: nn.Module, name: str) -> Tensor:
    return _quantized(model, name).weight


def _quantized(model: nn.Module, name: str) -> QuantizedLinear:
    module = model.get_submodule(name)
    assert isinstance(module, QuantizedLinear)
    return module


def _squares(tensor: Tensor) -> float:
    return float(tensor.square().sum(dtype=torch.float64))


def _share(error: float, whole: float) -> float:
    if whole:
        return error / whole
    return math.inf if error else error
