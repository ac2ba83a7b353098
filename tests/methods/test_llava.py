"""In a LLaVA the language model is quantized, by every method; the rest stays as it is, to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.tiny import tiny_llama
from models.tiny_llava import IMAGE, llava_processor, tiny_llava
from PIL import Image
from torch import Tensor, nn

from methods.making import artifact_of, assert_identical
from quantcheck.artifact_facts import ArtifactFacts
from quantcheck.errors import DataError, ModelError, SpecError
from quantcheck.methods.artifact import Artifact, inspect
from quantcheck.methods.base import Calibration
from quantcheck.methods.linear import QuantizedLinear
from quantcheck.methods.parts.walk import decoder_linears, linears, walk
from quantcheck.methods.reconstruction import changed_outside, compared
from quantcheck.spec import QuantSpec

LANGUAGE, TOWER = "model.language_model.layers.", "model.vision_tower.encoder.layers."
BRIEF = ("rtn-w4", "gptq-w3-true_sequential", "awq-w3-g16", "smoothquant-w4a4", "quip-w2")
LONG = ("pbllm-w2-g16", "billm-w1.1-g16", "slimllm-w2-g8", "dbllm-w2-steps=1", "nf4-w4")
CASES = [("llava_next", spec, "pictures") for spec in BRIEF] + [("llava", "gptq-w3", "pictures")]
MORE = [
    (kind, spec, on)
    for kind in ("llava_next", "llava")
    for spec in (*BRIEF, *LONG)
    for on in ("tokens", "pictures")
    if (kind, spec, on) not in CASES
]
Prepared = list[Mapping[str, Tensor]]
SIZES = ((40, 21), (16, 16), (20, 50), (40, 21))


@pytest.fixture(scope="module")
def llava() -> nn.Module:
    """A LLaVA-NeXT that no test may write to."""
    return tiny_llava()


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(0, 256, (4, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def pictures() -> Prepared:
    return read("llava_next")


def read(kind: str) -> Prepared:
    """Four pictures of three sizes with texts of other lengths, as their processor reads them."""
    processor, made = llava_processor(kind), np.random.default_rng(0)
    prepared = []
    for index, (width, height) in enumerate(SIZES):
        image = Image.fromarray(made.integers(0, 256, (height, width, 3), dtype=np.uint8))
        inputs = processor(images=image, text=f"{IMAGE}\nWhat is it?{'!' * index}", return_tensors="pt")
        prepared.append({name: inputs[name] for name in inputs if name != "attention_mask"})
    return prepared


def quantized_facts(
    llava: nn.Module, artifact: Artifact, data: Calibration | None = None
) -> tuple[nn.Module, ArtifactFacts]:
    quantized = artifact.apply(copy.deepcopy(llava))
    found = inspect(quantized, vision=QuantSpec.parse(artifact.spec).vision)
    return quantized, compared(found, quantized, llava, artifact.parameters, data)


@pytest.mark.parametrize(
    ("kind", "spec", "on"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]
)
def test_every_method_quantizes_the_language_model_and_nothing_else(
    kind: str, spec: str, on: str, tokens: Tensor, tmp_path: Path
) -> None:
    llava, data = tiny_llava(kind), tokens if on == "tokens" else read(kind)
    artifact = artifact_of(llava, spec, data)
    artifact.save(tmp_path / "artifact")
    assert_identical(Artifact.load(tmp_path / "artifact"), artifact)
    quantized, facts = quantized_facts(llava, artifact, data)
    assert facts.really_quantized and facts.outside == ()
    assert len(facts.layers) == 14 and all(name.startswith(LANGUAGE) for name in facts.quantized_layers)
    assert [block.name for block in facts.blocks] == [f"{LANGUAGE}{index}" for index in (0, 1)]
    assert all(layer.weight_error is not None and layer.differs for layer in facts.layers)
    swapped = [name for name, module in quantized.named_modules() if isinstance(module, QuantizedLinear)]
    assert swapped == list(artifact.weights)
    with torch.no_grad():
        logits = quantized(input_ids=torch.arange(9)[None]).logits
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("spec", ["gptq-w3", "awq-w3-g16", "smoothquant-w8a8"])
def test_tokens_are_the_same_calibration_as_windows_and_as_prepared_inputs(
    llava: nn.Module, tokens: Tensor, spec: str
) -> None:
    prepared: Any = [{"input_ids": window[None]} for window in tokens]
    assert_identical(artifact_of(llava, spec, prepared), artifact_of(llava, spec, tokens))


def test_pictures_calibrate_otherwise_than_texts(
    llava: nn.Module, tokens: Tensor, pictures: Prepared
) -> None:
    name = f"{LANGUAGE}0.mlp.down_proj"
    on_texts, on_pictures = (artifact_of(llava, "gptq-w3", each).weights[name] for each in (tokens, pictures))
    assert not torch.equal(on_texts.decode(), on_pictures.decode())


class Inputs:
    """Remembers every input."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def update(self, inputs: Tensor) -> None:
        self.seen.append(inputs.clone())


def forward_inputs(model: nn.Module, pictures: Prepared, name: str) -> list[Tensor]:
    """What plain forward passes feed one Linear."""
    seen: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for inputs in pictures:
            model(**inputs)
    hook.remove()
    return seen


