"""How near to a published figure a run must come: its loss against its own full precision, within a bound.

Absolute figures depend on windows, harness and data; the loss from full precision much less. It is the
logarithm of the ratio of perplexities, in nats, and the difference of accuracies and scores, as a fraction;
positive is worse. The bound around the published loss is as wide as

- the printed rounding of both figures, at its worst, and the values that the authors printed elsewhere;
- the noise of a single run at 2.33 standard errors: one in a hundred equal runs lies beyond.
  Perplexity: recalibrating with other samples moves the loss in proportion to it, by at most ``NOISE_SHARE``
  where it was measured (docs/published.md). Accuracy: the binomial error of the task's item count;
- what a figure's caveats make of it: see `quantcheck.published.figures.Effect`.

A figure with an order of magnitude only says that the model collapsed. A run has collapsed, too, when its
perplexity is ten times its own full-precision one, or when more than half of what its full precision has
above chance is lost. Not having collapsed is then better than published; nothing is worse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

from quantcheck.errors import QuantcheckError
from quantcheck.measurement import KINDS
from quantcheck.published.figures import FULL_PRECISION, Effect, PublishedFigure

ALARM, LEVEL = NormalDist().inv_cdf(0.99), NormalDist().inv_cdf(0.95)
NOISE_SHARE = 0.084
COLLAPSED_RATIO = 10.0
COLLAPSED_SHARE = 0.5
# Further away from the published full precision, it is another model, window or way to score: evaluating
# LLaMA3-8B at 8192 tokens instead of 2048 takes 10 % off, acc_norm adds 19 points to HellaSwag's acc.
SAME_REFERENCE = {"ppl": 0.15, "acc": 0.03, "score": 0.05}


@dataclass(frozen=True)
class Task:
    """A task's item count and what guessing scores."""

    items: int
    chance: float


# The multimodal splits are not stated: counts are those of the smallest usual one (DocVQA test, MMBench dev),
# and guessing counts as nothing, since an answer that cannot be read does.
TASKS = {
    "acc/piqa": Task(1838, 0.5),
    "acc/arc_easy": Task(2376, 0.25),
    "acc/arc_challenge": Task(1172, 0.25),
    "acc/hellaswag": Task(10042, 0.25),
    "acc/winogrande": Task(1267, 0.5),
    "acc/mmlu_humanities": Task(4705, 0.25),
    "acc/mmlu_stem": Task(3018, 0.25),
    "acc/mmlu_social_sciences": Task(3077, 0.25),
    "acc/mmlu_other": Task(3242, 0.25),
    "acc/mmlu": Task(14042, 0.25),
    "score/ai2d": Task(3088, 0.0),
    "score/chartqa": Task(2500, 0.0),
    "score/docvqa": Task(5188, 0.0),
    "score/mmbench_en": Task(1164, 0.0),
}
AVERAGE = "acc/average"
AVERAGED = ("acc/piqa", "acc/arc_easy", "acc/arc_challenge", "acc/hellaswag", "acc/winogrande")


class Answer(StrEnum):
    """How a run compares with a published figure, the least favourable first."""

    WORSE = "worse"
    CANNOT_TELL = "cannot tell"
    BETTER = "better"
    AGREES = "agrees"


