"""How one run of the gates ended, to text and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from quantcheck.measurement import Measurement
from quantcheck.results import Figures


@dataclass(frozen=True)
class Trial:
    """One run of one spec.

    Attributes:
        spec: what was quantized.
        tier: of the run.
        verdicts: by metric; empty where the run was refused.
        reasons: of the gates that are red, by metric.
        refused: what the run was refused with.
        candidate: measurements of the quantized model by metric.
        reference: of the full-precision model.
        items: scored items by metric.
        seconds: from the start of pytest to the last verdict.
    """

    spec: str
    tier: str
    verdicts: dict[str, str]
    reasons: dict[str, list[str]]
    refused: str = ""
    candidate: dict[str, Measurement] = field(default_factory=dict)
    reference: dict[str, Measurement] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def red(self) -> dict[str, str]:
        """The verdicts of the gates that are red, by metric."""
        return {metric: self.verdicts[metric] for metric in self.reasons}

    @property
    def caught(self) -> bool:
        """Whether a user would have been told."""
        return bool(self.refused or self.reasons)

    def dumps(self) -> str:
        """The JSON text, every outcome to the last bit."""
        figures = {side: _figures(getattr(self, side)).dumps() for side in ("candidate", "reference")}
        return json.dumps({**asdict(self), **figures})

    @classmethod
    def loads(cls, text: str) -> Trial:
        """Read back what `dumps` wrote."""
        raw = json.loads(text)
        figures = {side: Figures.loads(raw[side]).measurements for side in ("candidate", "reference")}
        return cls(**{**raw, **figures})


def _figures(measurements: dict[str, Measurement]) -> Figures:
    return Figures(measurements, None, 0.0, False)
