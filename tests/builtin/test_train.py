from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from quantcheck.errors import QuantcheckError
from quantcheck.models.builtin import train
from quantcheck.models.builtin.train import Recipe

from .test_held_out import SHARDS_OF_A_RUN

TINY = Recipe(
    seed=3, tokens=16_384, batch_tokens=512, short_context=64, context=128, hidden=32, layers=1, heads=2,
    kv_heads=1, intermediate=32, checkpoint_steps=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("straight")
    train.train(TINY, out, "cpu")
    return out


@pytest.mark.parametrize("stop", [2, 5])
def test_a_run_cut_off_and_resumed_ends_in_the_same_weights(
    straight: Path, tmp_path: Path, stop: int
) -> None:
    train.train(TINY, tmp_path, "cpu", stop_at=stop)
    assert not (tmp_path / "model.safetensors").exists()
    train.train(TINY, tmp_path, "cpu")
    assert (tmp_path / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


def test_training_lowers_the_loss_and_seeds_differ(straight: Path, tmp_path: Path) -> None:
    other = replace(TINY, seed=4)
    train.train(other, tmp_path, "cpu")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (straight, tmp_path))
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
    ids = torch.from_numpy(train.build_stream(TINY, train.build_tokenizer())[:1024]).long().view(8, 128)
    fresh, trained = (
        train.new_model(TINY),
        AutoModelForCausalLM.from_pretrained(straight, dtype=torch.float32),
    )
    with torch.no_grad():
        assert trained(input_ids=ids, labels=ids).loss < 0.9 * fresh(input_ids=ids, labels=ids).loss


def test_the_plain_model_is_kept_and_computes_the_same(straight: Path) -> None:
    models = [
        AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32) for f in (straight, straight / "plain")
    ]
    ids = AutoTokenizer.from_pretrained(straight)(
        "The fox lives in the forest.", return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        rescaled, plain = (model(input_ids=ids).logits for model in models)
    torch.testing.assert_close(rescaled, plain, rtol=0.02, atol=0.02)  # both are rounded to float16


def test_another_rescale_goes_on_from_the_same_checkpoint(straight: Path, tmp_path: Path) -> None:
    train.train(TINY, tmp_path, "cpu", stop_at=30)
    train.train(replace(TINY, rescale=0.1), tmp_path, "cpu")
    ours, theirs = (load_file(folder / "plain" / "model.safetensors") for folder in (straight, tmp_path))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (tmp_path / "model.safetensors").read_bytes() != (straight / "model.safetensors").read_bytes()


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train.train(TINY, tmp_path, "cpu", stop_at=1)
    with pytest.raises(QuantcheckError, match="is of another recipe"):
        train.train(replace(TINY, seed=9), tmp_path, "cpu")


def test_the_rate_rises_then_falls_to_zero_and_windows_grow_once() -> None:
    recipe = Recipe()
    rates = [recipe.rate(step) for step in range(recipe.steps)]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 0.01 < max(rates) <= 1
    assert sorted(recipe.window(step) for step in range(recipe.steps)) == [
        recipe.window(s) for s in range(recipe.steps)
    ]


def test_a_run_reads_no_more_shards_than_the_held_out_proof_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    shard = train.corpus.shard
    monkeypatch.setattr(train.corpus, "shard", lambda index, seed: read.append(index) or shard(index, seed))
    train.build_stream(Recipe(), train.build_tokenizer())
    assert max(read) < SHARDS_OF_A_RUN
