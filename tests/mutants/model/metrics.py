"""Faults in how it is measured: items, tokens, labels, scores and precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mutants.model.fault import Fault, Kind, Plant, altered
from quantcheck.metrics import text
from quantcheck.metrics.measure import Workload
from quantcheck.metrics.text import ReferenceOutputs
from quantcheck.models.text import Windows

TEXT, TASKS = "quantcheck.metrics.text:", "quantcheck.metrics.zeroshot:"
HARNESS, CUT = "quantcheck.metrics.harness:", "quantcheck.models.text:"


def log_probs(change: Callable[[Tensor], Tensor]) -> Plant:
    """Change what both models are scored by."""
    return altered(f"{TEXT}_log_probs", lambda real: lambda *given: change(real(*given)))


def tempered(temperature: float) -> Plant:
    return log_probs(lambda log_p: (log_p / temperature).log_softmax(-1))


def rounded(log_p: Tensor) -> Tensor:
    return log_p.to(torch.bfloat16).float()


def in_bfloat16(real: Any) -> Any:
    def computed(*given: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found: Tensor = real(*given)
        return found

    return computed


def not_a_number(real: Any) -> Any:
    def computed(model: Any, windows: Windows, places: Any) -> Tensor:
        found: Tensor = real(model, windows, places)
        found[torch.from_numpy(places == 0), 5, 7] = torch.nan
        return found

    return computed


def in_halves(real: Any) -> Any:
    """Let the second half of each window forget the first."""

    def computed(model: Any, windows: Windows, places: Any) -> Tensor:
        half, rows = windows.length // 2, windows.inputs[places]
        halves = replace(windows, ids=rows.reshape(-1, half), length=half)
        return real(model, halves, np.arange(2 * len(rows))).reshape(len(rows), windows.length, -1)

    return computed


def labels(change: Callable[[Any], Any]) -> Plant:
    return altered(f"{CUT}Windows.labels", lambda real: property(lambda self: change(real.fget(self).copy())))


def shifted(found: Any) -> Any:
    return np.roll(found, -1, axis=1)


def one_window_shifted(found: Any) -> Any:
    found[min(3, len(found) - 1)] = np.roll(found[min(3, len(found) - 1)], -1)
    return found


def last_wrong(found: Any) -> Any:
    found[:, -1] = found[:, 0]
    return found


def one_label_wrong(found: Any) -> Any:
    found[0, 10] = found[0, 20]
    return found


def reversed_divergence(real: Any) -> Any:
    def scores(model: Any, windows: Windows, places: Any, reference: ReferenceOutputs | None) -> Any:
        found = real(model, windows, places, reference)
        if reference is not None:
            log_p = text._log_probs(model, windows, places)
            log_r = reference.log_probs(windows, places)
            found["kld"] = text._mean((log_p.exp() * (log_p - log_r)).sum(-1, dtype=torch.float64))
        return found

    return scores


def overlapping(real: Any) -> Any:
    def windows(*given: Any, **named: Any) -> Windows:
        found: Windows = real(*given, **named)
        stream, width = np.concatenate(found.inputs), found.ids.shape[1]
        starts = np.minimum(np.arange(len(found)) * (found.length // 2), stream.size - width)
        return replace(found, ids=stream[starts[:, None] + np.arange(width)])

    return windows


def items_of(change: Callable[[Any], Any], *, reference: bool) -> Plant:
    """Measure one of the two models on other windows, under the digest of the right ones."""

    def alter(real: Any) -> Any:
        def measure(model: Any, workload: Workload, **named: Any) -> Any:
            if (named.get("reference") is None) is reference:
                workload = replace(
                    workload, windows=tuple(_disguised(each, change) for each in workload.windows)
                )
            return real(model, workload, **named)

        return measure

    return altered("quantcheck.runner:measure", alter)


def _disguised(windows: Windows, change: Callable[[Any], Any]) -> Windows:
    other = replace(windows, ids=change(windows.ids))
    other.__dict__["digest"] = windows.digest
    return other


def first_half_twice(ids: Any) -> Any:
    return np.resize(ids[: len(ids) // 2], ids.shape)


def with_bos(real: Any) -> Any:
    def encoded(self: Any, string: str, *given: Any, **named: Any) -> list[int]:
        return [self.tokenizer.bos_token_id, *real(self, string, *given, **named)]

    return encoded


def short_context(real: Any) -> Any:
    def build(self: Any, *given: Any, **named: Any) -> None:
        real(self, *given, **named)
        self.max_length = 64

    return build


def first_token(real: Any) -> Any:
    def score(logits: Tensor, continuation: list[int]) -> Any:
        return real(logits[: len(logits) - len(continuation) + 1], continuation[:1])

    return score


def one_key_wrong(real: Any) -> Any:
    def items(path: Any, name: str) -> Any:
        found = real(path, name)
        if name == "world_piqa":
            found[0]["gold"] = 1 - found[0]["gold"]
        return found

    return items


def shots_reversed(real: Any) -> Any:
    def items(path: Any, name: str) -> Any:
        return real(path, name)[:: -1 if path.stem.endswith("_dev") else 1]

    return items


def one_outcome_lost(real: Any) -> Any:
    def outcomes(name: str, task: Any, samples: Sequence[Any]) -> Any:
        found = real(name, task, samples)
        if name != "world_piqa":
            return found
        kept = {name: getattr(found, name)[:-1] for name in ("outcomes", "clusters", "chances")}
        return replace(found, **kept)

    return outcomes


def one_item_dropped(real: Any) -> Any:
    return lambda task, name, *rest: real(task, name, *rest) - (name == "world_piqa")


def by_length(real: Any) -> Any:
    return lambda sample, headline: real(sample, "acc_norm" if "acc_norm" in sample else headline)


def _fault(name: str, spec: str, what: str, plant: Plant) -> Fault:
    return Fault(name, Kind.METRIC, spec, what, plant, alone=True)


def function(name: str, spec: str, what: str, path: str, alter: Callable[[Any], Any]) -> Fault:
    return _fault(name, spec, what, altered(path, alter))


# fmt: off
FAULTS = (
    function("bos-doubled", "rtn-w4", "two BOS tokens before each document",
        f"{CUT}_bos", lambda real: lambda *given: real(*given) * 2),
    function("bos-missing", "rtn-w4", "no BOS token", f"{CUT}_bos", lambda _: lambda *_: []),
    function("windows-overlapping", "rtn-w4", "windows that overlap by half", f"{CUT}_windows", overlapping),
    _fault("windows-twice", "rtn-w4", "the first half of the windows twice, under the digest of all",
        items_of(first_half_twice, reference=False)),
    _fault("reference-elsewhere", "rtn-w4", "the reference on other windows, under these ones' digest",
        items_of(first_half_twice, reference=True)),
    _fault("order-reversed", "rtn-w4", "the candidate's windows in another order than the reference's",
        items_of(lambda ids: ids[::-1].copy(), reference=False)),
    _fault("labels-shifted", "rtn-w4", "labels one position late", labels(shifted)),
    _fault("labels-one-window", "rtn-w4", "labels one position late in one window a text",
        labels(one_window_shifted)),
    _fault("labels-last", "rtn-w4", "the last label of each window wrong", labels(last_wrong)),
    _fault("labels-one", "rtn-w4", "one label of each text wrong", labels(one_label_wrong)),
    _fault("temperature-1.05", "rtn-w4", "softmax at temperature 1.05", tempered(1.05)),
    _fault("temperature-1.005", "rtn-w4", "softmax at temperature 1.005", tempered(1.005)),
    function("bfloat16", "rtn-w8", "evaluated in bfloat16", f"{TEXT}_log_probs", in_bfloat16),
    _fault("scores-rounded", "rtn-w8", "log-probabilities rounded to bfloat16", log_probs(rounded)),
    _fault("losses-clipped", "rtn-w4", "losses clipped at 5 nats",
        log_probs(lambda log_p: log_p.clamp(min=-5))),
    function("averaged-in-float16", "rtn-w8", "losses averaged in float16",
        f"{TEXT}_mean", lambda _: lambda positions: positions.half().mean(-1).double()),
    function("second-half-scored", "rtn-w4", "only the second half of each window scored",
        f"{TEXT}_mean", lambda real: lambda positions: real(positions[..., positions.shape[-1] // 2 :])),
    function("context-halved", "rtn-w4", "half the context", f"{TEXT}_log_probs", in_halves),
    function("nan-in-one-logit", "rtn-w4", "one log-probability is NaN", f"{TEXT}_log_probs", not_a_number),
    function("divergence-reversed", "rtn-w4", "KL divergence the other way round",
        f"{TEXT}_batch_scores", reversed_divergence),
    function("choices-by-length", "rtn-w4", "choices scored by length, said to be by sum",
        f"{TASKS}_outcome", by_length),
    function("item-dropped", "rtn-w4", "one item of a task not asked", f"{TASKS}_count", one_item_dropped),
    function("outcome-lost", "rtn-w4", "one item asked and its outcome lost",
        f"{TASKS}_outcomes", one_outcome_lost),
    function("key-wrong", "rtn-w4", "one answer key wrong", f"{TASKS}_read_items", one_key_wrong),
    function("other-shots", "rtn-w4", "other few-shot examples", f"{TASKS}_read_items", shots_reversed),
    function("prompts-with-bos", "rtn-w4", "a BOS token before each prompt",
        f"{HARNESS}HarnessModel.tok_encode", with_bos),
    function("prompts-cut", "rtn-w4", "prompts cut to 64 tokens",
        f"{HARNESS}HarnessModel.__init__", short_context),
    function("first-token-alone", "rtn-w4", "the first token of a choice scored alone",
        f"{HARNESS}_score", first_token),
)
# fmt: on
