"""Show how a built-in model degrades: `python -m quantcheck.models.builtin.curve MODEL_DIR`.

Prints the acceptance table (what a model worth breaking has to show), then the whole curve: RTN and GPTQ,
per channel and in groups of 128, 8 to 1 bits, perplexity on each register and accuracy of each family. Rows
that decide an accuracy criterion use every item, the others the first `--items` of each family.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from quantcheck.methods.artifact import quantize
from quantcheck.metrics.catalog import builtin_calibration, plan_metrics
from quantcheck.metrics.measure import Workload, measure, prepare
from quantcheck.models.builtin import FAMILIES, REGISTERS
from quantcheck.models.load import LoadedModel, load_model
from quantcheck.models.text import Windows, calibration_windows
from quantcheck.spec import BUILTIN, ModelSpec, QuantSpec

REFERENCE = "full precision"
TWO_WAY = ("world_piqa", "world_winogrande")
MMLU = "world_mmlu"
_ALL_ITEMS = (REFERENCE, "rtn-w2")

Row = dict[str, float]
"""Metric name (`ppl/web`, `acc/world_piqa`) -> value."""


@dataclass(frozen=True)
class Criterion:
    """One thing a model worth breaking has to show, and what this one shows."""

    text: str
    figure: str
    met: bool


def specs() -> list[str]:
    """List the ids of the curve: 8 to 1 bits of both methods, per channel, then in groups of 128."""
    return [f"{m}-w{b}{g}" for g in ("", "-g128") for m in ("rtn", "gptq") for b in range(8, 0, -1)]


def measure_curve(loaded: LoadedModel, ids: list[str], items: int, windows: int) -> Iterator[tuple[str, Row]]:
    """Yield the row of full precision, then of each spec id, as they are measured."""
    calibration = torch.from_numpy(_calibration(loaded).ids)
    for name in (REFERENCE, *ids):
        model = loaded.fresh()
        if name != REFERENCE:
            spec = QuantSpec.parse(name)
            artifact = quantize(model, spec, scale_dtype=torch.float16, calibration=calibration)
            model = loaded.fresh()
            artifact.apply(model)
        workload = _workload(loaded, None if name in _ALL_ITEMS else items, windows)
        yield name, {metric: m.value for metric, m in measure(model, workload).items()}


def criteria(rows: dict[str, Row], unigram: Row) -> list[Criterion]:
    """Judge a curve by the criteria of a model worth breaking."""
    reference = rows[REFERENCE]
    found = [_at_least(f"acc/{family}", reference, _needed(family)) for family in FAMILIES]
    for register in REGISTERS:
        share = reference[f"ppl/{register}"] / unigram[register]
        found.append(
            Criterion(f"ppl/{register} under 1/4 of a unigram model's", f"{share:.3f}", share < 0.25)
        )
    for register in REGISTERS:
        found += _degradation(f"ppl/{register}", rows)
    for family in FAMILIES:
        above = rows["rtn-w2"][f"acc/{family}"] - _chance(family)
        found.append(
            Criterion(
                f"rtn-w2 acc/{family} at most 8 points above chance", f"{100 * above:+.1f}", above <= 0.08
            )
        )
    return found


def unigram_perplexity(windows: Windows) -> float:
    """Compute the perplexity of the best unigram model of these very tokens: exp of their entropy."""
    counts = np.unique_counts(windows.inputs).counts
    shares = counts / counts.sum()
    return math.exp(-float((shares * np.log(shares)).sum()))


def _degradation(metric: str, rows: dict[str, Row]) -> list[Criterion]:
    """Judge one register: the bounds at 8, 4, 3 and 2 bits, monotony, and what GPTQ recovers at 3 bits."""
    ratio = {bits: rows[f"rtn-w{bits}"][metric] / rows[REFERENCE][metric] for bits in range(2, 9)}
    gptq = rows["gptq-w3"][metric] / rows[REFERENCE][metric]
    closed = 1 - math.log(gptq) / math.log(ratio[3])
    rises = min(ratio[bits] / ratio[bits + 1] for bits in range(2, 8))
    return [
        Criterion(f"{metric}: 8 bits within 0.5 %", _percent(ratio[8]), abs(ratio[8] - 1) <= 0.005),
        Criterion(f"{metric}: monotone from 8 to 2 bits (0.1 % slack)", _percent(rises), rises >= 0.999),
        Criterion(f"{metric}: 4 bits +2 to +15 %", _percent(ratio[4]), 1.02 <= ratio[4] <= 1.15),
        Criterion(f"{metric}: 3 bits at least +30 %", _percent(ratio[3]), ratio[3] >= 1.3),
        Criterion(f"{metric}: 2 bits at least 5 times", f"{ratio[2]:.1f}", ratio[2] >= 5),
        Criterion(f"{metric}: GPTQ closes half of RTN's log gap at 3 bits", f"{closed:.0%}", closed >= 0.5),
    ]


def _at_least(metric: str, row: Row, bound: float) -> Criterion:
    return Criterion(f"{metric} at least {bound:.0%}", f"{row[metric]:.1%}", row[metric] >= bound)


def _needed(family: str) -> float:
    return 0.5 if family == MMLU else 0.85 if family in TWO_WAY else 0.8


def _chance(family: str) -> float:
    return 0.5 if family in TWO_WAY else 0.25


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.2f} %"


def _calibration(loaded: LoadedModel) -> Windows:
    return calibration_windows(builtin_calibration("smoke"), loaded.tokenizer, loaded.context_length)


def _workload(loaded: LoadedModel, items: int | None, windows: int) -> Workload:
    plan = plan_metrics(ModelSpec.parse(BUILTIN), "full")
    texts = tuple(replace(text, source=replace(text.source, windows=windows)) for text in plan.texts)
    tasks = replace(plan.tasks, limit=items) if plan.tasks else None
    return prepare(replace(plan, texts=texts, tasks=tasks), loaded.tokenizer, loaded.context_length)


def _print_row(name: str, row: Row) -> None:
    texts = [f"{row[f'ppl/{register}']:.4g}" for register in REGISTERS]
    accuracies = [f"{100 * row[f'acc/{family}']:.1f}" for family in FAMILIES]
    print("| " + " | ".join((name, *texts, *accuracies)) + " |", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m quantcheck.models.builtin.curve", description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument(
        "--items", type=int, default=200, help="items a family where accuracy does not decide"
    )
    parser.add_argument("--windows", type=int, default=64, help="windows a register")
    args = parser.parse_args()
    loaded = load_model(ModelSpec.parse(f"model={args.model}"), device="cpu")
    workload = _workload(loaded, None, args.windows)
    unigram = {windows.name: unigram_perplexity(windows) for windows in workload.windows}
    began, rows = time.monotonic(), dict[str, Row]()
    print("| | " + " | ".join((*(f"PPL {r}" for r in REGISTERS), *(f"{f} %" for f in FAMILIES))) + " |")
    print("|---" * (1 + len(REGISTERS) + len(FAMILIES)) + "|")
    for name, row in measure_curve(loaded, specs(), args.items, args.windows):
        rows[name] = row
        _print_row(name, row)
        left = (time.monotonic() - began) / len(rows) * (len(specs()) + 1 - len(rows))
        print(f"{len(rows)}/{len(specs()) + 1} rows, {left / 60:.0f} min left", file=sys.stderr, flush=True)
    print("\n| criterion | figure | |\n|---|---|---|")
    for criterion in criteria(rows, unigram):
        print(f"| {criterion.text} | {criterion.figure} | {'met' if criterion.met else 'MISSED'} |")


if __name__ == "__main__":
    main()
