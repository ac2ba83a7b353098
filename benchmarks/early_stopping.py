r"""How many windows a verdict takes, and how often stopping early errs: on real outcomes of planted faults.

Real models are quantized, altered in every way of `benchmarks.planted`, and measured once, window by window;
the outcomes are kept, so that a second run takes seconds. Then each case is judged in many random orders by
the rule of the gates (`quantcheck.stopping`), with the margins of the policy and the levels of one gate, and
of one of a hundred. A case is *beyond the margin* if its mean over all windows is: that is what the drift is
about, so every answer is right or wrong.

    python -m benchmarks.early_stopping --into docs/statistics.md --stories DATA/models/stories260K \
        --text DATA/data/tinystories/train_head.txt --calibration DATA/data/tinystories/valid_sample.txt
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.planted import Bench, Outcomes, faults
from quantcheck.measurement import KINDS
from quantcheck.metrics.catalog import builtin_calibration, plan_metrics
from quantcheck.metrics.text import ReferenceOutputs
from quantcheck.models.load import load_model
from quantcheck.models.text import TextSource, calibration_windows, evaluation_windows
from quantcheck.policy import Policy
from quantcheck.spec import ModelSpec
from quantcheck.stopping import Known

WINDOWS = 128
LARGE = math.log(1.05)
BUILTIN, STORIES = "builtin-llama", "stories260K"
BASES = (
    (STORIES, "rtn-w4-g32"),
    (STORIES, "gptq-w4-g32"),
    (STORIES, "rtn-w8-g32"),
    (BUILTIN, "gptq-w4-g128"),
    (BUILTIN, "rtn-w4-g128"),
)
PPL = "ppl"


@dataclass(frozen=True, eq=False)
class Base:
    """A quantized model and all that was made of it, measured.

    Attributes:
        name: model and spec.
        spec: of the policy's margins.
        documents: of each window.
        reference: the full-precision model's outcomes.
        accepted: those of the sound quantized model.
        cases: those of each fault and of each honest change, by name.
    """

    name: str
    spec: str
    documents: NDArray[np.int64]
    reference: Outcomes
    accepted: Outcomes
    cases: Mapping[str, Outcomes]


def load_bench(model: str, options: argparse.Namespace) -> Bench:
    """Load a model with 128 windows of its text and disjoint draws of calibration windows."""
    if model == BUILTIN:
        loaded = load_model(ModelSpec.parse(model), device="cpu")
        texts = {text.source.name: text.source for text in plan_metrics(loaded.spec, "full").texts}
        text, calibration = replace(texts["encyclopedia"], window=256), builtin_calibration("full")
    else:
        loaded = load_model(ModelSpec.parse(f"{model}={options.stories}"), device="cpu")
        read = partial(TextSource, separator="<|endoftext|>", bos="document")
        text, calibration = read("text", options.text), read("calibration", options.calibration, windows=30)
    windows = evaluation_windows(replace(text, windows=WINDOWS), loaded.tokenizer, loaded.context_length)
    fed = calibration_windows(calibration, loaded.tokenizer, loaded.context_length)
    draws = torch.from_numpy(fed.inputs.copy()).chunk(4 if model == BUILTIN else 3)
    return Bench(loaded, windows, tuple(draws), ReferenceOutputs(loaded.model))


def measured(bench: Bench, spec: str) -> Iterator[tuple[str, Outcomes]]:
    """The outcomes of the reference, the sound model, honest recalibrations and all faults, by name."""
    sound = bench.quantized(spec)
    yield "reference", bench.outcomes(None)
    yield "accepted", bench.outcomes(sound)
    if spec.startswith("gptq"):
        for draw in range(1, len(bench.calibrations)):
            yield f"recalibrated {draw}", bench.outcomes(bench.quantized(spec, draw))
    for fault in faults(bench, spec):
        yield fault.name, bench.outcomes(fault.plant(sound))


def load_base(model: str, spec: str, options: argparse.Namespace) -> Base:
    """The outcomes of one base: from the folder, or measured and kept there."""
    path = options.outcomes / f"{model}-{spec}.npz"
    if not path.is_file():
        bench = load_bench(model, options)
        made = {
            f"{name}|{metric}": values
            for name, outcomes in measured(bench, spec)
            for metric, values in outcomes.items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, documents=bench.windows.documents, **made)
    with np.load(path) as stored:
        by_name: dict[str, Outcomes] = {}
        for key in stored.files:
            name, _, metric = key.partition("|")
            if metric:
                by_name.setdefault(name, {})[metric] = stored[key]
        documents = stored["documents"]
    reference, accepted = by_name.pop("reference"), by_name.pop("accepted")
    return Base(f"{model} {spec}", spec, documents, reference, accepted, by_name)


def known(base: Base, policy: Policy, alarm: float, metric: str = PPL) -> Known:
    """What the gate of a metric knows before its first window."""
    kind, bounds = KINDS[metric], policy.bounds(base.spec, f"{metric}/text")
    accepted = base.accepted[metric]
    return Known(
        kind,
        None if kind.relative else base.reference[metric],
        accepted,
        np.full(accepted.size, kind.rounding),
        base.documents,
        bounds.floor,
        bounds.drift,
        alarm,
    )
