"""How far figures of the built-in model move though nothing got worse, as its baselines have it.

When figures are accepted, `quantcheck.recalibration` measures their noise: in other batches, and where a
method is calibrated, with other samples. Here it is laid out spec by spec, nothing is measured::

    python -m benchmarks.noise --into docs/statistics.md
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.timing import heads, publish, row
from quantcheck.artifact_facts import GAINS, OUTPUTS, ROWS, WEIGHTS
from quantcheck.baseline import BaselineFile, Figure, read_baseline
from quantcheck.judging.drift import HONEST
from quantcheck.statistics.band import reach

BASELINES = Path(__file__).resolve().parent.parent / "baselines"
MODEL, DEVICE, TIER = "builtin-llama", "cpu", "smoke"
KINDS = ("ppl", "kld", "top1", "acc")
LAYERS = (WEIGHTS, GAINS, ROWS, OUTPUTS)


def accepted() -> Iterator[BaselineFile]:
    """The baselines of the built-in model, by spec."""
    for path in sorted((BASELINES / MODEL / DEVICE).glob("*.json")):
        file = read_baseline([BASELINES], MODEL, DEVICE, path.stem)
        assert file is not None
        yield file


def noises() -> Iterator[str]:
    """A row a spec: of a kind's figures the one that moves most; of layers what bands allow."""
    yield from heads(
        (
            "spec",
            "one item, other batches and sums",
            *(f"{kind}, recalibrated" for kind in KINDS),
            *(f"{metric}: band" for metric in LAYERS),
        )
    )
    for file in accepted():
        figures = {metric: figure for metric in file.metrics(TIER) if (figure := file.get(TIER, metric))}
        if not any(figure.spread is not None for figure in figures.values()):
            continue
        yield row(
            (
                f"`{file.spec}`",
                f"{max(figure.noise for figure in figures.values()):.1g}",
                *(f"{_spread(figures, kind):.2g}" for kind in KINDS),
                *(_band(figures.get(metric)) for metric in LAYERS),
            )
        )


def _spread(figures: Mapping[str, Figure], kind: str) -> float:
    """The largest standard deviation of one kind's means; NaN where none is known."""
    found = (figure.spread for metric, figure in figures.items() if metric.startswith(f"{kind}/"))
    return max((spread for spread in found if isinstance(spread, float)), default=math.nan)


def _band(figure: Figure | None) -> str:
    """How far an honest recalibration takes a layer's error, or its gain: the median and widest."""
    if figure is None or figure.spread is None:
        return ""
    bands = np.expm1(reach(figure.spread, figure.freedom, HONEST / (2 * figure.n)))
    return f"{np.median(bands):.2g}; {np.max(bands):.2g}"


def main() -> None:
    """Print the table, or put it into a document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise", description=__doc__)
    parser.add_argument("--into", type=Path, help="document to fill, at noise")
    publish(noises(), "noise", parser.parse_args().into)


if __name__ == "__main__":
    main()
