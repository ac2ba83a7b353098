"""The record of a run: the JSON report, and what every other report renders. Schema: ``docs/record.md``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from quantcheck.judging.evidence import Bounds, Judgement, Verdict
from quantcheck.measurement import Measurement, kind_of, measurement
from quantcheck.orderings import Ordering
from quantcheck.outcomes import pack, pack_labels, unpack, unpack_labels
from quantcheck.published import Citation
from quantcheck.spec import gate_id

SCHEMA = 1


@dataclass(frozen=True)
class GateRecord:
    """One gate and how it ended; numbers are in the metric's unit unless said otherwise.

    Attributes:
        model, spec, metric, tier: which cell.
        against: the spec that stands in place of full precision, for an ordering that the policy names; else
            empty.
        device, dtype: kind of device and dtype that the models computed in.
        verdict: a `quantcheck.gate.Verdict`.
        reasons: the sentences behind it.
        value, stderr, n: the quantized model's figure; the standard error is of the mean outcome.
        of: number of items in the full set where the gate was decided before all of them were taken.
        reference: the full-precision model's figure on the same items.
        worse, worse_stderr: paired difference in the outcomes' unit, positive is worse; ``None`` for
            artifacts.
        floor: of the policy, outcomes' unit; ``None`` for a cell that is declared collapsed, and for a metric
            without one.
        lower, upper: one-sided bounds of the difference that the floor was tested with; ``upper`` at 95 %,
            ``lower`` at one minus ``alarm``, the gate's share of the run's budget of false alarms.
        p_worse: p-value of "the true difference is at most the floor"; ``None`` where nothing is tested.
        mde: the smallest difference that this gate would have called worse with 80 % power.
        needed: items that would decide, where the gate cannot tell.
        harmful, beneficial: items that only the reference, or only the candidate, got right; accuracies
            alone.
        baseline: the accepted figure.
        published: the published figure that decided, or could not tell, where none was accepted.
        drift, drift_margin: from the baseline, outcomes' unit, positive is worse; the margin that decided.
        bpw, nominal_bits: counted from the stored tensors, and of the spec.
        notes: what the method did otherwise than asked for, its documented fallbacks.
        items, protocol: what was scored and how.
        outcomes, reference_outcomes, clusters: of each item and which belong together, as
            `quantcheck.outcomes` packs them.
        weights: number of quantized weights of the model.
        artifact: digest of what was stored for the quantized model.
        seconds: spent on this gate's figure, or on quantizing and looking at what is stored; 0 when it was
            reused.
        quantize_seconds: that quantizing took when it was done.
        accepted: ``old -> new`` when this run stored a new baseline.
        policy: the policy's reason.
        known: the verdict that the gate is listed with among the known failures; ``None`` where it is not.
        known_reason, known_issue: of that entry.
    """

    model: str
    spec: str
    metric: str
    tier: str
    device: str
    dtype: str
    verdict: Verdict
    against: str = ""
    reasons: tuple[str, ...] = ()
    value: float | None = None
    stderr: float | None = None
    n: int = 0
    reference: float | None = None
    worse: float | None = None
    worse_stderr: float | None = None
    floor: float | None = None
    lower: float | None = None
    upper: float | None = None
    alarm: float | None = None
    p_worse: float | None = None
    mde: float | None = None
    needed: int | None = None
    harmful: int | None = None
    beneficial: int | None = None
    baseline: float | None = None
    published: Citation | None = None
    drift: float | None = None
    drift_margin: float | None = None
    bpw: float | None = None
    nominal_bits: float | None = None
    weights: int | None = None
    items: str = ""
    protocol: str = ""
    outcomes: str = ""
    reference_outcomes: str = ""
    clusters: str = ""
    artifact: str = ""
    seconds: float = 0.0
    quantize_seconds: float | None = None
    accepted: str | None = None
    policy: str = ""
    of: int | None = None
    notes: tuple[str, ...] = ()
    known: str | None = None
    known_reason: str = ""
    known_issue: str = ""

    @property
    def id(self) -> str:
        """``model/spec/metric``, as in the test id; of an ordering ``model/spec-over-against/metric``."""
        return gate_id(self.model, self.spec, self.metric, self.against)

    @property
    def unit(self) -> str:
        """The unit of ``value``, ``reference`` and ``baseline``."""
        return kind_of(self.metric).unit

    @property
    def higher_is_better(self) -> bool | None:
        """The direction in which the figure gets better; ``None`` where a change either way is worse."""
        return kind_of(self.metric).higher_is_better

    @property
    def collapsed(self) -> bool:
        """Whether the policy declares this cell collapsed."""
        return self.floor is None and not kind_of(self.metric).by_layer

    def to_json(self) -> dict[str, Any]:
        """Plain values; a non-finite number becomes its name, since JSON has none."""
        values = {**asdict(self), "unit": self.unit, "higher_is_better": self.higher_is_better}
        return _plainly(values)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> GateRecord:
        """Read back what `to_json` wrote; unknown keys of a newer minor version are ignored."""
        known = {entry.name for entry in fields(cls)}
        values = {
            key: _number(value) if key in _NUMBERS else value for key, value in raw.items() if key in known
        }
        return cls(
            **{
                **values,
                "verdict": Verdict(raw["verdict"]),
                "reasons": tuple(raw["reasons"]),
                "notes": tuple(raw.get("notes", ())),
                "published": _citation(raw.get("published")),
            }
        )

    def measurements(self) -> tuple[Measurement | None, Measurement | None]:
        """Outcomes of the quantized model and of its reference, as near as kept; ``None`` where not."""
        return (
            self._measurement(self.outcomes, self.value),
            self._measurement(self.reference_outcomes, self.reference),
        )

    def _measurement(self, packed: str, value: float | None) -> Measurement | None:
        if not packed or value is None:
            return None
        mean = math.log(value) if kind_of(self.metric).log else value
        outcomes, labels = unpack(packed, self.n, mean), unpack_labels(self.clusters)
        return measurement(self.metric, outcomes, self.items, self.protocol, version=0, clusters=labels)


@dataclass(frozen=True)
class RunRecord:
    """A whole run: provenance once, then every gate.

    Attributes:
        created: ISO 8601, UTC.
        header: what was under test: tier, seed, device, dtype, models with digests, counts of the matrix.
        libraries, machine: versions and where it ran.
        gates: in the order in which they ended up sorted: failures first, then by id.
        orderings: what ought not to be the worse of two, and whether it is; notes beside the verdicts.
    """

    created: str
    quantcheck: str
    header: Mapping[str, Any]
    libraries: Mapping[str, str]
    machine: Mapping[str, str]
    gates: Sequence[GateRecord] = field(default_factory=tuple)
    orderings: Sequence[Ordering] = field(default_factory=tuple)

    def dumps(self) -> str:
        """The JSON text, one gate and one ordering a line, keys sorted."""
        head = {
            "schema": SCHEMA,
            "quantcheck": self.quantcheck,
            "created": self.created,
            "header": dict(self.header),
            "libraries": dict(self.libraries),
            "machine": dict(self.machine),
            "verdicts": self.counts(),
        }
        gates = [gate.to_json() for gate in self.gates]
        orderings = [_plainly(asdict(each)) for each in self.orderings]
        lists = f"{_listed('gates', gates)}{_listed('orderings', orderings)}"
        return f"{json.dumps(head, sort_keys=True)[:-1]}{lists}}}\n"

    def counts(self) -> dict[str, int]:
        """How many gates ended in each verdict; verdicts that did not occur are left out."""
        found = [gate.verdict for gate in self.gates]
        return {verdict.value: found.count(verdict) for verdict in Verdict if verdict in found}


def figure_fields(
    judgement: Judgement, bounds: Bounds, measured: Measurement | None, reference: Measurement | None
) -> dict[str, Any]:
    """The fields of a `GateRecord` that follow from a judgement and the figures behind it."""
    difference, test, drift = judgement.difference, judgement.test, judgement.drift
    if measured and measured.kind.by_layer:
        difference = None  # full precision has no errors to be worse than
    return {
        "verdict": judgement.verdict,
        "reasons": judgement.reasons,
        "value": measured.value if measured else None,
        "stderr": measured.stderr if measured else None,
        "n": measured.n if measured else 0,
        "reference": reference.value if reference else None,
        "worse": difference.mean if difference else None,
        "worse_stderr": difference.stderr if difference else None,
        "floor": bounds.floor,
        "lower": test.bound.lower if test else None,
        "upper": test.bound.upper if test else None,
        "alarm": test.bound.alarm if test else None,
        "p_worse": test.p_worse if test else None,
        "mde": test.bound.mde if test and not math.isnan(test.bound.mde) else None,
        "needed": test.needed if test else None,
        "harmful": test.harmful if test else None,
        "beneficial": test.beneficial if test else None,
        "drift": drift.change if drift else None,
        "drift_margin": drift.margin if drift else bounds.drift,
        "items": measured.items if measured else "",
        "protocol": measured.protocol if measured else "",
        "outcomes": pack(measured) if measured else "",
        "reference_outcomes": pack(reference) if reference else "",
        "clusters": pack_labels(measured.clusters) if measured else "",
        "policy": bounds.reason,
    }


_NUMBERS = {
    "value",
    "stderr",
    "reference",
    "worse",
    "worse_stderr",
    "floor",
    "lower",
    "upper",
    "alarm",
    "p_worse",
    "mde",
    "baseline",
    "drift",
    "drift_margin",
    "bpw",
    "nominal_bits",
}


def _listed(name: str, entries: Iterable[Mapping[str, Any]]) -> str:
    lines = ",\n".join(json.dumps(entry, sort_keys=True) for entry in entries)
    return f',\n"{name}": [\n{lines}\n]'


def _plainly(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in values.items()}


def _citation(raw: Mapping[str, Any] | None) -> Citation | None:
    return None if raw is None else Citation(**{**raw, "caveats": tuple(raw["caveats"])})


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.value if isinstance(value, Verdict) else value


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value
