"""One run: which gates it has, what they are compared with, and how one is decided."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import quantcheck
from quantcheck.artifact_facts import GAINS, OUTPUTS, ROWS, WEIGHTS
from quantcheck.baseline import BaselineFile, read_baseline
from quantcheck.decision import BPW, decide, rules
from quantcheck.errors import DataError
from quantcheck.extensions import codec_ids, kernel_ids, selected
from quantcheck.known_gates import Key, KnownGate, read_known_gates
from quantcheck.measurement import kind_of
from quantcheck.methods import METHODS
from quantcheck.metrics.catalog import MetricPlan, builtin_calibration, builtin_instructions, plan_metrics
from quantcheck.models.calibration import CalibrationSource
from quantcheck.models.image_text import ImageTextSource
from quantcheck.models.instructions import InstructionSource
from quantcheck.models.text import TextSource
from quantcheck.options import Settings
from quantcheck.ordering_decision import decide_ordering
from quantcheck.plan import DEVICES, Cell, Matrix, cells, exact_spec, matrix
from quantcheck.policy import Policy, read_policy
from quantcheck.provenance import library_versions, machine
from quantcheck.published import Published, load, names
from quantcheck.record import GateRecord, RunRecord
from quantcheck.report import orderings
from quantcheck.run_verdicts import of_the_run, shared_over
from quantcheck.spec import ModelSpec, QuantSpec
from quantcheck.statistics.bound import ALPHA
from quantcheck.statistics.budget import BUDGET, share
from quantcheck.stopping import Stops

if TYPE_CHECKING:
    from syrupy.assertion import SnapshotAssertion

    from quantcheck.runner import Runner

USER_CALIBRATION_WINDOWS = 128


class GateSession:
    """What a run was asked for: its matrix, baselines and policy, and how one of its gates is decided."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._rules: dict[tuple[str, str], Stops] = {}
        self._files: dict[tuple[str, str, str], BaselineFile | None] = {}

    @cached_property
    def matrix(self) -> Matrix:
        """The selected specs; raises `SpecError` when there is none."""
        specs = tuple(spec for spec in self._asked.specs if spec not in self.untaught)
        return replace(self._asked, specs=specs)

    @cached_property
    def untaught(self) -> tuple[QuantSpec, ...]:
        """Fine-tuned specs that are left out since a model has no instructions to learn from.

        Only where the user named neither specs nor methods: what is asked for is refused instead.
        """
        settings = self.settings
        if settings.specs or settings.methods or all(map(self.instructions, settings.models)):
            return ()
        return tuple(spec for spec in self._asked.specs if METHODS.entry(spec.method).capabilities.tuned)

    @cached_property
    def _asked(self) -> Matrix:
        return matrix(
            METHODS,
            self.settings.tier,
            self.settings.specs,
            self.settings.methods,
            others=(*codec_ids(), *kernel_ids()),
        )

    @cached_property
    def contracts(self) -> dict[str, list[str]]:
        """The codecs and kernels that the globs choose, by the mark of their suites."""
        globs = self.settings.specs
        return {"codec": selected(codec_ids(), globs), "kernel": selected(kernel_ids(), globs)}

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every gate of the matrix, and every accepted figure that it should have covered and does not."""
        planned = cells(
            self.settings.models,
            self.matrix.specs,
            {model.name: self.metrics(model) for model in self.settings.models},
        )
        vanished = [
            Cell(model, spec, metric)
            for model in self.settings.models
            for spec in self.matrix.specs
            for metric in self.vanished(model, spec)
        ]
        return (*planned, *vanished, *self.orderings)

    @cached_property
    def orderings(self) -> tuple[Cell, ...]:
        """The gates of the orderings that the policy names, among the specs of this run."""
        specs = self.matrix.specs
        pairs = dict.fromkeys(pair for entry in self.policy.orderings for pair in entry.pairs(specs))
        return tuple(
            Cell(model, better, metric, worse)
            for model in self.settings.models
            for better, worse in pairs
            for metric in self.ordered(model, better, worse)
        )

    def ordered(self, model: ModelSpec, better: QuantSpec, worse: QuantSpec) -> tuple[str, ...]:
        """The metrics of a model by which the policy says that one spec is not worse than another.

        Raises:
            BaselineError: it says nothing of these two.
        """
        entries = self.policy.naming(better, worse)
        return tuple(
            metric for metric in self.metrics(model) if any(entry.covers(metric) for entry in entries)
        )

    @cached_property
    def published(self) -> tuple[Published, ...]:
        """The published figures, which decide where none was accepted."""
        return tuple(map(load, names()))

    @property
    def alarm(self) -> float:
        """The level of a false alarm at each gate that may have a floor: its share of the run's budget."""
        return share(sum(not kind_of(cell.metric).by_layer for cell in self.cells))

    @cached_property
    def known_gates(self) -> dict[Key, KnownGate]:
        """The gates that are known to fail, by id, tier and kind of device."""
        return read_known_gates(self.settings.baseline_folders)

    @cached_property
    def policy(self) -> Policy:
        """The margins: the user's own policy file, else the packaged one."""
        paths = [folder / "policy.toml" for folder in self.settings.baseline_folders]
        return read_policy(next((path for path in paths if path.is_file()), paths[-1]))

    @cached_property
    def device(self) -> str:
        """The kind of device that models run on; imports torch."""
        import torch

        if self.settings.device != "auto":
            return self.settings.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def plan(self, model: ModelSpec) -> MetricPlan:
        """What is measured on a model."""
        return plan_metrics(model, self.settings.tier, self.texts())

    def metrics(self, model: ModelSpec) -> tuple[str, ...]:
        """The metrics gated on a model: of what is stored, then what is measured.

        Outputs of blocks are compared on the calibration text, for every method, where there is one.
        """
        outputs = () if self.calibration(model) is None else (OUTPUTS,)
        return (WEIGHTS, GAINS, ROWS, *outputs, BPW, *self.plan(model).metrics)

    def vanished(self, model: ModelSpec, spec: QuantSpec) -> list[str]:
        """Accepted metrics, of the built-in model or a given text, that this run ought to produce."""
        planned = self.metrics(model)
        texts = {text.name for text in self.texts()}
        files = [self.baseline_file(model.name, device, str(spec)) for device in DEVICES]
        stored = dict.fromkeys(
            metric for file in files if file for metric in file.metrics(self.settings.tier)
        )
        return [
            metric
            for metric in stored
            if metric not in planned and (model.builtin or metric.partition("/")[2] in texts)
        ]

    def texts(self) -> tuple[TextSource, ...]:
        """The user's texts as options describe them."""
        settings = self.settings
        return tuple(self._text(path.stem, path, settings.windows) for path in settings.texts)

    def calibration(self, model: ModelSpec) -> CalibrationSource | None:
        """What calibrated methods read; ``None`` where the user gave nothing for a model of their own."""
        settings = self.settings
        if model.builtin:
            return builtin_calibration(settings.tier)
        if settings.calibration_images is not None:
            return ImageTextSource(settings.calibration_images, settings.calibration_windows)
        if settings.calibration is None:
            return None
        return self._text(
            "calibration", settings.calibration, settings.calibration_windows or USER_CALIBRATION_WINDOWS
        )

    def instructions(self, model: ModelSpec) -> InstructionSource | None:
        """What fine-tuned methods learn; ``None`` where the user gave no file for a model of their own."""
        if model.builtin:
            return builtin_instructions(self.settings.tier)
        path = self.settings.instructions
        return None if path is None else InstructionSource(path)

    def spec(self, text: str | QuantSpec) -> QuantSpec:
        """A spec by its id, checked against its method; raises `SpecError` with a suggestion."""
        return exact_spec(METHODS, str(text))

    def model(self, name: str | ModelSpec | None) -> ModelSpec:
        """A model of this run by its name; the only one when ``name`` is ``None``."""
        models = {model.name: model for model in self.settings.models}
        if isinstance(name, ModelSpec):
            name = name.name
        if name is None and len(models) == 1:
            return self.settings.models[0]
        if name not in models:
            raise DataError(
                f"no model {name!r} in this run; it has {', '.join(models)}: name one, or add it with "
                f"--quantcheck-model"
            )
        return models[name]

    def baseline_file(self, model: str, device: str, spec: str) -> BaselineFile | None:
        """The accepted figures of a spec, read once a run (an update reads anew)."""
        key = (model, device, spec)
        if key not in self._files:
            self._files[key] = read_baseline(self.settings.baseline_folders, model, device, spec)
        return self._files[key]

    def rules(self, runner: Runner, model: ModelSpec, spec: QuantSpec) -> Stops:
        """When each gate of a spec is decided, fixed before the first of its items."""
        key = (model.name, str(spec))
        if key not in self._rules:
            self._rules[key] = rules(self, runner, model, spec)
        return self._rules[key]

    def decide(self, runner: Runner, cell: Cell, snapshot: SnapshotAssertion) -> GateRecord:
        """Measure one gate, judge it, and accept it when asked to."""
        if cell.against is not None:
            return decide_ordering(self, runner, cell)
        return decide(self, runner, cell, snapshot)

    def run_record(self, records: Sequence[GateRecord]) -> RunRecord:
        """The record of the run, from the records of all workers: failures first, then by id."""
        planned = [cell.id for cell in self.cells]
        # In sequence, what is left of a gate's share is spent on its drift: there is none for Holm's rule.
        told = records if self.settings.sequential else of_the_run(records, planned)
        gates = sorted(told, key=lambda gate: (gate.verdict.green, gate.id))
        header = {**self.header(), "tested": shared_over(records, planned)}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        about = now, quantcheck.__version__, header, library_versions(), machine()
        return RunRecord(*about, gates, orderings.found(gates))

    def header(self) -> dict[str, Any]:
        """What is under test, as data."""
        settings = self.settings
        return {
            "tier": settings.tier,
            "models": {
                model.name: {
                    "source": model.portable_source,
                    "revision": model.revision,
                }
                for model in settings.models
            },
            "seed": settings.seed,
            "texts": [text.name for text in settings.texts],
            "specs": len(self.matrix.specs),
            "gates": len(self.cells),
            "unsupported": self.matrix.unsupported,
            "sequential": settings.sequential,
            "update": settings.update,
            "release": settings.release,
        }

    def header_lines(self) -> list[str]:
        """What is under test, for people."""
        settings, found = self.settings, self.matrix
        models = ", ".join(
            f"{model.name} ({model.source})" if model.name != model.source else model.name
            for model in settings.models
        )
        return [
            f"quantcheck {quantcheck.__version__}: {models} | tier {settings.tier} | device "
            f"{settings.device} | dtype {settings.dtype} | seed {settings.seed}",
            f"quantcheck matrix: {len(found.specs)} specs of "
            f"{', '.join(dict.fromkeys(spec.method for spec in found.specs)) or 'no method'}, "
            f"{len(self.cells)} gates, {found.unsupported} unsupported combinations left out"
            f"{self._untaught_line()}",
            f"quantcheck errors: false alarms in {BUDGET:.0%} of runs, {self.alarm:.2g} at each gate; false "
            f"passes {ALPHA:.0%} at each gate; inconclusive gates {settings.inconclusive}",
            f"quantcheck contracts: {len(self.contracts['codec'])} codecs, "
            f"{len(self.contracts['kernel'])} kernels, each at one width",
            f"quantcheck baselines: {settings.baselines} | policy {self.policy.path} | cache "
            f"{settings.cache or 'default'}",
        ]

    def _untaught_line(self) -> str:
        names = ", ".join(map(str, self.untaught))
        return f", and {names} for want of --quantcheck-instructions" if names else ""

    def _text(self, name: str, path: Path, windows: int | None) -> TextSource:
        settings = self.settings
        return TextSource(name, path, settings.text_separator, settings.text_bos, windows, settings.window)
