"""How far figures move though nothing got worse: the noise that no test may claim less than.

Measured when a baseline is accepted, and stored with it. *Evaluation*: the same artifact is measured again in
batches of other sizes, its sums in another order, so that they round otherwise. *Recalibration*: the method
is calibrated anew on other samples of the same text, once in another order and under another seed, too.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from quantcheck.artifact_facts import GAINS, OUTPUTS, ROWS, WEIGHTS
from quantcheck.errors import QuantizationError
from quantcheck.measurement import Measurement
from quantcheck.results import Figures
from quantcheck.statistics.band import moderated

Measured = Mapping[str, Measurement]

VERSION = 3
"""Of what is summed up, and how."""


@dataclass(frozen=True)
class Spread:
    """Standard deviations over calibrations, and the degrees of freedom that each was estimated with.

    Attributes:
        deviation: of a mean outcome; of layers that of each layer's logarithm, 0 where it is not known.
        freedom: 1 or more.
    """

    deviation: float | tuple[float, ...]
    freedom: float


@dataclass(frozen=True)
class Noise:
    """The noise of one quantized model's figures on one kind of device.

    Attributes:
        evaluation: by metric, the largest change of any single item's outcome when the same artifact is
            measured again, in the outcomes' unit.
        shift: by metric, the largest change of the mean outcome likewise.
        recalibration: by metric, how its mean outcome spreads over all calibrations, the accepted one among
            them; of layers and blocks the logarithm of each. Empty for methods that read no calibration data;
            a metric whose logarithms are not known is left out.
    """

    evaluation: dict[str, float]
    shift: dict[str, float]
    recalibration: dict[str, Spread] = field(default_factory=dict)

    def dumps(self) -> str:
        """The JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Noise:
        """Read back what `dumps` wrote."""
        raw = json.loads(text)
        spreads = {metric: _spread(**spread) for metric, spread in raw["recalibration"].items()}
        return cls(raw["evaluation"], raw["shift"], spreads)


def _spread(deviation: float | list[float], freedom: float) -> Spread:
    return Spread(tuple(deviation) if isinstance(deviation, list) else deviation, freedom)


def noise(accepted: Figures, repeated: Sequence[Measured], recalibrated: Sequence[Figures]) -> Noise:
    """Sum up what moved.

    A figure that is not finite has no noise, and is never accepted.

    Args:
        accepted: the figures to be accepted.
        repeated: the same artifact measured again, by metric.
        recalibrated: figures of the same method, calibrated anew.

    Raises:
        QuantizationError: a finite figure is not finite when it is made or measured anew.
        ValueError: a metric was measured on other items.
    """
    finite = {name: one for name, one in accepted.measurements.items() if math.isfinite(one.mean)}
    evaluation, shift = _evaluation(finite, repeated)
    if not recalibrated:
        return Noise(evaluation, shift)
    spreads = _recalibration(finite, [each.measurements for each in recalibrated])
    facts = [each.facts for each in (accepted, *recalibrated) if each.facts is not None]
    for metric in (WEIGHTS, GAINS, ROWS, OUTPUTS):
        if spread := _log_spread([each.errors(metric) for each in facts]):
            spreads[metric] = spread
    return Noise(evaluation, shift, spreads)


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


def _recalibration(accepted: Measured, recalibrated: Sequence[Measured]) -> dict[str, Spread]:
    for name, one in accepted.items():
        for other in recalibrated:
            _refuse_others(one, other[name])
    figures = (accepted, *recalibrated)
    return {
        name: Spread(statistics.stdev(each[name].mean for each in figures), len(recalibrated))
        for name in accepted
    }


def _refuse_others(one: Measurement, other: Measurement) -> None:
    if (one.items, one.n) != (other.items, other.n):
        raise ValueError(f"{one.metric} was measured again on other items: there is no noise to tell")
    if not math.isfinite(other.mean):
        raise QuantizationError(
            f"{one.metric} is {one.mean:g}, and {other.mean:g} when made or measured anew: a method that is "
            "not finite on every sample has no noise to tell; mend it"
        )


def _log_spread(errors: Sequence[Mapping[str, float]]) -> Spread | None:
    """How the logarithm of each layer's error spreads; ``None`` where none is above 0 every time."""
    names = list(errors[0])
    values = np.array([[each.get(name, 0.0) for name in names] for each in errors])
    known = ((values > 0) & np.isfinite(values)).all(axis=0)
    if not known.any():
        return None
    variances = np.log(values[:, known]).var(axis=0, ddof=1)
    deviations = np.zeros(len(names))
    moderate, freedom = moderated(variances, len(errors) - 1)
    deviations[known] = np.sqrt(moderate)
    return Spread(tuple(float(f"{deviation:.4g}") for deviation in deviations), float(f"{freedom:.4g}"))
