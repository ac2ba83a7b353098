from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from quantcheck.models.builtin.rescale import rescale


@pytest.fixture(params=[4, 2, 1], ids="{} kv heads".format)
def model(request: pytest.FixtureRequest) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=request.param, max_position_embeddings=32, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).double().eval()


def logits(model: LlamaForCausalLM) -> torch.Tensor:
    ids = torch.arange(40).view(2, 20) % 64
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_rescale_leaves_the_function_as_it_was(model: LlamaForCausalLM) -> None:
    before = logits(model)
    rescale(model, 0.6, seed=1)
    torch.testing.assert_close(logits(model), before, rtol=1e-10, atol=1e-10)


def test_rescale_moves_every_pair_it_names(model: LlamaForCausalLM) -> None:
    plain = copy.deepcopy(model)
    rescale(model, 0.6, seed=1)
    changed = {
        name.split(".", 3)[3]
        for (name, new), old in zip(model.named_parameters(), plain.parameters(), strict=True)
        if not torch.equal(new, old)
    }
    linears = {f"self_attn.{x}_proj.weight" for x in "qkvo"} | {
        f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")
    }
    assert changed == linears | {"input_layernorm.weight", "post_attention_layernorm.weight"}


def test_rescale_spreads_the_columns_by_sigma(model: LlamaForCausalLM) -> None:
    plain = copy.deepcopy(model)
    rescale(model, 0.5, seed=2)
    ratios = [
        (layer.mlp.down_proj.weight / old.mlp.down_proj.weight)[0]
        for layer, old in zip(model.model.layers, plain.model.layers, strict=True)
    ]
    assert torch.cat(ratios).log().std().item() == pytest.approx(0.5, rel=0.25)


def test_rescale_is_seeded_and_zero_sigma_changes_nothing(model: LlamaForCausalLM) -> None:
    twin, still = copy.deepcopy(model), copy.deepcopy(model)
    rescale(model, 0.6, seed=3)
    rescale(twin, 0.6, seed=3)
    rescale(still, 0.0, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), still.parameters(), strict=True))
