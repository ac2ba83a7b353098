"""What one pytest run holds: glue between the hooks and the objects that know nothing of pytest."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from quantcheck.cache import Cache, default_root
from quantcheck.errors import DataError
from quantcheck.gate import Verdict
from quantcheck.options import read_settings
from quantcheck.plan import Cell
from quantcheck.preflight import preflight
from quantcheck.progress import Progress, choose_mode
from quantcheck.provenance import machine
from quantcheck.record import GateRecord, RunRecord
from quantcheck.report.message import message
from quantcheck.report.terminal import lines
from quantcheck.session import GateSession
from quantcheck.spec import ModelSpec, QuantSpec

if TYPE_CHECKING:
    from syrupy.assertion import SnapshotAssertion
    from torch import nn

    from quantcheck.artifact_facts import ArtifactFacts
    from quantcheck.methods.artifact import Artifact
    from quantcheck.runner import Runner

RECORDS = pytest.StashKey[list[GateRecord]]()


@dataclass(frozen=True)
class QuantizedModel:
    """A model quantized by a spec; what is expensive is made when it is looked at."""

    state: State
    model: ModelSpec
    spec: QuantSpec

    @property
    def artifact(self) -> Artifact:
        """The packed tensors, as they would be shipped."""
        return self.state.runner.artifact(self.model, self.spec)

    @property
    def facts(self) -> ArtifactFacts:
        """What was found in the model: quantized layers, stored and nominal bits."""
        return self.state.runner.facts(self.model, self.spec)

    @property
    def module(self) -> nn.Module:
        """A transformers model that computes with the decoded weights; read it, do not train it."""
        return self.state.runner.module(self.model, self.spec)


class State:
    """Made once a run and process; raises `QuantcheckError` when an option cannot be used."""

    def __init__(self, config: pytest.Config, run_folder: Callable[[], str]) -> None:
        self.config = config
        self._run_folder = run_folder
        self.session = GateSession(read_settings(config))
        self.progress = self._make_progress()
        self._made: RunRecord | None = None

    def close(self) -> None:
        """Release the cache."""
        if "cache" in self.__dict__:
            self.cache.close()

    @cached_property
    def cache(self) -> Cache:
        """The disk cache; raises `CacheError` when its folder cannot be used."""
        where = self.session.settings.cache
        if where == "off":
            return Cache.temporary(Path(self._run_folder()))
        return Cache.open(Path(where) if where else default_root(os.environ), warn=self._warn)

    @cached_property
    def runner(self) -> Runner:
        """What loads, quantizes and measures; imports torch and transformers."""
        from quantcheck.runner import Runner

        session, settings = self.session, self.session.settings
        models = settings.models
        return Runner(
            cache=self.cache,
            progress=self.progress,
            device=session.device,
            dtype=settings.dtype,
            seed=settings.seed,
            plans={model.name: session.plan(model) for model in models},
            calibrations={model.name: session.calibration(model) for model in models},
            instructions={model.name: session.instructions(model) for model in models},
            kernels=settings.kernels,
        )

    def check(self) -> None:
        """Check everything that can be before anything is collected.

        What single specs need waits for the collection, which tells which of them run; only an xdist
        controller, which collects nothing, checks the whole matrix.
        """
        session, cells = self.session, self.session.cells
        distributed = self.config.pluginmanager.hasplugin("dsession")
        preflight(session, session.settings.models, cells if distributed else ())
        self.cache  # noqa: B018  # opening it probes the folder

    def list_gates(self) -> int:
        """Print every gate with its marks, and every codec and kernel that has a contract; the exit code."""
        writer = self.config.get_terminal_writer()
        for cell in self.session.cells:
            writer.line(f"{cell.id}  {' '.join((*cell.marks, f'bits(w={cell.spec.whole_bits})'))}")
        for kind, ids in self.session.contracts.items():
            for each in ids:
                writer.line(f"{each}  {kind}")
        for line in self.session.header_lines():
            writer.line(line)
        return 0

    def check_selection(self, items: Sequence[pytest.Item], *, complete: bool) -> None:
        """Check the gates that were selected.

        Raises:
            DataError: gates were collected, ``complete``-ly, and none was selected.
        """
        planned = self.session.cells
        cells = [each for cell in map(_cell, items) if cell is not None for each in cell.measured]
        if complete and not items:
            expression = f"-m {self.config.getoption('markexpr')!r} -k {self.config.getoption('keyword')!r}"
            raise DataError(
                f"nothing is selected: {expression} left none of {len(planned)} gates; see --quantcheck-list"
            )
        preflight(self.session, self.session.settings.models, cells)
        specs = {(cell.model.name, str(cell.spec)): cell for cell in cells}
        models = {cell.model.name: cell.model for cell in cells}
        # Of each spec: quantizing and measuring; to accept it, measuring in other batches and recalibrating.
        stages = 4 if self.session.settings.update else 2
        self.progress.tasks = stages * len(specs) + len(models)
        for model in models.values():
            self.runner.check(model)
        for cell in specs.values():
            self.runner.basis(cell.model, cell.spec)

    def quantized(self, spec: str, model: str | None = None) -> QuantizedModel:
        """The model that ``spec`` makes of ``model``."""
        return QuantizedModel(self, self.session.model(model), self.session.spec(spec))

    def decide(
        self,
        item: pytest.Item,
        model: QuantizedModel,
        metric: str,
        snapshot: SnapshotAssertion,
        against: QuantSpec | None = None,
    ) -> GateRecord:
        """Decide one gate and keep its record with the test that asked for it."""
        cell = Cell(model.model, model.spec, metric, against)
        record = self.session.decide(self.runner, cell, snapshot)
        item.stash.setdefault(RECORDS, []).append(record)
        return record

    def failure(self, records: Sequence[GateRecord]) -> str:
        """The message of the gates that fail; empty where none does."""
        return "\n\n".join(message(record, machine()) for record in records if self._fails(record))

    def _fails(self, record: GateRecord) -> bool:
        lenient = self.session.settings.inconclusive == "warn"
        return not record.verdict.green and not (lenient and record.verdict is Verdict.INCONCLUSIVE)

    def found_by_the_run(self, raw: Sequence[dict[str, Any]]) -> bool:
        """Whether a gate whose test passed is red in the run's record (`quantcheck.run_verdicts`)."""
        gates = _records(raw)
        passed = {gate.id for gate in gates if not self._fails(gate)}
        return any(self._fails(gate) and gate.id in passed for gate in self._run_record(raw).gates)

    def write_reports(self, raw: Sequence[dict[str, Any]]) -> None:
        """Write every report that was asked for."""
        for target in self.session.settings.reports:
            target.write(self._run_record(raw))

    def print_summary(self, reporter: pytest.TerminalReporter, raw: Sequence[dict[str, Any]]) -> None:
        """Print the table, failures first."""
        reporter.section("quantcheck")
        for text, colour in lines(self._run_record(raw)):
            reporter.write_line(text, **({colour: True} if colour else {}))

    def _run_record(self, raw: Sequence[dict[str, Any]]) -> RunRecord:
        """Made once for all reports: its orderings take seconds."""
        if self._made is None or len(self._made.gates) != len(raw):
            self._made = self.session.run_record(_records(raw))
        return self._made

    def _warn(self, text: str) -> None:
        self.config.issue_config_time_warning(pytest.PytestWarning(text), stacklevel=2)

    def _make_progress(self) -> Progress:
        mode = choose_mode(
            self.session.settings.progress,
            isatty=sys.stdout.isatty(),
            verbosity=self.config.get_verbosity(),
            ci=os.environ.get("CI", ""),
            worker=hasattr(self.config, "workerinput"),
        )
        plugins = self.config.pluginmanager
        reporter, capture = plugins.get_plugin("terminalreporter"), plugins.get_plugin("capturemanager")
        # The terminal writer's own file reaches the terminal while pytest captures what tests print.
        return Progress(
            getattr(self.config.get_terminal_writer(), "_file", sys.stdout),
            mode,
            newline=getattr(reporter, "ensure_newline", lambda: None),
            uncaptured=capture.global_and_fixture_disabled if capture else nullcontext,
        )


def annotate(item: pytest.Item, report: pytest.TestReport) -> None:
    """Attach records to the report that ends the test; a gate without a verdict fails."""
    if report.when == "teardown":
        return
    records = item.stash.get(RECORDS, [])
    if report.when == "call":
        report.quantcheck = [record.to_json() for record in records]  # type: ignore[attr-defined]
    silent = report.skipped or (report.when == "call" and report.passed and not records)
    if silent and not hasattr(report, "wasxfail"):
        how = "was skipped" if report.skipped else "ended without a verdict"
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} asked for a gate and {how}: nothing passes by absence"


def _cell(item: pytest.Item) -> Cell | None:
    callspec = getattr(item, "callspec", None)
    values = callspec.params.values() if callspec else ()
    return next((value for value in values if isinstance(value, Cell)), None)


def _records(raw: Sequence[dict[str, Any]]) -> list[GateRecord]:
    return [GateRecord.from_json(entry) for entry in raw]
