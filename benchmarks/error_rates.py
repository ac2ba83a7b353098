"""How often the tests of verdicts err, and what they see: the tables of docs/statistics.md.

Sizes of the accuracy test are exact: the rejected outcomes are found, and their trinomial probabilities
summed, for many shares of flips, of which the worst is shown. All else is simulated with a fixed seed.

    python -m benchmarks.error_rates --into docs/statistics.md
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binom

from benchmarks.timing import heads, publish, row
from quantcheck.statistics.accuracy import Flips, flips
from quantcheck.statistics.bound import ALARM, ALPHA, Answer
from quantcheck.statistics.means import means
from quantcheck.statistics.score import p_drop_above, score
from quantcheck.statistics.sequential import Betting, Course, limits

SEED = 1
SHARE = ALARM / 100
Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]


def rejected(n: int, count: int, reject: Callable[[int], bool]) -> int:
    """The fewest harmful flips beside ``count`` beneficial ones that are rejected; n - count + 1 if none."""
    low, high = 0, n - count + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reject(middle) else (middle + 1, high)
    return low


def size(n: int, margin: float, reject: Callable[[int, int], bool]) -> float:
    """Largest probability that a drop on the margin is rejected, over beneficial shares up to 10 %."""
    counts = np.arange(min(n, math.ceil(0.1 * n + 6 * math.sqrt(0.1 * n))) + 1)
    least = np.array([rejected(n, int(c), lambda b, c=c: reject(b, int(c))) for c in counts])
    shares = np.concatenate([[0.0], np.geomspace(1e-4, 0.1, 60)])[:, None]
    beyond = binom.sf(least - 1, n - counts, (shares + margin) / (1 - shares))
    return float((binom.pmf(counts, n, shares) * beyond).sum(axis=1).max())


def sizes() -> Iterator[str]:
    """Accuracy: rate of false claims over the level, for the score test and the exact one."""
    yield from heads(("n", "margin", "level", "Tango's normal approximation / level", "exact test / level"))
    for n in (50, 200, 1000):
        for margin in (0.0, 0.01, 0.02):
            for level in (ALPHA, ALARM, SHARE):
                z = -float(ndtri(level))
                normal = size(n, margin, lambda b, c, n=n, m=margin, z=z: float(score(b, c, n, m)) >= z)
                exact = size(n, margin, lambda b, c, n=n, m=margin, p=level: p_drop_above(b, c, n, m) <= p)
                yield row((n, margin, f"{level:g}", f"{normal / level:.2f}", f"{exact / level:.2f}"))


def clustered() -> Iterator[str]:
    """Accuracy with items that flip together: false claims at 5 %, with and without clusters."""
    yield from heads(
        ("passages", "items each", "flip alike", "alarms", "passes", "alarms, items as independent")
    )
    chances, margin, runs = (0.08, 0.03, 0.89), 0.05, 2000
    for groups, items, alike in ((100, 4, 1.0), (100, 4, 0.25), (50, 10, 0.5), (20, 20, 0.25), (200, 5, 0.0)):
        random = np.random.default_rng(SEED)
        labels = np.repeat(np.arange(groups), items)
        rates = np.zeros(3)
        for _ in range(runs):
            whole = random.choice([1, -1, 0], p=chances, size=groups)[labels]
            own = random.choice([1, -1, 0], p=chances, size=labels.size)
            worse = np.where(random.uniform(size=labels.size) < math.sqrt(alike), whole, own)
            found = flips(worse == 1, worse == -1, labels)
            single = replace(found, effect=1.0)
            claims = found.p_worse(margin), found.p_not_worse(margin), single.p_worse(margin)
            rates += np.array(claims) <= ALPHA
        yield row((groups, items, f"{alike:g}", *(f"{rate:.1%}" for rate in rates / runs)))


def powers() -> Iterator[str]:
    """Accuracy: the smallest drops that are seen, and how often an unchanged accuracy passes."""
    yield from heads(
        (
            "n",
            "items that flip",
            "smallest drop seen, alarm 1 %",
            "alarm 0.01 %",
            "no drop: NOT_WORSE, margin 1 point",
            "2 points",
        )
    )
    random = np.random.default_rng(SEED)
    for n in (200, 1000, 10042):
        for share in (0.0, 0.02, 0.05, 0.1):
            seen = [
                Flips(round(n * share / 2), round(n * share / 2), n, n).mde(0.01, level)
                for level in (ALARM, SHARE)
            ]
            drawn = random.multinomial(n, [share / 2, share / 2, 1 - share], 300)
            passes = [
                np.mean([Flips(int(b), int(c), n, n).p_not_worse(margin) <= ALPHA for b, c, _ in drawn])
                for margin in (0.01, 0.02)
            ]
            points = (f"{100 * drop:.2f} points" for drop in seen)
            yield row((n, f"{share:.0%}", *points, *(f"{rate:.0%}" for rate in passes)))


WINDOWS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda random, shape: random.normal(0, 1, shape), 0.0),
    "Student's t, 3 degrees": (lambda random, shape: random.standard_t(3, shape), 0.0),
    "exponential": (lambda random, shape: random.exponential(1, shape), 1.0),
    "lognormal, sigma 1/2": (lambda random, shape: random.lognormal(0, 0.5, shape), math.exp(0.125)),
    "lognormal, sigma 1": (lambda random, shape: random.lognormal(0, 1, shape), math.exp(0.5)),
}


def windows() -> Iterator[str]:
    """Means: rates of false claims at 5 %, with Student's t alone in brackets."""
    yield from heads(("windows are", "n", "false alarms (t alone)", "false passes (t alone)"))
    for name, (draw, mean) in WINDOWS.items():
        for n in (16, 128, 512):
            found = [means(values) for values in draw(np.random.default_rng(SEED), (5000, n))]
            plain = [replace(one, skew=0.0) for one in found]
            alarms, passes = (
                [np.mean([getattr(one, p)(mean) <= ALPHA for one in some]) for some in (found, plain)]
                for p in ("p_worse", "p_not_worse")
            )
            yield row((name, n, *(f"{ours:.1%} ({t:.1%})" for ours, t in (alarms, passes))))


