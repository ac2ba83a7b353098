"""Sequential calibration feeds each block what the quantized blocks before it put out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from quantcheck.errors import DataError, ModelError, QuantizationError
from quantcheck.methods.base import Calibration, MetaValue, PackedWeight
from quantcheck.methods.parts.walk import decoder_linears, walk


class Verbatim(PackedWeight):
    """A weight stored as it is."""

    format: ClassVar[str] = "verbatim"

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def nominal_bits(self) -> float:
        return 32.0

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": self.weight}

    def meta(self) -> dict[str, MetaValue]:
        return {}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, MetaValue]) -> Verbatim:
        return cls(tensors["weight"])

    def decode(self) -> Tensor:
        return self.weight

    def levels_respected(self, weight: Tensor) -> bool:
        return True


class Inputs:
    """Remembers every input."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def update(self, inputs: Tensor) -> None:
        self.seen.append(inputs.clone())


def inputs_of(model: nn.Module, windows: Tensor) -> dict[str, list[Tensor]]:
    """What plain forward passes feed the decoder Linears."""
    seen: dict[str, list[Tensor]] = {name: [] for name in decoder_linears(model)}
    for name, linear in decoder_linears(model).items():
        linear.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0].clone()))
    with torch.no_grad():
        for window in windows:
            model(input_ids=window[None])
    return seen


def record(model: nn.Module, calibration: Calibration, factor: float) -> dict[str, list[Tensor]]:
    """What the walk feeds statistics when quantizing multiplies each weight by ``factor``."""
    names = {linear: name for name, linear in decoder_linears(model).items()}
    seen: dict[str, list[Tensor]] = {}

    def quantize(linear: nn.Linear, inputs: Inputs) -> PackedWeight:
        seen[names[linear]] = inputs.seen
        return Verbatim(linear.weight * factor)

    walk(model, calibration, Inputs, quantize)
    return seen


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        torch.testing.assert_close(first, second)


def test_with_lossless_weights_it_sees_what_the_model_sees(llama: LlamaForCausalLM, windows: Tensor) -> None:
    expected = inputs_of(copy.deepcopy(llama), windows)
    seen = record(llama, windows, 1.0)
    assert list(seen) == list(expected)
    for name, inputs in expected.items():
        assert_same(seen[name], inputs)


def test_a_block_is_calibrated_in_full_precision_on_what_quantized_blocks_put_out(
    llama: LlamaForCausalLM, windows: Tensor
) -> None:
    half_done = copy.deepcopy(llama)
    for linear in decoder_linears(half_done).values():
        if linear in set(half_done.model.layers[0].modules()):
            linear.weight.data *= 0.5
    expected, original = inputs_of(half_done, windows), inputs_of(copy.deepcopy(llama), windows)
    seen = record(llama, windows, 0.5)
    last = "model.layers.1.mlp.down_proj"
    assert_same(seen[last], expected[last])
    assert not torch.allclose(seen[last][0], original[last][0])
    assert_same(seen["model.layers.0.mlp.down_proj"], original["model.layers.0.mlp.down_proj"])


def test_blocks_with_arguments_of_their_own_get_them(windows: Tensor) -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        max_position_embeddings=32,
    )
    model = MistralForCausalLM(config).eval()
    expected = inputs_of(copy.deepcopy(model), windows)
    seen = record(model, windows, 1.0)
    assert_same(seen["model.layers.1.mlp.down_proj"], expected["model.layers.1.mlp.down_proj"])


def test_linears_that_are_fed_one_tensor_share_a_statistic(llama: LlamaForCausalLM, windows: Tensor) -> None:
    statistics: list[Inputs] = []

    def quantize(linear: nn.Linear, inputs: Inputs) -> PackedWeight:
        statistics.append(inputs)
        return Verbatim(linear.weight.clone())

    walk(llama, windows, Inputs, quantize)
    query, key, value, output, gate, up, down = statistics[:7]
    assert query is key is value
    assert gate is up
    assert len({id(one) for one in (query, output, gate, down)}) == 4
    assert len(query.seen) == len(windows)


def test_true_sequential_calibrates_each_stage_on_what_the_quantized_stages_before_it_put_out(
    llama: LlamaForCausalLM, windows: Tensor
) -> None:
    done: list[str] = []
    expected: dict[str, list[Tensor]] = {}
    reference = copy.deepcopy(llama)
    names = {linear: name for name, linear in decoder_linears(llama).items()}
    linears = decoder_linears(reference)
    stages = ("q_proj", "o_proj", "gate_proj", "down_proj")

    def quantize(linear: nn.Linear, inputs: Inputs) -> PackedWeight:
        name = names[linear]
        if name.endswith(stages):
            with torch.no_grad():
                for before in done:
                    linears[before].weight.copy_(0.5 * dict(decoder_linears(original))[before].weight)
            expected.update(inputs_of(copy.deepcopy(reference), windows))
        assert_same(inputs.seen, expected[name])
        done.append(name)
        return Verbatim(linear.weight * 0.5)

    original = copy.deepcopy(llama)
    walk(llama, windows, Inputs, quantize, true_sequential=True)
    assert done == list(names.values())


