"""Perplexity and accuracies of a built-in model, straight from logits: what training and its report look at.

The gates measure with `quantcheck.metrics`; this is the quick look while a model is made.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from quantcheck.models.builtin import tasks
from quantcheck.models.builtin.tokenizer import encode_documents

_BATCH_TOKENS = 8192


def windows(tokenizer: PreTrainedTokenizerFast, documents: list[str], length: int, n: int) -> torch.Tensor:
    """Cut the first `n` contiguous windows of `length` tokens from the documents; shape [n, length], int64."""
    stream = torch.tensor(list(encode_documents(tokenizer.backend_tokenizer, documents)))
    return stream[: n * length].view(n, length)


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, ids: torch.Tensor) -> float:
    """Compute perplexity over windows [n, length]; every token but a window's first is predicted."""
    total = 0.0
    for batch in ids.split(max(1, _BATCH_TOKENS // ids.shape[1])):
        batch = batch.to(model.device)
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    return math.exp(total / (ids.shape[0] * (ids.shape[1] - 1)))


def unigram_perplexity(ids: torch.Tensor) -> float:
    """Compute the perplexity of the best unigram model of these very tokens (its entropy, so a lower bound)."""
    counts = torch.tensor(list(Counter(ids.flatten().tolist()).values()), dtype=torch.float64)
    shares = counts / counts.sum()
    return math.exp(-(shares * shares.log()).sum().item())


def accuracies(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, limit: int | None = None
) -> dict[str, float]:
    """Score the families, by the log-likelihood of each choice; `limit` items a family (a quarter of it a category)."""
    scores: dict[str, float] = {}
    mmlu: list[bool] = []
    for name, items in tasks.held_out_items().items():
        category = name.removeprefix("world_mmlu_") if name.startswith("world_mmlu_") else None
        if category is None:
            hits = _hits(model, tokenizer, items[:limit], "")
            scores[name] = sum(hits) / len(hits)
        else:
            prefix = five_shots(category)
            mmlu += _hits(model, tokenizer, items[: limit and limit // 4], prefix, letters=True)
    scores["world_mmlu"] = sum(mmlu) / len(mmlu)
    return scores


def five_shots(category: str) -> str:
    """Write the header and the five solved questions that stand before each MMLU-like question."""
    solved = [f"{tasks.letter_question(i)} {tasks.LETTERS[i.gold]}\n\n" for i in tasks.dev_items(category)]
    return tasks.letter_header(category) + "".join(solved)


def _hits(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: Sequence[tasks.Item], prefix: str,
    *, letters: bool = False,
) -> list[bool]:  # fmt: skip
    pairs: list[tuple[str, str]] = []
    for item in items:
        if letters:
            pairs += [(prefix + tasks.letter_question(item), f" {letter}") for letter in tasks.LETTERS]
        elif item.continuation is not None:
            pairs += [(choice, f" {item.continuation}") for choice in item.choices]
        else:
            pairs += [(item.context, f" {choice}") for choice in item.choices]
    scores = loglikelihoods(model, tokenizer, pairs)
    hits, start = [], 0
    for item in items:
        own = scores[start : start + len(item.choices)]
        hits.append(own.index(max(own)) == item.gold)
        start += len(item.choices)
    return hits


@torch.no_grad()
def loglikelihoods(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]
) -> list[float]:
    """Sum the log-probabilities of each continuation after its context; equal contexts of one token are run once."""
    contexts = tokenizer([context for context, _ in pairs])["input_ids"]
    tails = tokenizer([tail for _, tail in pairs], add_special_tokens=False)["input_ids"]
    rows = {tuple(context + tail[:-1]): -1 for context, tail in zip(contexts, tails, strict=True)}
    order = sorted(rows, key=len)
    scores = [0.0] * len(pairs)
    wanted: dict[tuple[int, ...], list[int]] = {}
    for i, (context, tail) in enumerate(zip(contexts, tails, strict=True)):
        wanted.setdefault(tuple(context + tail[:-1]), []).append(i)
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and len(order[stop]) * (stop + 1 - start) <= _BATCH_TOKENS:
            stop += 1
        batch = order[start:stop]
        width = len(batch[-1])
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in batch], device=model.device)
        logprobs = model(input_ids=ids, use_cache=False).logits.log_softmax(-1).cpu()
        for row, lp in zip(batch, logprobs, strict=True):
            for i in wanted[row]:
                tail = torch.tensor(tails[i])
                scores[i] = lp[len(row) - len(tail) : len(row)].gather(-1, tail[:, None]).sum().item()
        start = stop
    return scores
