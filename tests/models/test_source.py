"""What can be refused before torch is imported is refused then, with the cause and the way out."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from models.tiny import CONTEXT, save_tiny_llama
from quantcheck.errors import ModelError
from quantcheck.models.source import resolve_model
from quantcheck.spec import ModelSpec


def resolve(folder: Path) -> object:
    return resolve_model(ModelSpec.parse(str(folder)))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_files_of_a_checkpoint_are_found_and_described(checkpoint: Path) -> None:
    source = resolve_model(ModelSpec.parse(str(checkpoint)))
    assert source.folder == checkpoint
    assert [path.name for path in source.weights] == ["model.safetensors"]
    assert {path.name for path in source.tokenizer_files} >= {"tokenizer.json", "tokenizer_config.json"}
    assert (source.stored_dtype, source.context_length) == ("float32", CONTEXT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_stored_dtype_is_read_from_the_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    source = resolve_model(ModelSpec.parse(str(save_tiny_llama(tmp_path / "half", dtype=dtype))))
    assert f"torch.{source.stored_dtype}" == str(dtype)


def test_the_built_in_model_resolves_to_the_package() -> None:
    folder = resolve_model(ModelSpec.parse("builtin-llama")).folder
    assert folder.parts[-3:] == ("models", "builtin", "files")


def test_digests_depend_on_content_alone(tmp_path: Path) -> None:
    one, two = (
        resolve_model(ModelSpec.parse(str(save_tiny_llama(tmp_path / name)))) for name in ("one", "two")
    )
    assert one.model_digest == two.model_digest
    assert one.tokenizer_digest == two.tokenizer_digest


@pytest.mark.parametrize(
    ("name", "moves"),
    [("model.safetensors", "model"), ("config.json", "model"), ("tokenizer.json", "tokenizer")],
)
def test_a_changed_file_moves_the_digest_it_belongs_to(checkpoint: Path, name: str, moves: str) -> None:
    spec = ModelSpec.parse(str(checkpoint))
    before = resolve_model(spec)
    digests = {"model": before.model_digest, "tokenizer": before.tokenizer_digest}
    if name.endswith("safetensors"):
        tensors = load_file(checkpoint / name)
        tensors["model.norm.weight"][0] += 1
        save_file(tensors, checkpoint / name, {"format": "pt"})
    else:
        (checkpoint / name).write_text((checkpoint / name).read_text() + "\n")
    after = resolve_model(spec)
    changed = {"model": after.model_digest, "tokenizer": after.tokenizer_digest}
    assert {what for what in digests if digests[what] != changed[what]} == {moves}


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def other_family(folder: Path) -> None:
    edit_config(folder, model_type="gpt2")


def classifier(folder: Path) -> None:
    edit_config(folder, architectures=["LlamaForSequenceClassification"])


def quantized(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def broken_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("{}")


def truncated(folder: Path) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[:-100])


def cut_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")


def empty_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def html_page(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 6) + b"<html>")


def no_tensor(folder: Path) -> None:
    save_file({}, folder / "model.safetensors")


def int8_weights(folder: Path) -> None:
    save_file({"qweight": torch.zeros(2, 2, dtype=torch.int8)}, folder / "model.safetensors")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("breakage", "says"),
    [
        (no_config, "no config.json .* expected a transformers checkpoint"),
        (broken_config, "config.json is not JSON .* download it again"),
        (list_config, "holds no JSON object"),
        (other_family, "model_type 'gpt2' is not of the LLaMA family; accepted: 'llama'"),
        (classifier, "LlamaForSequenceClassification is no language model; accepted: LlamaForCausalLM"),
        (quantized, "already quantized by gptq .* pass the full-precision checkpoint"),
        (pickled, r"only as pickle \(pytorch_model.bin\), refused .* convert them .* save_pretrained"),
        (no_weights, "no model.safetensors .* download the weights"),
        (missing_shard, "names model-00001-of-00002.safetensors, not in .* download the model again"),
        (broken_index, "no readable weight_map"),
        (truncated, "bytes of tensors, its header says .* download it again"),
        (cut_header, "truncated or no safetensors file"),
        (empty_file, "truncated or no safetensors file"),
        (html_page, "no safetensors file; download it again"),
        (no_tensor, "hold no tensor"),
        (int8_weights, "stores I8 tensors: already quantized, .* pass a checkpoint stored as float32"),
        (no_tokenizer, "neither tokenizer.json nor tokenizer.model .* save its tokenizer"),
    ],
)
def test_a_checkpoint_that_cannot_be_gated_is_refused(
    checkpoint: Path, breakage: Callable[[Path], None], says: str
) -> None:
    breakage(checkpoint)
    with pytest.raises(ModelError, match=says):
        resolve(checkpoint)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere: no such folder; pass a folder .* or a hub id owner/name"):
        resolve(tmp_path / "nowhere")


def test_a_file_is_no_model(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="is a file; pass the folder"):
        resolve(checkpoint / "config.json")


def test_a_hub_id_without_network_or_cached_copy_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ModelError, match=r"owner/model@main: .*hub cannot be reached.*`hf download owner/model`"
    ):
        resolve_model(ModelSpec.parse("owner/model@main"))


def response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://hub.invalid"))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            errors.GatedRepoError("gated", response=response(403)),
            "gated; accept its licence .* `hf auth login`",
        ),
        (
            errors.RepositoryNotFoundError("no", response=response(404)),
            "neither a folder here nor a model on the hub",
        ),
        (
            errors.RevisionNotFoundError("no", response=response(404)),
            "the hub has no such revision; name a branch",
        ),
        (errors.HFValidationError("bad"), "neither a folder here nor a valid hub id"),
    ],
)
def test_each_refusal_of_the_hub_has_its_own_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ModelError, match=f"owner/model: {says}"):
        resolve_model(ModelSpec.parse("owner/model"))


def test_the_hub_is_asked_for_the_config_before_the_weights(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def download(_: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model(ModelSpec.parse("owner/model")).folder == checkpoint
    assert asked[0] == ["config.json"]
    assert not any(pattern.endswith((".bin", ".py")) for pattern in asked[1])
    quantized(checkpoint)
    with pytest.raises(ModelError, match="already quantized"):
        resolve_model(ModelSpec.parse("owner/model"))
    assert asked[2:] == [["config.json"]]


def test_preflight_modules_import_no_torch() -> None:
    modules = "quantcheck.models.source, quantcheck.models.calibration, quantcheck.metrics.catalog"
    heavy = "{'torch', 'transformers', 'lm_eval', 'datasets', 'PIL'}"
    code = f"import sys, {modules}; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("", "", 0)
