"""Multiple-choice accuracy by lm-eval itself, on our own language-model adapter.

lm-eval builds the prompts and decides which choice wins; this file hands it the items and the log-likelihoods
and keeps what became of each item. A task is one of lm-eval's YAML files, with ``dataset_path: json``,
``data_files`` beside the YAML, ``output_type: multiple_choice``, and the headline metric, ``acc`` or
``acc_norm``, first in ``metric_list``. Items that share a passage, image or subject have the same value in
the field ``cluster``, or in that which ``cluster`` under ``metadata`` names; labels hold across tasks. The
items are read here and given to lm-eval in memory: no data set cache is written and no network is asked.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import statistics
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from torch import nn
from transformers import PreTrainedTokenizerBase

from quantcheck.errors import DataError
from quantcheck.measurement import Measurement, digest, measurement
from quantcheck.metrics.catalog import TaskPlan, version
from quantcheck.metrics.harness import BATCH_TOKENS, Answer, Course, HarnessModel, Score
from quantcheck.metrics.queue import Queue
from quantcheck.progress import Update
from quantcheck.registry import did_you_mean
from quantcheck.stopping import NO_STOPS, Places, Stops

HEADLINES = ("acc", "acc_norm")
ITEMS = 16
"""Items between two looks at whether gates are decided."""

_FEWSHOT_SEED = 1234

Json = dict[str, Any]


@dataclass(frozen=True, eq=False)
class TaskSet:
    """Tasks of a plan, loaded and checked.

    Attributes:
        plan: what was asked for.
        tasks: lm-eval's own task objects by name, in the plan's order.
        counts: items to take from the start of each task.
    """

    plan: TaskPlan
    tasks: Mapping[str, ConfigurableTask]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class TaskOutcomes:
    """What became of each item of one task, in the order of its file.

    Attributes:
        task: name.
        items: digest of each item: its id, every prompt and choice, and the right answer.
        outcomes: 1 where the right choice won, 0 where not, NaN where a log-likelihood is not finite.
        protocol: how the items were scored.
        clusters: label of each item, equal for items that share a passage, image or subject.
        chances: the chance of each item to be guessed.
    """

    task: str
    items: tuple[str, ...]
    outcomes: tuple[float, ...]
    protocol: str
    clusters: tuple[str, ...]
    chances: tuple[float, ...]


def load_tasks(plan: TaskPlan) -> TaskSet:
    """Load the tasks of a plan.

    Raises:
        DataError: a task or its items are not there, cannot be read, or are fewer than asked for.
    """
    if not plan.folder.is_dir():
        raise DataError(f"task folder {plan.folder} is not there")
    with _quiet():
        manager = TaskManager(include_path=str(plan.folder), include_defaults=False)
        tasks = {name: _load_task(manager, plan.folder, name) for _, names in plan.families for name in names}
    counts = {
        name: _count(tasks[name], name, plan, len(names)) for _, names in plan.families for name in names
    }
    return TaskSet(plan, tasks, counts)


def measure_tasks(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    tasks: TaskSet,
    *,
    context_length: int,
    progress: Update | None = None,
    batch_tokens: int = BATCH_TOKENS,
    stops: Stops = NO_STOPS,
) -> dict[str, Measurement]:
    """Accuracy on the items of each family asked for, and of all families together (``acc/pooled``).

    With ``stops``, when each metric is decided, items that come after that are not measured.
    """
    parts = {
        f"acc/{name}": dict(tasks.plan.families).get(name, tuple(tasks.tasks)) for name in tasks.plan.reported
    }
    queue = Queue({metric: _positions(tasks, names) for metric, names in parts.items()}, stops)
    course = _Course(tasks, queue, progress) if parts.keys() <= stops.keys() else None
    outcomes = run_tasks(
        model,
        tokenizer,
        tasks,
        context_length=context_length,
        progress=progress,
        batch_tokens=batch_tokens,
        course=course,
    )
    return {
        metric: _measurement(metric, [outcomes[task] for task in names]).at(
            queue.taken(metric) if course else None
        )
        for metric, names in parts.items()
    }


def run_tasks(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    tasks: TaskSet,
    *,
    context_length: int,
    progress: Update | None = None,
    batch_tokens: int = BATCH_TOKENS,
    course: Course | None = None,
) -> dict[str, TaskOutcomes]:
    """Run lm-eval over the tasks and keep every item's outcome, by task.

    lm-eval makes the prompts of all items, so that those of a ``course`` are the same as ever; the outcome of
    an item that it leaves out is NaN.
    """
    adapter = HarnessModel(
        model, tokenizer, context_length, None if course else progress, batch_tokens, course
    )
    samples = {name: list(range(count)) for name, count in tasks.counts.items()}
    with _quiet():
        results = evaluator.evaluate(
            adapter, {"tasks": dict(tasks.tasks)}, samples=samples, bootstrap_iters=0, log_samples=True
        )
    return {name: _outcomes(name, task, results["samples"][name]) for name, task in tasks.tasks.items()}


class _Course:
    """Has requests scored item by item, in the order of a queue, until it asks for no more."""

    def __init__(self, tasks: TaskSet, queue: Queue, progress: Update | None) -> None:
        self._tasks, self._queue, self._progress = tasks, queue, progress

    def __call__(self, requests: list[Instance], score: Score) -> list[Answer]:
        items = self._items(requests)
        answers = [(math.nan, False)] * len(requests)
        while (places := self._queue.ahead(ITEMS)).size:
            asked = [index for place in places for index in items[place]]
            for index, answer in zip(asked, score([requests[index] for index in asked]), strict=True):
                answers[index] = answer
            scored = ([(requests[index], answers[index]) for index in items[place]] for place in places)
            self._queue.put(places, np.array([self._outcome(choices) for choices in scored]))
            if self._progress is not None:
                self._progress("items", self._queue.done, len(items))
        return answers

    def _items(self, requests: list[Instance]) -> list[list[int]]:
        """The requests of each item, in the order of tasks and items, those of one by its choices."""
        items: dict[tuple[str, int], list[int]] = {
            (name, index): [] for name, count in self._tasks.counts.items() for index in range(count)
        }
        for index in sorted(range(len(requests)), key=lambda index: requests[index].idx):
            items[requests[index].task_name, requests[index].doc_id].append(index)
        return list(items.values())

    def _outcome(self, choices: list[tuple[Instance, Answer]]) -> float:
        request = choices[0][0]
        task, answers = self._tasks.tasks[request.task_name], [answer for _, answer in choices]
        sample = {"filtered_resps": answers, **task.process_results(request.doc, answers)}
        return _outcome(sample, _headline(task))


def _positions(tasks: TaskSet, names: Collection[str]) -> Places:
    """Where the items of some tasks are among those of all."""
    of = np.repeat(list(tasks.counts), list(tasks.counts.values()))
    return np.flatnonzero(np.isin(of, list(names)))


def _headline(task: ConfigurableTask) -> str:
    return str(task.config.metric_list[0]["metric"])


def _load_task(manager: TaskManager, folder: Path, name: str) -> ConfigurableTask:
    if name not in manager.task_index:
        raise DataError(f"no task {name!r} in {folder}{did_you_mean(name, manager.all_subtasks)}")
    config = dict(manager.task_index[name].cfg or {})
    splits = _read_splits(config, folder, name)
    _check_config(config, name)
    config["custom_dataset"] = lambda **_: splits
    task = manager.load([config])["tasks"][name]
    task.set_config(key="num_fewshot", value=task.get_config("num_fewshot") or 0)
    task.set_fewshot_seed(_FEWSHOT_SEED)
    _check_answers(task, name)
    return task


def _count(task: ConfigurableTask, name: str, plan: TaskPlan, tasks_of_family: int) -> int:
    available = len(task.eval_docs)
    if plan.limit is None:
        return available
    asked = math.ceil(plan.limit / tasks_of_family)
    if asked > available:
        raise DataError(f"task {name}: {asked} items asked for, {available} in its file; ask for fewer")
    return asked


def _check_config(config: Mapping[str, Any], name: str) -> None:
    if config.get("output_type") != "multiple_choice":
        raise DataError(
            f"task {name}: output_type must be multiple_choice, got {config.get('output_type')!r}"
        )
    metrics = [entry.get("metric") for entry in config.get("metric_list") or []]
    if not metrics or metrics[0] not in HEADLINES:
        raise DataError(
            f"task {name}: metric_list must begin with {' or '.join(HEADLINES)}, the headline, got {metrics}"
        )


def _check_answers(task: ConfigurableTask, name: str) -> None:
    for index, item in enumerate(task.eval_docs):
        answer, choices = _answer(task, item), task.doc_to_choice(item)
        if not isinstance(answer, int) or not 0 <= answer < len(choices):
            raise DataError(
                f"task {name}: item {index} has the answer {answer!r} of {len(choices)} choices, no index"
            )


def _answer(task: ConfigurableTask, item: Json) -> Any:
    """The index of the right choice, which lm-eval has in doc_to_text where choices are contexts."""
    return task.doc_to_text(item) if task.multiple_input else task.doc_to_target(item)


def _read_splits(config: Mapping[str, Any], folder: Path, name: str) -> dict[str, datasets.Dataset]:
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if config.get("dataset_path") != "json" or not isinstance(files, dict):
        raise DataError(
            f"task {name}: expected dataset_path: json and, under dataset_kwargs, data_files with a file "
            "a split"
        )
    return {
        split: datasets.Dataset.from_list(_read_items(folder / file, name)) for split, file in files.items()
    }


def _read_items(path: Path, name: str) -> list[Json]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"task {name}: cannot read its items: {error}") from error
    if not lines:
        raise DataError(f"task {name}: {path} is empty")
    return [_read_item(line, f"task {name}: {path}:{number}") for number, line in enumerate(lines, start=1)]


def _read_item(line: str, where: str) -> Json:
    try:
        item = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error})") from error
    if not isinstance(item, dict):
        raise DataError(f"{where} holds no JSON object")
    return item


def _outcomes(name: str, task: ConfigurableTask, samples: list[Json]) -> TaskOutcomes:
    headline = _headline(task)
    shots = task.get_config("num_fewshot")
    edition = (task.get_config("metadata") or {}).get("version")
    return TaskOutcomes(
        task=name,
        items=tuple(_item_digest(task, sample) for sample in samples),
        outcomes=tuple(_outcome(sample, headline) for sample in samples),
        protocol=f"lm-eval multiple_choice, {headline}, {shots}-shot, task version {edition}",
        clusters=tuple(_cluster(task, sample) for sample in samples),
        chances=tuple(1 / len(sample["filtered_resps"]) for sample in samples),
    )


def _cluster(task: ConfigurableTask, sample: Json) -> str:
    """What an item shares with others: the field that the task's metadata names, else ``cluster``."""
    field = (task.get_config("metadata") or {}).get("cluster", "cluster")
    return str(sample["doc"].get(field, f"{task.config.task} {sample['doc_id']}"))


def _item_digest(task: ConfigurableTask, sample: Json) -> str:
    scored = [text for request in sample["arguments"] for text in request]
    return digest(
        [str(sample["doc"].get("id", sample["doc_id"])), str(_answer(task, sample["doc"])), *scored]
    )


def _outcome(sample: Json, headline: str) -> float:
    """The headline metric of one item, or NaN: lm-eval's argmax would make a winner of a NaN."""
    finite = all(math.isfinite(loglik) for loglik, _ in sample["filtered_resps"])
    return float(sample[headline]) if finite else math.nan


def _measurement(metric: str, parts: list[TaskOutcomes]) -> Measurement:
    protocols = "; ".join(dict.fromkeys(part.protocol for part in parts))
    return measurement(
        metric,
        [outcome for part in parts for outcome in part.outcomes],
        digest(item for part in parts for item in (part.task, *part.items)),
        f"{protocols}; prompts without BOS, float32 log-softmax",
        version(metric),
        np.unique([label for part in parts for label in part.clusters], return_inverse=True)[1],
        statistics.fmean(chance for part in parts for chance in part.chances),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's progress bars and log lines off the terminal."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
