"""Measure one model by one plan: read and check every item first, then run the model over them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from torch import nn
from transformers import PreTrainedTokenizerBase

from quantcheck.measurement import Measurement, digest
from quantcheck.metrics import harness
from quantcheck.metrics import text as text_metrics
from quantcheck.metrics.catalog import MetricPlan
from quantcheck.metrics.text import ReferenceOutputs, measure_text
from quantcheck.metrics.zeroshot import TaskSet, load_tasks, measure_tasks
from quantcheck.models.text import Windows, evaluation_windows
from quantcheck.progress import Update
from quantcheck.stopping import NO_STOPS, Stops


@dataclass(frozen=True, eq=False)
class Workload:
    """The items of a plan, read, checked and tokenized once for the reference and all its quantizations.

    Attributes:
        plan: what is measured.
        windows: one entry a text of the plan.
        tasks: the tasks of the plan, if any.
        tokenizer: the model's.
        context_length: the model's, in tokens.
    """

    plan: MetricPlan
    windows: tuple[Windows, ...]
    tasks: TaskSet | None
    tokenizer: PreTrainedTokenizerBase
    context_length: int


def prepare(plan: MetricPlan, tokenizer: PreTrainedTokenizerBase, context_length: int) -> Workload:
    """Read every text and task of a plan; needs no model.

    Raises:
        DataError: a text or a task cannot be used; the message names the file and the way out.
    """
    windows = tuple(evaluation_windows(text.source, tokenizer, context_length) for text in plan.texts)
    tasks = load_tasks(plan.tasks) if plan.tasks else None
    return Workload(plan, windows, tasks, tokenizer, context_length)


def plan_digests(plan: MetricPlan) -> dict[str, str]:
    """Digests of all that figures of a plan depend on, wherever its files happen to lie."""
    raw = asdict(plan)
    paths = [text.source.path for text in plan.texts]
    for text in raw["texts"]:
        text["source"]["path"] = text["source"]["path"].name
    if plan.tasks:
        raw["tasks"]["folder"] = raw["tasks"]["folder"].name
        paths += sorted(path for path in plan.tasks.folder.iterdir() if path.is_file())
    return {
        "plan": digest([json.dumps(raw, sort_keys=True)]),
        "files": digest(part for path in paths for part in (path.name, path.read_bytes())),
    }


def measure(
    model: nn.Module,
    workload: Workload,
    *,
    reference: ReferenceOutputs | None = None,
    progress: Update | None = None,
    batch: float = 1.0,
    stops: Stops = NO_STOPS,
) -> dict[str, Measurement]:
    """Measure a model, reference or quantized.

    Args:
        model: a causal language model with the workload's tokenizer.
        workload: from `prepare`.
        reference: the full-precision model's outputs; without them ``kld`` and ``top1`` are left out.
        progress: called with what is measured, items done and items in all.
        batch: how many times as many tokens as usual the model reads at once; figures must not depend on it
            but for the rounding of sums.
        stops: by metric, when it is decided; where gates that share items all have one, the items that come
            after that are not measured.

    Returns:
        Metric name to measurement, in the order of ``workload.plan.metrics``.
    """
    measured: dict[str, Measurement] = {}
    for text, windows in zip(workload.plan.texts, workload.windows, strict=True):
        kinds = text.kinds if reference is not None else tuple(kind for kind in text.kinds if kind == "ppl")
        measured |= measure_text(
            model,
            windows,
            kinds,
            reference=reference,
            progress=progress,
            batch_tokens=int(batch * text_metrics.BATCH_TOKENS),
            stops=stops,
        )
    if workload.tasks is not None:
        measured |= measure_tasks(
            model,
            workload.tokenizer,
            workload.tasks,
            context_length=workload.context_length,
            progress=progress,
            batch_tokens=int(batch * harness.BATCH_TOKENS),
            stops=stops,
        )
    return {name: measured[name] for name in workload.plan.metrics if name in measured}
