"""The shipped model: what it is, and the criteria that a few windows can show (`curve.py` shows all)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from quantcheck.methods.artifact import quantize
from quantcheck.metrics.catalog import plan_metrics
from quantcheck.metrics.measure import Workload, measure, prepare
from quantcheck.models.builtin import FAMILIES, REGISTERS
from quantcheck.models.builtin.curve import Criterion, criteria, specs, unigram_perplexity
from quantcheck.models.load import LoadedModel, load_model
from quantcheck.spec import BUILTIN, ModelSpec, QuantSpec

MODEL = ModelSpec.parse(BUILTIN)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(MODEL, device="cpu")


@pytest.fixture(scope="module")
def texts(loaded: LoadedModel) -> Workload:
    plan = plan_metrics(MODEL, "full")
    few = tuple(replace(text, source=replace(text.source, windows=6)) for text in plan.texts)
    return prepare(replace(plan, texts=few, tasks=None), loaded.tokenizer, loaded.context_length)


@pytest.fixture(scope="module")
def perplexities(loaded: LoadedModel, texts: Workload) -> dict[int, dict[str, float]]:
    """Perplexities by register at RTN widths; 16 is full precision."""
    found = {16: _values(measure(loaded.model, texts))}
    for bits in (8, 4, 3, 2):
        artifact = quantize(loaded.fresh(), QuantSpec("rtn", bits), scale_dtype=torch.float16)
        found[bits] = _values(measure(artifact.apply(loaded.fresh()), texts))
    return found


def _values(measured: dict) -> dict[str, float]:
    return {name: m.value for name, m in measured.items() if name.startswith("ppl/")}


def test_the_architecture_is_llama3s_in_small(loaded: LoadedModel) -> None:
    config = loaded.model.config
    linears = [m for m in loaded.model.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    assert config.model_type == "llama" and config.hidden_act == "silu"
    assert config.hidden_size >= 256 and config.max_position_embeddings >= 512
    assert config.num_key_value_heads < config.num_attention_heads
    assert all(linear.in_features % 128 == 0 and linear.bias is None for linear in linears)
    assert len(linears) == 7 * config.num_hidden_layers


def test_the_tokenizer_opens_with_bos_and_gives_any_text_back(loaded: LoadedModel) -> None:
    text = "Zoë paid 1,234 crowns; \t\n for 東京's bell."
    ids = loaded.tokenizer(text)["input_ids"]
    assert ids[0] == loaded.tokenizer.bos_token_id
    assert loaded.tokenizer.decode(ids[1:]) == text


def test_perplexity_is_under_a_quarter_of_a_unigram_models(texts: Workload, perplexities: dict) -> None:
    for windows in texts.windows:
        assert perplexities[16][f"ppl/{windows.name}"] < unigram_perplexity(windows) / 4


@pytest.mark.parametrize("register", REGISTERS)
def test_rtn_breaks_it_as_large_models_break(perplexities: dict, register: str) -> None:
    ratio = {b: v[f"ppl/{register}"] / perplexities[16][f"ppl/{register}"] for b, v in perplexities.items()}
    assert ratio[8] == pytest.approx(1, abs=0.005)
    assert 1.02 <= ratio[4] <= 1.15
    assert ratio[3] >= 1.3
    assert ratio[2] >= 5


def test_every_family_is_known_well(loaded: LoadedModel) -> None:
    plan = plan_metrics(MODEL, "full")
    assert plan.tasks is not None
    few = prepare(
        replace(plan, texts=(), tasks=replace(plan.tasks, limit=60)), loaded.tokenizer, loaded.context_length
    )
    accuracy = {name: m.value for name, m in measure(loaded.model, few).items()}
    assert all(accuracy[f"acc/{family}"] >= 0.85 for family in FAMILIES)


def _rows(ratio: dict[str, float], accuracy: dict[str, float]) -> dict[str, dict[str, float]]:
    row = {f"acc/{family}": 0.95 for family in FAMILIES}
    rows = {name: row | {f"ppl/{r}": 2 * ratio.get(name, 1.0) for r in REGISTERS} for name in specs()}
    rows["rtn-w2"] |= accuracy
    return rows | {"full precision": row | {f"ppl/{r}": 2.0 for r in REGISTERS}}


GOOD = {"rtn-w5": 1.01, "rtn-w4": 1.05, "rtn-w3": 2.0, "rtn-w2": 50.0, "gptq-w3": 1.2}
CHANCE = dict.fromkeys((f"acc/{family}" for family in FAMILIES), 0.3)
UNIGRAM = dict.fromkeys(REGISTERS, 200.0)


def _missed(ratio: dict[str, float], accuracy: dict[str, float] = CHANCE) -> list[Criterion]:
    return [c for c in criteria(_rows(ratio, accuracy), UNIGRAM) if not c.met]


def test_criteria_accept_a_good_curve() -> None:
    assert not _missed(GOOD)


@pytest.mark.parametrize(
    "worse",
    [{"rtn-w8": 1.006}, {"rtn-w6": 1.02}, {"rtn-w4": 1.16}, {"rtn-w4": 1.015}, {"rtn-w2": 4.9},
     {"rtn-w3": 1.29, "gptq-w3": 1.1}, {"gptq-w3": math.sqrt(2) + 0.01}],
    ids=str,
)  # fmt: skip
def test_criteria_reject_each_miss(worse: dict[str, float]) -> None:
    assert len(_missed(GOOD | worse)) >= len(REGISTERS)


def test_criteria_reject_a_family_that_survives_two_bits() -> None:
    assert len(_missed(GOOD, CHANCE | {"acc/world_winogrande": 0.59})) == 1
