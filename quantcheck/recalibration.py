"""Measure the noise of one quantized model: evaluate it again, rounded otherwise, and recalibrate its method.

Each recalibration quantizes and measures once more, so this is for the moment when a baseline is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from quantcheck.cache import CacheKey
from quantcheck.measurement import Measurement
from quantcheck.methods import METHODS
from quantcheck.metrics.measure import measure
from quantcheck.metrics.sums import SummedOtherwise
from quantcheck.metrics.text import ReferenceOutputs
from quantcheck.models.calibration import CalibrationData
from quantcheck.noise import VERSION, Noise, noise
from quantcheck.progress import Update
from quantcheck.results import Figures
from quantcheck.runner import Runner
from quantcheck.spec import ModelSpec, QuantSpec

REPEATS = ((0.5, 1 / 3), (2.0, 2 / 3))
"""Batches of half and of twice the tokens, and where linear layers break their sums in two."""


def measured_noise(runner: Runner, model: ModelSpec, spec: QuantSpec, recalibrations: int) -> Noise:
    """The noise of one spec's figures, from the cache or measured now.

    Args:
        runner: loads, quantizes and measures.
        model: which model.
        spec: which spec; one whose method reads no calibration data is not recalibrated.
        recalibrations: how many calibrations to make beside the accepted one; 0 leaves them out.

    Raises:
        DataError: another sample of the calibration text shares windows with a text that is measured on.
        QuantizationError: the method failed on another sample, or left figures that are not finite.
    """
    figures = runner.figures_key(model, spec).digest
    key = CacheKey.of("noise", figures=figures, recalibrations=recalibrations, version=VERSION)

    def create(folder: Path) -> None:
        found = _measured(runner, model, spec, recalibrations)
        (folder / "noise.json").write_text(found.dumps(), encoding="utf-8")

    path = runner.cache.get_or_create(key, create)
    return Noise.loads((path / "noise.json").read_text(encoding="utf-8"))


def recalibrated_figures(runner: Runner, model: ModelSpec, spec: QuantSpec, count: int) -> list[Figures]:
    """The figures of a method calibrated ``count`` times anew; raises what `measured_noise` does."""
    calibrations = list(_other_calibrations(runner, model, spec, count))
    with runner.progress.task(f"{model} {spec} recalibrated", len(calibrations)) as update:
        return [_recalibrated(runner, model, spec, *each, update) for each in calibrations]


def _measured(runner: Runner, model: ModelSpec, spec: QuantSpec, recalibrations: int) -> Noise:
    accepted = runner.figures(model, spec)
    with runner.progress.task(f"{model} {spec} in other batches", len(REPEATS)) as update:
        repeated = [_repeated(runner, model, spec, *each, update) for each in REPEATS]
    return noise(accepted, repeated, recalibrated_figures(runner, model, spec, recalibrations))


def _repeated(
    runner: Runner, model: ModelSpec, spec: QuantSpec, batch: float, share: float, update: Update
) -> dict[str, Measurement]:
    """Measure the artifact, and the reference that it is compared with, in other batches and sums."""
    outputs = ReferenceOutputs(runner.loaded(model).model, budget=0)
    module, workload = runner.module(model, spec), runner.workload(model)
    with SummedOtherwise(share):
        return measure(module, workload, reference=outputs, progress=update, batch=batch)


def _other_calibrations(
    runner: Runner, model: ModelSpec, spec: QuantSpec, count: int
) -> Iterator[tuple[CalibrationData, int]]:
    """Other samples with their seeds; the last in another order and under another seed, too."""
    calibrated = METHODS.entry(spec.method).capabilities.calibrated
    if not count or not calibrated or runner.calibrations[model.name] is None:
        return
    for draw in range(1, count + 1):
        data = runner.read_calibration(model, draw)
        if draw < count:
            yield data, runner.seed
    yield data.shuffled(runner.seed), runner.seed + 1


def _recalibrated(
    runner: Runner, model: ModelSpec, spec: QuantSpec, data: CalibrationData, seed: int, update: Update
) -> Figures:
    """The figures of ``spec`` when it is calibrated on ``data``; kept, since a run may be cut short."""
    accepted = runner.figures_key(model, spec)
    key = CacheKey.of("recalibration", figures=accepted.digest, calibration=data.digest, seed=seed)

    def create(folder: Path) -> None:
        artifact = runner.quantized(model, spec, data, seed, update)
        figures = runner.measured(model, artifact, update)
        (folder / "figures.json").write_text(figures.dumps(), encoding="utf-8")

    path = runner.cache.get_or_create(key, create)
    return Figures.loads((path / "figures.json").read_text(encoding="utf-8"))
