"""Where a model's files are, and whether they can be gated: every check that needs no torch.

Accepted is what transformers' ``LlamaForCausalLM`` loads as it was trained: ``model_type`` "llama" (LLaMA 1
to 3, and what shares their architecture and config: TinyLlama, Vicuna, SmolLM), unquantized, in safetensors;
and LLaVA-1.5 and LLaVA-NeXT ("llava", "llava_next") around such a model, with the files of their processor.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from quantcheck.errors import ModelError
from quantcheck.measurement import digest
from quantcheck.models.builtin import MODEL_DIR
from quantcheck.spec import ModelSpec

TEXT = "llama"
_ARCHITECTURES = {
    TEXT: "LlamaForCausalLM",
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
}
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
_MULTIMODAL = tuple(name for name in _ARCHITECTURES if name != TEXT)
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class ModelSource:
    """The files of a model that passed every check short of loading it.

    Attributes:
        spec: as the user named it.
        folder: local folder, of the hub's cache for a hub id.
        weights: safetensors files, sorted.
        tokenizer_files: those of the tokenizer, sorted.
        stored_dtype: ``float32``, ``float16`` or ``bfloat16``: the dtype of most stored weights.
        context_length: ``max_position_embeddings`` of the language model, in tokens.
        model_type: ``llama``, ``llava`` or ``llava_next``.
        processor_files: those that turn pictures and prompts into inputs, sorted; none for a model of texts.
    """

    spec: ModelSpec
    folder: Path
    weights: tuple[Path, ...]
    tokenizer_files: tuple[Path, ...]
    stored_dtype: str
    context_length: int
    model_type: str = TEXT
    processor_files: tuple[Path, ...] = ()

    @property
    def multimodal(self) -> bool:
        """Whether the model reads pictures, too."""
        return self.model_type != TEXT

    @cached_property
    def model_digest(self) -> str:
        """Digest of the weights and of the config that says how to use them."""
        return _digest((self.folder / "config.json", *self.weights))

    @cached_property
    def tokenizer_digest(self) -> str:
        """Digest of the files of the tokenizer, and of the processor where there is one."""
        return _digest((*self.tokenizer_files, *self.processor_files))


def resolve_model(spec: ModelSpec) -> ModelSource:
    """Find the files of a model and check all that can be checked without loading it.

    Raises:
        ModelError: nothing is there, or what is there cannot be gated; the message names the way out.
    """
    folder = _folder(spec)
    config = _read_config(folder, spec)
    weights = _weight_files(folder, spec)
    model_type = str(config["model_type"])
    return ModelSource(
        spec=spec,
        folder=folder,
        weights=weights,
        tokenizer_files=_tokenizer_files(folder, spec),
        stored_dtype=_stored_dtype(weights, spec),
        context_length=int(_text_config(config).get("max_position_embeddings", 2048)),
        model_type=model_type,
        processor_files=() if model_type == TEXT else _processor_files(folder, spec),
    )


def _folder(spec: ModelSpec) -> Path:
    if spec.builtin:
        return MODEL_DIR
    path = Path(spec.source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(
            f"model {spec.source}: is a file; pass the folder that holds config.json and *.safetensors"
        )
    if path.is_absolute() or spec.source.startswith(".") or spec.source.count("/") != 1:
        raise ModelError(
            f"model {spec.source}: no such folder; pass a folder with config.json, "
            "or a hub id owner/name[@revision]"
        )
    return _download(spec)


def _download(spec: ModelSpec) -> Path:
    _read_config(_snapshot(spec, ["config.json"]), spec)
    return _snapshot(spec, ["*.json", "*.safetensors", "tokenizer.model", "chat_template.jinja"])


def _snapshot(spec: ModelSpec, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"model {spec.source}" + (f"@{spec.revision}" if spec.revision else "")
    try:
        return Path(snapshot_download(spec.source, revision=spec.revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise ModelError(
            f"{what}: gated; accept its licence on the hub and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{what}: neither a folder here nor a model on the hub (or a private one: `hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{what}: the hub has no such revision; name a branch, a tag or a commit") from error
    except HFValidationError as error:
        raise ModelError(f"{what}: neither a folder here nor a valid hub id owner/name[@revision]") from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{what}: no such folder here, the hub cannot be reached, and its cache has no copy; "
            f"pass a folder, or run `hf download {spec.source}` where there is a network"
        ) from error


def _read_config(folder: Path, spec: ModelSpec) -> Mapping[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"model {spec}: no config.json in {folder}; expected a transformers checkpoint")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"model {spec}: {path} is not JSON ({error}); download it again") from error
    if not isinstance(config, dict):
        raise ModelError(f"model {spec}: {path} holds no JSON object; download it again")
    if not isinstance(_text_config(config), dict):
        raise ModelError(f"model {spec}: its text_config is no JSON object; download it again")
    quantized = config.get("quantization_config") or _text_config(config).get("quantization_config")
    if quantized:
        method = quantized.get("quant_method", "an unnamed method")
        raise ModelError(
            f"model {spec}: already quantized by {method} (quantization_config in config.json); "
            "quantcheck quantizes by itself, so pass the full-precision checkpoint behind this one"
        )
    _check_architecture(config, spec)
    return config


def _check_architecture(config: Mapping[str, Any], spec: ModelSpec) -> None:
    model_type = config.get("model_type")
    if model_type not in _ARCHITECTURES:
        known = ", ".join(f"{name!r} ({architecture})" for name, architecture in _ARCHITECTURES.items())
        raise ModelError(
            f"model {spec}: model_type {model_type!r} is not of the LLaMA family; accepted: {known}"
        )
    wanted = _ARCHITECTURES[model_type]
    architectures = config.get("architectures") or [wanted]
    if wanted not in architectures:
        raise ModelError(
            f"model {spec}: architecture {', '.join(architectures)} is no language model; accepted: {wanted}"
        )
    language = _text_config(config).get("model_type", TEXT)
    if language != TEXT:
        raise ModelError(
            f"model {spec}: its language part is of model_type {language!r}; accepted: a {model_type} "
            f"around {TEXT!r}"
        )


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the language model: the whole one for a model of texts, else a part of it."""
    return config.get("text_config") or {} if config.get("model_type") in _MULTIMODAL else config


