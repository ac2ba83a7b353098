"""Known failures of gates: green exactly as listed, red as soon as they end otherwise.

``known.toml`` stands beside the accepted baselines::

    schema = 1

    [[gate]]
    id = "llama3-8b/mine-w2/ppl/wikitext2"
    tier = "standard"
    device = "cuda"
    verdict = "BELOW_FLOOR"
    reason = "scales of the first layer are rounded to float16"
    issue = "https://github.com/mine/mine/issues/12"

Only a figure that was measured and found wanting can be known: `LISTABLE`. All other verdicts say that
something is missing, be it a quantized model, a baseline or items, and nothing passes by absence.

An entry excuses what it names and nothing else. Where the floor is known to be missed, the accepted figure
still holds the gate to its drift; where a drift is known, the floor still holds. A figure below its floor is
never stored, so a gate that was always below it has no baseline to ask for, and ends as listed without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantcheck.errors import BaselineError, SpecError
from quantcheck.judging.evidence import Judgement, Verdict
from quantcheck.known import FILE, WILDCARDS, read_entries
from quantcheck.measurement import KINDS
from quantcheck.plan import DEVICES, TIERS
from quantcheck.spec import OVER, QuantSpec
from quantcheck.statistics.bound import Answer

KEYS = ("id", "tier", "device", "verdict", "reason", "issue")
LISTABLE = (Verdict.NON_FINITE, Verdict.BELOW_FLOOR, Verdict.REGRESSED)
NEVER_STORED = (Verdict.STALE_BASELINE, Verdict.NO_BASELINE)

Key = tuple[str, str, str]


@dataclass(frozen=True)
class KnownGate:
    """One gate that is known to fail.

    Attributes:
        id: ``model/spec/metric``, as in the test id.
        tier, device: where it fails; the other tiers and kinds of device are gates of their own.
        verdict: how it ends, one of `LISTABLE`.
        reason: what is wrong.
        issue: where it is told in full.
    """

    id: str
    tier: str
    device: str
    verdict: Verdict
    reason: str
    issue: str

    @property
    def key(self) -> Key:
        """What it is found by: id, tier and kind of device."""
        return self.id, self.tier, self.device

    @property
    def subject(self) -> str:
        """``model/spec``, the part of the id that a run selects as a whole."""
        return _subject(self.id)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a `quantcheck.record.GateRecord` that tell of the entry."""
        return {"known": self.verdict.value, "known_reason": self.reason, "known_issue": self.issue}


def read_known_gates(folders: Iterable[Path]) -> dict[Key, KnownGate]:
    """Read the gates that the files of all folders list.

    Raises:
        BaselineError: as `quantcheck.known.read_entries`; an id is not exact; a tier, kind of device or
            verdict cannot be listed; or a gate stands there twice.
    """
    found: dict[Key, KnownGate] = {}
    for path, values in read_entries(folders, "gate", KEYS):
        known = _known(path, dict(zip(KEYS, values, strict=True)))
        if known.key in found:
            raise BaselineError(f"{path}: {' '.join(known.key)} is listed twice; remove one")
        found[known.key] = known
    return found


def check_current(known: Iterable[KnownGate], tier: str, planned: Iterable[str]) -> None:
    """Refuse an entry whose model and spec are planned at ``tier`` without its metric.

    Raises:
        BaselineError: the first such entry.
    """
    ids = set(planned)
    subjects = set(map(_subject, ids))
    for each in known:
        if each.tier == tier and each.subject in subjects and each.id not in ids:
            raise BaselineError(
                f"{FILE}: {each.id!r} names no gate of the {tier} tier any more; remove the entry"
            )


def expect(judgement: Judgement, known: KnownGate | None, *, measured: bool = True) -> Judgement:
    """Hold a judgement to its entry: KNOWN as listed, STALE_KNOWN where it passes, else red as it is.

    Its reasons are kept. Without an entry it stays as it is. A metric that was not even ``measured`` never
    ends as listed: it vanished.
    """
    if known is None:
        return judgement
    if measured and _as_listed(judgement, known.verdict):
        return replace(judgement, verdict=Verdict.KNOWN)
    other = f"listed as {known.verdict} in {FILE}, and ended {judgement.verdict}"
    if judgement.verdict.green:
        reasons = (f"{other}: remove the entry", *judgement.reasons)
        return replace(judgement, verdict=Verdict.STALE_KNOWN, reasons=reasons)
    return replace(judgement, reasons=(*judgement.reasons, other))


def _subject(id: str) -> str:
    return "/".join(id.split("/", 2)[:2])


def _as_listed(judgement: Judgement, listed: Verdict) -> bool:
    if listed is not Verdict.BELOW_FLOOR:
        return judgement.verdict is listed
    floor = judgement.test is not None and judgement.test.answer is Answer.WORSE
    missed = floor or judgement.verdict is listed  # the published figure was missed, not the floor
    drifted = judgement.drift is not None and judgement.drift.finding is not None
    return missed and not drifted and judgement.verdict in {listed, *NEVER_STORED}


def _known(path: Path, entry: Mapping[str, str]) -> KnownGate:
    id, verdict = entry["id"], entry["verdict"]
    if not _exact(id):
        raise BaselineError(f"{path}: {id!r} is no exact id of the form 'mine/rtn-w3/ppl/web'")
    for what, allowed in (("tier", TIERS), ("device", DEVICES), ("verdict", LISTABLE)):
        if entry[what] not in allowed:
            raise BaselineError(
                f"{path}: {id} cannot be known with {what} {entry[what]!r}; it takes {', '.join(allowed)}"
            )
    return KnownGate(id, entry["tier"], entry["device"], Verdict(verdict), entry["reason"], entry["issue"])


def _exact(id: str) -> bool:
    """Whether an id is spelled as a test's is; another spelling would never be found."""
    model, _, rest = id.partition("/")
    spec, _, metric = rest.partition("/")
    try:
        spelled = all(str(QuantSpec.parse(each)) == each for each in spec.split(OVER))
    except SpecError:
        return False
    kind = metric.partition("/")[0]
    return bool(model) and spelled and kind in KINDS and not any(sign in id for sign in WILDCARDS)
