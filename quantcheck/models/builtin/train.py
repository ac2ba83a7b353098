"""Train a built-in model from a seed: `python -m quantcheck.models.builtin.train --seed 0 --out DIR`.

The recipe is one pass over a generated stream (facts return in ever new words, documents do not): first
short windows, then the full context. Hidden matrices are trained by Muon (Jordan et al., 2024), embeddings
and gains by AdamW, without weight decay, the learning rate warmed up and then lowered to zero. A run that
was cut off goes on from its last checkpoint and ends in the same weights.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from quantcheck.errors import QuantcheckError
from quantcheck.models.builtin import corpus
from quantcheck.models.builtin.rescale import rescale
from quantcheck.models.builtin.tokenizer import VOCABULARY, encode_documents, save_pretrained, train_tokenizer

Tokens: TypeAlias = npt.NDArray[np.int16]
TOKENIZER_SHARDS = 4


@dataclass(frozen=True)
class Recipe:
    """What is trained, on how much, and how fast; every field but `seed` has the shipped model's value.

    `rescale` is the sigma of the channel rescale (`rescale.py`) after training; 0 leaves the model plain.
    """

    seed: int = 0
    tokens: int = 4_000_000
    batch_tokens: int = 4096
    short_context: int = 256
    short_share: float = 0.6
    context: int = 512
    hidden: int = 256
    layers: int = 5
    heads: int = 8
    kv_heads: int = 4
    intermediate: int = 384
    muon_lr: float = 5e-3
    adamw_lr: float = 3e-3
    warmup: float = 0.02
    rescale: float = 0.45
    checkpoint_steps: int = 100

    @property
    def steps(self) -> int:
        """Optimizer steps in the whole run."""
        return self.tokens // self.batch_tokens

    def training(self) -> str:
        """Name all that decides the trained weights: the recipe but for what happens after training."""
        return str({name: value for name, value in asdict(self).items() if name != "rescale"})

    def window(self, step: int) -> int:
        """Context length at `step`."""
        return self.short_context if step < self.short_share * self.steps else self.context

    def rate(self, step: int) -> float:
        """Learning-rate factor at `step`: linear warm-up, then linear to zero."""
        warm = max(1, int(self.warmup * self.steps))
        return min((step + 1) / warm, (self.steps - step) / (self.steps - min(warm, self.steps - 1)))


def new_model(recipe: Recipe) -> LlamaForCausalLM:
    """Build the untrained model of a recipe, its weights drawn from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(  # type: ignore[no-untyped-call]
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=recipe.hidden, intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.kv_heads, max_position_embeddings=recipe.context, rms_norm_eps=1e-5,
            tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, use_cache=True,
        )
    )  # fmt: skip


def build_tokenizer() -> Tokenizer:
    """Train the tokenizer, one for every seed: on the first shards of seed 0's stream."""
    return train_tokenizer(text for index in range(TOKENIZER_SHARDS) for text in corpus.shard(index, 0))


def build_stream(recipe: Recipe, tokenizer: Tokenizer) -> Tokens:
    """Write and tokenize the training stream; shape [tokens + 1], int16 ids."""
    parts: list[Tokens] = []
    while sum(map(len, parts)) <= recipe.tokens:
        texts = corpus.shard(len(parts), recipe.seed)
        parts.append(np.fromiter(encode_documents(tokenizer, texts), dtype=np.int16))
    return np.concatenate(parts)[: recipe.tokens + 1]


