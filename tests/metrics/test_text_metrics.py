"""Perplexity, divergence and agreement equal their definitions, and published figures come out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from quantcheck.errors import DataError
from quantcheck.measurement import Measurement
from quantcheck.methods.artifact import quantize
from quantcheck.metrics.text import ReferenceOutputs, measure_text
from quantcheck.models.load import LoadedModel, load_model
from quantcheck.models.text import TextSource, Windows, evaluation_windows
from quantcheck.spec import ModelSpec, QuantSpec


class Table(nn.Module):
    """A model whose logits are a row of a table for each token, and which counts its calls."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)
        self.calls = 0

    def forward(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        self.calls += 1
        return SimpleNamespace(logits=self.table[input_ids])


def table(seed: int, vocabulary: int = 11) -> Table:
    return Table(torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3)


def windows(n: int = 5, length: int = 700, vocabulary: int = 11, seed: int = 0) -> Windows:
    stream = np.random.default_rng(seed).integers(0, vocabulary, n * length + 1)
    ids = stream[np.arange(n)[:, None] * length + np.arange(length + 1)]
    return Windows("text", ids, np.zeros(n, dtype=np.int64), length, "protocol")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def measured(
    model: nn.Module, reference: nn.Module, items: Windows, **options: int
) -> dict[str, Measurement]:
    return measure_text(model, items, reference=ReferenceOutputs(reference, **options))


@given(seed=st.integers(0, 50), n=st.integers(1, 5), length=st.integers(1, 900))
def test_all_three_equal_their_definitions_in_float64(seed: int, n: int, length: int) -> None:
    model, reference, items = table(seed), table(seed + 1), windows(n, length, seed=seed)
    got = measured(model, reference, items)
    log_p, log_r = (log_softmax(m.table.detach().double().numpy())[items.inputs] for m in (model, reference))
    nll = -np.take_along_axis(log_p, items.labels[..., None], -1)[..., 0].mean(-1)
    kld = (np.exp(log_r) * (log_r - log_p)).sum(-1).mean(-1)
    top1 = (log_p.argmax(-1) == log_r.argmax(-1)).mean(-1)
    # float32 log-probabilities of size below 32 carry half an ulp of 2^-19 each from logits and normaliser
    bound = 4 * 32 * 2.0**-24
    np.testing.assert_allclose(got["ppl/text"].outcomes, nll, rtol=0, atol=bound)
    np.testing.assert_allclose(got["kld/text"].outcomes, kld, rtol=0, atol=2 * bound)
    np.testing.assert_allclose(got["top1/text"].outcomes, top1, rtol=0, atol=1e-12)


def test_a_uniform_models_perplexity_is_its_vocabulary() -> None:
    got = measure_text(Table(torch.zeros(11, 11)), windows(), ["ppl"])
    assert got["ppl/text"].value == pytest.approx(11, rel=1e-6)


def test_a_model_does_not_diverge_from_itself(model: LlamaForCausalLM) -> None:
    got = measured(model, model, windows(4, 96, 258))
    assert got["kld/text"].outcomes.tolist() == [0.0] * 4
    assert got["top1/text"].outcomes.tolist() == [1.0] * 4


def test_divergence_and_agreement_do_not_move_the_perplexity(
    model: LlamaForCausalLM, other_model: LlamaForCausalLM
) -> None:
    items = windows(4, 96, 258)
    alone = measure_text(model, items, ["ppl"])["ppl/text"]
    beside = measured(model, other_model, items)["ppl/text"]
    assert alone.outcomes.tolist() == beside.outcomes.tolist()


def test_the_last_label_of_a_window_is_counted() -> None:
    model, items = table(0), windows(1, 5)
    changed = Windows("text", items.ids.copy(), items.documents, 5, "protocol")
    changed.ids[0, -1] = (changed.ids[0, -1] + 1) % 11
    assert (
        measure_text(model, items, ["ppl"])["ppl/text"].value
        != measure_text(model, changed, ["ppl"])["ppl/text"].value
    )


@pytest.mark.parametrize("budget", [0, 700 * 11 * 4 * 2, 1 << 30])
def test_the_budget_moves_no_figure_and_bounds_what_is_kept(budget: int) -> None:
    model, reference, items = table(0), table(1), windows()
    outputs = ReferenceOutputs(reference, budget)
    figures = [measure_text(model, items, reference=outputs) for _ in range(2)]
    expected = measured(model, table(1), items)
    for got in figures:
        for name, one in expected.items():
            assert got[name].outcomes.tolist() == one.outcomes.tolist()
    batches = 3  # two windows of 700 make a batch
    kept = min(batches, budget // (700 * 11 * 4 * 2))
    assert reference.calls == batches + (batches - kept)


def test_reference_outputs_of_two_texts_are_kept_apart() -> None:
    model, outputs = table(0), ReferenceOutputs(table(1))
    for seed in (0, 1):
        items = windows(seed=seed)
        got = measure_text(model, items, reference=outputs)["kld/text"]
        assert got.outcomes.tolist() == measured(model, table(1), items)["kld/text"].outcomes.tolist()


def test_progress_reaches_the_number_of_windows() -> None:
    seen: list[tuple[str, int, int]] = []
    measure_text(table(0), windows(), ["ppl"], progress=lambda *update: seen.append(update))
    assert seen == [("text", 2, 5), ("text", 4, 5), ("text", 5, 5)]


def test_a_broken_model_gives_no_finite_figure(model: LlamaForCausalLM) -> None:
    broken = Table(torch.full((258, 258), torch.nan))
    got = measured(broken, model, windows(2, 96, 258))
    assert math.isnan(got["ppl/text"].value)
    assert math.isnan(got["kld/text"].value)


def test_divergence_needs_a_reference() -> None:
    with pytest.raises(DataError, match="kld and top1 compare with a reference model"):
        measure_text(table(0), windows())


def test_items_and_protocol_are_recorded() -> None:
    items = windows()
    got = measured(table(0), table(1), items)
    assert {one.items for one in got.values()} == {items.digest}
    assert all(one.protocol.endswith("float32 log-softmax; protocol") for one in got.values())
    assert {name: one.version for name, one in got.items()} == {"ppl/text": 1, "kld/text": 1, "top1/text": 1}


@pytest.fixture(scope="module")
def stories(shared: Path) -> LoadedModel:
    return load_model(ModelSpec.parse(str(shared / "models" / "stories260K")), device="cpu")


@pytest.fixture(scope="module")
def tinystories(shared: Path, stories: LoadedModel) -> Windows:
    path = shared / "data" / "tinystories" / "train_head.txt"
    source = TextSource("tinystories", path, separator="<|endoftext|>", bos="document", windows=128)
    return evaluation_windows(source, stories.tokenizer, stories.context_length)


def perplexity(model: nn.Module, items: Windows) -> float:
    return measure_text(model, items, ["ppl"])[f"ppl/{items.name}"].value


def test_the_published_perplexity_of_stories260k_comes_out(
    stories: LoadedModel, tinystories: Windows
) -> None:
    assert perplexity(stories.model, tinystories) == pytest.approx(4.4932, rel=1e-3)


def test_the_wikitext2_perplexity_of_stories260k_comes_out(shared: Path, stories: LoadedModel) -> None:
    source = TextSource("wikitext2", shared / "data" / "wikitext2" / "wiki.test.raw", windows=128)
    items = evaluation_windows(source, stories.tokenizer, stories.context_length)
    assert perplexity(stories.model, items) == pytest.approx(142.8, rel=5e-3)


QUICK = [("rtn-w8-symr", 4.4964), ("rtn-w4", 5.0429), ("rtn-w5-g32", 4.571)]
SLOW = [
    ("rtn-w6-symr", 4.5228),
    ("rtn-w5-symr", 4.6229),
    ("rtn-w4-symr", 5.3039),
    ("rtn-w8", 4.4960),
    ("rtn-w6", 4.5227),
    ("rtn-w5", 4.6097),
    ("rtn-w8-g32", 4.494),
    ("rtn-w6-g32", 4.520),
    ("rtn-w4-g32", 4.873),
]


def rows(rows: Sequence[tuple[str, float]], *marks: pytest.MarkDecorator) -> list[object]:
    return [pytest.param(*row, marks=marks, id=row[0]) for row in rows]


@pytest.mark.parametrize(("spec", "published"), rows(QUICK) + rows(SLOW, pytest.mark.slow))
def test_the_published_rtn_table_comes_out(
    stories: LoadedModel, tinystories: Windows, spec: str, published: float
) -> None:
    model = stories.fresh()
    artifact = quantize(
        stories.fresh(), QuantSpec.parse(spec), calibration=None, scale_dtype=torch.float32, seed=0
    )
    assert perplexity(artifact.apply(model), tinystories) == pytest.approx(published, rel=1e-3)
