"""How far figures and artifacts of the built-in model move though nothing got worse, and under small faults.

Noise: what `quantcheck.recalibration.measured_noise` finds at the smoke tier, spec by spec. Faults: one layer
of an artifact is altered, and the log of its weight error and of its block's output error compared with
before; they show what a band of a few standard deviations can tell apart.

    python -m benchmarks.noise --into docs/statistics.md
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.timing import heads, publish, row
from quantcheck.cache import Cache
from quantcheck.methods import METHODS
from quantcheck.methods.artifact import Artifact, inspect
from quantcheck.methods.base import MetaValue, PackedWeight
from quantcheck.methods.reconstruction import compared
from quantcheck.metrics.catalog import builtin_calibration, plan_metrics
from quantcheck.progress import Mode, Progress
from quantcheck.recalibration import measured_noise, recalibrated_figures
from quantcheck.results import Figures
from quantcheck.runner import Runner
from quantcheck.spec import ModelSpec, QuantSpec, refusal

MODEL = ModelSpec.parse("builtin-llama")
SPECS = (
    "rtn-w4",
    "gptq-w3",
    "gptq-w4-g128",
    "awq-w4",
    "slimllm-w2-g64",
    "quip-w2",
    "billm-w1.1-g128",
    "smoothquant-w8a8",
)
KINDS = ("ppl", "kld", "top1", "acc")


def runner(cache: Path) -> Runner:
    """The built-in model at the smoke tier, on the CPU."""
    return Runner(
        Cache.open(cache),
        Progress(sys.stderr, Mode.PLAIN),
        device="cpu",
        dtype="auto",
        seed=0,
        plans={MODEL.name: plan_metrics(MODEL, "smoke")},
        calibrations={MODEL.name: builtin_calibration("smoke")},
    )


def noises(runner: Runner, specs: Sequence[str], count: int) -> Iterator[str]:
    """A row a spec: the largest of each kind's metrics, in the outcomes' unit, and spreads of log errors."""
    yield from heads(
        (
            "spec",
            *(f"{kind}: one item, mean" for kind in KINDS),
            *(f"{kind}: recalibrated, sd" for kind in KINDS),
            "log weight error: pooled sd, largest",
            "log output error: pooled sd, largest",
            "seconds",
        )
    )
    for text in specs:
        spec, began = QuantSpec.parse(text), time.perf_counter()
        runner.figures(MODEL, spec)
        found = measured_noise(runner, MODEL, spec, count)
        seconds = time.perf_counter() - began
        figures = [runner.figures(MODEL, spec), *recalibrated_figures(runner, MODEL, spec, count)]
        yield row(
            (
                f"`{text}`",
                *(f"{of(found.evaluation, kind):.2g}, {of(found.shift, kind):.2g}" for kind in KINDS),
                *(f"{of(found.recalibration, kind):.2g}" for kind in KINDS),
                spread(found.weights, [weights(each) for each in figures]),
                spread(found.outputs, [outputs(each) for each in figures]),
                f"{seconds:.0f}",
            )
        )


def of(values: dict[str, float], kind: str) -> float:
    """The largest of one kind's metrics; NaN where there is none."""
    return max((value for name, value in values.items() if name.startswith(kind)), default=math.nan)


def weights(figures: Figures) -> list[float]:
    """Log weight errors, layer by layer."""
    assert figures.facts is not None
    return [math.log(layer.weight_error or math.nan) for layer in figures.facts.layers]


def outputs(figures: Figures) -> list[float]:
    """Log output errors, block by block."""
    assert figures.facts is not None
    return [math.log(block.output_error) for block in figures.facts.blocks]


def spread(pooled: float | None, logs: Sequence[Sequence[float]]) -> str:
    """The pooled standard deviation and the largest of a layer or block."""
    if pooled is None:
        return "none"
    return f"{pooled:.2g}, {max(statistics.stdev(each) for each in zip(*logs, strict=True)):.2g}"


@dataclass(frozen=True, eq=False)
class Dense(PackedWeight):
    """A decoded weight, as it is: what faults are planted in."""

    format: ClassVar[str] = "dense"

    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def nominal_bits(self) -> float:
        """Of float32."""
        return 32.0

    def tensors(self) -> dict[str, Tensor]:
        """Return the weight."""
        return {"dense": self.weight}

    def meta(self) -> dict[str, MetaValue]:
        """Return nothing."""
        return {}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, MetaValue]) -> Dense:
        """Put the weight back."""
        return cls(tensors["dense"])

    def decode(self) -> Tensor:
        """Return the weight."""
        return self.weight

    def levels_respected(self, weight: Tensor) -> bool:
        """Respect anything."""
        return True


