"""How one gate is decided: gather its evidence, judge it, accept it when asked to."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import quantcheck
from quantcheck.artifact_facts import GAINS, OUTPUTS, ROWS, WEIGHTS, ArtifactFacts
from quantcheck.baseline import Figure
from quantcheck.changelog import NOT_GIVEN, Change, who
from quantcheck.errors import QuantizationError
from quantcheck.gate import judge
from quantcheck.judging.early import known_before
from quantcheck.judging.evidence import AcceptedFigure, Evidence, Judgement, Verdict
from quantcheck.judging.guards import not_quantized
from quantcheck.known_gates import KnownGate, expect
from quantcheck.measurement import (
    Measurement,
    PairedDifference,
    digest,
    measurement,
    paired_difference,
    pairs,
)
from quantcheck.methods import METHODS
from quantcheck.noise import Noise
from quantcheck.options import in_ci
from quantcheck.outcomes import pack
from quantcheck.plan import Cell
from quantcheck.provenance import library_versions, machine, made_key, same_codes
from quantcheck.published import Match, RunFigure, decisive, matches
from quantcheck.record import GateRecord, figure_fields
from quantcheck.registry import Capabilities
from quantcheck.report.figures import figure as shown
from quantcheck.results import Figures
from quantcheck.spec import ModelSpec, QuantSpec
from quantcheck.stopping import NO_STOPS, Known, Stops, stop

if TYPE_CHECKING:
    from syrupy.assertion import SnapshotAssertion

    from quantcheck.runner import Runner
    from quantcheck.session import GateSession

BPW = "bpw"
VERSIONS = {BPW: 1, WEIGHTS: 1, GAINS: 1, ROWS: 1, OUTPUTS: 1}
"""Metrics of what is stored, which need no evaluation."""

_PROTOCOLS = {
    BPW: "all bits of all stored tensors over the weights of the decoder Linears",
    WEIGHTS: "relative squared error of each decoded weight",
    GAINS: "gain of each decoded weight over the full-precision one",
    ROWS: "largest relative squared error of a row of each decoded weight",
    OUTPUTS: "relative squared error of what each decoder block adds to full-precision inputs",
}


def decide(session: GateSession, runner: Runner, cell: Cell, snapshot: SnapshotAssertion) -> GateRecord:
    """Measure one gate, judge it, and accept it when asked to."""
    return _Decision(session, runner, cell).record(snapshot)


def gather(session: GateSession, runner: Runner, cell: Cell) -> Evidence:
    """Measure one gate without judging it; raises `QuantizationError` where nothing could be quantized."""
    return _Decision(session, runner, cell).evidence()


def where(session: GateSession, runner: Runner, cell: Cell) -> dict[str, Any]:
    """The fields of a record that say which cell it is, what it ran on, and what is known of it."""
    known = listed(session, runner, cell)
    return {
        "model": cell.model.name,
        "spec": str(cell.spec),
        "metric": cell.metric,
        "tier": session.settings.tier,
        "device": runner.device,
        "dtype": runner.basis(cell.model, cell.spec).dtype,
        **(known.fields if known else {}),
    }


def listed(session: GateSession, runner: Runner, cell: Cell) -> KnownGate | None:
    """The entry of a gate among the known failures."""
    return session.known_gates.get((cell.id, session.settings.tier, runner.device))


def rules(session: GateSession, runner: Runner, model: ModelSpec, spec: QuantSpec) -> Stops:
    """When each gate on items is decided, in a sequential run; gates that take all their items have none.

    Those are gates without accepted outcomes, and those that another spec is ordered by.
    """
    if not session.settings.sequential:
        return NO_STOPS
    facts, reference, found = runner.facts(model, spec), runner.reference(model), {}
    ordered = {side for cell in session.orderings for side in cell.measured}
    for metric in session.plan(model).metrics:
        if Cell(model, spec, metric) in ordered:
            continue
        gate = _Decision(session, runner, Cell(model, spec, metric))
        before = gate.before(facts, reference.measurements.get(metric))
        if before is not None:
            found[metric] = stop(before, session.settings.seed)
    return found


def codes_are_due(needs: Capabilities, made: Mapping[str, Any], device: str) -> bool:
    """Whether a method must give the codes that were accepted with the provenance ``made``.

    Sums over data round otherwise on another processor; rounding each weight by itself does not.
    """
    return not (needs.calibrated or needs.tuned or needs.distilled) or same_codes(made, device)


def stored(facts: ArtifactFacts, metric: str) -> tuple[Measurement | None, Measurement | None]:
    """A metric of what is stored, and its reference: of bits per weight the nominal ones, of errors none."""
    if metric == BPW:
        counted, nominal = (_of_layers(metric, {"": bits}, facts) for bits in (facts.bpw, facts.nominal_bits))
        return counted, nominal
    errors = facts.errors(metric)
    return (_of_layers(metric, errors, facts), None) if errors else (None, None)


def _of_layers(metric: str, values: Mapping[str, float], facts: ArtifactFacts) -> Measurement:
    names = values if metric != BPW else facts.expected_layers
    return measurement(metric, list(values.values()), digest(names), _PROTOCOLS[metric], VERSIONS[metric])


class _Decision:
    """One gate of a session while it is decided."""

    def __init__(self, session: GateSession, runner: Runner, cell: Cell) -> None:
        self.session, self.runner, self.cell = session, runner, cell
        self.settings, self.spec = session.settings, cell.spec
        self.bounds = session.policy.bounds(str(cell.spec), cell.metric)
        self.basis = runner.basis(cell.model, cell.spec)
        self._where = where(session, runner, cell)
        file = session.baseline_file(cell.model.name, runner.device, str(cell.spec))
        self.figure = file.get(self.settings.tier, cell.metric) if file else None
        self.made = file.made[self.figure.made] if file and self.figure else {}
        self.known = listed(session, runner, cell)
        self.rules = NO_STOPS

    def evidence(self) -> Evidence:
        facts = self.runner.facts(self.cell.model, self.spec)
        figures = self._figures(facts)
        return self._evidence(figures.facts or facts, *self._measured(figures))

    def before(self, facts: ArtifactFacts, compared: Measurement | None) -> Known | None:
        """What is known of the gate before it is measured; the reference stands in for its items."""
        evidence = replace(self._evidence(facts, compared, compared), candidate=None)
        if compared is not None:
            return known_before(evidence, compared.clusters)
        text = self.cell.metric.partition("/")[2]
        windows = {each.name: each for each in self.runner.workload(self.cell.model).windows}
        return known_before(evidence, windows[text].documents if text in windows else None)

    def record(self, snapshot: SnapshotAssertion) -> GateRecord:
        try:
            facts = self.runner.facts(self.cell.model, self.spec)
        except QuantizationError as error:
            judgement = expect(Judgement(Verdict.NOT_QUANTIZED, (str(error),)), self.known)
            return GateRecord(**self._where, **figure_fields(judgement, self.bounds, None, None))
        figures = self._figures(facts)
        measured, compared = self._measured(figures)
        facts = figures.facts or facts
        evidence = self._evidence(facts, measured, compared)
        judgement, accepted = judge(evidence), None
        before = judgement.verdict
        if self.settings.update and measured is not None and self._worth_accepting(judgement, facts):
            judgement = judge(replace(evidence, baseline=AcceptedFigure(measured.mean)))
            if judgement.verdict.green:
                try:
                    accepted = self._accept(facts, measured, judgement.difference, before, snapshot)
                except QuantizationError as error:
                    judgement = replace(judgement, verdict=Verdict.NOT_QUANTIZED, reasons=(str(error),))
        judgement = expect(judgement, self.known, measured=measured is not None)
        return GateRecord(
            **self._where,
            baseline=None if accepted else self._accepted_value(evidence),
            published=evidence.published.citation if evidence.published and not accepted else None,
            bpw=facts.bpw if facts.layers else None,
            nominal_bits=facts.nominal_bits if facts.layers else None,
            weights=facts.weights if facts.layers else None,
            notes=facts.notes,
            artifact=facts.digest,
            seconds=0.0 if figures.reused else figures.seconds,
            quantize_seconds=figures.quantize_seconds,
            accepted=accepted,
            of=evidence.stop.order.size
            if evidence.stop and measured and measured.taken is not None
            else None,
            **figure_fields(judgement, self.bounds, measured, compared),
        )

    def _figures(self, facts: ArtifactFacts) -> Figures:
        """What was measured; nothing for what is not quantized: its figures would say nothing."""
        if self.cell.metric in VERSIONS or not_quantized(self._evidence(facts, None, None)):
            return self.runner.stored(self.cell.model, self.spec)
        self.rules = self.session.rules(self.runner, self.cell.model, self.spec)
        return self.runner.figures(self.cell.model, self.spec, self.rules)

    def _measured(self, figures: Figures) -> tuple[Measurement | None, Measurement | None]:
        """The candidate's measurement and the reference's."""
        metric = self.cell.metric
        if metric in VERSIONS:
            assert figures.facts is not None
            return stored(figures.facts, metric)
        if not figures.measurements:
            return None, None
        measured = figures.measurements.get(metric)
        reference = self.runner.reference(self.cell.model).measurements.get(metric)
        if measured is None or reference is None:
            return measured, reference
        return measured, reference.at(measured.taken)

    def _evidence(
        self, facts: ArtifactFacts, measured: Measurement | None, compared: Measurement | None
    ) -> Evidence:
        needs = METHODS.entry(self.spec.method).capabilities
        return Evidence(
            self.cell.metric,
            measured,
            compared,
            facts,
            self._baseline(measured, compared),
            self.bounds,
            self.spec.bits,
            self.spec.act_bits,
            self.session.alarm,
            same_codes=codes_are_due(needs, self.made, self.runner.device),
            kernels=self.settings.kernels,
            published=None if self.figure else self._published(measured, compared),
            stop=self.rules.get(self.cell.metric),
        )

    def _baseline(self, measured: Measurement | None, compared: Measurement | None) -> AcceptedFigure | None:
        if self.figure is None:
            return None
        whole = compared
        if compared is not None and compared.taken is not None:
            whole = self.runner.reference(self.cell.model).measurements[self.cell.metric]
        return self.figure.accepted(measured, self.made, self.basis, whole)

    def _worth_accepting(self, judgement: Judgement, facts: ArtifactFacts) -> bool:
        """A figure within its margin stays as it is, unless it was measured on another artifact.

        Where a published figure passed the gate, there is none yet. A known failure's stays, too: accepting
        it would hide what is listed.
        """
        if self.known is not None:
            return False
        other = self.figure is None or self.figure.artifact != facts.digest
        return judgement.verdict.updatable or (judgement.verdict.green and other)

    def _published(self, measured: Measurement | None, compared: Measurement | None) -> Match | None:
        """What is published of this model, spec and metric, and what it says of the figure."""
        if measured is None or compared is None or not pairs(measured, compared):
            return None
        stderr, source = paired_difference(measured, compared).stderr, self.cell.model.source
        run = RunFigure(
            self.cell.model.name,
            source,
            str(self.spec),
            self.cell.metric,
            measured.value,
            compared.value,
            stderr,
            measured.n,
        )
        return decisive(matches(self.session.published, run))

    def _accepted_value(self, evidence: Evidence) -> float | None:
        """The accepted figure, on the items that were taken."""
        measured, baseline = evidence.candidate, evidence.baseline
        if self.figure is None or measured is None or measured.taken is None:
            return self.figure.value if self.figure else None
        assert baseline is not None and baseline.outcomes is not None
        return replace(measured, outcomes=baseline.outcomes[measured.taken]).value

    def _noise(self) -> Noise:
        """What is stored is not evaluated: calibrating is all that could move it."""
        from quantcheck.recalibration import measured_noise

        calibrated = METHODS.entry(self.spec.method).capabilities.calibrated
        if self.cell.metric in VERSIONS and not (calibrated and self.settings.recalibrations):
            return Noise({}, {})
        return measured_noise(self.runner, self.cell.model, self.spec, self.settings.recalibrations)

    def _accept(
        self,
        facts: ArtifactFacts,
        measured: Measurement,
        difference: PairedDifference | None,
        verdict: Verdict,
        snapshot: SnapshotAssertion,
    ) -> str:
        from quantcheck.snapshot import accept

        assert difference is not None
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        made = {
            "basis": asdict(self.basis),
            "date": date,
            "libraries": library_versions(),
            "machine": machine(),
            "quantcheck": quantcheck.__version__,
        }
        new = _figure(measured, difference, facts, self._noise(), made_key(made))
        model, metric = self.cell.model.name, self.cell.metric
        address = (model, self.runner.device, str(self.spec), self.settings.tier, metric)
        change = Change(
            date=date,
            who=who(self.settings.baselines, ci=in_ci()),
            gate=self.cell.id,
            device=self.runner.device,
            tier=self.settings.tier,
            before=shown(metric, self.figure.value) if self.figure else "none",
            after=shown(metric, measured.value),
            verdict=verdict,
            reason=self.settings.reason or NOT_GIVEN,
        )
        accept(snapshot, self.settings.baselines, address, new, made, change.row())
        return f"{change.before} -> {change.after}"


def _figure(
    measured: Measurement, difference: PairedDifference, facts: ArtifactFacts, noise: Noise, made: str
) -> Figure:
    spread = noise.recalibration.get(measured.metric)
    return Figure(
        mean=measured.mean,
        value=measured.value,
        stderr=_finite(measured.stderr),
        n=measured.n,
        worse=difference.mean,
        worse_stderr=_finite(difference.stderr),
        items=measured.items,
        protocol=measured.protocol,
        version=measured.version,
        made=made,
        outcomes=pack(measured),
        artifact=facts.digest,
        codes=" ".join(layer.digest for layer in facts.layers) if measured.metric == WEIGHTS else "",
        noise=noise.evaluation.get(measured.metric, 0.0),
        spread=spread.deviation if spread else None,
        freedom=spread.freedom if spread else 0,
    )


def _finite(number: float) -> float | None:
    return None if math.isnan(number) else number
