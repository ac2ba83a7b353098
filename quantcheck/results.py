"""What measuring one model yields, to text and back: enough to judge it again without torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from quantcheck.artifact_facts import ArtifactFacts, BlockFacts, LayerFacts
from quantcheck.measurement import Measurement, measurement


@dataclass(frozen=True)
class Figures:
    """All measurements of one model, reference or quantized.

    Attributes:
        measurements: by metric name.
        facts: what is stored for a quantized model; ``None`` for a reference.
        seconds: that making them took when it was done.
        reused: whether it came from the cache.
        quantize_seconds: that quantizing alone took; ``None`` for a reference.
    """

    measurements: dict[str, Measurement]
    facts: ArtifactFacts | None
    seconds: float
    reused: bool
    quantize_seconds: float | None = None

    def dumps(self) -> str:
        """The JSON text, every outcome to the last bit."""
        raw = asdict(self)
        for entry in raw["measurements"].values():
            entry["outcomes"] = entry["outcomes"].tolist()
            for name in ("clusters", "taken"):
                entry[name] = None if entry[name] is None else entry[name].tolist()
        return json.dumps(raw)

    @classmethod
    def loads(cls, text: str) -> Figures:
        """Read back what `dumps` wrote."""
        raw = json.loads(text)
        facts = raw["facts"]
        if facts is not None:
            facts = _facts(facts)
        measured = {name: measurement(**entry) for name, entry in raw["measurements"].items()}
        return cls(measured, facts, raw["seconds"], raw["reused"], raw["quantize_seconds"])


def _facts(raw: dict[str, Any]) -> ArtifactFacts:
    lists = {name: tuple(raw[name]) for name in ("expected_layers", "notes")}
    layers = tuple(LayerFacts(**layer) for layer in raw["layers"])
    blocks = tuple(BlockFacts(**block) for block in raw["blocks"])
    outside = None if raw["outside"] is None else tuple(raw["outside"])
    return ArtifactFacts(**{**raw, **lists, "layers": layers, "blocks": blocks, "outside": outside})
