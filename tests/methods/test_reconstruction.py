"""How far a quantized model lies from its reference is measured, folded scales or not."""

from __future__ import annotations

import copy
import math
from dataclasses import astuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from methods.conftest import tiny_llama
from methods.making import LAYER, artifact_of
from quantcheck.artifact_facts import ArtifactFacts
from quantcheck.methods.adapter import LowRankAdapter
from quantcheck.methods.artifact import Artifact, inspect
from quantcheck.methods.parts.folding import MLP_PAIR, NORM_PAIRS, VALUE_PAIR, Folding
from quantcheck.methods.parts.walk import decoder_blocks, decoder_linears
from quantcheck.methods.reconstruction import compared, product_error, relative_error, weight_errors

SEEDS = st.integers(0, 2**32 - 1)


def facts_of(model: LlamaForCausalLM, artifact: Artifact, windows: Tensor | None = None) -> ArtifactFacts:
    """The facts of ``artifact`` on a copy of ``model``, compared with it."""
    quantized = artifact.apply(copy.deepcopy(model))
    return compared(inspect(quantized), quantized, model, artifact.parameters, windows)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def folded(model: LlamaForCausalLM, *, between: bool) -> tuple[LlamaForCausalLM, dict[str, Tensor]]:
    """The same function with scales folded into norms, and between Linears; and what norms became."""
    model, parameters = copy.deepcopy(model), {}
    pairs = (*NORM_PAIRS, MLP_PAIR) if between else NORM_PAIRS
    for index, block in enumerate(decoder_blocks(model)):
        folding = Folding(block, torch.float32)
        for at, pair in enumerate(pairs):
            channels = len(folding.weights[f"{pair.writer}.weight"])
            folding.fold(pair, random(channels, seed=10 * index + at).mul(0.3).exp())
        folding.write(block)
        parameters |= {f"model.layers.{index}.{name}": part for name, part in folding.parameters.items()}
    return model, parameters


@pytest.mark.parametrize("spec", ["rtn-w2-g16", "rtn-w8"])
def test_weight_errors_are_of_the_decoded_weights(llama: LlamaForCausalLM, spec: str) -> None:
    artifact = artifact_of(llama, spec)
    facts = facts_of(llama, artifact)
    for layer in facts.layers:
        weight = llama.get_submodule(layer.name).weight.detach().double()
        decoded = artifact.weights[layer.name].decode().double()
        apart, whole = (decoded - weight).square(), weight.square()
        assert layer.weight_error == pytest.approx(float(apart.sum() / whole.sum()), rel=1e-5)
        assert layer.row_error == pytest.approx(float((apart.sum(1) / whole.sum(1)).max()), rel=1e-5)
        assert layer.gain == pytest.approx(float((decoded * weight).sum() / whole.sum()), rel=1e-6)
        assert layer.differs


def test_what_was_not_quantized_does_not_differ(llama: LlamaForCausalLM) -> None:
    artifact = artifact_of(llama, "rtn-w8")
    with torch.no_grad():
        llama.get_submodule(LAYER).weight.copy_(artifact.weights[LAYER].decode())
    facts = facts_of(llama, artifact)
    assert [layer.name for layer in facts.layers if not layer.differs] == [LAYER]
    assert {layer.name: layer.weight_error for layer in facts.layers}[LAYER] == 0


@pytest.mark.parametrize("between", [False, True], ids=["norms", "norms and Linears"])
def test_folded_scales_are_no_error(llama: LlamaForCausalLM, windows: Tensor, between: bool) -> None:
    model, parameters = folded(llama, between=between)
    rounded = artifact_of(model, "rtn-w8")
    scaled = Artifact("rtn-w8", 1, rounded.weights, parameters)
    facts = facts_of(llama, scaled, windows)
    for layer in facts.layers:
        own = relative_error(
            rounded.weights[layer.name].decode(), model.get_submodule(layer.name).weight
        ).weight_error
        assert layer.weight_error is not None
        if layer.name.endswith(("up_proj", "down_proj")):
            assert 0.5 * own < layer.weight_error < 4 * own
        else:
            assert layer.weight_error == pytest.approx(own, rel=1e-4)
    assert max(block.output_error for block in facts.blocks) < 1e-3
    unfolded = facts_of(llama, Artifact("rtn-w8", 1, rounded.weights), windows)
    assert min(block.output_error for block in unfolded.blocks) > 1e-2