def test_a_second_look_sees_the_same_inputs_by_each_linear_itself(
    llama: LlamaForCausalLM, windows: Tensor
) -> None:
    second: dict[nn.Linear, Inputs] = {}

    def again(linear: nn.Linear, first: Inputs) -> Inputs | None:
        assert len(first.seen) == len(windows)
        if linear.out_features == 40:
            return None
        return second.setdefault(linear, Inputs())

    def quantize(linear: nn.Linear, first: Inputs) -> PackedWeight:
        if linear.out_features == 40:
            assert linear not in second
        else:
            assert_same(second[linear].seen, first.seen)
        return Verbatim(linear.weight * 0.5)

    walk(llama, windows, Inputs, quantize, again=again)
    assert len(second) == 10


def test_a_failure_of_the_second_look_names_the_layer(llama: LlamaForCausalLM, windows: Tensor) -> None:
    def again(linear: nn.Linear, _: Inputs) -> Inputs:
        raise QuantizationError("it broke")

    with pytest.raises(QuantizationError, match=r"^model.layers.0.self_attn.q_proj: it broke$"):
        walk(llama, windows, Inputs, lambda linear, _: Verbatim(linear.weight), again=again)


def test_progress_names_each_layer_as_it_is_done(llama: LlamaForCausalLM, windows: Tensor) -> None:
    told: list[tuple[str, int, int]] = []
    walk(
        llama,
        windows,
        Inputs,
        lambda linear, _: Verbatim(linear.weight.clone()),
        lambda *news: told.append(news),
    )
    assert told == [(name, done, 14) for done, name in enumerate(decoder_linears(llama), start=1)]


def test_a_failure_names_the_layer(llama: LlamaForCausalLM, windows: Tensor) -> None:
    def fail(linear: nn.Linear, _: Inputs) -> PackedWeight:
        if linear.in_features == 40:
            raise QuantizationError("it broke")
        return Verbatim(linear.weight.clone())

    with pytest.raises(QuantizationError, match=r"^model.layers.0.mlp.down_proj: it broke$"):
        walk(llama, windows, Inputs, fail)


@pytest.mark.parametrize("true_sequential", [False, True])
def test_a_linear_that_takes_no_part_is_an_error(
    llama: LlamaForCausalLM, windows: Tensor, true_sequential: bool
) -> None:
    llama.model.layers[1].mlp.spare = nn.Linear(4, 4)
    with pytest.raises(QuantizationError, match=r"^model.layers.1.mlp.spare: the layer took no part"):
        walk(
            llama,
            windows,
            Inputs,
            lambda linear, _: Verbatim(linear.weight.clone()),
            true_sequential=true_sequential,
        )


@pytest.mark.parametrize(
    "windows", [torch.zeros(4, dtype=torch.int64), torch.zeros(0, 4, dtype=torch.int64), torch.zeros(2, 4)]
)
def test_windows_that_are_no_matrix_of_tokens_are_refused(llama: LlamaForCausalLM, windows: Tensor) -> None:
    with pytest.raises(DataError, match=r"int64 tokens \[n, length\]"):
        walk(llama, windows, Inputs, lambda linear, _: Verbatim(linear.weight))


def test_embeddings_are_as_good_as_their_tokens(llama: LlamaForCausalLM, windows: Tensor) -> None:
    embeddings = [{"inputs_embeds": llama.model.embed_tokens(window[None]).detach()} for window in windows]
    on_tokens = record(copy.deepcopy(llama), windows, 0.5)
    for name, inputs in record(copy.deepcopy(llama), embeddings, 0.5).items():
        assert_same(inputs, on_tokens[name])


def test_examples_may_differ_in_length(llama: LlamaForCausalLM, windows: Tensor) -> None:
    cut = [window[: 32 - 5 * (index % 3)] for index, window in enumerate(windows)]
    expected = inputs_of(copy.deepcopy(llama), cut)  # type: ignore[arg-type]
    for name, inputs in record(llama, [{"input_ids": window[None]} for window in cut], 1.0).items():
        assert_same(inputs, expected[name])


def test_a_padded_example_is_refused(llama: LlamaForCausalLM, windows: Tensor) -> None:
    padded = [{"input_ids": windows[:1], "attention_mask": torch.ones(1, 32)}]
    with pytest.raises(DataError, match="holds attention_mask; pass one example a call, without padding"):
        walk(llama, padded, Inputs, lambda linear, _: Verbatim(linear.weight))


def test_a_model_without_decoder_blocks_is_refused() -> None:
    with pytest.raises(ModelError, match="Sequential has no decoder blocks"):
        decoder_linears(nn.Sequential(nn.Linear(2, 2)))
