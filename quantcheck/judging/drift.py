"""How far a figure may be from the accepted one, on the same items.

There is no sampling error left between two figures on the same items; what is left is known beforehand:

- *the same artifact*, bit for bit: nothing but float arithmetic may move an item, by as much as measuring
  again in other batches and sums did when the figure was accepted (`NOISE_FACTOR` times that) and as another
  processor may (`Kind.rounding`). More says that the evaluation changed: another kernel, prompt or scorer.
- *another artifact*: the mean may move by the policy's margin, or, where the method is calibrated, by as much
  as calibrating with other samples moves it, if that is more: no claim is made below that noise.
- *layers*: the codes are the accepted ones where nothing that they depend on has changed, as of a method that
  reads no data; elsewhere the error of each layer moves by no more than the policy's ratio, or than
  recalibrating does.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quantcheck.artifact_facts import GAINS, OUTPUTS, ROWS, WEIGHTS
from quantcheck.judging.evidence import AcceptedFigure, Drift, Evidence, Finding, Verdict
from quantcheck.measurement import Kind, Measurement
from quantcheck.statistics.band import reach

NOISE_FACTOR = 3.0
"""How far beyond the largest change that was seen once an item may move.

Of 32 changes that are normal, as two repetitions of 16 windows have them, the largest is below 1.5 standard
deviations once in a hundred times; 4.5 of them are then allowed, which one window of 150,000 exceeds.
"""
_TOLD = {
    WEIGHTS: ("error", "layers"),
    GAINS: ("gain", "layers"),
    ROWS: ("worst row's error", "layers"),
    OUTPUTS: ("output error", "blocks"),
}
HONEST = 0.01
"""How often an honest recalibration may lie beyond the band, over all layers."""


def drift(evidence: Evidence, candidate: Measurement, baseline: AcceptedFigure) -> Drift:
    """Compare ``candidate`` with the accepted figure, which must not be stale."""
    if candidate.kind.by_layer:
        return _layers(evidence, candidate, baseline)
    worse = candidate.mean - baseline.mean
    worse = -worse if candidate.kind.higher_is_better else worse
    if same_artifact(evidence, baseline) and (moved := _moved_items(candidate, baseline, worse)):
        return Drift(worse, 0.0, moved)
    margin = drift_margin(evidence, baseline)
    return Drift(worse, margin, _beyond(worse, margin))


def same_artifact(evidence: Evidence, baseline: AcceptedFigure) -> bool:
    """Whether what is stored is what was accepted, bit for bit."""
    assert evidence.artifact is not None
    return bool(baseline.artifact) and evidence.artifact.digest == baseline.artifact


def _moved_items(candidate: Measurement, baseline: AcceptedFigure, worse: float) -> Finding | None:
    if baseline.outcomes is None:
        return None
    changes = np.abs(candidate.outcomes - baseline.outcomes)
    moved = int((changes > allowed_moves(candidate.kind, baseline)).sum())
    # Two choices can be so near to each other that another processor prefers the other one.
    if moved <= (candidate.kind.name == "acc"):
        return None
    reason = (
        f"the artifact is the accepted one bit for bit, but {moved} of {candidate.n} items changed, "
        f"by up to {changes.max():.6g}: the evaluation changed, not the model"
    )
    return (Verdict.REGRESSED if worse > 0 else Verdict.STALE_BASELINE), reason


def allowed_moves(kind: Kind, baseline: AcceptedFigure) -> NDArray[np.float64]:
    """How far each item of the accepted model may lie from its accepted outcome, float64 [n]."""
    assert baseline.tolerance is not None
    return NOISE_FACTOR * baseline.noise + kind.rounding + baseline.tolerance


def drift_margin(evidence: Evidence, baseline: AcceptedFigure) -> float:
    """How far the mean of another artifact may be from the accepted one."""
    return float(_margins(evidence.bounds.drift, baseline, HONEST))


def layer_margins(drift: float, baseline: AcceptedFigure, n: int) -> NDArray[np.float64]:
    """How far the logarithm of each of ``n`` layers' errors may be from the accepted one, float64 [n].

    ``drift`` is the policy's bound; the layers share the level between them, and each its between two sides.
    """
    return np.broadcast_to(_margins(drift, baseline, HONEST / (2 * n)), n)


def _margins(drift: float, baseline: AcceptedFigure, level: float) -> NDArray[np.float64]:
    if baseline.spread is None:
        return np.array(drift)
    return np.maximum(drift, reach(baseline.spread, baseline.freedom, level))


def _beyond(worse: float, margin: float) -> Finding | None:
    if not worse <= margin:
        return (
            Verdict.REGRESSED,
            f"{worse:.6g} worse than the accepted baseline, the drift margin is {margin:.6g}",
        )
    if worse < -margin:
        return (
            Verdict.IMPROVED,
            f"{-worse:.6g} better than the accepted baseline, beyond the margin of {margin:.6g}: accept a "
            f"new baseline",
        )
    return None


def _layers(evidence: Evidence, candidate: Measurement, baseline: AcceptedFigure) -> Drift:
    margins = layer_margins(evidence.bounds.drift, baseline, candidate.n)
    changes = log_ratios(candidate, baseline)
    worst = int(np.argmax(np.abs(changes) / margins))
    change, margin = float(changes[worst]), float(margins[worst])
    if other := _other_codes(evidence, baseline):
        return Drift(change, margin, (Verdict.REGRESSED, other))
    beyond = np.abs(changes) > margins
    if not beyond.any():
        return Drift(change, margin)
    worse = candidate.kind.higher_is_better is None or (changes > margins).any()
    verdict = Verdict.REGRESSED if worse else Verdict.IMPROVED
    assert evidence.artifact is not None
    name = tuple(evidence.artifact.errors(evidence.metric))[worst]
    what, items = _TOLD[evidence.metric]
    reason = (
        f"the {what} of {int(beyond.sum())} of {beyond.size} {items} is beyond its band around the accepted "
        f"one, {name} most: {math.expm1(change):+.2%}, where {math.expm1(margin):.2%} is allowed"
    )
    return Drift(change, margin, (verdict, reason))


def log_ratios(candidate: Measurement, baseline: AcceptedFigure) -> NDArray[np.float64]:
    """Logarithm of each layer's error over the accepted one; no error then and now is no change."""
    accepted = np.full(candidate.n, baseline.mean) if baseline.outcomes is None else baseline.outcomes
    now = np.full(candidate.n, candidate.mean) if baseline.outcomes is None else candidate.outcomes
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.log(now) - np.log(np.maximum(accepted, 0.0))
    return np.where(now == accepted, 0.0, ratios)


def _other_codes(evidence: Evidence, baseline: AcceptedFigure) -> str | None:
    """Which stored tensors are not the accepted ones though they must be."""
    assert evidence.artifact is not None
    layers = evidence.artifact.layers
    if not evidence.same_codes or not baseline.codes:
        return None
    others = [layer.name for layer, code in zip(layers, baseline.codes, strict=True) if layer.digest != code]
    if not others:
        return None
    return (
        f"codes, scales or zero points of {len(others)} of {len(layers)} layers are not the accepted ones "
        f"bit for bit, {others[0]} first: nothing that they depend on has changed but the code"
    )
