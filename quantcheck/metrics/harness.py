"""The language-model adapter that lm-eval scores: exact log-likelihoods, in a fixed order."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

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

_BATCH_TOKENS = 4096


class HarnessModel(TemplateLM):  # type: ignore[misc]  # lm-eval ships no types
    """A causal model and its tokenizer as lm-eval sees them.

    Prompts carry no BOS token, as in the harness of the LLaMA3 quantization study (arXiv 2404.14047). A
    prompt longer than the context loses its beginning, as in lm-eval's own ``HFLM``. Requests that share all
    but their last token cost one forward pass together: the letters of a question with lettered choices, say.

    Args:
        model: returns logits, [batch, length, vocabulary].
        tokenizer: the model's.
        context_length: most tokens the model reads at once.
        progress: called with ``choices``, requests done and requests in all.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        progress: Update | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = context_length
        self._progress = progress
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

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation after its context, and whether greedy decoding gives it."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of each whole text, every token predicted once, with as much context as fits."""
        return [self._rolling(*request.args) for request in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Refuse: quantcheck scores choices and generates no text."""
        raise DataError(
            "this task generates text; quantcheck runs lm-eval tasks with output_type multiple_choice"
        )

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
        answers: dict[int, tuple[float, bool]] = {}
        for batch in _batches(sorted(sharing, key=lambda prefix: (-len(prefix), prefix))):
            for prefix, logits in zip(batch, self._logits(batch), strict=True):
                for index in sharing[prefix]:
                    answers[index] = _score(logits[: len(prefix)], requests[index][2])
            if self._progress is not None:
                self._progress("choices", len(answers), len(requests))
        return [answers[index] for index in range(len(requests))]

    def _logits(self, batch: Sequence[Prefix]) -> Tensor:
        """Logits, [batch, longest, vocabulary]; a causal model does not see the padding on the right."""
        longest = max(map(len, batch))
        ids = torch.tensor([prefix + (0,) * (longest - len(prefix)) for prefix in batch], device=self._device)
        with full_precision():
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits


def _batches(prefixes: Sequence[Prefix]) -> Iterator[Sequence[Prefix]]:
    """Cut prefixes, longest first, into batches of about the same number of tokens."""
    start = 0
    while start < len(prefixes):
        size = max(1, _BATCH_TOKENS // len(prefixes[start]))
        yield prefixes[start : start + size]
        start += size


def _score(logits: Tensor, continuation: list[int]) -> tuple[float, bool]:
    """Log-likelihood and greediness of a continuation whose tokens the last rows of ``logits`` predict."""
    log_probs = logits[-len(continuation) :].float().log_softmax(-1)
    tokens = torch.tensor(continuation, device=logits.device)
    loglik = log_probs.gather(-1, tokens.unsqueeze(-1)).sum(dtype=torch.float64)
    return float(loglik), bool((log_probs.argmax(-1) == tokens).all())
