"""A LLaVA's files are found with those of its processor, or it is refused before torch is imported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from models.tiny_llava import CONTEXT, save_tiny_llava
from quantcheck.errors import ModelError
from quantcheck.models.source import ModelSource, resolve_model
from quantcheck.spec import ModelSpec


@pytest.fixture(params=["llava_next", "llava"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    return save_tiny_llava(tmp_path / "llava")


def resolve(folder: Path) -> ModelSource:
    return resolve_model(ModelSpec.parse(str(folder)))


def edit_config(folder: Path, part: str | None = None, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config if part is None else config[part]).update(changes)
    path.write_text(json.dumps(config))


def test_the_files_of_a_llava_are_found_and_described(tmp_path: Path, kind: str) -> None:
    source = resolve(save_tiny_llava(tmp_path / "llava", kind))
    assert (source.model_type, source.multimodal, source.context_length) == (kind, True, CONTEXT)
    assert [path.name for path in source.processor_files] == ["processor_config.json"]
    assert {path.name for path in source.tokenizer_files} >= {"tokenizer.json", "tokenizer_config.json"}


def test_the_files_of_older_processors_are_found(llava: Path) -> None:
    (llava / "processor_config.json").rename(llava / "preprocessor_config.json")
    (llava / "chat_template.json").write_text("{}")
    names = [path.name for path in resolve(llava).processor_files]
    assert names == ["chat_template.json", "preprocessor_config.json"]


def test_a_changed_processor_moves_the_tokenizers_digest(llava: Path) -> None:
    before = (resolve(llava).model_digest, resolve(llava).tokenizer_digest)
    path = llava / "processor_config.json"
    path.write_text(path.read_text().replace('"resample": 3', '"resample": 2'))
    after = (resolve(llava).model_digest, resolve(llava).tokenizer_digest)
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_config_that_does_not_say_its_language_model_means_llama(llava: Path) -> None:
    path = llava / "config.json"
    config = json.loads(path.read_text())
    del config["text_config"]["model_type"], config["text_config"]["max_position_embeddings"]
    path.write_text(json.dumps(config))
    assert resolve(llava).context_length == 2048


def mistral(folder: Path) -> None:
    edit_config(folder, "text_config", model_type="mistral")


def other_head(folder: Path) -> None:
    edit_config(folder, architectures=["LlavaNextModel"])


def quantized_inside(folder: Path) -> None:
    edit_config(folder, "text_config", quantization_config={"quant_method": "awq"})


def no_processor(folder: Path) -> None:
    (folder / "processor_config.json").unlink()


def broken_text_config(folder: Path) -> None:
    edit_config(folder, text_config="llama")


@pytest.mark.parametrize(
    ("breakage", "says"),
    [
        (mistral, "its language part is of model_type 'mistral'; accepted: a llava_next around 'llama'"),
        (other_head, "LlavaNextModel is no language model; accepted: LlavaNextForConditionalGeneration"),
        (quantized_inside, "already quantized by awq"),
        (no_processor, "neither processor_config.json nor preprocessor_config.json .* save its processor"),
        (broken_text_config, "its text_config is no JSON object"),
    ],
)
def test_a_llava_that_cannot_be_gated_is_refused(
    llava: Path, breakage: Callable[[Path], None], says: str
) -> None:
    breakage(llava)
    with pytest.raises(ModelError, match=says):
        resolve(llava)


def test_the_hub_is_asked_for_the_processor_too(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(_: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(llava)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model(ModelSpec.parse("owner/llava")).multimodal
    assert {"*.json", "*.safetensors", "chat_template.jinja"} <= set(asked)
