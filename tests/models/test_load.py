"""A model loads as it was stored, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.tiny import BOS, CONTEXT, save_tiny_llama, tiny_llama
from quantcheck.errors import ModelError
from quantcheck.models.load import LoadedModel, choose_dtype, full_precision, load_model
from quantcheck.spec import ModelSpec

IDS = torch.arange(20).unsqueeze(0)


def load(folder: Path, *, dtype: str = "auto") -> LoadedModel:
    return load_model(ModelSpec.parse(str(folder)), device="cpu", dtype=dtype)


def test_a_loaded_model_gives_the_stored_models_logits(checkpoint: Path) -> None:
    loaded = load(checkpoint)
    with torch.no_grad():
        assert torch.equal(loaded.model(IDS).logits, tiny_llama()(IDS).logits)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.context_length, loaded.tokenizer.bos_token) == (CONTEXT, BOS)


def test_loading_prints_nothing(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(checkpoint)
    assert capfd.readouterr() == ("", "")


def test_half_precision_is_computed_in_float32_on_a_cpu(tmp_path: Path) -> None:
    loaded = load(save_tiny_llama(tmp_path / "half", dtype=torch.bfloat16))
    assert (loaded.stored_dtype, loaded.dtype) == ("bfloat16", "float32")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert torch.equal(loaded.model.lm_head.weight, tiny_llama().lm_head.weight.bfloat16().float())


def test_the_dtype_asked_for_is_the_dtype_in_memory(checkpoint: Path) -> None:
    loaded = load(checkpoint, dtype="float16")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float16}


@pytest.mark.parametrize(
    ("asked", "device", "chosen"),
    [("auto", "cpu", "float32"), ("auto", "cuda:1", "bfloat16"), ("float16", "cuda", "float16")],
)
def test_auto_is_float32_on_a_cpu_and_the_stored_dtype_on_a_gpu(asked: str, device: str, chosen: str) -> None:
    assert choose_dtype(asked, device=device, stored="bfloat16") == chosen


def test_an_unknown_dtype_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="unknown dtype 'int8'; known: auto, float32"):
        load(checkpoint, dtype="int8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what is said where there is no GPU")
def test_a_gpu_that_is_not_there_is_named(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="torch sees no GPU here; use cpu"):
        load_model(ModelSpec.parse(str(checkpoint)), device="cuda", dtype="auto")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_weight_is_named(checkpoint: Path, value: float) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite(checkpoint, name, value)
    with pytest.raises(ModelError, match=f"1 of 1536 values of {name} are NaN or Inf"):
        load(checkpoint)


def test_a_weight_that_overflows_the_dtype_asked_for_is_named(checkpoint: Path) -> None:
    rewrite(checkpoint, "lm_head.weight", 1e6)
    with pytest.raises(ModelError, match=r"lm_head.weight are NaN or Inf .* try another one"):
        load(checkpoint, dtype="float16")


def test_a_checkpoint_that_lacks_a_weight_is_refused_rather_than_filled_at_random(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.0.self_attn.q_proj.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(
        ModelError, match=r"lacks 1 weights, .* random \(model.layers.0.self_attn.q_proj.weight\)"
    ):
        load(checkpoint)


def test_a_broken_tokenizer_is_named(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="its tokenizer does not load"):
        load(checkpoint)


@pytest.mark.parametrize("tied", [False, True])
def test_a_fresh_copy_shares_nothing_with_the_reference(tmp_path: Path, tied: bool) -> None:
    loaded = load(save_tiny_llama(tmp_path / "tiny", tied=tied))
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    copy = loaded.fresh()
    assert (copy.lm_head.weight is copy.model.embed_tokens.weight) == tied
    for parameter in copy.parameters():
        parameter.zero_()
    after = loaded.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_full_precision_leaves_the_users_setting_as_it_was() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def rewrite(checkpoint: Path, name: str, value: float) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    tensors[name][0, 0] = value
    save_file(tensors, path, {"format": "pt"})
