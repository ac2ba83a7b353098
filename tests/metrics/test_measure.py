"""One plan on one model: every figure asked for, in order, and the same ones every time."""

from __future__ import annotations

from pathlib import Path

import pytest
from models.tiny import CONTEXT
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from metrics.test_zeroshot import write_task
from quantcheck.errors import DataError
from quantcheck.measurement import Measurement
from quantcheck.metrics.catalog import MetricPlan, TaskPlan, TextPlan, plan_metrics
from quantcheck.metrics.measure import Workload, measure, prepare
from quantcheck.metrics.text import ReferenceOutputs
from quantcheck.models.text import TextSource
from quantcheck.spec import ModelSpec


@pytest.fixture
def plan(tmp_path: Path) -> MetricPlan:
    for name in ("news", "notes"):
        (tmp_path / f"{name}.txt").write_text(f"What the {name} say, in so many words. " * 20)
    write_task(tmp_path / "tasks", "quiz")
    texts = (
        TextPlan(TextSource("news", tmp_path / "news.txt")),
        TextPlan(TextSource("notes", tmp_path / "notes.txt", windows=3), ("ppl",)),
    )
    return MetricPlan(texts, TaskPlan(tmp_path / "tasks", (("quiz", ("quiz",)),), ("quiz", "pooled"), 5))


@pytest.fixture
def workload(plan: MetricPlan, tokenizer: PreTrainedTokenizerFast) -> Workload:
    return prepare(plan, tokenizer, CONTEXT)


def test_every_metric_of_the_plan_is_measured_in_its_order(
    workload: Workload, model: LlamaForCausalLM, other_model: LlamaForCausalLM
) -> None:
    got = measure(model, workload, reference=ReferenceOutputs(other_model))
    assert tuple(got) == workload.plan.metrics
    assert tuple(got) == ("ppl/news", "ppl/notes", "kld/news", "top1/news", "acc/quiz", "acc/pooled")
    assert all(one.metric == name for name, one in got.items())
    assert got["kld/news"].value > 0.01
    assert (got["ppl/notes"].n, got["acc/quiz"].n) == (3, 5)


def test_the_reference_itself_has_no_divergence_to_measure(
    workload: Workload, model: LlamaForCausalLM
) -> None:
    assert tuple(measure(model, workload)) == ("ppl/news", "ppl/notes", "acc/quiz", "acc/pooled")


def test_measuring_twice_or_in_part_gives_the_same_figures(
    workload: Workload,
    model: LlamaForCausalLM,
    other_model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    outputs = ReferenceOutputs(other_model)
    whole = measure(model, workload, reference=outputs)
    part = prepare(workload.plan.only(["kld/news", "acc/pooled"]), tokenizer, CONTEXT)
    for got in (measure(model, workload, reference=outputs), measure(model, part, reference=outputs)):
        for name, one in got.items():
            assert one.outcomes.tolist() == whole[name].outcomes.tolist()
            assert one.items == whole[name].items
    assert tuple(measure(model, part, reference=outputs)) == ("kld/news", "acc/pooled")


def test_progress_names_every_stage(workload: Workload, model: LlamaForCausalLM) -> None:
    last: dict[str, tuple[int, int]] = {}
    measure(model, workload, progress=lambda what, done, total: last.update({what: (done, total)}))
    assert list(last) == ["news", "notes", "choices"]
    assert all(done == total for done, total in last.values())


def test_a_bad_text_is_refused_before_any_model_runs(
    plan: MetricPlan, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"notes.txt is empty"):
        prepare(plan, tokenizer, CONTEXT)


def test_the_built_in_workload_prepares(tokenizer: PreTrainedTokenizerFast) -> None:
    workload = prepare(plan_metrics(ModelSpec.parse("builtin-llama"), "smoke"), tokenizer, 512)
    assert [len(windows) for windows in workload.windows] == [16, 16, 16]
    assert workload.tasks is not None
    assert sum(workload.tasks.counts.values()) == 600


@pytest.mark.parametrize("batch", [0.05, 0.5, 2.0])
def test_the_size_of_batches_changes_the_passes_not_the_figures(
    workload: Workload, model: LlamaForCausalLM, other_model: LlamaForCausalLM, batch: float
) -> None:
    whole, passes = counted(model, workload, other_model, 1.0)
    got, others = counted(model, workload, other_model, batch)
    assert (others > passes) == (batch < 0.5) and (others < passes) <= (batch > 1)
    for name, one in got.items():
        assert one.items == whole[name].items
        assert one.outcomes.tolist() == pytest.approx(whole[name].outcomes.tolist(), abs=1e-4)


def counted(
    model: LlamaForCausalLM, workload: Workload, other_model: LlamaForCausalLM, batch: float
) -> tuple[dict[str, Measurement], int]:
    """What was measured, and in how many passes of the model."""
    passes: list[int] = []
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    got = measure(model, workload, reference=ReferenceOutputs(other_model), batch=batch)
    hook.remove()
    return got, len(passes)
