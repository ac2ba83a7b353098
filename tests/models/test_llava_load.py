"""A LLaVA loads as it was stored, whatever its tensors are called, and reads texts as its language model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from models.tiny import save_tiny_llama
from models.tiny_llava import IMAGE, PINPOINTS, llava_processor, save_tiny_llava, tiny_llava
from quantcheck.errors import ModelError
from quantcheck.models.image_tokens import Tiling
from quantcheck.models.load import LoadedModel, load_model
from quantcheck.models.processor import check_processor
from quantcheck.spec import ModelSpec

KINDS = ("llava_next", "llava")
IDS = torch.arange(20).unsqueeze(0)
SPEC = ModelSpec.parse("some/llava")


def load(folder: Path) -> LoadedModel:
    return load_model(ModelSpec.parse(str(folder)), device="cpu")


def as_saved(name: str) -> str:
    return name


def first_layout(name: str) -> str:
    """What checkpoints on the hub are called: transformers 4.39."""
    return re.sub(r"^vision_tower\.", "vision_tower.vision_model.", name)


def nested_layout(name: str) -> str:
    """The modules' own paths of transformers 4.52."""
    renamed = first_layout(name).replace("language_model.lm_head", "lm_head")
    renamed = re.sub(r"^language_model\.model\.", "language_model.", renamed)
    return renamed if renamed.startswith("lm_head") else f"model.{renamed}"


@pytest.mark.parametrize("rename", [as_saved, first_layout, nested_layout])
@pytest.mark.parametrize("kind", KINDS)
def test_old_and_new_names_of_tensors_load_alike(
    tmp_path: Path, kind: str, rename: Callable[[str], str]
) -> None:
    folder = save_tiny_llava(tmp_path / "llava", kind)
    path = folder / "model.safetensors"
    save_file({rename(name): tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    loaded, made = load(folder).model.state_dict(), tiny_llava(kind).state_dict()
    assert loaded.keys() == made.keys()
    assert all(torch.equal(loaded[name], made[name]) for name in made)


def test_a_missing_tensor_of_the_tower_is_refused_rather_than_filled_at_random(tmp_path: Path) -> None:
    folder = save_tiny_llava(tmp_path / "llava")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["image_newline"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, .* random \(model.image_newline\)"):
        load(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_on_texts_a_llava_is_its_language_model(tmp_path: Path, kind: str) -> None:
    loaded = load(save_tiny_llava(tmp_path / "llava", kind))
    language = LlamaForCausalLM(loaded.model.config.text_config).eval()
    language.model.load_state_dict(loaded.model.model.language_model.state_dict())
    language.lm_head.load_state_dict(loaded.model.lm_head.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=IDS).logits, language(input_ids=IDS).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_the_processor_is_at_hand(tmp_path: Path, kind: str) -> None:
    loaded = load(save_tiny_llava(tmp_path / "llava", kind))
    assert loaded.processor.image_token == IMAGE
    assert type(loaded.processor.image_processor).__name__.endswith("Pil")
    assert loaded.tokenizer.encode("a fox") == loaded.processor.tokenizer.encode("a fox")


@pytest.mark.parametrize("kind", KINDS)
def test_a_processor_in_the_files_of_older_versions_loads_alike(tmp_path: Path, kind: str) -> None:
    folder = save_tiny_llava(tmp_path / "llava", kind)
    now = load(folder).processor
    settings = json.loads((folder / "processor_config.json").read_text())
    images = {**settings.pop("image_processor"), "processor_class": settings["processor_class"]}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    before = load(folder).processor
    assert Tiling.of(before) == Tiling.of(now)
    image = Image.linear_gradient("L").resize((37, 21))
    read = [each(images=image, text=IMAGE, return_tensors="pt") for each in (before, now)]
    assert all(torch.equal(read[0][name], read[1][name]) for name in read[1])


def test_a_model_of_texts_has_no_processor(tmp_path: Path) -> None:
    assert load(save_tiny_llama(tmp_path / "tiny")).processor is None


def test_a_fresh_copy_shares_nothing_with_the_reference(tmp_path: Path) -> None:
    loaded = load(save_tiny_llava(tmp_path / "llava"))
    for parameter in loaded.fresh().parameters():
        parameter.zero_()
    assert loaded.untouched


def test_a_processor_that_does_not_load_is_named(tmp_path: Path) -> None:
    folder = save_tiny_llava(tmp_path / "llava")
    (folder / "processor_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"its processor does not load .* save it again"):
        load(folder)


def without_image_token(processor: Any, _: Any) -> None:
    processor.image_token = "<picture>"


def other_image_token(_: Any, config: Any) -> None:
    config.image_token_id = 257


def text_only(processor: Any, _: Any) -> None:
    del processor.image_processor


def no_patch_size(processor: Any, _: Any) -> None:
    processor.patch_size = None


def other_patch_size(processor: Any, _: Any) -> None:
    processor.patch_size = 8


def other_image_size(processor: Any, _: Any) -> None:
    processor.image_processor.crop_size = {"height": 32, "width": 32}


def other_grids(processor: Any, _: Any) -> None:
    processor.image_processor.image_grid_pinpoints = PINPOINTS[:2]


def other_features(_: Any, config: Any) -> None:
    config.vision_feature_select_strategy = "full"


@pytest.mark.parametrize(
    ("breakage", "says"),
    [
        (without_image_token, r"has no image token: <picture> reads as .*, the config's .* is 258"),
        (other_image_token, r"has no image token: <image> reads as \[258\], the config's .* is 257"),
        (text_only, "LlavaNextProcessor reads no pictures; save its processor"),
        (no_patch_size, "does not say its patch_size .* put the model's own into processor_config.json"),
        (other_patch_size, "the patch size is 8 in its processor and 4 in its config"),
        (other_image_size, "the image size is 32 in its processor and 16 in its config"),
        (other_grids, "the list of image grids is"),
        (other_features, "the choice of vision features is default in its processor and full in its config"),
    ],
)
def test_a_processor_of_another_model_is_refused(breakage: Callable[[Any, Any], None], says: str) -> None:
    processor, config = llava_processor(), tiny_llava().config
    check_processor(processor, config, SPEC)
    breakage(processor, config)
    with pytest.raises(ModelError, match=f"^model some--llava: .*{says}"):
        check_processor(processor, config, SPEC)
