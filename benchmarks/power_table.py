"""The tables of ``benchmarks.power``: who catches which planted fault, at what price, and who cries wolf."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from mutants.model.fault import Fault
from mutants.model.trial import Trial
from numpy.typing import NDArray

from benchmarks.peer_rules import RULES, Case, Rule
from benchmarks.timing import heads, row
from quantcheck.gate import Verdict

POINTS, PERCENT = 1.0, 0.5
"""A fault counts as large from here on: points of accuracy, percent of perplexity."""
QUIET = 0.05
"""A rule counts as one to be taken seriously that cries wolf less often than this."""
BEFORE = ("artifact/", "bpw")


@dataclass(frozen=True)
class Change:
    """How far a figure moved from the accepted one.

    Attributes:
        perplexity: percent, over all texts; NaN where there is no figure.
        accuracy: points, of the pooled accuracy; positive is better.
    """

    perplexity: float
    accuracy: float

    @classmethod
    def between(cls, accepted: Trial, now: Trial) -> Change:
        """Compare the figures of two runs."""
        texts = [metric for metric in accepted.candidate if metric.startswith("ppl/")]
        shifts = [_mean(now, metric) - _mean(accepted, metric) for metric in texts]
        nats = statistics.fmean(shifts) if shifts else math.nan
        accuracy = 100 * (_mean(now, "acc/pooled") - _mean(accepted, "acc/pooled"))
        return cls(100 * math.expm1(nats) if nats < 700 else math.inf, accuracy)

    @property
    def large(self) -> bool:
        """Whether it is one point or half a percent, one way or the other, or no number at all."""
        return not (abs(self.perplexity) < PERCENT and abs(self.accuracy) < POINTS - 1e-9)

    def cells(self) -> tuple[str, str]:
        """The two figures as the table shows them."""
        return _signed(self.perplexity, 2, " %"), _signed(self.accuracy, 1, "")


@dataclass(frozen=True)
class Row:
    """One fault, what became of it, and what it is compared with.

    Attributes:
        fault: the fault.
        accepted: the sound run whose figures were accepted.
        compared: the run whose figures peers took for the accepted ones.
        trials: the runs with the fault, by tier, smallest first; the last one is the first that caught it.
        seen: what peers got to see of it.
        early: the run that stopped early, where a verdict took items.
    """

    fault: Fault
    accepted: Trial
    compared: Trial
    trials: Mapping[str, Trial]
    seen: Trial
    early: Trial | None = None
    change: Change = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "change", Change.between(self.accepted, self.seen))

    @property
    def last(self) -> Trial:
        """The run that decided."""
        return list(self.trials.values())[-1]

    @property
    def caught(self) -> bool:
        """Whether ours caught it."""
        return self.last.caught

    def caught_by(self, rule: Rule) -> bool:
        """Whether a peer's rule fails it, and passes the sound model of its spec."""
        compared, now = self.compared.candidate, self.seen
        return rule.red(Case(now.reference, compared, now.candidate)) and not fails_sound(rule, self.accepted)

    @property
    def items(self) -> int | None:
        """Items that the red gate took which took fewest; ``None`` where none is red."""
        if not self.caught:
            return None
        if decided_before(self.last):
            return 0
        counted = [trial.items[metric] for trial in (self.last, self.early) if trial for metric in trial.red]
        return min(counted)


def decided_before(trial: Trial) -> bool:
    """Whether a run was refused, or a gate turned red, before anything was evaluated."""
    unquantized = Verdict.NOT_QUANTIZED in trial.red.values()
    return bool(trial.refused) or unquantized or any(metric.startswith(BEFORE) for metric in trial.red)


def fails_sound(rule: Rule, sound: Trial) -> bool:
    """Whether a rule fails a sound model on the very figures that were accepted."""
    return rule.red(Case(sound.reference, sound.candidate, sound.candidate))


def faults_table(rows: Sequence[Row]) -> Iterator[str]:
    """A row a fault."""
    titles = (
        "fault",
        "what is broken",
        "spec",
        "perplexity",
        "accuracy",
        "ours",
        "tier",
        "items",
        "s",
        "peers",
    )
    yield from heads(titles)
    for each in rows:
        last = each.last
        peers = ", ".join(rule.name for rule in RULES if each.caught_by(rule))
        yield row(
            (
                f"`{each.fault.name}`",
                each.fault.what,
                f"`{each.fault.spec}`",
                *each.change.cells(),
                verdict(last),
                last.tier if each.caught else "",
                "" if each.items is None else each.items,
                f"{last.seconds:.0f}",
                peers,
            )
        )


def verdict(trial: Trial) -> str:
    """The first of its verdicts, by whose metric, and how many gates are red beside it."""
    if trial.refused:
        return "refused"
    order = list(Verdict)
    red = sorted(
        trial.red.items(), key=lambda item: (order.index(Verdict(item[1])), not item[0].startswith(BEFORE))
    )
    if not red:
        return "**missed**"
    metric, first = red[0]
    others = f" and {len(red) - 1} more" if len(red) > 1 else ""
    return f"`{first}` {metric}{others}"


