"""Perplexity, KL divergence and top-1 agreement: one forward pass a batch of windows gives all three.

For a window of L inputs with labels y_1..y_L, a model p and a reference r (float32 log-softmax, float64
sums):

    NLL = -1/L sum_t log p_t(y_t)                      perplexity = exp(mean of the windows' NLL)
    KL(r || p) = 1/L sum_t sum_v r_t(v) (log r_t(v) - log p_t(v))     in nats
    top-1 agreement = 1/L sum_t [argmax r_t = argmax p_t]

With windows of 2048, or of the model's context, this is the perplexity of GPTQ's evaluation (Frantar et al.,
arXiv 2210.17323) and of those who follow it, with the label of a window's last position counted too.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn

from quantcheck.errors import DataError
from quantcheck.measurement import Measurement, measurement
from quantcheck.metrics.catalog import TEXT_KINDS, version
from quantcheck.metrics.queue import Queue
from quantcheck.models.load import full_precision
from quantcheck.models.text import Windows
from quantcheck.progress import Update
from quantcheck.stopping import NO_STOPS, Places, Stops

REFERENCE_BUDGET = 512 << 20
BATCH_TOKENS = 2048
LOOK = 8
"""Most windows between two looks at whether gates are decided."""

_SOFTMAX = "float32 log-softmax"
_WORDS = {
    "ppl": "mean NLL of each window",
    "kld": "mean KL(reference || candidate) of each window in nats",
    "top1": "share of positions of each window with the reference's top token",
}


class ReferenceOutputs:
    """The reference model's log-probabilities: kept while they fit in a budget, else computed again.

    Args:
        model: the full-precision model.
        budget: most bytes to keep, on the model's device.
    """

    def __init__(self, model: nn.Module, budget: int = REFERENCE_BUDGET) -> None:
        self._model = model
        self._left = budget
        self._kept: dict[tuple[str, bytes], Tensor] = {}

    def log_probs(self, windows: Windows, places: Places) -> Tensor:
        """Log-probabilities of the windows at some positions: float32, [count, length, vocabulary]."""
        key = (windows.digest, places.tobytes())
        if key not in self._kept:
            computed = _log_probs(self._model, windows, places)
            if computed.nbytes > self._left:
                return computed
            self._left -= computed.nbytes
            self._kept[key] = computed
        return self._kept[key]


def measure_text(
    model: nn.Module,
    windows: Windows,
    kinds: Collection[str] = TEXT_KINDS,
    *,
    reference: ReferenceOutputs | None = None,
    progress: Update | None = None,
    batch_tokens: int = BATCH_TOKENS,
    stops: Stops = NO_STOPS,
) -> dict[str, Measurement]:
    """Measure a model on one text.

    Args:
        model: returns logits, [batch, length, vocabulary].
        windows: evaluation windows, tokens of the model's own tokenizer.
        kinds: which of ``ppl``, ``kld`` and ``top1``.
        reference: what ``kld`` and ``top1`` compare with.
        progress: called with the text's name, windows done and windows in all.
        batch_tokens: about how many tokens the model reads at once.
        stops: by metric, when it is decided; without them, all windows are measured.

    Raises:
        DataError: ``kld`` or ``top1`` without a reference, or a token beyond the model's vocabulary.
    """
    if reference is None and not set(kinds) <= {"ppl"}:
        raise DataError(
            f"text {windows.name}: kld and top1 compare with a reference model, and none was given"
        )
    names = {kind: f"{kind}/{windows.name}" for kind in TEXT_KINDS if kind in kinds}
    queue = Queue(dict.fromkeys(names.values(), np.arange(len(windows))), stops)
    compared = reference if set(kinds) - {"ppl"} else None
    batch = max(1, batch_tokens // windows.length)
    while (places := queue.ahead(min(batch, LOOK) if queue.stops else batch)).size:
        scores = _batch_scores(model, windows, places, compared)
        queue.put(places, {metric: scores[kind].numpy() for kind, metric in names.items()})
        if progress is not None:
            progress(windows.name, queue.done, len(windows))
    return {metric: _measurement(kind, windows, queue) for kind, metric in names.items()}


def _batch_scores(
    model: nn.Module, windows: Windows, places: Places, reference: ReferenceOutputs | None
) -> dict[str, Tensor]:
    log_p = _log_probs(model, windows, places)
    labels = torch.from_numpy(windows.labels[places]).to(log_p.device)
    nll = -log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    scores = {"ppl": _mean(nll)}
    if reference is not None:
        log_r = reference.log_probs(windows, places)
        scores["kld"] = _mean((log_r.exp() * (log_r - log_p)).sum(-1, dtype=torch.float64))
        scores["top1"] = _mean(_agreement(log_r, log_p))
    return scores


@torch.no_grad()
def _log_probs(model: nn.Module, windows: Windows, places: Places) -> Tensor:
    weight = next(model.parameters())
    ids = torch.from_numpy(windows.inputs[places]).to(weight.device)
    with full_precision():
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.float().log_softmax(-1)


def _agreement(log_r: Tensor, log_p: Tensor) -> Tensor:
    """1 where both have the same top token, else 0; NaN where a NaN would be taken for the top token."""
    top_r, top_p = log_r.max(-1), log_p.max(-1)
    return (
        (top_r.indices == top_p.indices)
        .to(torch.float64)
        .where(~(top_r.values + top_p.values).isnan(), math.nan)
    )


def _mean(positions: Tensor) -> Tensor:
    return positions.to(torch.float64).mean(-1).cpu()


def _measurement(kind: str, windows: Windows, queue: Queue) -> Measurement:
    metric = f"{kind}/{windows.name}"
    protocol = f"{_WORDS[kind]}, {_SOFTMAX}; {windows.protocol}"
    whole = measurement(
        metric, queue.outcomes(metric), windows.digest, protocol, version(metric), windows.documents
    )
    return whole.at(queue.taken(metric))
