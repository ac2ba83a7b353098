r"""How many windows a verdict takes, and how often stopping early errs: on real outcomes of planted faults.

Real models are quantized, altered in every way of `benchmarks.planted`, and measured once, window by window;
the outcomes are kept, so that a second run takes seconds. Then each case is judged in many random orders by
the rule of the gates (`quantcheck.stopping`), with the margins of the policy and the levels of one gate, and
of one of a hundred. A case is *beyond the margin* if its mean over all windows is: that is what the drift is
about, so every answer is right or wrong.

    python -m benchmarks.early_stopping --into docs/statistics.md --stories DATA/models/stories260K \
        --text DATA/data/tinystories/train_head.txt --calibration DATA/data/tinystories/valid_sample.txt
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.planted import Bench, Outcomes, faults
from benchmarks.timing import heads, publish, row
from quantcheck.gate import tested
from quantcheck.measurement import KINDS, measurement
from quantcheck.metrics.catalog import builtin_calibration, plan_metrics
from quantcheck.metrics.text import BATCH_TOKENS, ReferenceOutputs
from quantcheck.models.load import load_model
from quantcheck.models.text import TextSource, calibration_windows, evaluation_windows
from quantcheck.options import DEFAULT_SEED
from quantcheck.outcomes import pack, tolerance, unpack
from quantcheck.policy import Policy, read_policy
from quantcheck.spec import ModelSpec
from quantcheck.statistics.bound import ALARM, ALPHA, Answer
from quantcheck.statistics.means import means
from quantcheck.stopping import DRIFT_ALARM, DRIFT_ALPHA, Known, Stop, drift_limits, stop

WINDOWS = 128
LARGE = math.log(1.05)
BUILTIN, STORIES = "builtin-llama", "stories260K"
BASES = (
    (STORIES, "rtn-w4-g32"),
    (STORIES, "gptq-w4-g32"),
    (STORIES, "rtn-w8-g32"),
    (BUILTIN, "gptq-w4-g128"),
    (BUILTIN, "rtn-w4-g128"),
)
PPL, METRICS = "ppl", ("ppl", "kld", "top1")
BATCHES, BFLOAT16 = "the same artifact, other batches", "the same artifact, evaluated in bfloat16"


@dataclass(frozen=True, eq=False)
class Base:
    """A quantized model and all that was made of it, measured.

    Attributes:
        name: model and spec.
        spec: of the policy's margins.
        documents: of each window.
        reference: the full-precision model's outcomes.
        accepted: those of the sound quantized model.
        cases: those of each fault and of each honest change, by name.
    """

    name: str
    spec: str
    documents: NDArray[np.int64]
    reference: Outcomes
    accepted: Outcomes
    cases: Mapping[str, Outcomes]


def load_bench(model: str, options: argparse.Namespace) -> Bench:
    """Load a model with 128 windows of its text and disjoint draws of calibration windows."""
    if model == BUILTIN:
        loaded = load_model(ModelSpec.parse(model), device="cpu")
        texts = {text.source.name: text.source for text in plan_metrics(loaded.spec, "full").texts}
        text, calibration = replace(texts["encyclopedia"], window=256), builtin_calibration("full")
    else:
        loaded = load_model(ModelSpec.parse(f"{model}={options.stories}"), device="cpu")
        read = partial(TextSource, separator="<|endoftext|>", bos="document")
        text, calibration = read("text", options.text), read("calibration", options.calibration, windows=30)
    windows = evaluation_windows(replace(text, windows=WINDOWS), loaded.tokenizer, loaded.context_length)
    fed = calibration_windows(calibration, loaded.tokenizer, loaded.context_length)
    draws = torch.from_numpy(fed.inputs.copy()).chunk(4 if model == BUILTIN else 3)
    return Bench(loaded, windows, tuple(draws), ReferenceOutputs(loaded.model))


def measured(bench: Bench, spec: str) -> Iterator[tuple[str, Outcomes]]:
    """The outcomes of the reference, the sound model, honest recalibrations and all faults, by name."""
    sound = bench.quantized(spec)
    yield "reference", bench.outcomes(None)
    yield "accepted", bench.outcomes(sound)
    yield BATCHES, bench.outcomes(sound, batch_tokens=BATCH_TOKENS // 2)
    yield BFLOAT16, bench.outcomes(sound, dtype=torch.bfloat16)
    if spec.startswith("gptq"):
        for draw in range(1, len(bench.calibrations)):
            yield f"recalibrated {draw}", bench.outcomes(bench.quantized(spec, draw))
    for fault in faults(bench, spec):
        yield fault.name, bench.outcomes(fault.plant(sound))


def load_base(model: str, spec: str, options: argparse.Namespace) -> Base:
    """The outcomes of one base: from the folder, or measured and kept there."""
    path = options.outcomes / f"{model}-{spec}.npz"
    if not path.is_file():
        bench = load_bench(model, options)
        made = {
            f"{name}|{metric}": values
            for name, outcomes in measured(bench, spec)
            for metric, values in outcomes.items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, documents=bench.windows.documents, **made)
    with np.load(path) as stored:
        by_name: dict[str, Outcomes] = {}
        for key in stored.files:
            name, _, metric = key.partition("|")
            if metric:
                by_name.setdefault(name, {})[metric] = stored[key]
        documents = stored["documents"]
    reference, accepted = by_name.pop("reference"), by_name.pop("accepted")
    return Base(f"{model} {spec}", spec, documents, reference, accepted, by_name)


def gate(base: Base, policy: Policy, alarm: float, metric: str = PPL) -> Known:
    """What the gate of a metric knows before its first window."""
    kind, bounds = KINDS[metric], policy.bounds(base.spec, f"{metric}/text")
    packed = measurement(f"{metric}/text", base.accepted[metric], "", "", 1)
    text = pack(packed)
    accepted = unpack(text, packed.n, packed.mean)
    return Known(
        kind,
        None if kind.relative else base.reference[metric],
        accepted,
        kind.rounding + tolerance(text, accepted, packed.mean),
        base.documents,
        bounds.floor,
        bounds.drift,
        alarm,
    )


@dataclass(frozen=True)
class Replay:
    """How one case went in many orders.

    Attributes:
        worse: log of the perplexity over the accepted one, over all windows.
        beyond: whether the test of all windows is red: beyond the drift margin, or worse than the floor.
        taken: windows until the verdict, one entry an order.
        red: share of orders in which it was red.
        unchanged: share of them in which the model counted as unchanged.
    """

    worse: float
    beyond: bool
    taken: NDArray[np.int64]
    red: float
    unchanged: float


def replay(base: Base, case: Outcomes, rules: Sequence[Stop], metric: str) -> Replay:
    """Judge one case in the order of every rule."""
    known, outcomes = rules[0].known, case[metric]
    moved = known.worse(outcomes, known.accepted)
    beyond = float(moved.mean()) > known.drift
    if known.floor is not None:
        floor = tested(means(known.worse(outcomes, known.origin), known.clusters), known.floor, known.alarm)
        beyond |= floor.answer is Answer.WORSE
    found = [rule.answer(outcomes[rule.order]) for rule in rules]
    red = [each is not None and Answer.WORSE in {each.drift, each.floor} for each in found]
    return Replay(
        float((case[PPL] - base.accepted[PPL]).mean()),
        beyond,
        np.array([outcomes.size if each is None else each.taken for each in found]),
        float(np.mean(red)),
        float(np.mean([each is not None and each.unchanged for each in found])),
    )


def spread(found: Sequence[Replay]) -> str:
    """Median and 95th percentile of the windows taken."""
    if not found:
        return "-"
    taken = np.concatenate([each.taken for each in found])
    return f"{np.median(taken):.0f}, {np.quantile(taken, 0.95):.0f}"


def stopping(bases: Sequence[Base], policy: Policy, seeds: int) -> Iterator[str]:
    """Windows to the verdict, and wrong verdicts, by base, metric and level."""
    yield from heads(
        (
            "model and spec",
            "metric",
            "alarm",
            "cases, beyond",
            "+5 % perplexity and more",
            "all beyond",
            "within",
            "red though within",
            "green though beyond",
        )
    )
    for metric in METRICS:
        for alarm in (ALARM, ALARM / 100):
            every: list[Replay] = []
            for base in bases:
                known = gate(base, policy, alarm, metric)
                rules = [stop(known, DEFAULT_SEED + seed) for seed in range(seeds)]
                cases = {name: case for name, case in base.cases.items() if name != BATCHES}
                found = [replay(base, case, rules, metric) for case in cases.values()]
                every += found
                yield told(base.name, metric, alarm, found)
            yield told("**all**", metric, alarm, every)


def told(name: str, metric: str, alarm: float, found: Sequence[Replay]) -> str:
    """One row of the table."""
    beyond, within = ([each for each in found if each.beyond is side] for side in (True, False))
    large = [each for each in beyond if each.worse >= LARGE]
    wrong = [np.mean([each.red for each in within]), 1 - np.mean([each.red for each in beyond])]
    counts = f"{len(found)}, {len(beyond)}"
    figures = spread(large), spread(beyond), spread(within), *(f"{rate:.2%}" for rate in wrong)
    return row((name, metric, f"{alarm:.2%}", counts, *figures))


def unchanged(bases: Sequence[Base], policy: Policy, seeds: int) -> Iterator[str]:
    """Models that did not change, measured again: how many windows, and how often red."""
    yield from heads(("model and spec", "measured again", "windows", "unchanged", "red"))
    for base in bases:
        for name, case in (("to the last bit", base.accepted), ("in other batches", base.cases[BATCHES])):
            found = []
            for metric in METRICS:
                known = gate(base, policy, ALARM, metric)
                rules = [stop(known, DEFAULT_SEED + seed) for seed in range(seeds)]
                found.append(replay(base, case, rules, metric))
            shares = (np.mean([getattr(each, what) for each in found]) for what in ("unchanged", "red"))
            yield row((base.name, name, spread(found), *(f"{share:.1%}" for share in shares)))


def on_the_margin(bases: Sequence[Base], policy: Policy, seeds: int) -> Iterator[str]:
    """Errors of the drift where they are most likely: every case moved to just within and beyond it."""
    yield from heads(
        (
            "metric",
            "moved from",
            "cases",
            f"false alarms, at most {DRIFT_ALARM * ALARM:.2%}: mean; worst case",
            f"false passes, at most {DRIFT_ALPHA * ALPHA:.2%}: mean; worst case",
        )
    )
    for metric in METRICS:
        rates: dict[str, list[list[float]]] = {place: [] for place in ("within", "1 to 3 margins", "3 to 9")}
        for base in bases:
            # No window is near enough to be equal: the bets alone are tried.
            known = gate(base, policy, ALARM, metric)
            known = replace(known, floor=None, allowed=np.full(base.documents.size, -1.0))
            rules = [stop(known, DEFAULT_SEED + seed) for seed in range(seeds)]
            for case in base.cases.values():
                moved = known.worse(case[metric], known.accepted)
                away = abs(float(moved.mean())) / known.drift
                if float(moved.std()) > 0 and away < 9:
                    place = list(rates)[int(away > 1) + int(away > 3)]
                    rates[place].append(errors(known, moved - moved.mean(), rules))
        for place, found in rates.items():
            figures = np.array(found)
            cells = (f"{own.mean():.2%}; {own.max():.1%}" for own in figures.T)
            yield row((metric, place, len(figures), *cells))


def errors(known: Known, moves: NDArray[np.float64], rules: Sequence[Stop]) -> list[float]:
    """Rates of false alarms and of false passes of moves around the drift margin."""
    rates = []
    for side, wrong in ((-1e-9, Answer.WORSE), (1e-9, Answer.NOT_WORSE)):
        worse = moves + known.drift + side
        outcomes = known.accepted + (-worse if known.kind.higher_is_better else worse)
        found = [rule.answer(outcomes[rule.order]) for rule in rules]
        rates.append(float(np.mean([each is not None and each.drift is wrong for each in found])))
    return rates


def reach(bases: Sequence[Base], policy: Policy, seeds: int) -> Iterator[str]:
    """How far windows of changes within the margin go."""
    yield from heads(
        (
            "model and spec",
            "metric",
            "changes within",
            "best window, margins",
            "worst window",
            "windows beyond",
        )
    )
    for base in bases:
        for metric in METRICS:
            known = gate(base, policy, ALARM, metric)
            low, high = drift_limits(known)
            moved = [known.worse(case[metric], known.accepted) for case in base.cases.values()]
            within = np.array([each for each in moved if abs(each.mean()) <= known.drift])
            farthest = (f"{each / known.drift:+.1f}" for each in (within.min(), within.max()))
            beyond = f"{np.mean((within < low) | (within > high)):.2%}"
            yield row((base.name, metric, len(within), *farthest, beyond))


TABLES: dict[str, Callable[[Sequence[Base], Policy, int], Iterator[str]]] = {
    "stopping": stopping,
    "unchanged": unchanged,
    "on-the-margin": on_the_margin,
    "reach": reach,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or write them into a document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--into", type=Path, help="document with a place for every table")
    parser.add_argument("--outcomes", type=Path, default=Path("build/early_stopping"), help="what is kept")
    parser.add_argument("--stories", type=Path, help="stories260K; its rows are left out without")
    parser.add_argument("--text", type=Path, help="its evaluation text")
    parser.add_argument("--calibration", type=Path, help="its calibration text")
    parser.add_argument("--seeds", type=int, default=200, help="orders of the items")
    options = parser.parse_args(arguments)
    bases = []
    for model, spec in BASES:
        if model == STORIES and options.stories is None:
            print(f"{model} {spec}: left out, --stories names no checkpoint")
            continue
        bases.append(load_base(model, spec, options))
    policy = read_policy(Path("baselines/policy.toml"))
    for name, table in TABLES.items():
        publish(list(table(bases, policy, options.seeds)), name, options.into)


if __name__ == "__main__":
    main()
