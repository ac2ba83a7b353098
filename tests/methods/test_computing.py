"""A quantized model computes by the kernels that it is told to, and by no other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from methods.making import artifact_of
from quantcheck.errors import QuantizationError, SpecError
from quantcheck.methods.artifact import inspect
from quantcheck.methods.computing import compute_by, kernels_by_name


@torch.no_grad()
def logits(model: LlamaForCausalLM, windows: Tensor) -> Tensor:
    return model(input_ids=windows).logits


@pytest.mark.parametrize(
    ("spec", "kernel"),
    [
        ("rtn-w3-g16", "reference_grouped"),
        ("rtn-w3-g16", "cpu_grouped"),
        ("nf4-w4", "cpu_codebook"),
        ("dbllm-w2-g16-steps=0", "cpu_planes"),
    ],
)
def test_a_kernel_computes_what_the_decoded_weights_compute(
    llama: LlamaForCausalLM, windows: Tensor, spec: str, kernel: str
) -> None:
    quantized = artifact_of(llama, spec, windows).apply(copy.deepcopy(llama))
    decoded = logits(quantized, windows)
    compute_by(quantized, kernels_by_name([kernel]))
    assert {layer.kernel for layer in inspect(quantized).layers} == {kernel}
    torch.testing.assert_close(logits(quantized, windows), decoded, rtol=1e-4, atol=1e-4)


def test_biases_are_added_to_what_a_kernel_computes(biased_llama: LlamaForCausalLM, windows: Tensor) -> None:
    with torch.no_grad():
        biased_llama.get_parameter("model.layers.0.self_attn.q_proj.bias").fill_(0.5)
    quantized = artifact_of(biased_llama, "rtn-w4").apply(copy.deepcopy(biased_llama))
    decoded = logits(quantized, windows)
    compute_by(quantized, kernels_by_name(["cpu_grouped"]))
    torch.testing.assert_close(logits(quantized, windows), decoded, rtol=1e-4, atol=1e-4)


def test_a_model_that_moves_is_prepared_anew(llama: LlamaForCausalLM, windows: Tensor) -> None:
    quantized = artifact_of(llama, "rtn-w4").apply(copy.deepcopy(llama))
    compute_by(quantized, kernels_by_name(["cpu_grouped"]))
    before = logits(quantized, windows)
    assert torch.equal(logits(quantized.to(torch.float32), windows), before)


def test_the_first_kernel_that_takes_a_weight_computes(llama: LlamaForCausalLM) -> None:
    quantized = artifact_of(llama, "rtn-w4").apply(llama)
    compute_by(quantized, kernels_by_name(["cpu_planes", "cpu_grouped", "reference_grouped"]))
    assert {layer.kernel for layer in inspect(quantized).layers} == {"cpu_grouped"}


def test_a_weight_that_no_kernel_takes_is_refused(llama: LlamaForCausalLM) -> None:
    quantized = artifact_of(llama, "nf4-w4").apply(llama)
    with pytest.raises(QuantizationError, match=r"takes the weight of model\.layers\.0.*cpu_planes: "):
        compute_by(quantized, kernels_by_name(["cpu_grouped", "cpu_planes"]))


def test_a_weight_that_is_no_operand_is_refused(llama: LlamaForCausalLM, windows: Tensor) -> None:
    quantized = artifact_of(llama, "quip-w4", windows).apply(llama)
    with pytest.raises(QuantizationError, match="is no operand of any kernel"):
        compute_by(quantized, kernels_by_name(["cpu_grouped"]))


def test_kernels_are_known_by_name_and_leave_inputs_alone() -> None:
    with pytest.raises(SpecError, match="did you mean 'cpu_grouped'"):
        kernels_by_name(["cpu_groupd"])
    with pytest.raises(SpecError, match="kernel cpu_integer rounds its inputs"):
        kernels_by_name(["cpu_integer"])
