"""Load a full-precision model: safetensors only, no remote code, no silently random or non-finite weight."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from quantcheck.errors import ModelError
from quantcheck.models.fingerprint import fingerprints
from quantcheck.models.processor import load_processor
from quantcheck.models.source import ModelSource, resolve_model
from quantcheck.spec import ModelSpec

Model = LlamaForCausalLM | LlavaForConditionalGeneration | LlavaNextForConditionalGeneration

_CLASSES = {
    "llama": LlamaForCausalLM,
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A full-precision model in memory, with what a record says of it.

    Attributes:
        spec: as the user named it.
        model: the reference, in evaluation mode, without gradients; called with tokens alone, a LLaVA is its
            language model.
        tokenizer: its tokenizer.
        stored_dtype: dtype of the checkpoint, such as ``float16``.
        dtype: dtype in memory.
        context_length: most positions the model was made for, in tokens.
        model_digest: of the weights and the config.
        tokenizer_digest: of the tokenizer's files, and the processor's.
        fingerprints: of the tensors of ``model`` when it was loaded, by name.
        processor: of a LLaVA, for pictures with texts; ``None`` for a model of texts.
    """

    spec: ModelSpec
    model: Model
    tokenizer: PreTrainedTokenizerBase
    stored_dtype: str
    dtype: str
    context_length: int
    model_digest: str
    tokenizer_digest: str
    fingerprints: dict[str, int]
    processor: Any = None

    @property
    def untouched(self) -> bool:
        """Whether the reference is as it was loaded, as far as `fingerprints` tell."""
        return fingerprints(self.model) == self.fingerprints

    def fresh(self) -> Model:
        """A copy to quantize; the reference itself is never written to."""
        return copy.deepcopy(self.model)


def load_model(spec: ModelSpec, *, device: str, dtype: str = "auto") -> LoadedModel:
    """Load a model for evaluation.

    Args:
        spec: which model.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``float32``, ``float16``, ``bfloat16``, or ``auto``: float32 on a CPU, as stored on a GPU.

    Raises:
        ModelError: the model cannot be found, loaded or gated.
    """
    source = resolve_model(spec)
    chosen = choose_dtype(dtype, device=device, stored=source.stored_dtype)
    _check_device(device)
    tokenizer = load_tokenizer(source)
    processor = load_processor(source) if source.multimodal else None
    model = _load_weights(source, DTYPES[chosen], device)
    check_finite(model, spec)
    return LoadedModel(
        spec=spec,
        model=model,
        tokenizer=tokenizer,
        stored_dtype=source.stored_dtype,
        dtype=chosen,
        context_length=source.context_length,
        model_digest=source.model_digest,
        tokenizer_digest=source.tokenizer_digest,
        fingerprints=fingerprints(model),
        processor=processor,
    )


def choose_dtype(dtype: str, *, device: str, stored: str) -> str:
    """The dtype to compute in; raises `ModelError` for an unknown one."""
    if dtype == "auto":
        return stored if device.startswith("cuda") else "float32"
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}; known: auto, {', '.join(DTYPES)}")
    return dtype


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer beside the weights; raises `ModelError` when its files cannot be read."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(source.folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the libraries below raise bare Exception for a malformed tokenizer.json
        raise ModelError(
            f"model {source.spec}: its tokenizer does not load ({error}); save it again beside the weights"
        ) from error
    return cast("PreTrainedTokenizerBase", tokenizer)


def check_finite(model: nn.Module, spec: ModelSpec) -> None:
    """Raise `ModelError`, naming the tensor, when a weight holds NaN or Inf."""
    for name, tensor in model.named_parameters():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise ModelError(
                f"model {spec}: {bad} of {tensor.numel()} values of {name} are NaN or Inf ({tensor.dtype}); "
                "the checkpoint is broken, or its dtype overflows: try another one with --quantcheck-dtype"
            )


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply float32 matrices in float32: no TF32, and the user's own setting back afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _check_device(device: str) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(
            f"device {device!r}: torch sees no GPU here; use cpu, "
            "or a CUDA build of torch on a machine with one"
        )


def _load_weights(source: ModelSource, dtype: torch.dtype, device: str) -> Model:
    with _quiet():
        try:
            model, info = cast("Any", _CLASSES[source.model_type]).from_pretrained(
                str(source.folder),
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ModelError(f"model {source.spec}: its weights do not load: {error}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"model {source.spec}: the checkpoint lacks {len(missing)} weights, which would be random "
            f"({', '.join(missing[:3])}); download it again"
        )
    return cast("Model", model.to(device).eval().requires_grad_(False))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' loading bar and load report off the terminal."""
    log = cast("Any", transformers_logging)
    bars, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
