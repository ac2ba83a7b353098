"""The language-model adapter that lm-eval scores: exact log-likelihoods, in a fixed order."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, takewhile
from typing import Any, cast

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from quantcheck.errors import DataError
from quantcheck.models.load import full_precision
from quantcheck.progress import Update

Request = tuple[tuple[str, str], list[int], list[int]]
Prefix = tuple[int, ...]
Answer = tuple[float, bool]
Score = Callable[[list[Instance]], list[Answer]]
Course = Callable[[list[Instance], Score], list[Answer]]

BATCH_TOKENS = 4096
_HEAD = 48
_SHARERS = 8


class HarnessModel(TemplateLM):  # type: ignore[misc]  # lm-eval ships no types
    """A causal model and its tokenizer as lm-eval sees them.

    Prompts carry no BOS token, as in the harness of the LLaMA3 quantization study (arXiv 2404.14047). A
    prompt longer than the context loses its beginning, as in lm-eval's own ``HFLM``. Requests that share all
    but their last token (the letters of a question) cost one forward pass together, and prompts that begin
    alike (with the same shots) have their common head read once a batch.

    Args:
        model: returns logits, [batch, length, vocabulary].
        tokenizer: the model's.
        context_length: most tokens the model reads at once.
        progress: called with ``choices``, requests done and requests in all.
        batch_tokens: about how many tokens the model reads at once.
        course: answers requests by having them scored in an order of its own, some of them perhaps never.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        progress: Update | None = None,
        batch_tokens: int = BATCH_TOKENS,
        course: Course | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = context_length
        self._progress = progress
        self._batch_tokens = batch_tokens
        self._course = course
        self._device = next(model.parameters()).device

    @property
    def eot_token_id(self) -> int:
        """The tokenizer's end-of-sequence token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What conditions a continuation without context: BOS, or end-of-sequence where there is none."""
        return (
            int(self.tokenizer.bos_token_id) if self.tokenizer.bos_token_id is not None else self.eot_token_id
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text, never with special tokens added."""
        return list(self.tokenizer.encode(string, add_special_tokens=False))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[Answer]:
        """Log-likelihood of each continuation after its context, and whether greedy decoding gives it."""
        return self._score(requests) if self._course is None else self._course(requests, self._score)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of each whole text, every token predicted once, with as much context as fits."""
        return [self._rolling(*request.args) for request in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Refuse: quantcheck scores choices and generates no text."""
        raise DataError(
            "this task generates text; quantcheck runs lm-eval tasks with output_type multiple_choice"
        )

    def _score(self, requests: list[Instance]) -> list[Answer]:
        answers: list[Answer] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _rolling(self, text: str) -> float:
        tokens = self.tok_encode(text)
        windows = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1)
        requests = [(("", text), *make_disjoint_window(window)) for window in windows]
        return math.fsum(loglik for loglik, _ in self._loglikelihood_tokens(requests))

    @torch.no_grad()
    def _loglikelihood_tokens(self, requests: list[Request], **kwargs: Any) -> list[tuple[float, bool]]:
        sharing: defaultdict[Prefix, list[int]] = defaultdict(list)
        for index, (_, context, continuation) in enumerate(requests):
            sharing[tuple((context + continuation)[:-1][-self.max_length :])].append(index)
        scored = {prefix: max(len(requests[index][2]) for index in sharing[prefix]) for prefix in sharing}
        answers: dict[int, tuple[float, bool]] = {}
        for batch in _batches(sharing, self._batch_tokens):
            head = _head_length(batch, scored)
            for prefix, logits in zip(batch, self._logits(batch, head), strict=True):
                for index in sharing[prefix]:
                    answers[index] = _score(logits[: len(prefix) - head], requests[index][2])
            if self._progress is not None:
                self._progress("choices", len(answers), len(requests))
        return [answers[index] for index in range(len(requests))]

    def _logits(self, batch: Sequence[Prefix], head: int) -> Tensor:
        """Logits after the first ``head`` tokens, which all share: [batch, longest - head, vocabulary].

        Prefixes are padded on the right, which a causal model does not see.
        """
        longest = max(map(len, batch))
        ids = [prefix[head:] + (0,) * (longest - len(prefix)) for prefix in batch]
        with full_precision():
            cache = self._read_head(batch[0][:head], len(batch)) if head else None
            output = self.model(
                input_ids=self._tensor(ids), past_key_values=cache, use_cache=cache is not None
            )
        return cast("Tensor", output.logits)

    def _read_head(self, head: Prefix, rows: int) -> Any:
        """The keys and values of a head, once for each row that goes on from it."""
        cache = self.model(input_ids=self._tensor([head]), use_cache=True).past_key_values
        cache.batch_repeat_interleave(rows)
        return cache

    def _tensor(self, ids: Sequence[Prefix]) -> Tensor:
        return torch.tensor(ids, device=self._device)


def _batches(prefixes: Iterable[Prefix], tokens: int) -> Iterator[Sequence[Prefix]]:
    """Cut prefixes into batches of about ``tokens`` tokens, those with one head together, longest first."""
    prefixes = list(prefixes)
    sharers = Counter(prefix[:_HEAD] for prefix in prefixes if len(prefix) > _HEAD)

    def head(prefix: Prefix) -> Prefix:
        return prefix[:_HEAD] if sharers[prefix[:_HEAD]] >= _SHARERS else ()

    ordered = sorted(prefixes, key=lambda prefix: (head(prefix), -len(prefix), prefix))
    for _, alike in groupby(ordered, head):
        left = list(alike)
        while left:
            size = max(1, tokens // len(left[0]))
            yield left[:size]
            left = left[size:]


def _head_length(batch: Sequence[Prefix], scored: Mapping[Prefix, int]) -> int:
    """How many first tokens to read once for all: none that predicts a scored one, or 0 if not worth it."""
    first, last = min(batch), max(batch)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    head = min(shared, *(len(prefix) - scored[prefix] for prefix in batch))
    return head if head >= _HEAD and len(batch) > 1 else 0


def _score(logits: Tensor, continuation: list[int]) -> tuple[float, bool]:
    """Log-likelihood and greediness of a continuation whose tokens the last rows of ``logits`` predict."""
    log_probs = logits[-len(continuation) :].float().log_softmax(-1)
    tokens = torch.tensor(continuation, device=logits.device)
    loglik = log_probs.gather(-1, tokens.unsqueeze(-1)).sum(dtype=torch.float64)
    return float(loglik), bool((log_probs.argmax(-1) == tokens).all())
