"""How far perplexity moves when a method is calibrated anew: the run-to-run noise of a published figure.

The built-in model is quantized with disjoint draws of calibration windows, another seed each, and every
result is measured on the same windows. What moves grows with what quantizing costs, so the noise is told as a
share: the standard deviation of the excess over full precision, in nats of mean NLL, over its mean.

    python -m benchmarks.recalibration --into docs/published.md
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import heads, publish, row
from quantcheck.methods.artifact import quantize
from quantcheck.metrics.catalog import builtin_calibration, plan_metrics
from quantcheck.metrics.text import measure_text
from quantcheck.models.load import LoadedModel, load_model
from quantcheck.models.text import Windows, calibration_windows, evaluation_windows
from quantcheck.spec import ModelSpec, QuantSpec

TEXT = "encyclopedia"
SPECS = (
    *(f"gptq-w{bits}-g128" for bits in (4, 3, 2)),
    *(f"awq-w{bits}-g128" for bits in (4, 3, 2)),
    *("slimllm-w3-g128", "slimllm-w2-g128", "quip-w3", "quip-w2", "pbllm-w1.7-g128", "billm-w1.1-g128"),
)


def draws(loaded: LoadedModel, count: int) -> list[Tensor]:
    """The calibration windows of the full tier, in ``count`` equal parts that share none."""
    windows = calibration_windows(builtin_calibration("full"), loaded.tokenizer, loaded.context_length)
    return list(torch.from_numpy(windows.inputs.copy()).chunk(count))


def excesses(loaded: LoadedModel, spec: QuantSpec, windows: Windows, parts: Sequence[Tensor]) -> list[float]:
    """Mean NLL above full precision, in nats, once for each draw of calibration windows."""
    reference = _mean(loaded.model, windows)
    found = []
    for seed, part in enumerate(parts):
        artifact = quantize(loaded.fresh(), spec, scale_dtype=torch.float16, calibration=part, seed=seed)
        found.append(_mean(artifact.apply(loaded.fresh()), windows) - reference)
    return found


def table(loaded: LoadedModel, specs: Sequence[str], count: int, limit: int) -> Iterator[str]:
    """A row a spec; a last one with the root mean square and the largest of the shares."""
    text = next(text.source for text in plan_metrics(loaded.spec, "full").texts if text.source.name == TEXT)
    windows = evaluation_windows(replace(text, windows=limit), loaded.tokenizer, loaded.context_length)
    parts = draws(loaded, count)
    yield from heads(("spec", "excess, nat", "sd, nat", "share"))
    shares = []
    for spec in specs:
        found = excesses(loaded, QuantSpec.parse(spec), windows, parts)
        mean, deviation = statistics.mean(found), statistics.stdev(found)
        shares.append(deviation / mean)
        yield row((f"`{spec}`", f"{mean:.4f}", f"{deviation:.4f}", f"{shares[-1]:.3f}"))
    pooled = statistics.fmean(share * share for share in shares) ** 0.5
    yield row(("root mean square; largest", "", "", f"{pooled:.3f}; {max(shares):.3f}"))


def main() -> None:
    """Print the table, or put it into a document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recalibration", description=__doc__)
    parser.add_argument("--specs", default=",".join(SPECS), help="spec ids, comma between")
    parser.add_argument("--draws", type=int, default=4, help="disjoint sets of calibration windows")
    parser.add_argument("--windows", type=int, default=32, help="windows that are measured on")
    parser.add_argument("--into", type=Path, help="document to fill, at recalibration")
    options = parser.parse_args()
    loaded = load_model(ModelSpec.parse("builtin-llama"), device="cpu")
    lines = list(table(loaded, options.specs.split(","), options.draws, options.windows))
    publish(lines, "recalibration", options.into)


def _mean(model: torch.nn.Module, windows: Windows) -> float:
    return measure_text(model, windows, ["ppl"])[f"ppl/{windows.name}"].mean


if __name__ == "__main__":
    main()
