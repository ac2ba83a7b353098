"""What a failed gate says: who, what, by how much, which bound, and what to do now."""

from __future__ import annotations

import math
from collections.abc import Mapping

from quantcheck.gate import Verdict
from quantcheck.measurement import kind_of
from quantcheck.published import Citation
from quantcheck.record import GateRecord
from quantcheck.report.figures import arrow, figure, signed, with_error

NEXT = {
    Verdict.NOT_QUANTIZED: "check that the method quantized every decoder Linear and that nothing restored "
    "the float weights",
    Verdict.NON_FINITE: "look for NaN or Inf in the artifact's scales and in the model's logits; nothing of "
    "this run was stored",
    Verdict.STALE_BASELINE: "the accepted figure is of another setting: rerun under that setting, or accept "
    "this one with --snapshot-update",
    Verdict.NO_BASELINE: "review the figures, then accept them with the same command and --snapshot-update",
    Verdict.BELOW_FLOOR: "accepting a baseline never moves a floor: mend the method, or change the policy "
    "file with a reason in review",
    Verdict.REGRESSED: "mend what changed since the baseline; if the loss is intended, accept it with the "
    "same command and --snapshot-update",
    Verdict.INCONCLUSIVE: "measure more items (--quantcheck-tier standard, or more --quantcheck-windows)",
    Verdict.STALE_KNOWN: "remove its entry from known.toml: it is no known failure any more",
    Verdict.KNOWN: "its issue says what is left to do",
    Verdict.IMPROVED: "accept the better figure as the new baseline with --snapshot-update",
    Verdict.PASS: "",
}


def message(gate: GateRecord, machine: Mapping[str, str]) -> str:
    """A message that stands alone, several lines."""
    over = f", which ought not to be worse than {gate.against}" if gate.against else ""
    lines = [
        f"{gate.verdict}: {gate.metric} of {gate.model} quantized by {gate.spec} ({gate.tier} tier){over}"
    ]
    if gate.value is not None:
        shown = f"{figure(gate.metric, gate.value)}{_unit(gate)}"
        lines.append(f"  measured   {shown}, {_direction(gate)}, n = {_items(gate)}")
    if gate.reference is not None:
        of = f"by {gate.against}" if gate.against else "at full precision"
        lines.append(f"  reference  {figure(gate.metric, gate.reference)} {of}, same items")
    if gate.worse is not None and not _by_layer(gate):
        lines.append(
            f"  worse by   {with_error(gate.worse, gate.worse_stderr)} {difference_unit(gate)} "
            f"(paired), {'margin' if gate.against else 'floor'} {_bound(gate.floor)}"
        )
    if gate.lower is not None and gate.upper is not None:
        lines.append(
            f"  tested     {signed(gate.lower)} to {signed(gate.upper)}{_flips(gate)}; {_seen(gate)}"
        )
    if gate.baseline is not None:
        lines.append(f"  baseline   {figure(gate.metric, gate.baseline)}, {_drift(gate)}")
    if gate.published is not None:
        lines.append(f"  published  {published_line(gate.published)}")
    if gate.bpw is not None and gate.nominal_bits is not None:
        lines.append(f"  artifact   {gate.bpw:.3f} bits per weight stored, {gate.nominal_bits:.3g} nominal")
    lines += [f"  because    {reason}" for reason in gate.reasons]
    if gate.known:
        lines.append(f"  known      as {gate.known}: {gate.known_reason} ({gate.known_issue})")
    lines += [f"  note       {note}" for note in gate.notes]
    lines.append(f"  policy     {gate.policy}")
    lines.append(f"  on         {', '.join(f'{name} {value}' for name, value in machine.items())}")
    if advice := _advice(gate):
        lines.append(f"  now        {advice}")
    return "\n".join(lines)


def _advice(gate: GateRecord) -> str:
    if gate.known and gate.verdict not in {Verdict.KNOWN, Verdict.STALE_KNOWN}:
        return "correct or remove its entry in known.toml: a listed gate is not accepted"
    return NEXT[_mended_by(gate)]


def _mended_by(gate: GateRecord) -> Verdict:
    """Whose advice helps: accepting a first baseline does not where the floor is not held."""
    if (
        gate.verdict is not Verdict.NO_BASELINE
        or gate.floor is None
        or gate.lower is None
        or gate.upper is None
    ):
        return gate.verdict
    if gate.lower > gate.floor:
        return Verdict.BELOW_FLOOR
    return gate.verdict if gate.upper <= gate.floor else Verdict.INCONCLUSIVE


def published_line(found: Citation) -> str:
    """What a published figure says where no baseline was accepted."""
    return f"{found.answer}: {found}; it decides for want of a baseline, and has no items to test a drift on"


def difference_unit(gate: GateRecord) -> str:
    """The unit of ``worse``, ``floor`` and ``drift``: perplexities are compared as nats of mean NLL."""
    return "nat" if gate.unit == "perplexity" else gate.unit


def _by_layer(gate: GateRecord) -> bool:
    return kind_of(gate.metric).by_layer


def _drift(gate: GateRecord) -> str:
    """A drift and its margin; of layers' errors the ratios that their logarithms stand for."""
    if gate.drift is None or gate.drift_margin is None or not _by_layer(gate):
        return f"drift {signed(gate.drift)}, margin {_bound(gate.drift_margin)}"
    drift, margin = math.expm1(gate.drift), math.expm1(gate.drift_margin)
    return f"drift {drift:+.2%} in the layer that moved most, margin {margin:.2%}"


def _items(gate: GateRecord) -> str:
    return f"{gate.n}" if gate.of is None else f"{gate.n} of {gate.of}"


def _seen(gate: GateRecord) -> str:
    """What the test could see; bounds of a test in sequence hold whenever it stops."""
    if gate.mde is None:
        return "bounds that hold at any stop"
    return f"a difference of {_bound(gate.mde)} would have been seen (80 % power)"


def _flips(gate: GateRecord) -> str:
    if gate.harmful is None:
        return ""
    return f", {gate.harmful} harmful and {gate.beneficial} beneficial flips of {gate.n}"


def _unit(gate: GateRecord) -> str:
    return "" if gate.unit == "fraction" else f" {gate.unit}"  # fractions are shown in percent


def _direction(gate: GateRecord) -> str:
    words = {True: "higher is better", False: "lower is better", None: "either way is worse"}
    return f"{arrow(gate.higher_is_better)} {words[gate.higher_is_better]}"


def _bound(value: float | None) -> str:
    return "none (declared collapsed)" if value is None else f"{value:.4g}"
