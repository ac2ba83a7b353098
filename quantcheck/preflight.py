"""Everything that can be checked before any long work, without torch where possible; changes nothing."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

from quantcheck.errors import BaselineError, DataError, MissingPackageError, QuantcheckError, SpecError
from quantcheck.known_gates import check_current
from quantcheck.methods import METHODS
from quantcheck.models.image_text import ImageTextSource, read_image_texts
from quantcheck.models.instructions import read_instructions, trained_adapters
from quantcheck.models.source import ModelSource, resolve_model
from quantcheck.models.text import read_documents
from quantcheck.options import Settings, in_ci
from quantcheck.orderings.named import STAR, NamedOrdering, matches
from quantcheck.plan import DEVICES, Cell, candidates, exact_spec
from quantcheck.policy import Policy
from quantcheck.registry import did_you_mean
from quantcheck.session import GateSession
from quantcheck.spec import ModelSpec, QuantSpec

EXTRA = "quantcheck[finetune]"
FINE_TUNING = ("peft", "bitsandbytes")


def preflight(session: GateSession, models: Sequence[ModelSpec], selected: Sequence[Cell]) -> None:
    """Check the options, the models and their texts, and what the selected gates need beside them.

    Raises:
        QuantcheckError: the first thing that is wrong, with the way out.
    """
    settings = session.settings
    _refuse_leniency(settings)
    _refuse_part_of_a_baseline(settings)
    _require(settings)
    _refuse_unused_text_options(settings)
    _check_reports(settings)
    _check_kernels(settings)
    policy = session.policy
    _check_orderings(policy)
    check_current(session.known_gates.values(), settings.tier, (cell.id for cell in session.cells))
    if (
        any(cell.metric.startswith("acc/") for cell in selected)
        and importlib.util.find_spec("lm_eval") is None
    ):
        raise MissingPackageError("zero-shot accuracy", "lm-eval")
    for model in models:
        source = resolve_model(model)
        _check_pictures(session, source, [cell.spec for cell in selected if cell.model == model])
        _check_texts(session, model, [cell for cell in selected if cell.model == model])
        _check_instructions(session, model, [cell.spec for cell in selected if cell.model == model])
    for cell in selected:
        policy.bounds(str(cell.spec), cell.metric)
        for device in DEVICES:
            session.baseline_file(cell.model.name, device, str(cell.spec))


def _refuse_leniency(settings: Settings) -> None:
    where = "in a release run" if settings.release else "under CI" if in_ci() else None
    if where is None:
        return
    if settings.inconclusive == "warn":
        raise QuantcheckError(
            f"--quantcheck-inconclusive warn is refused {where}: a gate that cannot tell has not passed. "
            "Measure as many items as it names, or leave it to exploring at a desk"
        )
    if settings.update and settings.release:
        raise QuantcheckError(
            "--snapshot-update is refused in a release run: what was accepted before decides it. Accept "
            "baselines first, without --quantcheck-release, and review the diff"
        )
    if settings.update and not settings.update_in_ci:
        raise QuantcheckError(
            "--snapshot-update is refused under CI: a gate must not move its own goalposts. Accept "
            "baselines at a desk and "
            "review the diff, or allow it by name with --quantcheck-update-in-ci"
        )


def _refuse_part_of_a_baseline(settings: Settings) -> None:
    if settings.update and settings.sequential:
        raise QuantcheckError(
            "--snapshot-update is refused with --quantcheck-sequential: an accepted figure needs all of its "
            "items. Leave --quantcheck-sequential out, or turn it off with -o quantcheck_sequential=false"
        )


def _require(settings: Settings) -> None:
    for what in settings.require:
        if what == "cuda":
            _require_gpu()
        elif importlib.util.find_spec(what.replace("-", "_")) is None:
            raise QuantcheckError(
                f"--quantcheck-require {what}: no such package is installed here: pip install {what}"
            )


def _require_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise QuantcheckError(
            "--quantcheck-require cuda: torch sees no GPU here; run on a machine with one, with a CUDA "
            "build of torch"
        )


def _refuse_unused_text_options(settings: Settings) -> None:
    if not all(model.builtin for model in settings.models):
        return
    given = {
        "text": settings.texts,
        "text-separator": settings.text_separator,
        "windows": settings.windows,
        "window": settings.window,
        "calibration": settings.calibration,
        "calibration-images": settings.calibration_images,
        "calibration-windows": settings.calibration_windows,
        "instructions": settings.instructions,
    }
    for name, value in given.items():
        if value:
            raise DataError(
                f"--quantcheck-{name} is for models of your own, the built-in one brings its texts: add "
                f"--quantcheck-model"
            )


def _check_reports(settings: Settings) -> None:
    for target in settings.reports:
        folder = next(path for path in target.path.absolute().parents if path.exists())
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise QuantcheckError(
                f"--quantcheck-report {target.kind}:{target.path}: {folder} is no folder that can be written "
                f"to; name another path"
            )


def _check_kernels(settings: Settings) -> None:
    if settings.kernels:
        from quantcheck.methods.computing import kernels_by_name

        kernels_by_name(settings.kernels)


def _check_orderings(policy: Policy) -> None:
    """An entry that names no spec at all would gate nothing, and nobody would see it."""
    known = [
        spec
        for name in METHODS.names()
        for spec, why in candidates(name, METHODS.entry(name).capabilities, "full")
        if why is None
    ]
    for entry in policy.orderings:
        for pattern in entry.sides:
            if STAR not in pattern:
                _check_named(entry, pattern)
            elif not any(matches(pattern, spec) for spec in known):
                hint = did_you_mean(pattern, map(str, known))
                raise BaselineError(f"policy {entry.where}: {pattern!r} matches no spec of any tier{hint}")


def _check_named(entry: NamedOrdering, spec_id: str) -> None:
    try:
        exact_spec(METHODS, spec_id)
    except QuantcheckError as error:
        raise BaselineError(f"policy {entry.where}: {error}") from error


def _check_texts(session: GateSession, model: ModelSpec, selected: Sequence[Cell]) -> None:
    calibrated = [cell.spec for cell in selected if METHODS.entry(cell.spec.method).capabilities.calibrated]
    calibration = session.calibration(model)
    if calibrated and calibration is None:
        raise DataError(
            f"{calibrated[0]} on {model} calibrates: give a text with --quantcheck-calibration FILE, or "
            f"leave such methods out "
            "with --quantcheck-methods"
        )
    for text in session.plan(model).texts:
        read_documents(text.source)
    if isinstance(calibration, ImageTextSource):
        read_image_texts(calibration.path)
    elif calibration is not None:
        read_documents(calibration)


def _check_pictures(session: GateSession, source: ModelSource, selected: Sequence[QuantSpec]) -> None:
    """A model of texts has no use for pictures, and a vision tower is calibrated on nothing else."""
    pictures = session.settings.calibration_images
    if pictures is not None and session.settings.calibration is not None:
        raise DataError(
            "--quantcheck-calibration and --quantcheck-calibration-images are both given: a model is "
            "calibrated on texts or on pictures with texts; leave one out"
        )
    if pictures is not None and not (source.multimodal or source.spec.builtin):
        raise DataError(
            f"--quantcheck-calibration-images is for LLaVA models, {source.spec} reads texts alone: give "
            "--quantcheck-calibration FILE"
        )
    for spec in selected:
        if spec.vision and not source.multimodal:
            raise SpecError(f"{spec}: {source.spec} has no vision tower; leave the option 'vision' out")
        if spec.vision and pictures is None and METHODS.entry(spec.method).capabilities.calibrated:
            raise DataError(
                f"{spec} on {source.spec} calibrates its vision tower: give pictures with texts with "
                "--quantcheck-calibration-images FILE"
            )


def _check_instructions(session: GateSession, model: ModelSpec, selected: Sequence[QuantSpec]) -> None:
    tuned = [spec for spec in selected if METHODS.entry(spec.method).capabilities.tuned]
    if not tuned:
        return
    source = session.instructions(model)
    if source is None:
        raise DataError(
            f"{tuned[0]} on {model} is fine-tuned: give examples with --quantcheck-instructions FILE, or "
            "leave such methods out with --quantcheck-methods"
        )
    read_instructions(source.path)
    if any(trained_adapters(source, str(spec)) is None for spec in tuned):
        for package in FINE_TUNING:
            if importlib.util.find_spec(package) is None:
                raise MissingPackageError(f"{tuned[0]}, which is fine-tuned with {package},", EXTRA)