@pytest.mark.parametrize("vision", [False, True])
def test_the_walk_sees_what_the_quantized_modules_before_put_out(
    llava: nn.Module, pictures: Prepared, vision: bool
) -> None:
    walked = copy.deepcopy(llava)
    names = {linear: name for name, linear in linears(walked, vision=vision).items()}
    rounded = artifact_of(llava, "rtn-w3-vision").weights
    seen: dict[str, list[Tensor]] = {}
    expected: dict[str, list[Tensor]] = {}

    def quantize(linear: nn.Linear, inputs: Inputs) -> Any:
        name = names[linear]
        if name.endswith(".q_proj"):  # the first of a block, which is still in full precision
            expected[name] = forward_inputs(copy.deepcopy(walked), pictures, name)
        seen[name] = inputs.seen
        return rounded[name]

    walk(walked, pictures, Inputs, quantize, vision=vision)
    assert list(seen) == list(names.values())
    assert len(expected) == 2 + 2 * vision
    for name, inputs in expected.items():
        for one, other in zip(seen[name], inputs, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("spec", ["rtn-w4-vision", "gptq-w3-vision", "nf4-w4-vision", "fp4-w4-vision"])
def test_a_spec_may_ask_for_the_tower_too(llava: nn.Module, pictures: Prepared, spec: str) -> None:
    artifact = artifact_of(llava, spec, pictures)
    _, facts = quantized_facts(llava, artifact, pictures)
    assert facts.really_quantized and facts.outside == ()
    assert [name for name in facts.quantized_layers if name.startswith(TOWER)] == [
        name for name in linears(llava, vision=True) if not name.startswith(LANGUAGE)
    ]
    assert all(layer.differs and layer.weight_error is not None for layer in facts.layers)
    weights = sum(linear.weight.numel() for linear in linears(llava, vision=True).values())
    assert facts.weights == weights and facts.bpw == artifact.bits_per_weight


def test_all_of_the_bits_are_those_of_the_language_model(llava: nn.Module) -> None:
    artifact = artifact_of(llava, "rtn-w8")
    assert sum(packed.decode().numel() for packed in artifact.weights.values()) == sum(
        linear.weight.numel() for linear in decoder_linears(llava).values()
    )
    assert artifact.nominal_bits == 8


def test_a_tower_needs_pictures_to_be_calibrated_on(llava: nn.Module, tokens: Tensor) -> None:
    with pytest.raises(DataError, match="a vision tower is calibrated on pictures with their texts"):
        artifact_of(llava, "gptq-w3-vision", tokens)


def test_a_model_of_texts_has_no_tower(llava: nn.Module) -> None:
    text = nn.Module()
    text.model = llava.model.language_model
    with pytest.raises(ModelError, match="Module has no vision tower; leave the option 'vision' out"):
        artifact_of(text, "rtn-w4-vision")


@pytest.mark.parametrize("spec", ["awq-w4-vision", "quip-w2-vision", "slimllm-w2-g8-vision"])
def test_a_method_that_cannot_quantize_a_tower_says_so(
    llava: nn.Module, pictures: Prepared, spec: str
) -> None:
    with pytest.raises(SpecError, match="has no option 'vision'"):
        artifact_of(llava, spec, pictures)


OUTSIDE = (
    f"{TOWER}1.mlp.fc1.weight",
    f"{TOWER}0.self_attn.q_proj.bias",
    "model.vision_tower.embeddings.class_embedding",
    "model.multi_modal_projector.linear_2.weight",
    "model.language_model.embed_tokens.weight",
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_bit_that_changed_outside_of_the_language_model_is_seen(llava: nn.Module, name: str) -> None:
    quantized, facts = quantized_facts(llava, artifact_of(llava, "rtn-w4"))
    with torch.no_grad():
        quantized.get_parameter(name).flatten()[3] += 1e-3
    assert changed_outside(quantized, llava, facts.expected_layers) == (name,)


def test_a_tower_of_another_kind_is_watched_too(llava: nn.Module) -> None:
    """Its blocks are not found, so they cannot be quantized: they must stay as they are all the more."""
    strange = copy.deepcopy(llava)
    strange.model.vision_tower = nn.Sequential(nn.Linear(4, 4))
    quantized, facts = quantized_facts(strange, artifact_of(strange, "rtn-w4"))
    assert facts.outside == ()
    with torch.no_grad():
        quantized.model.vision_tower[0].bias += 1
    assert changed_outside(quantized, strange, facts.expected_layers) == ("model.vision_tower.0.bias",)
    with pytest.raises(ModelError, match="has no vision tower"):
        artifact_of(strange, "rtn-w4-vision")


def test_a_model_of_texts_has_nothing_outside() -> None:
    text = tiny_llama()
    artifact = artifact_of(text, "rtn-w4")
    assert changed_outside(artifact.apply(copy.deepcopy(text)), text, artifact.weights) is None


def test_the_newline_stays_as_it_is() -> None:
    llava = tiny_llava()
    quantized, facts = quantized_facts(llava, artifact_of(llava, "rtn-w4"))
    with torch.no_grad():
        quantized.model.image_newline[0] = 0
    assert changed_outside(quantized, llava, facts.expected_layers) == ("model.image_newline",)


def test_a_tower_that_was_quantized_unasked_is_seen(llava: nn.Module) -> None:
    quantized, _ = quantized_facts(llava, artifact_of(llava, "rtn-w4-vision"))
    found = changed_outside(quantized, llava, decoder_linears(llava))
    assert found is not None and len(found) == 12
    assert all(name.startswith(TOWER) for name in found)
    assert changed_outside(quantized, llava, linears(llava, vision=True)) == ()


@pytest.mark.parametrize("name", ["model.language_model.norm.weight", "lm_head.weight"])
def test_norms_and_head_may_take_part(llava: nn.Module, name: str) -> None:
    quantized, facts = quantized_facts(llava, artifact_of(llava, "rtn-w4"))
    with torch.no_grad():
        quantized.get_parameter(name).mul_(2)
    assert changed_outside(quantized, llava, facts.expected_layers) == ()
