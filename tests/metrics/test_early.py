"""Measuring until gates are decided: the same figures, item by item, of fewer items."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models.tiny import CONTEXT, tiny_llama, tiny_tokenizer
from transformers import LlamaForCausalLM

from metrics.test_text_metrics import table, windows
from metrics.test_zeroshot import ITEMS, plan, write_task
from quantcheck.measurement import KINDS, Measurement
from quantcheck.metrics.queue import Queue
from quantcheck.metrics.text import ReferenceOutputs, measure_text
from quantcheck.metrics.zeroshot import load_tasks, measure_tasks
from quantcheck.stopping import Known, Stop, Values, stop

LEVEL = 0.01


def rule(kind: str, accepted: Values, seed: int = 1) -> Stop:
    """A rule without a floor, that asks for the accepted outcomes to the last bit but for rounding."""
    reference = None if KINDS[kind].relative else accepted
    equal = np.full(accepted.size, 1e-9)
    before = Known(KINDS[kind], reference, accepted, equal, None, None, drift=0.1, alarm=LEVEL)
    return stop(before, seed)


def run(queue: Queue, truth: Mapping[str, Values], batch: int) -> list[int]:
    """Measure what a queue asks for; the positions, in order."""
    asked: list[int] = []
    while (places := queue.ahead(batch)).size:
        asked += places.tolist()
        queue.put(places, {metric: values[places] for metric, values in truth.items()})
    return asked


@given(st.integers(1, 20), st.integers(1, 7))
def test_without_rules_all_items_come_in_their_order(n: int, batch: int) -> None:
    queue = Queue({"ppl/x": np.arange(n)})
    truth = {"ppl/x": np.linspace(0, 1, n)}
    assert run(queue, truth, batch) == list(range(n))
    assert queue.taken("ppl/x") is None
    assert queue.outcomes("ppl/x").tolist() == truth["ppl/x"].tolist()


def test_a_metric_without_a_rule_takes_the_others_to_the_end() -> None:
    values = np.linspace(1, 2, 40)
    places = {"ppl/x": np.arange(40), "kld/x": np.arange(40)}
    queue = Queue(places, {"ppl/x": rule("ppl", values)})
    assert run(queue, {"ppl/x": values, "kld/x": values}, 8) == list(range(40))


@settings(max_examples=10)
@given(st.integers(1, 9), st.integers(0, 30))
def test_items_come_in_the_rules_order_until_all_gates_on_them_are_decided(batch: int, seed: int) -> None:
    values = np.linspace(1, 2, 128)
    rules = {"ppl/x": rule("ppl", values, seed), "kld/x": rule("kld", values, seed)}
    queue = Queue(dict.fromkeys(rules, np.arange(128)), rules)
    truth = {"ppl/x": values, "kld/x": values + 9}
    asked = run(queue, truth, batch)
    decided = [rule.answer(truth[metric][rule.order]) for metric, rule in rules.items()]
    last = max(each.taken for each in decided if each is not None)
    assert asked == rules["ppl/x"].order[: len(asked)].tolist()
    assert last <= len(asked) < last + batch
    assert queue.done == len(asked)
    assert queue.taken("ppl/x").tolist() == sorted(asked)  # type: ignore[union-attr]


def test_a_familys_items_are_found_among_those_of_all() -> None:
    values = np.linspace(1, 2, 90)
    families = {"ppl/a": np.arange(30), "ppl/b": np.arange(30, 90), "ppl/all": np.arange(90)}
    rules = {metric: rule("ppl", values[own], 3) for metric, own in families.items()}
    queue = Queue(families, rules)
    asked = []
    while (places := queue.ahead(4)).size:
        asked += places.tolist()
        queue.put(places, values[places])
    assert len(asked) == len(set(asked)) < 30
    for metric, own in families.items():
        taken = queue.taken(metric)
        assert taken is not None
        assert queue.outcomes(metric)[taken].tolist() == values[own[taken]].tolist()
        assert set(own[taken].tolist()) == set(asked) & set(own.tolist())
        assert rules[metric].answer(rules[metric].first(taken, values[own[taken]])) is not None


def test_windows_that_are_taken_measure_what_they_do_among_all() -> None:
    items = windows(n=60, length=20)
    outputs = ReferenceOutputs(table(0))
    whole = measure_text(table(1), items, reference=outputs)
    rules = {metric: rule(metric[:4].strip("/"), one.outcomes) for metric, one in whole.items()}

    found = measure_text(table(1), items, reference=outputs, stops=rules)

    for metric, one in found.items():
        assert one.taken is not None
        assert one.n == one.taken.size < 20
        assert one.outcomes == pytest.approx(whole[metric].outcomes[one.taken], abs=1e-12)
        assert (one.items, one.protocol, one.version) == (whole[metric].items, whole[metric].protocol, 1)
        assert one.clusters is not None
        assert one.clusters.tolist() == items.documents[one.taken].tolist()


def accuracies(folder: Path, model: LlamaForCausalLM, **options: Any) -> dict[str, Measurement]:
    """Two families, the second with two shots drawn at random, and both together."""
    tasks = load_tasks(plan(folder, "quiz", "shots"))
    return measure_tasks(model, tiny_tokenizer(), tasks, context_length=CONTEXT, **options)


def test_prompts_and_outcomes_of_questions_that_are_taken_are_those_of_the_full_set(tmp_path: Path) -> None:
    model = tiny_llama()
    many = [{**item, "id": f"{copy}-{item['id']}"} for copy in range(12) for item in ITEMS]
    write_task(tmp_path, "quiz", many)
    write_task(tmp_path, "shots", many, num_fewshot=2, fewshot_split="test")
    whole = accuracies(tmp_path, model)
    lost = {metric: rule("acc", np.ones(one.n)) for metric, one in whole.items()}
    seen: list[tuple[str, int, int]] = []

    found = accuracies(tmp_path, model, stops=lost, progress=lambda *update: seen.append(update))

    for metric, one in found.items():
        assert one.taken is not None
        assert one.n < whole[metric].n / 2
        assert one.items == whole[metric].items
        assert one.outcomes.tolist() == whole[metric].outcomes[one.taken].tolist()
    pooled = found["acc/pooled"]
    assert seen[-1] == ("items", pooled.n, whole["acc/pooled"].n)


def test_a_family_without_a_rule_takes_all_questions(tmp_path: Path) -> None:
    write_task(tmp_path, "quiz")
    write_task(tmp_path, "shots")
    whole = accuracies(tmp_path, tiny_llama())
    rules = {"acc/pooled": rule("acc", whole["acc/pooled"].outcomes)}
    found = accuracies(tmp_path, tiny_llama(), stops=rules)
    assert all(one.taken is None for one in found.values())
    assert found["acc/quiz"].outcomes.tolist() == whole["acc/quiz"].outcomes.tolist()