def test_awq_and_smoothquant_are_compared_with_what_they_rounded(
    llama: LlamaForCausalLM, windows: Tensor
) -> None:
    for spec in ("awq-w8", "smoothquant-w8a8"):
        facts = facts_of(llama, artifact_of(llama, spec, windows), windows)
        assert max(layer.weight_error or math.inf for layer in facts.layers) < 1e-3, spec
        assert max(block.output_error for block in facts.blocks) < 1e-2, spec
        assert facts.beside


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_the_error_of_products_is_that_of_the_products(seed: int, out: int, mid: int, into: int) -> None:
    writers, readers = random(2, mid, into, seed=seed), random(2, out, mid, seed=seed + 1)
    decoded, exact = (readers[at].T[:, :, None] * writers[at][:, None, :] for at in (0, 1))
    apart, whole = (decoded - exact).square().sum((1, 2)), exact.square().sum((1, 2))
    expected = [float(apart.sum() / whole.sum()), float((decoded * exact).sum() / whole.sum())]
    expected += [float((apart / whole).max())]
    found = astuple(product_error(tuple(writers), tuple(readers)))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    scale = random(mid, seed=seed + 2).exp()
    moved = (writers[0] / scale[:, None], writers[1]), (readers[0] * scale, readers[1])
    assert astuple(product_error(*moved)) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_values_are_paired_with_what_reads_them_where_heads_share_none(windows: Tensor) -> None:
    model = tiny_llama()
    for block in decoder_blocks(model):
        for part in ("k_proj", "v_proj"):
            linear = nn.Linear(32, 32, bias=False)
            with torch.no_grad():
                linear.weight.copy_(getattr(block.self_attn, part).weight.repeat(2, 1))
            setattr(block.self_attn, part, linear)
        block.self_attn.num_key_value_groups = 1
    artifact = artifact_of(model, "awq-w4", windows)
    errors = {layer.name.rpartition(".")[2]: layer.weight_error for layer in facts_of(model, artifact).layers}
    assert errors["v_proj"] == errors["o_proj"] != errors["q_proj"]
    assert VALUE_PAIR.readers == ("self_attn.o_proj",)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.self_attn.q_proj.bias"])
def test_what_took_up_something_unknown_has_no_error(biased_llama: LlamaForCausalLM, name: str) -> None:
    artifact = artifact_of(biased_llama, "rtn-w4")
    changed = {name: biased_llama.get_parameter(name).detach() + 1}
    facts = facts_of(biased_llama, Artifact("rtn-w4", 1, artifact.weights, changed))
    unknown = {layer.name.split(".")[2] for layer in facts.layers if layer.weight_error is None}
    assert unknown == ({"0", "1"} if "norm" in name else {"0"})


def test_outputs_are_compared_block_by_block_on_full_precision_inputs(
    llama: LlamaForCausalLM, windows: Tensor
) -> None:
    artifact = artifact_of(llama, "rtn-w3")
    quantized = artifact.apply(copy.deepcopy(llama))
    with torch.no_grad():
        states = llama(input_ids=windows, output_hidden_states=True, use_cache=False).hidden_states
        rotary = llama.model.rotary_emb(states[0], torch.arange(32)[None])
        exact, found = (
            decoder_blocks(model)[1](states[1], position_embeddings=rotary) for model in (llama, quantized)
        )
    expected = ((found - exact).norm() / (exact - states[1]).norm()) ** 2
    first, second = facts_of(llama, artifact, windows).blocks
    assert (first.name, second.name) == ("model.layers.0", "model.layers.1")
    assert second.output_error == pytest.approx(float(expected), rel=1e-3)