def course(name: str, found: Course) -> str:
    """One line of the sequential table."""
    rates = (found.answers.count(answer) / len(found.answers) for answer in Answer)
    taken = f"{np.median(found.taken):.0f}", f"{np.quantile(found.taken, 0.95):.0f}"
    return row((name, *(f"{rate:.1%}" for rate in rates), *taken))


def sequences() -> Iterator[str]:
    """Sequential tests: answers and items taken in 2,000 runs each, alarm 1 % and false pass 5 %."""
    yield from heads(("outcomes", *(answer.name for answer in Answer), "items, median", "95 %"))
    random, runs = np.random.default_rng(SEED), 2000
    for harmful, beneficial in ((0.04, 0.02), (0.02, 0.02), (0.0, 0.0), (0.07, 0.02), (0.12, 0.02)):
        chances = (harmful, beneficial, 1 - harmful - beneficial)
        drawn = random.choice([1.0, -1.0, 0.0], p=chances, size=(runs, 1000))
        name = f"1,000 items, {harmful:.0%} lost, {beneficial:.0%} won, margin 2 points"
        yield course(name, Betting(0.02).course(drawn))
    margin, noise = math.log(1.01), 0.004
    betting = Betting(margin, *limits(random.normal(0, noise, 128), margin))
    for level in (ALARM, SHARE):
        gate = replace(betting, alarm=level)
        for percent, spread in (
            (0, noise),
            (1, noise),
            (1, 0.02),
            (2, 0.01),
            (5, 0.01),
            (5, 0.03),
            (10, 0.03),
        ):
            drawn = math.log1p(percent / 100) + random.normal(0, spread, (runs, 128))
            name = f"128 windows, perplexity +{percent} %, sd {spread:g} nat, margin 1 %, alarm {level:.2%}"
            yield course(name, gate.course(drawn))


TABLES = {
    "sizes": sizes,
    "clusters": clustered,
    "powers": powers,
    "windows": windows,
    "sequences": sequences,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or write them into a document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--into", type=Path, help="document with a place for every table")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    asked = parser.parse_args(arguments)
    for name in asked.tables:
        publish(list(TABLES[name]()), name, asked.into)


if __name__ == "__main__":
    main()
