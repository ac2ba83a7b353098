"""How far figures and artifacts of the built-in model move though nothing got worse, and under small faults.

Noise: what `quantcheck.recalibration.measured_noise` finds at the smoke tier, spec by spec. Faults: one layer
of an artifact is altered, and the logarithms of its errors and gain compared with before; they show what a
band of a few standard deviations can tell apart.

    python -m benchmarks.noise
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
from quantcheck.artifact_facts import GAINS, OUTPUTS, ROWS, WEIGHTS, ArtifactFacts
from quantcheck.cache import Cache
from quantcheck.methods import METHODS
from quantcheck.methods.artifact import Artifact, inspect
from quantcheck.methods.base import MetaValue, PackedWeight
from quantcheck.methods.reconstruction import compared
from quantcheck.metrics.catalog import builtin_calibration, plan_metrics
from quantcheck.noise import Noise
from quantcheck.progress import Mode, Progress
from quantcheck.recalibration import measured_noise, recalibrated_figures
from quantcheck.runner import FED_TOKENS, Runner
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
METRICS = (WEIGHTS, GAINS, ROWS, OUTPUTS)


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
    """A row a spec: the largest of each kind's metrics, in the outcomes' unit, and spreads of logarithms."""
    yield from heads(
        (
            "spec",
            "one item, other batches",
            *(f"{kind}, recalibrated" for kind in KINDS),
            *(f"log {metric.removeprefix('artifact/')}: all, worst" for metric in METRICS),
            "seconds",
        )
    )
    for text in specs:
        spec, began = QuantSpec.parse(text), time.perf_counter()
        accepted = runner.figures(MODEL, spec)
        found = measured_noise(runner, MODEL, spec, count)
        seconds = time.perf_counter() - began
        figures = [accepted, *recalibrated_figures(runner, MODEL, spec, count)]
        facts = [each.facts for each in figures if each.facts is not None]
        yield row(
            (
                f"`{text}`",
                f"{max(found.evaluation.values()):.1g}",
                *(f"{of(found, kind):.2g}" for kind in KINDS),
                *(spread(found, metric, facts) for metric in METRICS),
                f"{seconds:.0f}",
            )
        )


def of(noise: Noise, kind: str) -> float:
    """The largest standard deviation of one kind's metrics; NaN where nothing was recalibrated."""
    found = (part.deviation for name, part in noise.recalibration.items() if name.startswith(kind))
    return max(found, default=math.nan)


def spread(noise: Noise, metric: str, facts: Sequence[ArtifactFacts]) -> str:
    """The pooled standard deviation and the largest of a layer or block."""
    pooled = noise.recalibration.get(metric)
    if pooled is None:
        return "none"
    logs = [logarithms(each, metric) for each in facts]
    worst = max(statistics.stdev(each) for each in zip(*logs, strict=True))
    return f"{pooled.deviation:.2g}, {worst:.2g}"


def logarithms(facts: ArtifactFacts, metric: str) -> list[float]:
    """Of errors or gains, layer by layer or block by block."""
    return [math.log(error) for error in facts.errors(metric).values()]


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
    """A row a spec and fault: how logarithms rise, the median over the Linears of one block in turn."""
    titles = (f"log {metric.removeprefix('artifact/')}: median (range)" for metric in METRICS)
    yield from heads(("spec", "fault of one layer", *titles))
    for text in specs:
        spec = QuantSpec.parse(text)
        artifact = runner.artifact(MODEL, spec)
        sound = compare(runner, artifact)
        for fault, changed in planted(runner, spec, artifact).items():
            found = [
                compare(runner, replace(artifact, weights={**artifact.weights, name: Dense(weight)}))
                for name, weight in changed.items()
            ]
            yield row((f"`{text}`", fault, *(rises(sound, found, metric) for metric in METRICS)))


def planted(runner: Runner, spec: QuantSpec, artifact: Artifact) -> dict[str, dict[str, Tensor]]:
    """By fault, what each layer of the block then decodes to; faults that the format cannot have are none."""
    layers = {name: packed.decode() for name, packed in artifact.weights.items() if name.startswith(BLOCK)}
    made = {fault: {name: change(each) for name, each in layers.items()} for fault, change in FAULTS.items()}
    less = replace(spec, bits=max(spec.bits - 1, 0.5))
    if refusal(less, METHODS.entry(spec.method).capabilities) is None:
        other = runner.artifact(MODEL, less)
        made[FEWER] = {name: other.weights[name].decode() for name in layers}
    return {
        fault: changed
        for fault, changed in made.items()
        if not any(weight.isnan().any() for weight in changed.values())
    }


def compare(runner: Runner, artifact: Artifact) -> ArtifactFacts:
    """The facts of an artifact, fed as much as a gate is."""
    loaded, windows = runner.loaded(MODEL), runner.calibration(MODEL)
    module = artifact.apply(loaded.fresh()).eval()
    fed = torch.from_numpy(windows.first(FED_TOKENS // windows.length).inputs.copy())
    return compared(inspect(module), module, loaded.model, artifact.parameters, fed)


def rises(sound: ArtifactFacts, found: Sequence[ArtifactFacts], metric: str) -> str:
    """The largest change of any layer, or any block, over the faults: median and range."""
    before = logarithms(sound, metric)
    changes = [
        max((new - old for new, old in zip(logarithms(each, metric), before, strict=True)), key=abs)
        for each in found
    ]
    return f"{statistics.median(changes):.2g} ({min(changes):.2g} to {max(changes):.2g})"


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
        publish(list(faults(measuring, specs)), "faults", options.into)
        publish(list(noises(measuring, specs, options.recalibrations)), "noise", options.into)


if __name__ == "__main__":
    main()
