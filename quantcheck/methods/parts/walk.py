"""Sequential calibration: each block is calibrated on what the already quantized blocks before it put out.

Block by block, one pass collects a statistic of the inputs of all the block's Linears while the block is
still in full precision; each Linear is then quantized, and another pass through the quantized block gives
the next block's input (GPTQ's flow, Frantar et al., 2023, section 4). Two variations:

- ``true_sequential`` (an option of GPTQ's official code): Linears that are fed the same tensor are a stage,
  ``q, k, v | o | gate, up | down``, and each stage is calibrated by a pass of its own, on what the quantized
  stages before it put out.
- ``again``: a second look at the same inputs, by a statistic that is made from the first one.

A multimodal model (LLaVA) is walked likewise: its language model, and before it the vision tower where the
spec asks for that, so that the language model is calibrated on what the quantized tower puts out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from quantcheck.errors import DataError, ModelError, QuantizationError
from quantcheck.methods.base import Calibration, PackedWeight, Progress


class Statistic(Protocol):
    """What is remembered of a Linear's calibration inputs."""

    def update(self, inputs: Tensor) -> None:
        """Take in the inputs of one window, [..., tokens, in]."""


S = TypeVar("S", bound=Statistic)

INPUTS = {"input_ids", "inputs_embeds", "pixel_values", "image_sizes"}
"""What a prepared example may hold."""

TEXT_DECODER = "model.layers"
DECODERS = (TEXT_DECODER, "model.language_model.layers")
TOWERS = ("model.vision_tower.encoder.layers", "model.vision_tower.vision_model.encoder.layers")


@dataclass(frozen=True, eq=False)
class Stack:
    """Blocks that are run one after the other: those of a language model, or of a vision tower.

    Attributes:
        path: where the model has them, as in ``model.layers``.
        blocks: in order.
    """

    path: str
    blocks: nn.ModuleList

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield every module inside the list of blocks, itself first, with its path in the model."""
        yield from self.blocks.named_modules(prefix=self.path)

    def linears(self) -> dict[str, nn.Linear]:
        """Map module path to Linear for every Linear inside the blocks, in the order of the modules."""
        return {path: module for path, module in self.modules() if isinstance(module, nn.Linear)}


def decoder(model: nn.Module) -> Stack:
    """Find the decoder blocks of a LLaMA-family language model, or of the one inside a LLaVA.

    Raises:
        ModelError: there are none.
    """
    found = _find(model, DECODERS)
    if found is None:
        raise ModelError(
            f"{type(model).__name__} has no decoder blocks at {' or '.join(DECODERS)}; "
            "expected a LLaMA-family causal language model, or a LLaVA around one"
        )
    return found


def vision_tower(model: nn.Module) -> Stack | None:
    """Find the encoder blocks of a LLaVA's vision tower; ``None`` in a model of texts alone."""
    return _find(model, TOWERS)


def stacks(model: nn.Module, *, vision: bool) -> tuple[Stack, ...]:
    """Find what is quantized, in the order in which it runs: with ``vision`` the tower, too.

    Raises:
        ModelError: there are no decoder blocks, or ``vision`` is asked for where there is no tower.
    """
    if not vision:
        return (decoder(model),)
    tower = vision_tower(model)
    if tower is None:
        raise ModelError(f"{type(model).__name__} has no vision tower; leave the option 'vision' out")
    return tower, decoder(model)


def linears(model: nn.Module, *, vision: bool) -> dict[str, nn.Linear]:
    """Map module path to Linear for every Linear that is quantized; errors as in `stacks`."""
    return {
        path: linear for stack in stacks(model, vision=vision) for path, linear in stack.linears().items()
    }


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The blocks of `decoder`."""
    return decoder(model).blocks


def decoder_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The Linears of `decoder` by module path."""
    return decoder(model).linears()


def _find(model: nn.Module, paths: tuple[str, ...]) -> Stack | None:
    for path in paths:
        blocks: Any = model
        for name in path.split("."):
            blocks = getattr(blocks, name, None)
        if isinstance(blocks, nn.ModuleList) and len(blocks):
            return Stack(path, blocks)
    return None


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Put the layer's name before the message of a `QuantizationError`."""
    try:
        yield
    except QuantizationError as error:
        raise QuantizationError(f"{layer}: {error}") from error