def test_a_fault_shows_in_its_own_layer_and_block_alone(llama: LlamaForCausalLM, windows: Tensor) -> None:
    artifact = artifact_of(llama, "rtn-w4")
    sound = facts_of(llama, artifact, windows)
    artifact.weights[LAYER].tensors()["scales"].mul_(1.05)
    faulty = facts_of(llama, artifact, windows)
    layers = [(one.name, one.digest, one.weight_error) for one in sound.layers]
    moved = set(layers) ^ {(one.name, one.digest, one.weight_error) for one in faulty.layers}
    assert {name for name, _, _ in moved} == {LAYER}
    assert sound.blocks[0] == faulty.blocks[0]
    assert sound.blocks[1].output_error < faulty.blocks[1].output_error


def test_a_scale_that_is_off_shows_in_the_gain_and_one_bad_row_in_the_rows(llama: LlamaForCausalLM) -> None:
    artifact = artifact_of(llama, "rtn-w4")
    sound = facts_of(llama, artifact).layers[-1]
    scales = artifact.weights[LAYER].tensors()["scales"]
    scales.mul_(1.02)
    scaled = facts_of(llama, artifact).layers[-1]
    scales.div_(1.02)
    scales[3] *= -1
    bad = facts_of(llama, artifact).layers[-1]
    assert (sound.name, scaled.name, bad.name) == (LAYER,) * 3
    assert scaled.gain == pytest.approx(1.02 * (sound.gain or 0), rel=1e-5)
    assert (bad.row_error or 0) > 3 > 30 * (sound.row_error or 1)


def test_an_adapter_counts_for_outputs_and_digests_not_for_weights(
    llama: LlamaForCausalLM, windows: Tensor
) -> None:
    artifact = artifact_of(llama, "rtn-w8")
    adapter = LowRankAdapter(random(2, 40, seed=1), random(32, 2, seed=2), 0.5)
    tuned = Artifact("rtn-w8", 1, artifact.weights, adapters={LAYER: adapter})
    plain, found = facts_of(llama, artifact, windows), facts_of(llama, tuned, windows)
    assert [layer.weight_error for layer in found.layers] == [layer.weight_error for layer in plain.layers]
    assert found.blocks[1].output_error > 10 * plain.blocks[1].output_error
    twins = zip(found.layers, plain.layers, strict=True)
    assert [one.name for one, other in twins if one.digest != other.digest] == [LAYER]


def test_any_changed_bit_of_a_layer_changes_its_digest(llama: LlamaForCausalLM) -> None:
    artifact = artifact_of(llama, "rtn-w4-g16")
    digests = [layer.digest for layer in facts_of(llama, artifact).layers]
    assert len(set(digests)) == len(digests) == len(decoder_linears(llama))
    assert all(len(digest) == 8 for digest in digests)
    for tensor in artifact.weights[LAYER].tensors().values():
        before = digests[-1]
        tensor.view(-1)[-1:].view(torch.uint8)[0] ^= 1
        digests[-1] = facts_of(llama, artifact).layers[-1].digest
        assert digests[-1] != before


def test_no_calibration_text_means_no_blocks(llama: LlamaForCausalLM) -> None:
    facts = facts_of(llama, artifact_of(llama, "rtn-w4"))
    assert facts.blocks == () and facts.beside == ""


def test_nan_reaches_the_errors(llama: LlamaForCausalLM, windows: Tensor) -> None:
    artifact = artifact_of(llama, "rtn-w4")
    artifact.weights[LAYER].tensors()["scales"][0] = math.nan
    facts = facts_of(llama, artifact, windows)
    assert math.isnan(facts.blocks[1].output_error)
    assert [layer.name for layer in facts.layers if not layer.weight_error > 0] == [LAYER]  # type: ignore[operator]


def test_nothing_to_err_about_is_no_error() -> None:
    nothing = torch.zeros(2, 3)
    assert astuple(relative_error(nothing, nothing)) == (0, 1, 0)
    assert astuple(relative_error(nothing + 1, nothing)) == (math.inf, 1, math.inf)


def test_unquantized_layers_have_no_error(llama: LlamaForCausalLM) -> None:
    quantized = artifact_of(llama, "rtn-w4").apply(copy.deepcopy(llama))
    quantized.set_submodule(LAYER, llama.get_submodule(LAYER))
    assert weight_errors(quantized, llama, {}).keys() == decoder_linears(llama).keys() - {LAYER}
