"""Per-item outcomes as short text, for baselines and records that live in git.

Right-or-wrong outcomes take a bit each. Windows are kept as float16 of their deviation from the mean, which
the figure stores in full: the error of a window is at most 2^-11 of its deviation, or 2^-25 where that is
smaller than any normal float16. Layers are few, and what counts of their errors is the ratio: they are kept
as float32. All are deflated and written in base64.
"""

from __future__ import annotations

import base64
import zlib

import numpy as np
from numpy.typing import NDArray

from quantcheck.measurement import Measurement

BITS, DEVIATIONS, SINGLE, LABELS = "bits:", "float16:", "float32:", "labels:"


def pack(measured: Measurement) -> str:
    """The outcomes of a measurement as text; empty for one with a non-finite outcome, which is never kept."""
    outcomes = measured.outcomes
    if not np.isfinite(outcomes).all():
        return ""
    if measured.kind.by_layer:
        return SINGLE + _deflated(outcomes.astype("<f4"))
    if np.isin(outcomes, (0, 1)).all():
        return BITS + _deflated(np.packbits(outcomes.astype(bool)))
    return DEVIATIONS + _deflated((outcomes - measured.mean).astype("<f2"))


def unpack(text: str, n: int, mean: float) -> NDArray[np.float64]:
    """The outcomes that `pack` wrote, float64 [n].

    Raises:
        ValueError: no such text, or not ``n`` finite outcomes with that mean.
    """
    outcomes = _read(text, n, mean)
    if outcomes.size != n or not np.isfinite(outcomes).all():
        raise ValueError(f"{outcomes.size} outcomes where {n} finite ones were accepted")
    if not abs(float(outcomes.mean()) - mean) <= float(tolerance(text, outcomes, mean).max()):
        raise ValueError(f"outcomes of mean {outcomes.mean():.6g} under a figure of {mean:.6g}")
    return outcomes


def tolerance(text: str, outcomes: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
    """How far each unpacked outcome may lie from the one that was packed, float64 [n].

    Half a unit in the last place of what is stored, and the rounding of float64 sums.
    """
    sums = 2.0**-45 * max(abs(mean), 1.0)
    if text.startswith(DEVIATIONS):
        return 2.0**-11 * 1.001 * np.abs(outcomes - mean) + 2.0**-25 + sums
    if text.startswith(SINGLE):
        return 2.0**-24 * 1.001 * np.abs(outcomes) + 2.0**-150 + sums
    return np.full(outcomes.size, sums)


def pack_labels(labels: NDArray[np.int64] | None) -> str:
    """Cluster labels as text, renumbered in the order in which they occur; empty for none."""
    if labels is None:
        return ""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return LABELS + _deflated(np.argsort(np.argsort(first))[inverse].astype("<i4"))


def unpack_labels(text: str) -> NDArray[np.int64] | None:
    """The labels that `pack_labels` wrote, int64 [n]; raises ``ValueError`` for another text."""
    return np.frombuffer(_inflated(text, LABELS), "<i4").astype(np.int64) if text else None


def _read(text: str, n: int, mean: float) -> NDArray[np.float64]:
    if text.startswith(BITS):
        return _right_or_wrong(text, n)
    if text.startswith(SINGLE):
        return np.frombuffer(_inflated(text, SINGLE), "<f4").astype(np.float64)
    return mean + np.frombuffer(_inflated(text, DEVIATIONS), "<f2").astype(np.float64)


def _right_or_wrong(text: str, n: int) -> NDArray[np.float64]:
    packed = np.frombuffer(_inflated(text, BITS), np.uint8)
    if packed.size != -(-n // 8):
        raise ValueError(f"{packed.size} bytes of outcomes where {n} bits were accepted")
    return np.unpackbits(packed, count=n).astype(np.float64)


def _deflated(values: NDArray[np.generic]) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode("ascii")


def _inflated(text: str, kind: str) -> bytes:
    if not text.startswith(kind):
        raise ValueError(f"outcomes begin with {text[:12]!r}, not with {kind!r}")
    try:
        return zlib.decompress(base64.b64decode(text.removeprefix(kind), validate=True))
    except zlib.error as error:
        raise ValueError(f"outcomes are damaged: {error}") from error