@torch.no_grad()
def walk(
    model: nn.Module,
    calibration: Calibration,
    new_statistic: Callable[[], S],
    quantize: Callable[[nn.Linear, S], PackedWeight],
    progress: Progress | None = None,
    *,
    again: Callable[[nn.Linear, S], Statistic | None] | None = None,
    true_sequential: bool = False,
    vision: bool = False,
) -> dict[str, PackedWeight]:
    """Quantize the decoder Linears in order, writing the decoded weights into ``model``.

    Args:
        model: a LLaMA-family model, or a LLaVA; altered.
        calibration: int64 token windows [n, length], or prepared inputs, run one a batch.
        new_statistic: makes an empty statistic; Linears that are fed the same tensor share one.
        quantize: turns a Linear, still in full precision, and its statistic into a packed weight.
        progress: told about each Linear that is done.
        again: makes a second statistic, the Linear's own, from a Linear and its full first one; it is fed
            all inputs once more before ``quantize`` is called. ``None``: this Linear needs none.
        true_sequential: calibrate each stage of a block on what the quantized stages before it put out.
        vision: quantize the vision tower first.

    Raises:
        DataError: the windows are no matrix of tokens, or there is no picture to calibrate a tower on.
        ModelError: the model has not what is to be quantized.
        QuantizationError: ``quantize`` failed; the message names the layer.
    """
    total = len(linears(model, vision=vision))
    weights: dict[str, PackedWeight] = {}
    for stack in stacks(model, vision=vision):
        hidden, arguments = block_inputs(model, stack.blocks, calibration)
        for index, block in enumerate(stack.blocks):
            passes = _Passes(block, f"{stack.path}.{index}", hidden, arguments[index])
            inside = {path: module for path, module in block.named_modules() if isinstance(module, nn.Linear)}
            for stage in passes.stages(inside) if true_sequential else [inside]:
                statistics = passes.collect(stage, new_statistic)
                if again is not None:
                    passes.look_again(stage, statistics, again)
                for path, linear in stage.items():
                    name = f"{passes.name}.{path}"
                    with naming(name):
                        weights[name] = quantize(linear, statistics[path])
                    linear.weight.copy_(weights[name].decode())
                    if progress is not None:
                        progress(name, len(weights), total)
            if index + 1 < len(stack.blocks):
                hidden = [forward_block(block, states, arguments[index]) for states in hidden]
    return weights


@dataclass(frozen=True, eq=False)
class Call:
    """What a block is called with beside the hidden states."""

    positional: tuple[Any, ...]
    keywords: dict[str, Any]


Arguments = dict[torch.Size, Call]
"""The other arguments of one block (positions, masks) by the shape of the hidden states."""


class _Reached(Exception):
    """Ends a forward pass once the first block's input is known."""


