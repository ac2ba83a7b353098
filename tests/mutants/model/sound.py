"""What must not alarm: other batches, sums and orders of items, other samples to calibrate with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mutants.model.fault import Plant, all_of, altered
from quantcheck.measurement import Measurement
from quantcheck.metrics.measure import Workload
from quantcheck.metrics.sums import SummedOtherwise
from quantcheck.models.text import Windows, other_calibration_windows
from quantcheck.runner import Runner
from quantcheck.spec import ModelSpec, QuantSpec

BATCHES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Tokens that a model reads at once, as multiples of the usual number."""

ACCEPTED = 4
"""Draws of calibration windows that the band is measured with."""


def rerun(seed: int) -> Plant:
    """Measure the candidate in other batches and sums, its windows in another order.

    Outcomes keep their places.
    """

    def alter(real: Any) -> Any:
        def measure(model: Any, workload: Workload, **named: Any) -> Mapping[str, Measurement]:
            choose = np.random.default_rng(seed)
            orders = {each.name: choose.permutation(len(each)) for each in workload.windows}
            windows = tuple(_ordered(each, orders[each.name]) for each in workload.windows)
            batch = float(choose.choice(BATCHES))
            with SummedOtherwise(choose.uniform()):
                found = real(model, replace(workload, windows=windows), **{**named, "batch": batch})
            return {metric: _restored(each, orders) for metric, each in found.items()}

        return measure

    return altered("quantcheck.runner:measure", alter)


def early(seed: int) -> Plant:
    """Take the items of a run that stops early in another order, and in other batches and sums."""
    choose = np.random.default_rng(seed)
    batch, share = float(choose.choice(BATCHES)), choose.uniform()

    def alter(real: Any) -> Any:
        def measure(*given: Any, **named: Any) -> Mapping[str, Measurement]:
            with SummedOtherwise(share):
                found: Mapping[str, Measurement] = real(*given, **{**named, "batch": batch})
            return found

        return measure

    return all_of(
        altered("quantcheck.decision:stop", lambda real: lambda known, first: real(known, first + 1 + seed)),
        altered("quantcheck.runner:measure", alter),
    )


def recalibration(draw: int) -> Plant:
    """Calibrate with as many other windows of the same text, recorded as the same: an honest redraw.

    On another machine: on the one that accepted, codes that differ are no redraw. None of the windows is one
    of those that the band was measured with.
    """

    def alter(real: Any) -> Any:
        def quantized(
            self: Runner, model: ModelSpec, spec: QuantSpec, windows: Windows | None, *given: Any
        ) -> Any:
            text = self.calibrations[model.name]
            assert windows is not None and text is not None
            length = self.source(model).context_length
            other = other_calibration_windows(text, self.tokenizer(model), length, ACCEPTED + draw, draw)
            return real(self, model, spec, other, *given)

        return quantized

    return all_of(
        altered("quantcheck.runner:Runner.quantized", alter),
        altered("quantcheck.decision:same_codes", lambda _: lambda *_: False),
    )


def _ordered(windows: Windows, order: NDArray[np.int64]) -> Windows:
    """The windows in another order, under the digest of the items, which are the same."""
    found = replace(windows, ids=windows.ids[order], documents=windows.documents[order])
    found.__dict__["digest"] = windows.digest
    return found


def _restored(measured: Measurement, orders: Mapping[str, NDArray[np.int64]]) -> Measurement:
    order = orders.get(measured.metric.partition("/")[2])
    if order is None:
        return measured
    back = np.argsort(order)
    clusters = None if measured.clusters is None else measured.clusters[back]
    return replace(measured, outcomes=measured.outcomes[back], clusters=clusters)