@dataclass(frozen=True)
class Alarms:
    """Runs in which nothing was wrong, each after the accepted run of its spec.

    Attributes:
        reruns: of the same artifact, in other batches and orders.
        early: the same, stopping as soon as they are decided; only ours does.
        recalibrations: with other samples.
    """

    reruns: Sequence[tuple[Trial, Trial]]
    early: Sequence[tuple[Trial, Trial]]
    recalibrations: Sequence[tuple[Trial, Trial]]


def counted(rule: Rule | None, runs: Sequence[tuple[Trial, Trial]]) -> int:
    """How many sound runs a rule fails, or ours where there is none; those of specs it always fails count."""
    if rule is None:
        return sum(now.caught for _, now in runs)
    return sum(rule.red(Case(now.reference, old.candidate, now.candidate)) for old, now in runs)


def quiet(rule: Rule, alarms: Alarms) -> bool:
    """Whether a rule cries wolf seldom enough to be taken seriously."""
    runs = [*alarms.reruns, *alarms.recalibrations]
    return counted(rule, runs) < QUIET * len(runs)


def sums_table(rows: Sequence[Row], alarms: Alarms) -> Iterator[str]:
    """A row a rule, ours first."""
    large, small = (
        [each for each in rows if each.change.large],
        [each for each in rows if not each.change.large],
    )
    specs = {each.fault.spec: each.accepted for each in rows}
    yield from heads(
        (
            "rule",
            f"caught, of {len(rows)}",
            f"of {len(large)} large ones",
            f"of {len(small)} below",
            f"false alarms in {len(alarms.reruns)} reruns",
            f"in {len(alarms.early)} that stop early",
            f"in {len(alarms.recalibrations)} recalibrations",
            f"sound specs it fails, of {len(specs)}",
            "items",
        )
    )
    parts = (rows, large, small)
    found = [sum(each.caught for each in part) for part in parts]
    taken = [each.items for each in rows if each.items is not None]
    alarmed = [counted(None, runs) for runs in (alarms.reruns, alarms.early, alarms.recalibrations)]
    failed = sum(sound.caught for sound in specs.values())
    median = f"{statistics.median(taken):g} (median)" if taken else ""
    yield row(("**quantcheck**", *found, *alarmed, failed, median))
    for rule in RULES:
        found = [sum(each.caught_by(rule) for each in part) for part in parts]
        alarmed = [counted(rule, alarms.reruns), "", counted(rule, alarms.recalibrations)]
        failed = sum(fails_sound(rule, sound) for sound in specs.values())
        yield row((rule.name, *found, *alarmed, failed, _all_items(rule, specs)))
    yield ""
    windows, answers = (np.concatenate([[0.0], *_moved(alarms.reruns, kind)]) for kind in ("ppl", "acc"))
    yield (
        f"In the {len(alarms.reruns)} reruns of all items a window's mean NLL moved by {windows.max():.1g} "
        f"nat at most, in {int((windows > 0).sum())} of {windows.size - 1} windows at all, and "
        f"{int(answers.sum())} of {answers.size - 1} answers turned."
    )


def _moved(reruns: Sequence[tuple[Trial, Trial]], kind: str) -> Iterator[NDArray[np.float64]]:
    """How far each item moved from the accepted run, one metric after the other."""
    for accepted, again in reruns:
        for metric, now in again.candidate.items():
            if metric.startswith(f"{kind}/"):
                yield np.abs(now.outcomes - accepted.candidate[metric].outcomes)


def rules_table() -> Iterator[str]:
    """A row a rule: whose it is."""
    yield from heads(("rule", "whose it is"))
    yield from (row((rule.name, rule.source)) for rule in RULES)


def misses(rows: Sequence[Row], alarms: Alarms) -> Iterator[str]:
    """What ours misses, and who does not."""
    missed = [each for each in rows if not each.caught]
    yield f"Missed by every gate at every tier: {_names(missed) or 'none'}."
    trusted = [rule for rule in RULES if quiet(rule, alarms)]
    ahead = [each for each in missed if any(each.caught_by(rule) for rule in trusted)]
    yield ""
    yield (
        f"Of these, caught by a rule with less than {QUIET:.0%} of false alarms "
        f"({', '.join(rule.name for rule in trusted) or 'there is none'}): {_names(ahead) or 'none'}."
    )


def _all_items(rule: Rule, specs: Mapping[str, Trial]) -> int:
    sound = next(iter(specs.values()))
    kind = (
        "ppl/"
        if rule.red.__name__ in {"below_twenty", "within_one_percent", "blocks_likelihood"}
        else "acc/pooled"
    )
    return sum(measured.n for metric, measured in sound.candidate.items() if metric.startswith(kind))


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(f"`{each.fault.name}`" for each in rows)


def _mean(trial: Trial, metric: str) -> float:
    measured = trial.candidate.get(metric)
    return math.nan if measured is None else measured.mean


def _signed(number: float, digits: int, unit: str) -> str:
    if not math.isfinite(number):
        return "" if math.isnan(number) else "beyond any"
    return f"{number:+.{digits}f}{unit}" if abs(number) < 1e4 else f"{number:+.1e}{unit}"