def block_inputs(
    model: nn.Module, blocks: nn.ModuleList, calibration: Calibration
) -> tuple[list[Tensor], list[Arguments]]:
    """Record what each window or example feeds the first block, and each block's other arguments.

    These depend on the shape of the states alone, since examples are not padded; the model is run to its end
    once for each shape.

    Raises:
        DataError: the windows are no matrix of tokens, or nothing reaches the blocks.
    """
    hidden: list[Tensor] = []
    arguments: list[Arguments] = [{} for _ in blocks]

    def record(index: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            states, *others = inputs
            if index == 0:
                hidden.append(states)
                if states.shape in arguments[0]:
                    raise _Reached
            arguments[index][states.shape] = Call(tuple(others), keywords)

        return hook

    with ExitStack() as hooks:
        for index, block in enumerate(blocks):
            hooks.callback(block.register_forward_pre_hook(record(index), with_kwargs=True).remove)
        for inputs in model_inputs(model, calibration):
            try:
                model(**inputs, use_cache=False)
            except _Reached:
                continue
    if not hidden:
        raise DataError(
            "the calibration data hold no example that reaches these blocks; "
            "a vision tower is calibrated on pictures with their texts"
        )
    return hidden, arguments


def model_inputs(model: nn.Module, calibration: Calibration) -> Iterator[dict[str, Tensor]]:
    """Yield what ``model`` is called with for each window or example, on its device.

    Raises:
        DataError: the windows are no matrix of tokens, or an example brings a mask or positions of its own.
    """
    if isinstance(calibration, Tensor):
        if calibration.ndim != 2 or not calibration.numel() or calibration.dtype != torch.int64:
            raise DataError(
                "calibration windows must be int64 tokens [n, length], "
                f"got {calibration.dtype} of shape {tuple(calibration.shape)}"
            )
        calibration = [{"input_ids": window[None]} for window in calibration]
    device = next(model.parameters()).device
    for example in calibration:
        if not example.keys() <= INPUTS:
            raise DataError(
                f"a calibration example holds {', '.join(sorted(example.keys() - INPUTS))}; pass one example "
                "a call, without padding, so that it needs none"
            )
        yield {name: tensor.to(device) for name, tensor in example.items()}


@dataclass(frozen=True)
class _Passes:
    """Passes of the calibration data through one block."""

    block: nn.Module
    name: str
    hidden: list[Tensor]
    arguments: Arguments

    def collect(self, linears: dict[str, nn.Linear], new_statistic: Callable[[], S]) -> dict[str, S]:
        """Make the statistic of each Linear, one for each distinct input tensor."""
        sharing = _Sharing(new_statistic)
        self._run({linear: sharing.taker(path) for path, linear in linears.items()}, self.hidden)
        for path in linears:
            if path not in sharing.statistics:
                raise QuantizationError(
                    f"{self.name}.{path}: the layer took no part in the block's forward pass; "
                    "it cannot be calibrated"
                )
        return sharing.statistics

    def look_again(
        self,
        linears: dict[str, nn.Linear],
        statistics: dict[str, S],
        again: Callable[[nn.Linear, S], Statistic | None],
    ) -> None:
        """Feed each Linear's inputs to the statistic that ``again`` makes of its first one."""
        takers: dict[nn.Linear, Callable[[Tensor], None]] = {}
        for path, linear in linears.items():
            with naming(f"{self.name}.{path}"):
                second = again(linear, statistics[path])
            if second is not None:
                takers[linear] = naming(f"{self.name}.{path}")(second.update)
        if takers:
            self._run(takers, self.hidden)

    def stages(self, linears: dict[str, nn.Linear]) -> list[dict[str, nn.Linear]]:
        """Group the Linears that are fed the same tensor, in the order in which they are reached."""
        first = _Passes(self.block, self.name, self.hidden[:1], self.arguments)
        stages: dict[_Nothing, dict[str, nn.Linear]] = {}
        for path, shared in first.collect(linears, _Nothing).items():
            stages.setdefault(shared, {})[path] = linears[path]
        return list(stages.values())

    def _run(self, takers: dict[nn.Linear, Callable[[Tensor], None]], hidden: list[Tensor]) -> None:
        with ExitStack() as hooks:
            for linear, take in takers.items():
                hook = linear.register_forward_pre_hook(lambda _, inputs, take=take: take(inputs[0]))
                hooks.callback(hook.remove)
            for states in hidden:
                forward_block(self.block, states, self.arguments)


class _Sharing(Generic[S]):
    """Feeds the inputs of Linears to statistics, one for each distinct input tensor."""

    def __init__(self, new_statistic: Callable[[], S]) -> None:
        self.statistics: dict[str, S] = {}
        self._new = new_statistic
        self._last: Tensor | None = None
        self._owner = ""

    def taker(self, path: str) -> Callable[[Tensor], None]:
        def take(inputs: Tensor) -> None:
            # q, k and v (and gate and up) are called one after the other with the very same tensor.
            if inputs is not self._last:
                self._last, self._owner = inputs, path
                self.statistics.setdefault(path, self._new()).update(inputs)
            self.statistics[path] = self.statistics[self._owner]

        return take


class _Nothing:
    """The statistic of a pass that only looks at which inputs are shared."""

    def update(self, inputs: Tensor) -> None:
        """Forget the inputs."""


def forward_block(block: nn.Module, hidden: Tensor, arguments: Arguments) -> Tensor:
    """Run one block on the states of one window or example, given its other arguments."""
    call = arguments[hidden.shape]
    output = block(hidden, *call.positional, **call.keywords)
    # Decoder layers of transformers 5 return the hidden states alone.
    return cast("Tensor", output[0] if isinstance(output, tuple) else output)