@dataclass(frozen=True)
class Finding:
    """An answer with the run's loss, positive is worse, and the reasons, one sentence each."""

    answer: Answer
    loss: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Bound:
    """The losses that agree with a published figure.

    Attributes:
        figure: what is compared with.
        reference: the run's own full precision, as measured: a perplexity, or a fraction.
        best, worst: the least and the largest loss that agrees, in nats or as a fraction.
        telling: whether lying between them says anything.
        reasons: how the bound came about, with the caveats that decided.
    """

    figure: PublishedFigure
    reference: float
    best: float
    worst: float
    telling: bool
    reasons: tuple[str, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """From the best to the worst figure that agrees, in the unit of ``reference``."""
        if _log(self.figure.metric):
            return self.reference * math.exp(self.best), self.reference * math.exp(self.worst)
        return self.reference - self.best, self.reference - self.worst

    def judge(self, measured: float, stderr: float = 0.0) -> Finding:
        """Compare a run's figure; ``stderr`` is that of its loss, where it saw only a part of the items.

        Better or worse it is beyond the bound by 2.33 standard errors, and agrees where its one-sided 95 %
        bound does.
        """
        if not math.isfinite(measured):
            return Finding(Answer.WORSE, math.inf, (f"the run's figure is {measured}", *self.reasons))
        loss = _loss(self.figure.metric, measured, self.reference)
        if not math.isfinite(self.best):
            return Finding(Answer.CANNOT_TELL, loss, self.reasons)
        where = f"a loss of {loss:.4g}+-{stderr:.2g} where {self.best:.4g} to {self.worst:.4g} agrees"
        return Finding(self._answer(loss, stderr), loss, (where, *self.reasons))

    def _answer(self, loss: float, stderr: float) -> Answer:
        if loss - ALARM * stderr > self.worst:
            return Answer.WORSE
        if loss + ALARM * stderr < self.best:
            return Answer.BETTER
        agrees = self.telling and loss + LEVEL * stderr <= self.worst
        return Answer.AGREES if agrees else Answer.CANNOT_TELL


def bound(figure: PublishedFigure, reference: PublishedFigure, measured_reference: float) -> Bound:
    """The bound for a run whose own full precision measured ``measured_reference``.

    Args:
        figure: of the quantized model.
        reference: of full precision, from the same table.
        measured_reference: a perplexity, or a fraction for accuracies and scores.

    Raises:
        QuantcheckError: the two figures do not belong together, or the run's is not a positive number.
    """
    if (reference.table, reference.metric, reference.method) != (figure.table, figure.metric, FULL_PRECISION):
        raise QuantcheckError(
            f"{figure.row} {figure.metric} of {figure.table} is compared with full precision of the same "
            f"table and metric, not with {reference.row} {reference.metric} of {reference.table}"
        )
    if not (math.isfinite(measured_reference) and measured_reference > 0):
        raise QuantcheckError(
            f"{figure.metric} at full precision is {measured_reference}: nothing can be compared with it"
        )
    decisive = tuple(
        f"{caveat.id}: {caveat.text}"
        for caveat in figure.caveats
        if caveat.effect is figure.effect is not Effect.NOTE
    )
    if reason := _incomparable(figure, reference, measured_reference):
        return Bound(figure, measured_reference, -math.inf, math.inf, False, (reason, *decisive))
    if figure.effect is Effect.MAGNITUDE:
        least = _collapse(figure.metric, measured_reference)
        reason = f"{figure.printed} is printed: collapsed, as is a run that loses {least:.4g} or more"
        return Bound(figure, measured_reference, least, math.inf, True, (reason, *decisive))
    best, worst = _printed_losses(figure, reference)
    noise = ALARM * noise_of(figure, (best + worst) / 2)
    reason = (
        f"{figure.printed} at {reference.printed} full precision is a loss of {best:.4g} to {worst:.4g}, "
        f"rounding included; noise of a single run +-{noise:.4g}"
    )
    telling = figure.effect is not Effect.SUSPECT
    return Bound(figure, measured_reference, best - noise, worst + noise, telling, (reason, *decisive))


def noise_of(figure: PublishedFigure, loss: float) -> float:
    """Standard error of a single run's loss, in nats or as a fraction."""
    if _log(figure.metric):
        return NOISE_SHARE * abs(loss)
    if figure.metric == AVERAGE:  # at most: each part as if half of its items were right
        return math.sqrt(sum(0.25 / TASKS[part].items for part in AVERAGED)) / len(AVERAGED)
    share = sum(figure.span()) / 200
    return math.sqrt(share * (1 - share) / TASKS[figure.metric].items)


def _incomparable(figure: PublishedFigure, reference: PublishedFigure, measured: float) -> str | None:
    kind = figure.metric.partition("/")[0]
    if figure.effect is Effect.EXCLUDED or kind not in SAME_REFERENCE:
        return "not compared"
    if not _log(figure.metric) and figure.metric not in (*TASKS, AVERAGE):
        return "not compared: the task's item count is not known"
    if not _log(figure.metric) and measured <= _chance(figure.metric):
        return f"the run's full precision scores {100 * measured:.1f}, no more than guessing"
    low, high = (_loss(figure.metric, value, measured) for value in _in_units(reference))
    away = max(min(abs(low), abs(high)), 0.0) if low * high > 0 else 0.0
    if away > SAME_REFERENCE[kind]:
        return (
            f"the run's full precision is {away:.3g} off the published {reference.printed}, more than the "
            f"{SAME_REFERENCE[kind]:g} of another setting: it is another model, text or way to score"
        )
    return None


def _collapse(metric: str, reference: float) -> float:
    if _log(metric):
        return math.log(COLLAPSED_RATIO)
    return COLLAPSED_SHARE * (reference - _chance(metric))


def _chance(metric: str) -> float:
    if metric == AVERAGE:
        return sum(TASKS[part].chance for part in AVERAGED) / len(AVERAGED)
    return TASKS[metric].chance


def _printed_losses(figure: PublishedFigure, reference: PublishedFigure) -> tuple[float, float]:
    losses = [
        _loss(figure.metric, value, full) for value in _in_units(figure) for full in _in_units(reference)
    ]
    return min(losses), max(losses)


def _in_units(figure: PublishedFigure) -> tuple[float, float]:
    """The printed span in the unit that runs measure in: percent become fractions."""
    low, high = figure.span()
    return (low, high) if _log(figure.metric) else (low / 100, high / 100)


def _loss(metric: str, value: float, reference: float) -> float:
    if not _log(metric):
        return reference - value
    if value <= 0:
        raise QuantcheckError(f"{metric} is {value}: a perplexity is positive")
    return math.log(value / reference)


def _log(metric: str) -> bool:
    kind = KINDS.get(metric.partition("/")[0])
    return kind is not None and kind.log