def train(
    recipe: Recipe, out: Path, device: str, *, fast: bool = False, stop_at: int | None = None
) -> LlamaForCausalLM:
    """Train by `recipe`, from `out/checkpoint.safetensors` on if there is one; save the model in `out`.

    The model as trained, before the channel rescale, is kept in `out/plain`. `fast` compiles the model and
    multiplies in bfloat16. `stop_at` ends the run early, at that step, leaving the checkpoint alone.
    """
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    stream = torch.from_numpy(build_stream(recipe, tokenizer)).to(device)
    model = new_model(recipe)
    model.to(device)  # type: ignore[arg-type]
    forward = torch.compile(model) if fast else model
    optimizers = _optimizers(model, recipe)
    first = _resume(model, optimizers, recipe, out)
    began = time.monotonic()
    model.train()
    for step in range(first, recipe.steps):
        if step == stop_at:
            _checkpoint(model, optimizers, recipe, step, out)
            return model
        with torch.autocast(device, dtype=torch.bfloat16, enabled=fast):
            loss = _loss(forward, stream, recipe, step)
        _update(model, optimizers, loss, recipe.rate(step))
        if (step + 1) % 20 == 0 or step + 1 == recipe.steps:
            _progress(recipe, first, step, loss.item(), began)
        if (step + 1) % recipe.checkpoint_steps == 0 and step + 1 < recipe.steps:
            _checkpoint(model, optimizers, recipe, step + 1, out)
    model.eval()  # type: ignore[no-untyped-call]
    model.cpu()
    save(model, tokenizer, out / "plain")
    rescale(model, recipe.rescale, recipe.seed)
    save(model, tokenizer, out)
    return model


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write a float16 copy of the model, and its tokenizer, as transformers loads them."""
    copy.deepcopy(model).to(torch.float16).save_pretrained(out)  # type: ignore[arg-type]
    save_pretrained(tokenizer, out, model.config.max_position_embeddings)


def _loss(forward: Callable[..., Any], stream: torch.Tensor, recipe: Recipe, step: int) -> torch.Tensor:
    window = recipe.window(step)
    chunk = stream[step * recipe.batch_tokens : (step + 1) * recipe.batch_tokens + 1].long()
    inputs, targets = chunk[:-1].view(-1, window), chunk[1:].view(-1)
    logits = forward(input_ids=inputs, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().view(-1, logits.shape[-1]), targets)


def _update(
    model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], loss: torch.Tensor, rate: float
) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=recipe.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def _state(model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """Name every tensor a resumed run needs: weights, and each optimizer's moments."""
    tensors = {f"model/{name}": p.detach() for name, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer/{i}/{index}/{key}": torch.as_tensor(value) for key, value in state.items()
            }
    return tensors


def _checkpoint(
    model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], recipe: Recipe, step: int, out: Path
) -> None:
    unfinished = out / "checkpoint.tmp"
    save_file(
        _state(model, optimizers), unfinished, metadata={"step": str(step), "recipe": recipe.training()}
    )
    os.replace(unfinished, out / "checkpoint.safetensors")


def _resume(
    model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], recipe: Recipe, out: Path
) -> int:
    path = out / "checkpoint.safetensors"
    if not path.exists():
        return 0
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    if metadata["recipe"] != recipe.training():
        raise QuantcheckError(
            f"{path} is of another recipe: {metadata['recipe']}. Give the same options, or another --out."
        )
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
    for i, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer/{i}/"):
                index, key = name.split("/")[2:]
                states.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return int(metadata["step"])


def _progress(recipe: Recipe, first: int, step: int, loss: float, began: float) -> None:
    spent = time.monotonic() - began
    left = spent / (step + 1 - first) * (recipe.steps - step - 1)
    speed = (step + 1 - first) * recipe.batch_tokens / spent
    print(
        f"step {step + 1}/{recipe.steps}  loss {loss:.3f}  {speed:,.0f} tokens/s  {left / 60:.1f} min left",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m quantcheck.models.builtin.train", description=__doc__)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model and its checkpoint")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--tokens", type=int, default=Recipe.tokens, help="length of the training stream")
    parser.add_argument("--fast", action="store_true", help="compile, and multiply in bfloat16")
    args = parser.parse_args()
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    train(Recipe(seed=args.seed, tokens=args.tokens), args.out, device, fast=args.fast)


if __name__ == "__main__":
    main()
