"""How an ordering that the policy names is decided: measure both specs, then judge the one by the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantcheck.decision import gather, listed, where
from quantcheck.errors import QuantizationError
from quantcheck.judging.evidence import Bounds, Judgement, Verdict
from quantcheck.known_gates import expect
from quantcheck.orderings.gates import judge_ordering
from quantcheck.plan import Cell
from quantcheck.record import GateRecord, figure_fields

if TYPE_CHECKING:
    from quantcheck.runner import Runner
    from quantcheck.session import GateSession


def decide_ordering(session: GateSession, runner: Runner, cell: Cell) -> GateRecord:
    """Measure the two specs of an ordering and judge it; there is no baseline, so nothing is accepted."""
    assert cell.against is not None
    than, entry = str(cell.against), session.policy.ordering(cell.spec, cell.against, cell.metric)
    bounds = Bounds(entry.margin, 0.0, entry.reason)
    try:
        better, worse = (gather(session, runner, side) for side in cell.measured)
    except QuantizationError as error:
        judgement, measured, reference = Judgement(Verdict.NOT_QUANTIZED, (str(error),)), None, None
    else:
        judgement = judge_ordering(better, worse, than, entry.margin)
        measured, reference = better.candidate, worse.candidate
    judgement = expect(judgement, listed(session, runner, cell), measured=measured is not None)
    figures = figure_fields(judgement, bounds, measured, reference)
    return GateRecord(**where(session, runner, cell), against=than, **{**figures, "drift_margin": None})
