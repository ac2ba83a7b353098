"""Where the work happens: load, quantize, measure, each once, through the disk cache.

Nothing here knows of pytest or of verdicts. What is cached is keyed by everything it depends on: weights,
tokenizer, spec, method and metric code, texts and tasks, calibration, dtype, device kind, seed and library
versions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from quantcheck.artifact_facts import ArtifactFacts
from quantcheck.cache import Cache, CacheKey
from quantcheck.errors import DataError
from quantcheck.measurement import digest
from quantcheck.methods import METHODS
from quantcheck.methods.artifact import Artifact, inspect, quantize
from quantcheck.methods.base import naming_the_method
from quantcheck.methods.computing import compute_by, kernels_by_name
from quantcheck.methods.reconstruction import compared
from quantcheck.metrics.catalog import MetricPlan
from quantcheck.metrics.measure import Workload, measure, plan_digests, prepare
from quantcheck.metrics.text import ReferenceOutputs
from quantcheck.models.calibration import (
    CalibrationData,
    CalibrationSource,
    Draw,
    inputs_of,
    read_calibration,
)
from quantcheck.models.image_text import ImageTexts, ImageTextSource
from quantcheck.models.instructions import Instructions, InstructionSource, tokenize_instructions
from quantcheck.models.load import LoadedModel, choose_dtype, full_precision, load_model, load_tokenizer
from quantcheck.models.processor import load_processor
from quantcheck.models.source import ModelSource, resolve_model
from quantcheck.progress import Progress, Update
from quantcheck.provenance import Basis, library_versions, object_digest, source_digest
from quantcheck.results import Figures
from quantcheck.spec import ModelSpec, QuantSpec
from quantcheck.stopping import NO_STOPS, Stops, digest_of

FED_TOKENS = 1024
ARTIFACT, SECONDS = "artifact.safetensors", "seconds"

T = TypeVar("T")


@dataclass
class Runner:
    """Loads, quantizes and measures, keeping at most one quantized model in memory.

    Attributes:
        cache: for artifacts and measurements.
        progress: told about long work.
        device: ``cpu`` or ``cuda``.
        dtype: ``auto`` or a name of `quantcheck.models.load.DTYPES`.
        seed: of everything random.
        plans: what is measured, by model name.
        calibrations: what calibrated methods read, by model name; ``None`` where there is nothing for it.
        instructions: what fine-tuned methods learn, by model name; ``None`` where there is no file of them.
        kernels: names of those that quantized layers are computed by; none: by their decoded weights.
    """

    cache: Cache
    progress: Progress
    device: str
    dtype: str
    seed: int
    plans: dict[str, MetricPlan]
    calibrations: dict[str, CalibrationSource | None]
    instructions: dict[str, InstructionSource | None] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()
    _memo: dict[tuple[str, ...], Any] = field(default_factory=dict)
    _module: tuple[tuple[str, str], nn.Module] | None = None

    def check(self, model: ModelSpec) -> None:
        """Read a model's texts, and its weights unless the cache knows that they are sound.

        Raises:
            DataError: as `workload`, and as `calibration` where there is a text for it.
            ModelError: the model does not load, or holds NaN or Inf.
        """
        self.workload(model)
        self._fed(model)
        weights, dtype = self.source(model).model_digest, self._dtype(model)
        key = CacheKey.of("sound", model=weights, dtype=dtype, device=self.device)
        self.cache.get_or_create(key, lambda folder: self._prove_sound(model, folder))

    def source(self, model: ModelSpec) -> ModelSource:
        """The model's files."""
        return self._once(("source", model.name), lambda: resolve_model(model))

    def loaded(self, model: ModelSpec) -> LoadedModel:
        """The full-precision model, loaded once."""
        return self._once(("loaded", model.name), lambda: self._load(model))

    def workload(self, model: ModelSpec) -> Workload:
        """The items to measure on, tokenized and checked; needs the tokenizer only.

        Raises:
            DataError: a text or task cannot be used, or shares windows with the calibration text.
        """
        return self._once(("workload", model.name), lambda: self._prepare(model))

    def calibration(self, model: ModelSpec) -> CalibrationData:
        """The accepted calibration data, read once; raises what `read_calibration` does."""
        return self._once(("calibration", model.name), lambda: self.read_calibration(model))

    def tokenized_instructions(self, model: ModelSpec) -> Instructions:
        """What is fine-tuned on; raises `DataError` when there is no file of it, or it cannot be used."""
        return self._once(("instructions", model.name), lambda: self._tokenize_instructions(model))

    def artifact(self, model: ModelSpec, spec: QuantSpec) -> Artifact:
        """The packed weights of one spec: from the cache, or quantized now."""
        return Artifact.load(self._artifact_folder(model, spec) / ARTIFACT)

    def module(self, model: ModelSpec, spec: QuantSpec) -> nn.Module:
        """A model that computes with the decoded weights of one spec."""
        key = (model.name, str(spec))
        if self._module is None or self._module[0] != key:
            self._module = None
            self._module = (key, self._applied(model, self.artifact(model, spec)))
        return self._module[1]

    def reference(self, model: ModelSpec) -> Figures:
        """The full-precision model's measurements."""
        return self._once(("reference", model.name), lambda: self._figures(model, None))

    def facts(self, model: ModelSpec, spec: QuantSpec) -> ArtifactFacts:
        """What is stored for one quantized model."""
        facts = self.stored(model, spec).facts
        assert facts is not None
        return facts

    def stored(self, model: ModelSpec, spec: QuantSpec) -> Figures:
        """The facts alone of one quantized model: nothing is evaluated for them."""
        return self._once(("stored", model.name, str(spec)), lambda: self._stored(model, spec))

    def figures(self, model: ModelSpec, spec: QuantSpec, stops: Stops = NO_STOPS) -> Figures:
        """One quantized model's measurements, each until it is decided where it may stop, and facts."""
        return self._once(("figures", model.name, str(spec)), lambda: self._figures(model, spec, stops))

    def basis(self, model: ModelSpec, spec: QuantSpec) -> Basis:
        """What the figures of one spec depend on beside items, protocol and version of the metric."""
        source = self.source(model)
        return Basis(
            device=self.device,
            dtype=self._dtype(model),
            model=source.model_digest,
            tokenizer=source.tokenizer_digest,
            calibration=self._data_digest(model, spec),
            method_version=int(METHODS.resolve(spec.method).version),
            seed=self.seed,
        )

    def _once(self, key: tuple[str, ...], make: Callable[[], T]) -> T:
        """Make something once, or fail once: a hundred gates must not each fail slowly."""
        if key not in self._memo:
            try:
                self._memo[key] = (make(), None)
            except Exception as error:
                self._memo[key] = (None, error)
        value, failure = self._memo[key]
        if failure is not None:
            raise failure
        return cast("T", value)

    def _load(self, model: ModelSpec) -> LoadedModel:
        return load_model(model, device=self.device, dtype=self.dtype)

    def _prove_sound(self, model: ModelSpec, folder: Path) -> None:
        (folder / "dtype").write_text(self.loaded(model).dtype, encoding="utf-8")

    def _dtype(self, model: ModelSpec) -> str:
        return choose_dtype(self.dtype, device=self.device, stored=self.source(model).stored_dtype)

    def _prepare(self, model: ModelSpec) -> Workload:
        source = self.source(model)
        return prepare(self.plans[model.name], self.tokenizer(model), source.context_length)

    def tokenizer(self, model: ModelSpec) -> PreTrainedTokenizerBase:
        """The model's tokenizer, loaded once."""
        return self._once(("tokenizer", model.name), lambda: load_tokenizer(self.source(model)))

    def processor(self, model: ModelSpec) -> Any:
        """A LLaVA's processor, loaded once."""
        return self._once(("processor", model.name), lambda: load_processor(self.source(model)))

    def read_calibration(self, model: ModelSpec, draw: int = 0) -> CalibrationData:
        """Read calibration data, for draw 1, 2 .. other ones; raises `DataError` where that cannot be."""
        source = self.calibrations[model.name]
        if source is None:
            raise DataError(
                f"model {model}: calibrated methods need a text: --quantcheck-calibration FILE, or leave "
                f"them out with --quantcheck-methods"
            )
        reader = self.processor if isinstance(source, ImageTextSource) else self.tokenizer
        context_length, evaluations = self.source(model).context_length, self.workload(model).windows
        return read_calibration(source, reader(model), context_length, Draw(draw, self.seed), evaluations)

    def _tokenize_instructions(self, model: ModelSpec) -> Instructions:
        source = self.instructions.get(model.name)
        if source is None:
            raise DataError(
                f"model {model}: fine-tuned methods need --quantcheck-instructions FILE, or leave them out "
                f"with --quantcheck-methods"
            )
        return tokenize_instructions(source, self.tokenizer(model), self.source(model).context_length)

    def _data_digest(self, model: ModelSpec, spec: QuantSpec) -> str:
        """Digest of what a method reads beside the weights; empty for one that reads nothing."""
        needs = METHODS.entry(spec.method).capabilities
        if needs.calibrated:
            return self.calibration(model).digest
        if not needs.tuned:
            return ""
        instructions = self.tokenized_instructions(model)
        trained = instructions.trained(str(spec))
        return digest([instructions.digest, *([trained.read_bytes()] if trained else [])])

    def _figures(self, model: ModelSpec, spec: QuantSpec | None, stops: Stops = NO_STOPS) -> Figures:
        return self._kept(self.figures_key(model, spec, stops), lambda: self._measure(model, spec, stops))

    def _stored(self, model: ModelSpec, spec: QuantSpec) -> Figures:
        artifact, kernels = self._artifact_key(model, spec).digest, ",".join(self.kernels)
        key = CacheKey.of("facts", artifact=artifact, fed=self._fed_digest(model), kernels=kernels)
        return self._kept(key, lambda: self._looked_at(model, spec))

    def _looked_at(self, model: ModelSpec, spec: QuantSpec) -> Figures:
        module, artifact = self.module(model, spec), self.artifact(model, spec)
        took = float((self._artifact_folder(model, spec) / SECONDS).read_text(encoding="utf-8"))
        return Figures({}, self._facts(model, artifact, module), 0.0, False, took)

    def _kept(self, key: CacheKey, make: Callable[[], Figures]) -> Figures:
        """Figures from the cache, or made now and timed."""
        seconds: list[float] = []

        def create(folder: Path) -> None:
            began = time.perf_counter()
            figures = make()
            seconds.append(time.perf_counter() - began)
            (folder / "figures.json").write_text(
                replace(figures, seconds=seconds[0]).dumps(), encoding="utf-8"
            )

        path = self.cache.get_or_create(key, create)
        return replace(Figures.loads((path / "figures.json").read_text(encoding="utf-8")), reused=not seconds)

    def _measure(self, model: ModelSpec, spec: QuantSpec | None, stops: Stops) -> Figures:
        workload = self.workload(model)
        stages = len(workload.windows) + (workload.tasks is not None) + (spec is not None)
        with self.progress.task(f"{model} {spec or 'full precision'}", stages) as update:
            if spec is None:
                return Figures(measure(self.loaded(model).model, workload, progress=update), None, 0.0, False)
            facts, module = self.facts(model, spec), self.module(model, spec)
            figures = self._evaluated(model, facts, module, update, stops)
        return replace(figures, quantize_seconds=self.stored(model, spec).quantize_seconds)

    def measured(self, model: ModelSpec, artifact: Artifact, update: Update) -> Figures:
        """Look at what any ``artifact`` left of a model, then measure it, in place of the one in memory."""
        self._module = None
        module = self._applied(model, artifact)
        return self._evaluated(model, self._facts(model, artifact, module), module, update)

    def _evaluated(
        self,
        model: ModelSpec,
        facts: ArtifactFacts,
        module: nn.Module,
        update: Update,
        stops: Stops = NO_STOPS,
    ) -> Figures:
        workload, outputs = self.workload(model), self._outputs(model)
        measured = measure(module, workload, reference=outputs, progress=update, stops=stops)
        untouched = self._untouched(model) and facts.reference_untouched
        return Figures(measured, replace(facts, reference_untouched=untouched), 0.0, False)

    def _applied(self, model: ModelSpec, artifact: Artifact) -> nn.Module:
        module = artifact.apply(self.loaded(model).fresh()).eval()
        compute_by(module, kernels_by_name(self.kernels))
        return module

    def _facts(self, model: ModelSpec, artifact: Artifact, module: nn.Module) -> ArtifactFacts:
        fed = self._fed(model)
        vision = QuantSpec.parse(artifact.spec).vision
        facts = replace(inspect(module, vision=vision), notes=artifact.notes, fed=self._fed_digest(model))
        inputs = None if fed is None else inputs_of(fed, self.device)
        with full_precision():
            facts = compared(facts, module, self.loaded(model).model, artifact.parameters, inputs)
        return replace(facts, reference_untouched=self._untouched(model))

    def _fed(self, model: ModelSpec) -> CalibrationData | None:
        """The calibration data that blocks are compared on; ``None`` where there are none."""
        if self.calibrations[model.name] is None:
            return None
        data = self.calibration(model)
        return data.first(max(1, FED_TOKENS // data.length))

    def _fed_digest(self, model: ModelSpec) -> str:
        fed = self._fed(model)
        return fed.digest if fed else ""

    def _untouched(self, model: ModelSpec) -> bool:
        """Whether nobody wrote to the full-precision model; one that was written to is loaded anew."""
        untouched = self.loaded(model).untouched
        if not untouched:
            for what in ("loaded", "outputs"):
                self._memo.pop((what, model.name), None)
        return untouched

    def _outputs(self, model: ModelSpec) -> ReferenceOutputs:
        return self._once(("outputs", model.name), lambda: ReferenceOutputs(self.loaded(model).model))

    def _artifact_folder(self, model: ModelSpec, spec: QuantSpec) -> Path:
        return self.cache.get_or_create(
            self._artifact_key(model, spec), lambda folder: self._quantize(model, spec, folder)
        )

    def _quantize(self, model: ModelSpec, spec: QuantSpec, folder: Path) -> None:
        self.loaded(model)
        began = time.perf_counter()
        calibrated = METHODS.entry(spec.method).capabilities.calibrated
        data = self.calibration(model) if calibrated else None
        with self.progress.task(f"{model} {spec}") as update:
            self.quantized(model, spec, data, self.seed, update).save(folder / ARTIFACT)
        (folder / SECONDS).write_text(f"{time.perf_counter() - began}", encoding="utf-8")

    def quantized(
        self, model: ModelSpec, spec: QuantSpec, data: CalibrationData | None, seed: int, update: Update
    ) -> Artifact:
        """Quantize a copy of a model on calibration data; ``None`` for a method that reads none.

        Raises:
            QuantizationError: the method failed; whatever it raised by mistake is named.
        """
        loaded, tuned = self.loaded(model), METHODS.entry(spec.method).capabilities.tuned
        with naming_the_method(spec):
            artifact = quantize(
                loaded.fresh(),
                spec,
                scale_dtype=_scale_dtype(loaded.stored_dtype),
                calibration=None if data is None else inputs_of(data, self.device),
                instructions=self.tokenized_instructions(model) if tuned else None,
                seed=seed,
                progress=lambda _, done, total: update("quantizing", done, total),
            )
        notes = data.notes if isinstance(data, ImageTexts) else ()
        return replace(artifact, notes=(*artifact.notes, *notes))

    def _artifact_key(self, model: ModelSpec, spec: QuantSpec) -> CacheKey:
        basis = asdict(self.basis(model, spec))
        return CacheKey.of(
            "artifact",
            spec=str(spec),
            stored=self.source(model).stored_dtype,
            code=object_digest(METHODS.resolve(spec.method)),
            libraries=self._libraries,
            **basis,
        )

    def figures_key(self, model: ModelSpec, spec: QuantSpec | None, stops: Stops = NO_STOPS) -> CacheKey:
        """What the figures of one spec, or of the reference, are kept under."""
        parts: dict[str, Any] = {
            "stops": digest_of(stops),
            "fed": self._fed_digest(model),
            **plan_digests(self.plans[model.name]),
            "libraries": self._libraries,
        }
        if spec is not None:
            artifact = self._artifact_key(model, spec)
            kernels = ",".join(self.kernels)
            return CacheKey.of("measurement", artifact=artifact.digest, kernels=kernels, **parts)
        source = self.source(model)
        return CacheKey.of(
            "reference",
            model=source.model_digest,
            tokenizer=source.tokenizer_digest,
            dtype=self._dtype(model),
            device=self.device,
            code=source_digest(),
            **parts,
        )

    @cached_property
    def _libraries(self) -> str:
        return digest(f"{name}={version}" for name, version in sorted(library_versions().items()))


def _scale_dtype(stored: str) -> torch.dtype:
    return torch.float32 if stored == "float32" else torch.float16
