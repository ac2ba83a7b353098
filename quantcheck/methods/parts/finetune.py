"""Fine-tuning low-rank adapters on a frozen 4-bit base: what QLoRA and IR-QLoRA share.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, by peft, with the recipe of
Dettmers et al., "QLoRA", NeurIPS 2023, section 4 and its published command, which the study and IR-QLoRA
keep: adapters on every Linear of the decoder blocks, alpha 16, no dropout, AdamW with beta2 .999 and no
weight decay, a constant rate, gradients clipped at a norm of .3, batches of 16, loss on the response alone.

Scaled to the model where the published figure is one for billions of weights; the same for both methods:

- ``rank``: 64, but at most a sixteenth of the model's width.
- ``steps``: three times over the instructions (the published 10000 are that for Alpaca's 52000), at most
  10000.
- ``lr``: 2e-4.

Left out, as they change nothing but memory and order: the paged optimizer, grouping by length, and the
warm-up, which the official constant schedule ignores, too. Trained in float32, or in bfloat16 where the
model is in half precision, whose gradients would underflow; embeddings, norms and head are frozen.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from quantcheck.errors import MissingPackageError, QuantizationError, SpecError
from quantcheck.methods.adapter import LowRankAdapter
from quantcheck.methods.base import Calibration, Progress, Quantized
from quantcheck.methods.packed.normal_float import NormalFloatWeight
from quantcheck.methods.parts.linear4bit import PACKAGE, frozen_linear, import_bitsandbytes
from quantcheck.methods.parts.walk import decoder_linears, naming
from quantcheck.spec import QuantSpec

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

ALPHA = 16
BATCH_SIZE = 16
BETAS = (0.9, 0.999)
MAX_GRAD_NORM = 0.3
LR = 2e-4
LARGEST_RANK = 64
LARGEST_STEPS = 10_000
EPOCHS = 3
IGNORED = -100
METADATA_KEY = "quantcheck"


class Examples(Protocol):
    """What is fine-tuned on, tokenized; `quantcheck.models.instructions.Instructions` is one.

    Attributes:
        pairs: tokens of prompt and response of each example; the loss is on the response.
        digest: of the pairs.
    """

    @property
    def pairs(self) -> Sequence[tuple[Sequence[int], Sequence[int]]]: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102
    def trained(self, spec: str) -> Path | None:
        """Find a file of adapters trained on them before, to stand in for training."""


@dataclass(frozen=True)
class Recipe:
    """The hyper-parameters that a spec may set.

    Attributes:
        rank: r, rows of A.
        steps: optimizer steps; 0 leaves B at zero.
        lr: learning rate.
    """

    rank: int
    steps: int
    lr: float

    @classmethod
    def of(cls, spec: QuantSpec, width: int, examples: int) -> Recipe:
        """Read a spec's options, with defaults for a model of ``width`` features and so many examples."""
        epochs = EPOCHS * -(-examples // BATCH_SIZE)
        return cls(
            int(spec.option("rank", max(1, min(LARGEST_RANK, width // 16)))),
            int(spec.option("steps", min(LARGEST_STEPS, epochs))),
            float(spec.option("lr", LR)),
        )


class FineTuned(ABC):
    """A method that quantizes the base, trains adapters beside it, and ships both.

    Attributes:
        version: raised when the method's results change.
    """

    version: int

    @abstractmethod
    def quantize_weight(self, weight: Tensor, spec: QuantSpec) -> NormalFloatWeight:
        """Quantize one weight of the base, float32 [out, in]."""

    def connect(self, lora_a: nn.Linear, lora_b: nn.Linear, spec: QuantSpec) -> None:  # noqa: B027
        """Change the two halves of an adapter before training; by default they stay plain."""

    def check(self, spec: QuantSpec) -> None:
        """Refuse option values before any work."""
        if int(spec.option("rank", 1)) < 1:
            raise SpecError(f"{spec}: rank must be 1 or more")
        if float(spec.option("lr", LR)) <= 0:
            raise SpecError(f"{spec}: lr must be positive; steps=0 trains nothing")

    def quantize(
        self,
        model: LlamaForCausalLM,
        spec: QuantSpec,
        *,
        calibration: Calibration | None = None,
        scale_dtype: torch.dtype,
        seed: int = 0,
        progress: Progress | None = None,
        instructions: Examples,
    ) -> Quantized:
        """Quantize the base and fine-tune its adapters, stored in ``scale_dtype``.

        Arguments are those of `quantcheck.methods.base.Method.quantize`, and what is fine-tuned on.

        Raises:
            SpecError: an option's value cannot be used.
            MissingPackageError: peft or bitsandbytes is not installed, and there are adapters to train.
            QuantizationError: training diverged, or the adapters trained before are of something else.
        """
        self.check(spec)
        linears = decoder_linears(model)
        weights: dict[str, NormalFloatWeight] = {}
        trained = instructions.trained(str(spec))
        for name, linear in linears.items():
            with naming(name):
                weights[name] = self.quantize_weight(linear.weight.detach().to(torch.float32), spec)
        if trained is not None:
            adapters = load_adapters(trained, self.origin(model, spec, instructions, seed))
        else:
            adapters = self.train(model, weights, spec, instructions, progress)
            adapters = {name: _stored(adapter, name, scale_dtype) for name, adapter in adapters.items()}
        quantized = Quantized.of(dict(weights))
        return Quantized(quantized.weights, adapters=adapters, notes=quantized.notes)

    def origin(
        self, model: nn.Module, spec: QuantSpec, examples: Examples, seed: int
    ) -> dict[str, str | int]:
        """Name all that trained adapters depend on; ``model`` is still in full precision."""
        return {
            "model": _digest(model),
            "spec": str(spec),
            "instructions": examples.digest,
            "seed": seed,
            "version": self.version,
        }

    def train(
        self,
        model: LlamaForCausalLM,
        weights: dict[str, NormalFloatWeight],
        spec: QuantSpec,
        examples: Examples,
        progress: Progress | None = None,
    ) -> dict[str, LowRankAdapter]:
        """Train the adapters of ``model``, whose Linears are replaced by frozen ones made of ``weights``."""
        recipe = Recipe.of(spec, model.config.get_text_config().hidden_size, len(examples.pairs))
        layers = attach(model, weights, recipe.rank)
        for layer in layers.values():
            self.connect(layer.lora_A["default"], layer.lora_B["default"], spec)
        fit(model, examples, recipe, progress)
        return {name: read_adapter(layer) for name, layer in layers.items()}


def attach(model: LlamaForCausalLM, weights: dict[str, NormalFloatWeight], rank: int) -> dict[str, Any]:
    """Freeze ``model`` on its quantized base and put a fresh adapter, B = 0, beside every Linear of it.

    Returns:
        peft's layer of each decoder Linear; the halves of its adapter are ``lora_A["default"]`` and
        ``lora_B["default"]``.
    """
    import_bitsandbytes()  # peft would import it, with its log lines
    peft = _import_peft()
    dtype = torch.bfloat16 if model.dtype == torch.float16 else model.dtype
    cast("nn.Module", model).to(dtype).requires_grad_(False)
    for name, linear in decoder_linears(model).items():
        model.set_submodule(name, frozen_linear(weights[name], linear, dtype))
    cast("Any", model).is_loaded_in_4bit = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft.inject_adapter_in_model(
            peft.LoraConfig(
                r=rank, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", target_modules=list(weights)
            ),
            model,
        )
    return {name: model.get_submodule(name) for name in weights}


def fit(model: LlamaForCausalLM, examples: Examples, recipe: Recipe, progress: Progress | None) -> None:
    """Train whatever parameters of ``model`` want a gradient; random numbers are torch's.

    Raises:
        QuantizationError: the loss is no longer finite.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, betas=BETAS, weight_decay=0.0)
    if model.device.type == "cuda":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    for step, (inputs, labels) in enumerate(batches(examples.pairs, recipe.steps), start=1):
        loss = response_loss(model, inputs.to(model.device), labels.to(model.device))
        if not torch.isfinite(loss):
            raise QuantizationError(
                f"the loss of fine-tuning is {loss.item()} at step {step} of {recipe.steps}; "
                f"lower the learning rate (lr={recipe.lr / 4:g}, say)"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        if progress is not None:
            progress("training", step, recipe.steps)
    cast("nn.Module", model).eval()


def response_loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean NLL of the response tokens, in nats.

    Args:
        model: a causal language model.
        inputs: int64 [n, length]; fillers stand at the end, where no token that counts sees them.
        labels: the inputs, with `IGNORED` at prompts and fillers.
    """
    logits = model(input_ids=inputs, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)


def batches(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and labels of ``steps`` batches: all pairs in a random order, then all in another."""
    order: list[int] = []
    for _ in range(steps):
        if not order:
            order = torch.randperm(len(pairs)).tolist()
        batch, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
        yield collate([pairs[index] for index in batch])


def collate(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[Tensor, Tensor]:
    """Return inputs and labels of some pairs, int64 [n, length of the longest]."""
    length = max(len(prompt) + len(response) for prompt, response in pairs)
    inputs = torch.zeros(len(pairs), length, dtype=torch.int64)
    labels = torch.full_like(inputs, IGNORED)
    for row, (prompt, response) in enumerate(pairs):
        end = len(prompt) + len(response)
        inputs[row, :end] = torch.tensor([*prompt, *response])
        labels[row, len(prompt) : end] = torch.tensor(response)
    return inputs, labels


def read_adapter(layer: Any) -> LowRankAdapter:
    """Return the adapter that peft's ``layer`` computes with."""
    return LowRankAdapter(
        layer.lora_A["default"].weight.detach().clone(),
        layer.lora_B["default"].weight.detach().clone(),
        layer.scaling["default"],
    )


def save_adapters(path: Path, adapters: dict[str, LowRankAdapter], origin: dict[str, str | int]) -> None:
    """Write trained adapters and what they were trained from."""
    header = {"origin": origin, "scaling": {name: adapter.scaling for name, adapter in adapters.items()}}
    tensors = {f"{name}.lora_a": adapter.lora_a for name, adapter in adapters.items()}
    tensors |= {f"{name}.lora_b": adapter.lora_b for name, adapter in adapters.items()}
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(header)})


def load_adapters(path: Path, origin: dict[str, str | int]) -> dict[str, LowRankAdapter]:
    """Read adapters that were trained from ``origin``.

    Raises:
        QuantizationError: the file is damaged, or its adapters were trained from something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[METADATA_KEY])
            adapters = {
                name: LowRankAdapter(
                    file.get_tensor(f"{name}.lora_a"), file.get_tensor(f"{name}.lora_b"), scaling
                )
                for name, scaling in header["scaling"].items()
            }
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise QuantizationError(
            f"{path.name} holds no readable adapters ({error}); train them again"
        ) from error
    stale = [name for name, value in origin.items() if header["origin"].get(name) != value]
    if stale:
        raise QuantizationError(
            f"the adapters of {path.name} were trained with another {' and another '.join(stale)}; "
            "train them again, or run at --quantcheck-tier standard, which does"
        )
    return adapters


def _stored(adapter: LowRankAdapter, name: str, dtype: torch.dtype) -> LowRankAdapter:
    factors = [factor.to("cpu", dtype).contiguous() for factor in (adapter.lora_a, adapter.lora_b)]
    if not all(torch.isfinite(factor).all() for factor in factors):
        raise QuantizationError(f"{name}: its adapter does not fit {dtype}; lower the learning rate")
    return LowRankAdapter(factors[0], factors[1], adapter.scaling)


def _digest(model: nn.Module) -> str:
    """Digest of all parameters by value, whatever dtype and device they are in."""
    sha = hashlib.sha256()
    for name, parameter in model.named_parameters():
        sha.update(name.encode())
        sha.update(parameter.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return sha.hexdigest()


def _import_peft() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import peft
        except ImportError as error:
            raise MissingPackageError("fine-tuning", PACKAGE) from error
    return peft