def _weight_files(folder: Path, spec: ModelSpec) -> tuple[Path, ...]:
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file():
        return (single,)
    if not index.is_file():
        raise ModelError(f"model {spec}: {_absent_weights(folder)}")
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"model {spec}: {index} has no readable weight_map; download it again") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ModelError(
            f"model {spec}: {index.name} names {', '.join(missing) or 'no file'}, not in {folder}; "
            "download the model again"
        )
    return tuple(folder / name for name in names)


def _absent_weights(folder: Path) -> str:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if not pickles:
        return f"no model.safetensors in {folder}; download the weights"
    return (
        f"weights only as pickle ({', '.join(pickles[:3])}), refused because loading it can run code; "
        "convert them where you trust them, with save_pretrained(folder), which writes model.safetensors"
    )


def _tokenizer_files(folder: Path, spec: ModelSpec) -> tuple[Path, ...]:
    found = tuple(sorted(folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()))
    if not any(path.stem == "tokenizer" for path in found):
        raise ModelError(
            f"model {spec}: neither tokenizer.json nor tokenizer.model in {folder}; "
            "save its tokenizer beside the weights"
        )
    return found


def _processor_files(folder: Path, spec: ModelSpec) -> tuple[Path, ...]:
    names = (*_PROCESSOR_FILES, *_TEMPLATE_FILES)
    found = tuple(sorted(folder / name for name in names if (folder / name).is_file()))
    if not any(path.name in _PROCESSOR_FILES for path in found):
        raise ModelError(
            f"model {spec}: neither {' nor '.join(_PROCESSOR_FILES)} in {folder}; "
            "save its processor beside the weights"
        )
    return found


def _stored_dtype(weights: Iterable[Path], spec: ModelSpec) -> str:
    elements: Counter[str] = Counter()
    for path in weights:
        elements.update(_elements_by_dtype(path, spec))
    unknown = sorted(set(elements) - set(_DTYPES))
    if unknown:
        raise ModelError(
            f"model {spec}: stores {', '.join(unknown)} tensors: already quantized, or of another kind; "
            f"pass a checkpoint stored as {', '.join(_DTYPES.values())}"
        )
    if not elements:
        raise ModelError(f"model {spec}: its safetensors files hold no tensor; download them again")
    return _DTYPES[max(sorted(elements), key=elements.__getitem__)]


def _elements_by_dtype(path: Path, spec: ModelSpec) -> Counter[str]:
    header, data_bytes = _read_header(path, spec)
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    expected = max((entry["data_offsets"][1] for entry in tensors), default=0)
    if data_bytes != expected:
        raise ModelError(
            f"model {spec}: {path} holds {data_bytes} bytes of tensors, its header says {expected}; "
            "download it again"
        )
    elements: Counter[str] = Counter()
    for entry in tensors:
        elements[entry["dtype"]] += math.prod(entry["shape"])
    return elements


def _read_header(path: Path, spec: ModelSpec) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file and the number of bytes that follow it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > size - 8:
            raise ModelError(f"model {spec}: {path} is truncated or no safetensors file; download it again")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise ModelError(f"model {spec}: {path} is no safetensors file; download it again") from error
    return dict(header), size - 8 - length


def _digest(paths: Iterable[Path]) -> str:
    return digest(part for path in paths for part in (path.name, _sha256(path)))


def _sha256(path: Path) -> bytes:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return sha.digest()
