"""What decides where no figure was accepted yet: the published one of that model, spec and metric, if any.

A published figure has no items, so no drift is tested against it: its loss from its own full precision is
compared with the run's (`quantcheck.published.bound`). It stands where an accepted figure would, and takes
no part once there is one.
"""

from __future__ import annotations

from quantcheck.judging.evidence import Finding, Verdict
from quantcheck.published import Answer, Match

NOTHING = "no accepted baseline"


def unaccepted(match: Match | None) -> Finding | None:
    """What follows from the published figure; ``None`` where the run agrees with it."""
    if match is None:
        return Verdict.NO_BASELINE, NOTHING
    answer, why = match.finding.answer, match.finding.reasons[0]
    if answer is Answer.CANNOT_TELL:
        return Verdict.NO_BASELINE, f"{NOTHING}, and the published {match.citation} cannot tell: {why}"
    if answer is Answer.WORSE:
        return Verdict.BELOW_FLOOR, f"worse than the published {match.citation}: {why}"
    if answer is Answer.BETTER:
        return (
            Verdict.IMPROVED,
            f"better than the published {match.citation}: {why}: accept a baseline of your own",
        )
    return None
