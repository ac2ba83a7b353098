"""What becomes of each item of a task, and that a task that cannot be scored is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from models.tiny import CONTEXT, tiny_llama, tiny_tokenizer
from torch import nn
from transformers import LlamaForCausalLM

from quantcheck.errors import DataError
from quantcheck.measurement import Measurement
from quantcheck.metrics.catalog import TaskPlan
from quantcheck.metrics.zeroshot import load_tasks, measure_tasks, run_tasks

CONFIG: dict[str, Any] = {
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": "gold",
    "doc_to_choice": "choices",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 1.0},
}
ITEMS: list[dict[str, Any]] = [
    {
        "id": f"q{n}",
        "question": f"What is {n}?",
        "choices": [str(n), "three", "a lot", "x" * n],
        "gold": n % 4,
    }
    for n in range(1, 13)
]


def write_task(folder: Path, name: str, items: list[dict[str, Any]] = ITEMS, **changes: Any) -> None:
    config = {"task": name, "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}}} | CONFIG | changes
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(json.dumps(config))
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


def plan(folder: Path, *names: str, limit: int | None = None) -> TaskPlan:
    return TaskPlan(folder, tuple((name, (name,)) for name in names), (*names, "pooled"), limit)


def measured(plan: TaskPlan, model: nn.Module | None = None, **options: Any) -> dict[str, Measurement]:
    tokenizer = tiny_tokenizer()
    return measure_tasks(
        model or tiny_llama(), tokenizer, load_tasks(plan), context_length=CONTEXT, **options
    )


def by_hand(model: nn.Module, item: dict[str, Any]) -> list[float]:
    """The log-likelihood of each choice, one sequence at a time, in float64."""
    question = list(item["question"].encode())
    logliks = []
    for choice in item["choices"]:
        ids = tiny_tokenizer().encode(
            f"{item['question']} {choice}", add_special_tokens=False, return_tensors="pt"
        )
        with torch.no_grad():
            log_probs = model(ids).logits.double().log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])
        logliks.append(float(log_probs[len(question) - 1 :].sum()))
    return logliks


@pytest.mark.parametrize("headline", ["acc", "acc_norm"])
def test_an_items_outcome_is_whether_its_right_choice_is_the_likeliest(
    tmp_path: Path, model: LlamaForCausalLM, headline: str
) -> None:
    metrics = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in (headline, "acc_bytes")
    ]
    write_task(tmp_path, "quiz", metric_list=metrics)
    expected = []
    for item in ITEMS:
        lengths = [len(choice) if headline == "acc_norm" else 1 for choice in item["choices"]]
        scores = [loglik / length for loglik, length in zip(by_hand(model, item), lengths, strict=True)]
        expected.append(float(scores.index(max(scores)) == item["gold"]))
    got = measured(plan(tmp_path, "quiz"), model)["acc/quiz"]
    assert 0 < sum(expected) < len(expected)
    assert got.outcomes.tolist() == expected
    assert got.protocol == (
        f"lm-eval multiple_choice, {headline}, 0-shot, task version 1.0; "
        "prompts without BOS, float32 log-softmax"
    )


def test_substituted_contexts_are_scored_as_winogrande_is(tmp_path: Path, model: LlamaForCausalLM) -> None:
    items = [
        {
            "choices": [f"Ann met Bob {n} times and Ann", f"Ann met Bob {n} times and Bob"],
            "gold": n % 2,
            "tail": "left.",
        }
        for n in range(8)
    ]
    write_task(tmp_path, "who", items, doc_to_text="gold", doc_to_target="tail")
    expected = []
    for item in items:
        tails = [by_tail(model, context, f" {item['tail']}") for context in item["choices"]]
        expected.append(float(tails.index(max(tails)) == item["gold"]))
    assert measured(plan(tmp_path, "who"), model)["acc/who"].outcomes.tolist() == expected


def by_tail(model: nn.Module, context: str, tail: str) -> float:
    ids = tiny_tokenizer().encode(context + tail, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        log_probs = model(ids).logits.double().log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])
    return float(log_probs[len(context) - 1 :].sum())


def test_few_shot_prompts_hold_the_shots(tmp_path: Path, model: LlamaForCausalLM) -> None:
    files = {"test": "quiz.jsonl", "dev": "dev.jsonl"}
    shots = {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}, "num_fewshot": 2}
    write_task(tmp_path, "quiz", ITEMS[:4], dataset_kwargs={"data_files": files}, **shots)
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS[4:7]))
    got = measured(plan(tmp_path, "quiz"), model)["acc/quiz"]
    assert (got.n, "2-shot" in got.protocol) == (4, True)
    write_task(tmp_path / "zero", "quiz", ITEMS[:4])
    assert got.items != measured(plan(tmp_path / "zero", "quiz"), model)["acc/quiz"].items


def test_pooled_is_the_items_of_all_tasks_in_order(tmp_path: Path) -> None:
    write_task(tmp_path, "one")
    write_task(tmp_path, "two", ITEMS[::-1])
    got = measured(plan(tmp_path, "two", "one"))
    assert list(got) == ["acc/two", "acc/one", "acc/pooled"]
    assert got["acc/pooled"].outcomes.tolist() == [*got["acc/two"].outcomes, *got["acc/one"].outcomes]


def test_a_limit_takes_the_first_items_and_splits_a_family_evenly(tmp_path: Path) -> None:
    write_task(tmp_path, "one")
    write_task(tmp_path, "two", ITEMS[::-1])
    whole = measured(plan(tmp_path, "one", "two"))
    family = TaskPlan(tmp_path, (("both", ("one", "two")),), ("both",), limit=8)
    got = measured(family)["acc/both"]
    assert got.outcomes.tolist() == [*whole["acc/one"].outcomes[:4], *whole["acc/two"].outcomes[:4]]


def reworded(items: list[dict[str, Any]]) -> None:
    items[3]["question"] = "Which is 4?"


def another_answer(items: list[dict[str, Any]]) -> None:
    items[3]["gold"] = 1


def another_choice(items: list[dict[str, Any]]) -> None:
    items[3]["choices"][2] = "plenty"


def another_id(items: list[dict[str, Any]]) -> None:
    items[3]["id"] = "q99"


def another_order(items: list[dict[str, Any]]) -> None:
    items.reverse()


@pytest.mark.parametrize("change", [reworded, another_answer, another_choice, another_id, another_order])
def test_the_items_digest_tells_changed_items(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], None]
) -> None:
    items = json.loads(json.dumps(ITEMS))
    change(items)
    for name, each in (("before", ITEMS), ("same", ITEMS), ("after", items)):
        write_task(tmp_path / name, "quiz", each)
    digests = [
        measured(plan(tmp_path / name, "quiz"))["acc/quiz"].items for name in ("before", "same", "after")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_model_of_nans_has_no_accuracy(tmp_path: Path) -> None:
    model = tiny_llama()
    model.lm_head.weight.data.fill_(math.nan)
    write_task(tmp_path, "quiz")
    got = measured(plan(tmp_path, "quiz"), model)["acc/quiz"]
    assert all(math.isnan(outcome) for outcome in got.outcomes)


def test_measuring_twice_gives_the_same_outcomes(tmp_path: Path, model: LlamaForCausalLM) -> None:
    write_task(tmp_path, "quiz")
    tasks = load_tasks(plan(tmp_path, "quiz"))
    runs = [run_tasks(model, tiny_tokenizer(), tasks, context_length=CONTEXT) for _ in range(2)]
    assert runs[0] == runs[1]


def test_nothing_is_printed_and_no_data_set_cache_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_task(tmp_path / "tasks", "quiz")
    measured(plan(tmp_path / "tasks", "quiz"))
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "cache").exists()


def test_progress_reaches_the_number_of_choices(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    write_task(tmp_path, "quiz")
    measured(plan(tmp_path, "quiz"), progress=lambda *update: seen.append(update))
    assert seen[-1] == ("choices", 48, 48)
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"output_type": "generate_until"}, "output_type must be multiple_choice, got 'generate_until'"),
        ({"metric_list": []}, "metric_list must begin with acc or acc_norm"),
        ({"metric_list": [{"metric": "f1"}]}, r"must begin with acc or acc_norm, the headline, got \['f1'\]"),
        ({"dataset_path": "someone/else"}, "expected dataset_path: json"),
        (
            {"dataset_kwargs": {"data_files": {"test": "nowhere.jsonl"}}},
            "cannot read its items: .*nowhere.jsonl",
        ),
        ({"items": []}, "quiz.jsonl is empty"),
        ({"items": [ITEMS[0], {**ITEMS[1], "gold": 4}]}, "item 1 has the answer 4 of 4 choices, no index"),
        ({"limit": 13}, "13 items asked for, 12 in its file; ask for fewer"),
    ],
)
def test_a_task_that_cannot_be_scored_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    items, limit = changes.pop("items", ITEMS), changes.pop("limit", None)
    write_task(tmp_path, "quiz", items, **changes)
    with pytest.raises(DataError, match=f"task quiz: .*{says}"):
        load_tasks(plan(tmp_path, "quiz", limit=limit))


@pytest.mark.parametrize(("line", "says"), [("{", "is not JSON"), ("[1]", "holds no JSON object")])
def test_a_line_that_is_no_item_is_named(tmp_path: Path, line: str, says: str) -> None:
    write_task(tmp_path, "quiz")
    with (tmp_path / "quiz.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=f"quiz.jsonl:13 {says}"):
        load_tasks(plan(tmp_path, "quiz"))


def test_an_unknown_task_gets_a_suggestion(tmp_path: Path) -> None:
    write_task(tmp_path, "quiz")
    with pytest.raises(DataError, match=r"no task 'quizz' in .*; did you mean 'quiz'"):
        load_tasks(plan(tmp_path, "quizz"))


def test_a_task_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task folder .*nowhere is not there"):
        load_tasks(plan(tmp_path / "nowhere", "quiz"))