def step(weight: Tensor) -> float:
    """The smallest distance of two levels in the middle row's first group of 64; NaN without levels."""
    levels = weight[len(weight) // 2, :64].unique()
    return float(levels.diff().min()) if 2 <= len(levels) < 48 else math.nan


def scaled(weight: Tensor) -> Tensor:
    """All scales 2 % off."""
    return weight * 1.02


def flipped(weight: Tensor) -> Tensor:
    """One code off by one."""
    found = weight.clone()
    found[len(found) // 2, 0] += step(weight)
    return found


def shifted(weight: Tensor) -> Tensor:
    """One row's zero point off by one."""
    found = weight.clone()
    found[len(found) // 2] += step(weight)
    return found


FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "scales 2 % off": scaled,
    "one code off by one": flipped,
    "one row's zero point off by one": shifted,
}
FEWER = "one bit fewer"
BLOCK = "model.layers.2."


def faults(runner: Runner, specs: Sequence[str]) -> Iterator[str]:
    """A row a spec and fault: how log errors rise, over the seven Linears of one block in turn."""
    yield from heads(
        ("spec", "fault of one layer", "log weight error: median (range)", "log output error: median (range)")
    )
    for text in specs:
        spec = QuantSpec.parse(text)
        artifact = runner.artifact(MODEL, spec)
        layers = [name for name in artifact.weights if name.startswith(BLOCK)]
        sound = compare(runner, artifact)
        planted = {
            fault: {name: change(artifact.weights[name].decode()) for name in layers}
            for fault, change in FAULTS.items()
        }
        if refusal(less := fewer(spec), METHODS.entry(spec.method).capabilities) is None:
            other = runner.artifact(MODEL, less)
            planted[FEWER] = {name: other.weights[name].decode() for name in layers}
        for fault, changed in planted.items():
            if any(weight.isnan().any() for weight in changed.values()):
                continue
            found = [
                compare(runner, replace(artifact, weights={**artifact.weights, name: Dense(weight)}))
                for name, weight in changed.items()
            ]
            yield row((f"`{text}`", fault, *rises(sound, found)))


def fewer(spec: QuantSpec) -> QuantSpec:
    """The spec with a bit fewer; below 2 bits one that no method supports."""
    return replace(spec, bits=max(spec.bits - 1, 0.5))


def compare(runner: Runner, artifact: Artifact) -> tuple[list[float], list[float]]:
    """Log errors of an artifact's layers and blocks."""
    loaded = runner.loaded(MODEL)
    module = artifact.apply(loaded.fresh()).eval()
    windows = torch.from_numpy(runner.calibration(MODEL).inputs[:2].copy())
    facts = compared(inspect(module), module, loaded.model, artifact.parameters, windows)
    figures = Figures({}, facts, 0.0, False)
    return weights(figures), outputs(figures)


def rises(
    sound: tuple[list[float], list[float]], found: Sequence[tuple[list[float], list[float]]]
) -> Iterator[str]:
    """The largest rise of any layer, and of any block, for each fault."""
    for which in range(2):
        changes = [
            max((new - old for new, old in zip(each[which], sound[which], strict=True)), key=abs)
            for each in found
        ]
        yield f"{statistics.median(changes):.2g} ({min(changes):.2g} to {max(changes):.2g})"


def main() -> None:
    """Print the tables, or put them into a document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise", description=__doc__)
    parser.add_argument("--specs", default=",".join(SPECS), help="spec ids, comma between")
    parser.add_argument("--recalibrations", type=int, default=3, help="beside the accepted calibration")
    parser.add_argument("--cache", type=Path, help="cache folder to use; by default one for this run")
    parser.add_argument("--into", type=Path, help="document to fill, at noise and at faults")
    options = parser.parse_args()
    specs = options.specs.split(",")
    with tempfile.TemporaryDirectory() as folder:
        measuring = runner(options.cache or Path(folder))
        publish(list(noises(measuring, specs, options.recalibrations)), "noise", options.into)
        publish(list(faults(measuring, specs)), "faults", options.into)


if __name__ == "__main__":
    main()
