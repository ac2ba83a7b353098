"""The adapter that lm-eval asks scores log-likelihoods and accuracies as lm-eval's own does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from models.tiny import CONTEXT
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from quantcheck.errors import DataError
from quantcheck.metrics.catalog import TaskPlan
from quantcheck.metrics.harness import HarnessModel
from quantcheck.metrics.zeroshot import load_tasks, run_tasks
from quantcheck.models.builtin import FAMILIES, TASKS_DIR
from quantcheck.models.load import LoadedModel, load_model
from quantcheck.spec import ModelSpec

Pair = tuple[str, str]
Answer = tuple[float, bool]


def adapter(model: nn.Module, tokenizer: Any, context: int = CONTEXT) -> HarnessModel:
    return HarnessModel(model, tokenizer, context)


def official(model: nn.Module, tokenizer: Any, context: int = CONTEXT) -> HFLM:
    return HFLM(pretrained=model, tokenizer=tokenizer, max_length=context, add_bos_token=False, batch_size=4)


def requests(pairs: list[Pair]) -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]


def assert_equal(
    ours: list[Answer], theirs: list[Answer], pairs: list[Pair], model: LlamaForCausalLM
) -> None:
    """Two float32 evaluations of one number: batches differ, and so does the order of sums.

    A logit is a chain of dot products of the hidden size through the layers, each with a relative error below
    hidden size times 2^-24 of its terms, all below 64; a continuation adds one such error a byte.
    """
    config = model.config
    a_token = config.hidden_size * config.num_hidden_layers * 64 * 2.0**-24
    for (got, got_greedy), (expected, expected_greedy), (_, continuation) in zip(
        ours, theirs, pairs, strict=True
    ):
        assert abs(got - expected) <= a_token * len(continuation.encode())
        assert got_greedy == expected_greedy


texts = st.text(st.characters(min_codepoint=32, max_codepoint=122), min_size=1, max_size=40)


@given(pairs=st.lists(st.tuples(texts.filter(str.strip), texts), min_size=1, max_size=6))
def test_log_likelihoods_equal_lm_evals_own(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: list[Pair]
) -> None:
    theirs = official(model, tokenizer).loglikelihood(requests(pairs), disable_tqdm=True)
    assert_equal(adapter(model, tokenizer).loglikelihood(requests(pairs)), theirs, pairs, model)


def test_a_prompt_beyond_the_context_is_cut_as_lm_eval_cuts_it(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    pairs = [("x" * 200, "right"), ("y" * CONTEXT, " wrong")]
    theirs = official(model, tokenizer).loglikelihood(requests(pairs), disable_tqdm=True)
    assert_equal(adapter(model, tokenizer).loglikelihood(requests(pairs)), theirs, pairs, model)


def test_rolling_log_likelihoods_equal_lm_evals_own(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = ["short", " ".join(map(str, range(80)))]
    asked = [Instance("loglikelihood_rolling", {}, (text,), index) for index, text in enumerate(texts)]
    theirs = official(model, tokenizer).loglikelihood_rolling(asked, disable_tqdm=True)
    ours = adapter(model, tokenizer).loglikelihood_rolling(asked)
    pairs = [("", text) for text in texts]
    assert_equal([(each, True) for each in ours], [(each, True) for each in theirs], pairs, model)


def test_greedy_continuations_are_recognised(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = tokenizer.encode("Once upon", add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        best = int(model(ids).logits[0, -1].argmax())
    answers = adapter(model, tokenizer)._loglikelihood_tokens(
        [(("", ""), ids[0].tolist(), [token]) for token in (best, (best + 1) % 258)]
    )
    assert [greedy for _, greedy in answers] == [True, False]


def test_lettered_choices_of_a_question_cost_one_forward_pass(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = []
    handle = model.register_forward_hook(lambda *args: rows.append(args[2].logits.shape[0]))
    try:
        pairs = [(question, letter) for question in ("one?", "two?") for letter in "ABCD"]
        adapter(model, tokenizer).loglikelihood(requests(pairs))
    finally:
        handle.remove()
    assert sum(rows) == 2


def test_prompts_with_one_head_are_read_once_and_score_the_same(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    shots = "one is one and two is two and three is three and so on it goes; "
    pairs = [(f"{shots}{n} is", f" {choice}") for n in range(6) for choice in (n, "many")] + [
        ("short", " one")
    ]
    tokens: list[int] = []
    handle = model.register_forward_hook(lambda *args: tokens.append(args[2].logits.shape[:2].numel()))
    try:
        ours = adapter(model, tokenizer).loglikelihood(requests(pairs))
    finally:
        handle.remove()
    theirs = official(model, tokenizer).loglikelihood(requests(pairs), disable_tqdm=True)
    assert_equal(ours, theirs, pairs, model)
    assert sum(tokens) < 3 * len(shots)


def test_tokens_that_all_choices_share_are_scored_too(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    pairs = [
        ("a question that all of these choices follow, and a long one", f" perhaps {n}0") for n in range(9)
    ]
    theirs = official(model, tokenizer).loglikelihood(requests(pairs), disable_tqdm=True)
    assert_equal(adapter(model, tokenizer).loglikelihood(requests(pairs)), theirs, pairs, model)


def test_generation_is_refused(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"generates text; quantcheck runs .* multiple_choice"):
        adapter(model, tokenizer).generate_until([])


@pytest.fixture(scope="module")
def stories(shared: Path) -> LoadedModel:
    return load_model(ModelSpec.parse(str(shared / "models" / "stories260K")), device="cpu")


def test_real_items_on_a_real_model_score_as_in_lm_eval(shared: Path, stories: LoadedModel) -> None:
    lines = (shared / "data" / "zeroshot" / "arc_easy.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    items = [json.loads(line) for line in lines]
    pairs = [(f"{item['query']}\nAnswer:", f" {choice}") for item in items for choice in item["choices"]]
    theirs = official(stories.model, stories.tokenizer, 512).loglikelihood(requests(pairs), disable_tqdm=True)
    ours = adapter(stories.model, stories.tokenizer, 512).loglikelihood(requests(pairs))
    assert_equal(ours, theirs, pairs, stories.model)


def test_accuracies_on_the_built_in_tasks_are_lm_evals_own() -> None:
    loaded = load_model(ModelSpec.parse("builtin-llama"), device="cpu")
    families = tuple(FAMILIES.items())
    tasks = load_tasks(TaskPlan(TASKS_DIR, families, ("pooled",), limit=16))
    ours = run_tasks(loaded.model, loaded.tokenizer, tasks, context_length=loaded.context_length)
    theirs = evaluator.evaluate(
        official(loaded.model, loaded.tokenizer, loaded.context_length),
        {"tasks": dict(tasks.tasks)},
        samples={name: list(range(count)) for name, count in tasks.counts.items()},
        bootstrap_iters=0,
    )
    expected = {name: [sample["acc"] for sample in samples] for name, samples in theirs["samples"].items()}
    assert {name: list(each.outcomes) for name, each in ours.items()} == expected
    assert sum(map(len, expected.values())) == 16 * len(families)
