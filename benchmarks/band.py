"""How often honest recalibrations lie beyond the stored band, layer by layer: the level that the band keeps.

Every calibrated spec of the built-in model that has a band is calibrated anew on other windows of the same
text, none of them those that the band was measured with, and held against its baseline as on another machine,
where no codes are demanded. Nothing is evaluated. What was found is kept, and read back when the command runs
again::

    python -m benchmarks.band --keep FOLDER --into docs/statistics.md
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest

from benchmarks.noise import BASELINES, LAYERS, TIER, accepted
from benchmarks.timing import heads, publish, row
from quantcheck.baseline import BaselineFile
from quantcheck.judging.drift import layer_margins
from quantcheck.judging.evidence import AcceptedFigure
from quantcheck.methods.artifact import inspect, quantize
from quantcheck.methods.reconstruction import compared
from quantcheck.metrics.catalog import builtin_calibration
from quantcheck.models.load import LoadedModel, load_model
from quantcheck.models.text import calibration_windows, other_calibration_windows
from quantcheck.options import DEFAULT_SEED
from quantcheck.outcomes import unpack
from quantcheck.policy import Policy, read_policy
from quantcheck.runner import FED_TOKENS
from quantcheck.spec import ModelSpec, QuantSpec

FIRST = 5
"""Draws before it are those that the band was measured with."""

Errors = dict[str, dict[str, float]]
"""Of each metric, the error of each layer or block."""


class Draws:
    """Layer errors of recalibrations, from a folder or made now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded = load_model(ModelSpec.parse("builtin-llama"), device="cpu")
        folder.mkdir(parents=True, exist_ok=True)

    def errors(self, spec: str, draw: int) -> Errors:
        """Layer errors of one spec calibrated on one draw of windows."""
        path = self.folder / f"{spec} {draw}.json"
        if not path.exists():
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            temporary.write_text(json.dumps(_errors(self.loaded, QuantSpec.parse(spec), draw)))
            os.replace(temporary, path)
        found: Errors = json.loads(path.read_text(encoding="utf-8"))
        return found


def _errors(loaded: LoadedModel, spec: QuantSpec, draw: int) -> Errors:
    text, length = builtin_calibration(TIER), loaded.context_length
    windows = other_calibration_windows(text, loaded.tokenizer, length, draw, DEFAULT_SEED)
    tokens = torch.from_numpy(windows.inputs.copy())
    artifact = quantize(
        loaded.fresh(), spec, scale_dtype=torch.float16, calibration=tokens, seed=DEFAULT_SEED
    )
    module = artifact.apply(loaded.fresh()).eval()
    fed = calibration_windows(text, loaded.tokenizer, length)
    fed = fed.first(max(1, FED_TOKENS // fed.length))
    blocks = torch.from_numpy(fed.inputs.copy())
    facts = compared(inspect(module), module, loaded.model, artifact.parameters, blocks)
    return {metric: dict(facts.errors(metric)) for metric in LAYERS}


def excess(file: BaselineFile, metric: str, errors: Mapping[str, float], policy: Policy) -> float:
    """How far the layer that is farthest out lies from its accepted error, in widths of its band."""
    figure = file.get(TIER, metric)
    assert figure is not None
    then = AcceptedFigure(figure.mean, spread=figure.spread, freedom=figure.freedom)
    margins = layer_margins(policy.bounds(file.spec, metric).drift, then, figure.n)
    before, now = unpack(figure.outcomes, figure.n, figure.mean), np.array(list(errors.values()))
    changes = np.zeros(figure.n)
    np.log(now / before, out=changes, where=now != before)
    return float((np.abs(changes) / margins).max())


def levels(draws: Draws, count: int) -> Iterator[str]:
    """A row a method: how many of its gates lie beyond their band; at the end the share of all."""
    yield from heads(("method", "specs", "gates", *(f"{metric}: beyond" for metric in LAYERS), "farthest"))
    policy = read_policy(BASELINES / "policy.toml")
    found: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    for file in accepted():
        if not _has_band(file):
            continue
        rows = found.setdefault(QuantSpec.parse(file.spec).method, {}).setdefault(file.spec, [])
        for draw in range(FIRST, FIRST + count):
            errors = draws.errors(file.spec, draw)
            rows.append(tuple(excess(file, metric, errors[metric], policy) for metric in LAYERS))
    for method, specs in found.items():
        yield row((f"`{method}`", len(specs), *_counts(np.array(list(specs.values())))))
    whole = np.array([rows for specs in found.values() for rows in specs.values()])
    beyond, gates = int((whole > 1).sum()), whole.size
    share = binomtest(beyond, gates).proportion_ci(0.95)
    yield row(("all", len(whole), *_counts(whole)))
    yield ""
    interval = f"95 % interval {share.low:.1%} to {share.high:.1%}"
    yield f"Beyond their band: {beyond} of {gates} gates, {beyond / gates:.1%} ({interval})."


def _counts(excesses: NDArray[np.float64]) -> tuple[object, ...]:
    beyond = (excesses.reshape(-1, len(LAYERS)) > 1).sum(axis=0)
    return (excesses.size, *beyond, f"{excesses.max():.2f} bands")


def _has_band(file: BaselineFile) -> bool:
    return all((figure := file.get(TIER, metric)) and figure.spread is not None for metric in LAYERS)


def main() -> None:
    """Print the table, or put it into a document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.band", description=__doc__)
    parser.add_argument("--keep", type=Path, required=True, help="folder of what was found")
    parser.add_argument("--draws", type=int, default=4, help="recalibrations of each spec")
    parser.add_argument("--into", type=Path, help="document to fill, at band")
    options = parser.parse_args()
    publish(list(levels(Draws(options.keep), options.draws)), "band", options.into)


if __name__ == "__main__":
    main()
