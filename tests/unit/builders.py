"""Small values of the pure core, right in every field that a test does not name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from quantcheck.artifact_facts import ArtifactFacts, BlockFacts, LayerFacts
from quantcheck.baseline import Figure
from quantcheck.gate import AcceptedFigure, Bounds, Evidence, Judgement, Verdict, judge
from quantcheck.measurement import Measurement, measurement
from quantcheck.provenance import Basis, made_key
from quantcheck.record import GateRecord, RunRecord

LAYERS = ("model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj")
BLOCKS = (BlockFacts("model.layers.0", 0.02), BlockFacts("model.layers.1", 0.04))
BASIS = Basis("cpu", "float32", "a1", "b2", "c3", method_version=1, seed=7)
KEY = made_key({"basis": asdict(BASIS)})
BOUNDS = Bounds(floor=0.5, drift=0.1, reason="four bits lose little")


def layer(name: str = LAYERS[0], **changes: Any) -> LayerFacts:
    right = LayerFacts(
        name,
        1000,
        3250,
        3.0,
        finite=True,
        decoded=True,
        levels_respected=True,
        digest=f"{len(name):08x}",
        differs=True,
        weight_error=0.01,
        gain=0.99,
        row_error=0.05,
    )
    return replace(right, **changes)


def facts(**changes: Any) -> ArtifactFacts:
    """Two quantized layers; ``changes`` are made to the second one."""
    layers = (layer(LAYERS[0]), layer(LAYERS[1], **changes))
    return ArtifactFacts(LAYERS, layers, blocks=BLOCKS, reference_untouched=True)


def measured(metric: str, outcomes: Sequence[float], items: str = "items", **changes: Any) -> Measurement:
    return replace(measurement(metric, outcomes, items, "windows of 512", 1), **changes)


def evidence(metric: str = "ppl/web", **changes: Any) -> Evidence:
    """A gate that passes: a quarter of a nat worse than its reference, item by item, as accepted."""
    right = Evidence(
        metric=metric,
        candidate=measured(metric, [1.25, 2.25, 3.25]),
        reference=measured(metric, [1.0, 2.0, 3.0]),
        artifact=facts(),
        baseline=AcceptedFigure(2.25),
        bounds=BOUNDS,
    )
    return replace(right, **changes)


def figure(**changes: Any) -> Figure:
    right = Figure(1.5, 4.48, 0.05, 16, 0.25, 0.01, "items", "windows of 512", 1, KEY)
    return replace(right, **changes)


def gate_record(**changes: Any) -> GateRecord:
    right = GateRecord(
        model="builtin-llama",
        spec="gptq-w3-g128",
        metric="ppl/web",
        tier="smoke",
        device="cpu",
        dtype="float32",
        verdict=Verdict.PASS,
        value=4.48,
        stderr=0.05,
        n=16,
        reference=3.5,
        worse=0.247,
        worse_stderr=0.0123,
        floor=0.693,
        baseline=4.47,
        drift=0.00223,
        drift_margin=0.0198,
        bpw=3.25,
        nominal_bits=3.0,
        items="items",
        protocol="windows of 512",
        policy="calibrated methods at 3 bits",
    )
    return replace(right, **changes)


def run_record(*gates: GateRecord) -> RunRecord:
    libraries, machine = {"torch": "2.13.0"}, {"processor": "some CPU"}
    return RunRecord("2026-01-31T00:00:00+00:00", "0.1.0", {"tier": "smoke"}, libraries, machine, gates)


def divergence(outcomes: list[float], bounds: Bounds = BOUNDS, accepted: float | None = None) -> Judgement:
    """Judge a KL divergence: the outcomes are the differences, so that bounds can be met to the last bit."""
    candidate = measured("kld/x", outcomes)
    baseline = AcceptedFigure(candidate.mean if accepted is None else accepted)
    return judge(evidence("kld/x", candidate=candidate, reference=None, baseline=baseline, bounds=bounds))
