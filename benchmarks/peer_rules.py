"""The rules by which others decide whether a quantized model is good enough, on outcomes that we measured.

Each is told as its project states it, with its default numbers, and implemented anew. Rules that compare two
runs take the accepted run of the same spec, on the same items, for the one before: the best case for them.
Where a rule has no figure to look at it says nothing, and a figure that is not a number fails whatever it is
compared with, as it does there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcheck.measurement import Measurement

Measured = Mapping[str, Measurement]
SEED = 42


@dataclass(frozen=True)
class Case:
    """What one run gave, and what it is compared with; measurements by metric.

    Attributes:
        reference: of the full-precision model in the same run.
        accepted: of the quantized model when it was accepted.
        candidate: of the quantized model now.
    """

    reference: Measured
    accepted: Measured
    candidate: Measured

    def pairs(self, kind: str, of: Measured) -> Iterator[tuple[Measurement, Measurement]]:
        """Each figure of a kind with its counterpart."""
        for metric, now in self.candidate.items():
            if metric.partition("/")[0] == kind and metric in of:
                yield of[metric], now


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: the head of its column.
        source: who decides so, and where that is stated.
        red: whether it fails a case.
    """

    name: str
    source: str
    red: Callable[[Case], bool]


def recovery(case: Case) -> bool:
    """Fail where accuracy over full precision's, rounded to two digits, is below .95."""
    return any(
        not round(now.value / full.value, 2) >= 0.95
        for full, now in case.pairs("acc", case.reference)
        if full.value
    )


def stored_value(case: Case) -> bool:
    """Fail where accuracy is more than 5 % below the stored one, or more than 10 % above."""
    return any(
        not 0.95 * old.value <= now.value <= 1.10 * old.value for old, now in case.pairs("acc", case.accepted)
    )


def absolute(case: Case) -> bool:
    """Fail where accuracy differs from the stored one by more than .08."""
    return any(not abs(now.value - old.value) <= 0.08 for old, now in case.pairs("acc", case.accepted))


def last_good(case: Case) -> bool:
    """Fail where accuracy differs from that of the last good run by more than .001."""
    return any(
        not abs(now.value - old.value) <= 0.001 + 1e-12 for old, now in case.pairs("acc", case.accepted)
    )


def two_points(case: Case) -> bool:
    """Fail where accuracy is more than two points below full precision's."""
    return any(
        not 100 * (full.value - now.value) <= 2 + 1e-9 for full, now in case.pairs("acc", case.reference)
    )


def unpaired(case: Case) -> bool:
    """Fail where the z of two accuracies, taken as independent samples, is beyond 1.96."""
    return any(_beyond(old, now) for old, now in case.pairs("acc", case.accepted))


def _beyond(old: Measurement, now: Measurement) -> bool:
    error = math.hypot(old.stderr, now.stderr)
    return abs(now.value - old.value) > 1.959964 * error if error else now.value != old.value


def below_twenty(case: Case) -> bool:
    """Fail where a perplexity is not below 20."""
    return any(not now.value < 20 for _, now in case.pairs("ppl", case.candidate))


def within_one_percent(case: Case) -> bool:
    """Fail where a perplexity differs from the stored one by more than 1 %."""
    return any(
        not abs(now.value - old.value) <= 1e-2 * old.value for old, now in case.pairs("ppl", case.accepted)
    )


def mcnemar(case: Case) -> bool:
    """Fail where, of the items that changed, too many got worse: exact, one-sided, .05, tasks pooled."""
    from scipy.stats import binom

    old, now = _pooled(case, "acc")
    harmful, beneficial = int((now < old).sum()), int((now > old).sum())
    return bool(binom.sf(harmful - 1, harmful + beneficial, 0.5) <= 0.05)


def blocks_accuracy(case: Case) -> bool:
    """Fail where the 95 % interval of the mean paired change of accuracy lies below -.02."""
    old, now = _pooled(case, "acc")
    return blocks(now - old)


def blocks_likelihood(case: Case) -> bool:
    """Do the same with each window's mean log-likelihood for its score."""
    old, now = _pooled(case, "ppl")
    return blocks(old - now)


def blocks(change: NDArray[np.float64], margin: float = 0.02, resamples: int = 10_000) -> bool:
    """Tell whether the BCa bootstrap interval of the mean ``change`` [n], at 95 %, lies below ``-margin``.

    A change that is not finite is an error there, which fails a pipeline, too.
    """
    from scipy.stats import bootstrap

    if not np.isfinite(change).all():
        return True
    if change.size < 2 or np.ptp(change) == 0:
        return bool(change.size and change[0] < -margin)
    found = bootstrap((change,), np.mean, n_resamples=resamples, batch=1000, rng=np.random.default_rng(SEED))
    return bool(found.confidence_interval.high < -margin)


def _pooled(case: Case, kind: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All items of a kind, paired by their number as result files are, as far as both have them."""
    pairs = [
        (old.outcomes[: now.n], now.outcomes[: old.n])
        for old, now in case.pairs(kind, case.accepted)
        if kind != "acc" or now.metric == "acc/pooled"
    ]
    old, now = zip(*pairs, strict=True) if pairs else ((), ())
    return np.concatenate([np.empty(0), *old]), np.concatenate([np.empty(0), *now])


RULES = (
    Rule("recovery", "llm-compressor: accuracy over full precision's, to 2 digits, at least .95", recovery),
    Rule("stored", "GPTQModel: accuracy from 5 % below to 10 % above the stored one", stored_value),
    Rule("absolute", "vLLM's multimodal jobs: accuracy within .08 of the stored one", absolute),
    Rule("last good", "neural-compressor: accuracy within .001 of the last good run's", last_good),
    Rule("2 points", "quant-regress: at most 2 points below full precision", two_points),
    Rule("unpaired z", "lm-evaluation-harness's comparison of two runs: z from -1.96 to 1.96", unpaired),
    Rule("ppl < 20", "llama.cpp's continuous integration", below_twenty),
    Rule("ppl 1 %", "rtol 1e-2 on each perplexity", within_one_percent),
    Rule("McNemar", "LLM-Accuracy-Stats (arXiv 2602.10144): pooled, one-sided, at .05", mcnemar),
    Rule("statgate", "statgate 0.1.1 on right and wrong: BLOCK at its defaults (.02, 95 %)", blocks_accuracy),
    Rule("statgate, NLL", "the same on windows' log-likelihoods, not its own idea", blocks_likelihood),
)  # fmt: skip
