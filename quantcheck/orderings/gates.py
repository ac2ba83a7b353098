"""An ordering that a policy names, as a verdict: a floor's test with another spec for the reference."""

from __future__ import annotations

from quantcheck.gate import finding, tested
from quantcheck.judging.evidence import Evidence, Judgement, Verdict
from quantcheck.judging.guards import non_finite, not_quantized
from quantcheck.measurement import PairedDifference, standard_error
from quantcheck.orderings.compare import apart, comparison, same_items


def judge_ordering(better: Evidence, worse: Evidence, than: str, margin: float) -> Judgement:
    """Decide whether a spec is worse than another by more than ``margin``, in the outcomes' unit.

    Args:
        better: all that a verdict on it depends on; its ``alarm`` is that of this gate.
        worse: the same of the spec that it ought not to be worse than.
        than: that spec's id.
        margin: largest difference that is allowed.
    """
    for evidence, of in ((better, ""), (worse, f"{than}: ")):
        if missing := not_quantized(evidence):
            return Judgement(Verdict.NOT_QUANTIZED, (f"{of}{missing}",))
        if broken := non_finite(evidence):
            return Judgement(Verdict.NON_FINITE, (f"{of}{broken}",))
    one, other = better.candidate, worse.candidate
    assert one is not None
    assert other is not None
    if not same_items(one, other):
        reason = f"{than} was measured on other items: there is no difference to judge"
        return Judgement(Verdict.NON_FINITE, (reason,))
    worse_by = apart(one, other)
    test = tested(comparison(one, other), margin, better.alarm)
    difference = PairedDifference(test.bound.estimate, standard_error(worse_by), one.n)
    said = finding(test, margin, than=than, limit="the ordering")
    verdict, reasons = (said[0], (said[1],)) if said else (Verdict.PASS, ())
    return Judgement(verdict, reasons, difference, test=test)
