"""How far figures move though nothing got worse: the noise that no test may claim less than.

Measured when a baseline is accepted, and stored with it. *Evaluation*: the same artifact is measured again in
batches of other sizes, whose sums round otherwise. *Recalibration*: the method is calibrated anew on other
samples of the same text, once in another order and under another seed, too.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from quantcheck.artifact_facts import OUTPUTS, WEIGHTS
from quantcheck.errors import QuantizationError
from quantcheck.measurement import Measurement
from quantcheck.results import Figures

Measured = Mapping[str, Measurement]


@dataclass(frozen=True)
class Noise:
    """The noise of one quantized model's figures on one kind of device.

    Attributes:
        evaluation: by metric, the largest change of any single item's outcome when the same artifact is
            measured again, in the outcomes' unit.
        shift: by metric, the largest change of the mean outcome likewise.
        recalibration: by metric, the sample standard deviation of the mean outcome over all calibrations,
            the accepted one among them; empty for methods that read no calibration data.
        calibrations: number of all calibrations, the accepted one among them.
        weights: standard deviation over calibrations of log `LayerFacts.weight_error`, pooled over layers
            (root mean square); ``None`` where nothing is recalibrated, or no error is known.
        layers_df: its degrees of freedom: layers times calibrations beside the first.
        outputs: the same of log `BlockFacts.output_error`, pooled over blocks.
        blocks_df: its degrees of freedom.
    """

    evaluation: dict[str, float]
    shift: dict[str, float]
    recalibration: dict[str, float] = field(default_factory=dict)
    calibrations: int = 1
    weights: float | None = None
    layers_df: int = 0
    outputs: float | None = None
    blocks_df: int = 0

    def spread(self, metric: str) -> tuple[float | None, int]:
        """Standard deviation over calibrations of a metric's mean, or of the logarithm of a layer's error.

        Returns:
            It and its degrees of freedom; ``None`` and 0 where nothing was recalibrated.
        """
        if metric == WEIGHTS:
            return self.weights, self.layers_df
        if metric == OUTPUTS:
            return self.outputs, self.blocks_df
        deviation = self.recalibration.get(metric)
        return deviation, 0 if deviation is None else self.calibrations - 1

    def dumps(self) -> str:
        """The JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Noise:
        """Read back what `dumps` wrote."""
        return cls(**json.loads(text))


def noise(accepted: Figures, repeated: Sequence[Measured], recalibrated: Sequence[Figures]) -> Noise:
    """Sum up what moved.

    Args:
        accepted: the figures to be accepted.
        repeated: the same artifact measured again, by metric.
        recalibrated: figures of the same method, calibrated anew.

    Raises:
        QuantizationError: a figure is not finite.
        ValueError: a metric was measured on other items.
    """
    if not recalibrated:
        return Noise(*_evaluation(accepted.measurements, repeated))
    figures = (accepted, *recalibrated)
    found = [each.facts for each in figures if each.facts is not None]
    layers = [{layer.name: layer.weight_error for layer in facts.layers} for facts in found]
    blocks = [{block.name: block.output_error for block in facts.blocks} for facts in found]
    return Noise(
        *_evaluation(accepted.measurements, repeated),
        _recalibration([each.measurements for each in figures]),
        len(figures),
        *_log_spread(layers),
        *_log_spread(blocks),
    )


def _evaluation(
    accepted: Measured, repeated: Sequence[Measured]
) -> tuple[dict[str, float], dict[str, float]]:
    largest, shift = dict.fromkeys(accepted, 0.0), dict.fromkeys(accepted, 0.0)
    for again in repeated:
        for name, one in accepted.items():
            _refuse_others(one, again[name])
            changes = np.abs(again[name].outcomes - one.outcomes)
            largest[name] = max(largest[name], float(changes.max()))
            shift[name] = max(shift[name], abs(again[name].mean - one.mean))
    return largest, shift


def _recalibration(figures: Sequence[Measured]) -> dict[str, float]:
    first, *others = figures
    for name, one in first.items():
        for other in others:
            _refuse_others(one, other[name])
    return {name: statistics.stdev(each[name].mean for each in figures) for name in first}


def _refuse_others(one: Measurement, other: Measurement) -> None:
    if (one.items, one.n) != (other.items, other.n):
        raise ValueError(f"{one.metric} was measured again on other items: there is no noise to tell")
    if not math.isfinite(one.mean + other.mean):
        raise QuantizationError(
            f"{one.metric} is {one.mean:g}, and {other.mean:g} when made or measured anew: a method that is "
            "not finite on every sample has no noise to tell; mend it"
        )


def _log_spread(errors: Sequence[Mapping[str, float | None]]) -> tuple[float | None, int]:
    """The pooled standard deviation of log errors; those not known, or not above 0, are left out."""
    logs = [list(_logs(each[name] for each in errors)) for name in errors[0]]
    complete = [each for each in logs if len(each) == len(errors)]
    if not complete:
        return None, 0
    variance = statistics.fmean(statistics.variance(each) for each in complete)
    return math.sqrt(variance), len(complete) * (len(errors) - 1)


def _logs(errors: Iterable[float | None]) -> Iterable[float]:
    return (math.log(error) for error in errors if error is not None and 0 < error < math.inf)
