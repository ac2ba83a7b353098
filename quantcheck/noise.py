"""How much figures move though nothing changed for the worse: measured when a baseline is accepted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Spread:
    """A standard deviation and the degrees of freedom that it was estimated with."""

    deviation: float
    freedom: int


@dataclass(frozen=True)
class Noise:
    """The noise of all metrics of one spec.

    Attributes:
        evaluation: by metric, the largest change of one item's outcome when the same artifact was measured in
            other batches.
        recalibration: by metric, the spread of the mean outcome, or of the logarithm of a layer's error, over
            calibrations with other samples and orders; empty for methods that read no data.
    """

    evaluation: Mapping[str, float] = field(default_factory=dict)
    recalibration: Mapping[str, Spread] = field(default_factory=dict)

    def dumps(self) -> str:
        """The JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Noise:
        """Read back what `dumps` wrote."""
        raw = json.loads(text)
        spreads = {metric: Spread(**spread) for metric, spread in raw["recalibration"].items()}
        return cls(raw["evaluation"], spreads)
