"""The processor of a LLaVA: what turns pictures and prompts into inputs, checked against the model's config.

Whatever it and the model do not agree on would be read as another picture, or stop a run in its middle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from transformers import AutoConfig, AutoProcessor

from quantcheck.errors import ModelError
from quantcheck.models.image_tokens import Tiling
from quantcheck.models.source import ModelSource
from quantcheck.spec import ModelSpec


def load_processor(source: ModelSource) -> Any:
    """Load the processor beside the weights; pictures are resized by Pillow, the same everywhere.

    Raises:
        ModelError: its files cannot be read, it has no image token, or it does not fit the model.
    """
    given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = cast("Any", AutoProcessor).from_pretrained(str(source.folder), backend="pil", **given)
        config = AutoConfig.from_pretrained(str(source.folder), **given)
    except Exception as error:  # the libraries below raise bare Exception for a malformed tokenizer.json
        raise ModelError(
            f"model {source.spec}: its processor does not load ({error}); save it again beside the weights"
        ) from error
    check_processor(processor, config, source.spec)
    return processor


def check_processor(processor: Any, config: Any, spec: ModelSpec) -> None:
    """Raise `ModelError` where a processor has no image token, or is not the one of this model."""
    _check_image_token(processor, config, spec)
    if not processor.patch_size or processor.vision_feature_select_strategy is None:
        raise ModelError(
            f"model {spec}: its processor does not say its patch_size or vision_feature_select_strategy; "
            "put the model's own into processor_config.json"
        )
    for what, ours, theirs in _settings(processor, config):
        if ours != theirs:
            raise ModelError(
                f"model {spec}: {what} is {ours} in its processor and {theirs} in its config; save the "
                "processor of this model beside the weights"
            )


def _check_image_token(processor: Any, config: Any, spec: ModelSpec) -> None:
    token, tokenizer = getattr(processor, "image_token", None), getattr(processor, "tokenizer", None)
    if token is None or tokenizer is None or getattr(processor, "image_processor", None) is None:
        raise ModelError(
            f"model {spec}: {type(processor).__name__} reads no pictures; save its processor beside the "
            "weights"
        )
    ids = tokenizer.encode(token, add_special_tokens=False)
    if ids != [config.image_token_id]:
        raise ModelError(
            f"model {spec}: its processor has no image token: {token} reads as {ids[:3]}, the config's image "
            f"token is {config.image_token_id}; add it to the tokenizer"
        )


def _settings(processor: Any, config: Any) -> Iterator[tuple[str, Any, Any]]:
    """What processor and config must agree on, with the value of each."""
    tiling, vision = Tiling.of(processor), config.vision_config
    grids = tuple(tuple(grid) for grid in getattr(config, "image_grid_pinpoints", None) or ())
    yield "the patch size", tiling.patch, vision.patch_size
    yield "the image size", tiling.tile, vision.image_size
    yield "the list of image grids", tiling.resolutions, grids
    strategies = (processor.vision_feature_select_strategy, config.vision_feature_select_strategy)
    yield "the choice of vision features", *strategies
