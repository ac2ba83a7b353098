"""A tiny LLaVA-NeXT and a tiny LLaVA-1.5 with random weights and real processors."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from models.tiny import tiny_config, tiny_tokenizer

IMAGE = "<image>"
IMAGE_ID = 258
CONTEXT = 192
TILE, PATCH = 16, 4
PINPOINTS = [[16, 32], [32, 16], [32, 32], [16, 48], [48, 16]]
MEAN = [0.5, 0.5, 0.5]

Llava = LlavaNextForConditionalGeneration | LlavaForConditionalGeneration


def llava_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, two special ones, and the image's."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    return tokenizer


def tiny_llava(kind: str = "llava_next", seed: int = 0) -> Llava:
    """Two decoder blocks and two of a CLIP tower, tiles of 16 x 16 px in 4 x 4 patches."""
    torch.manual_seed(seed)
    text = tiny_config(vocab_size=259, max_position_embeddings=CONTEXT)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=TILE,
        patch_size=PATCH,
        projection_dim=16,
    )
    shared = {"text_config": text, "vision_config": vision, "image_token_index": IMAGE_ID}
    if kind == "llava":
        return LlavaForConditionalGeneration(LlavaConfig(**shared)).eval()
    config = LlavaNextConfig(**shared, image_grid_pinpoints=PINPOINTS)
    return LlavaNextForConditionalGeneration(config).eval()


def llava_processor(kind: str = "llava_next") -> LlavaNextProcessor | LlavaProcessor:
    """The processor that goes with `tiny_llava`."""
    size = {"height": TILE, "width": TILE}
    common = {"size": {"shortest_edge": TILE}, "crop_size": size, "image_mean": MEAN, "image_std": MEAN}
    given = {
        "tokenizer": llava_tokenizer(),
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    if kind == "llava":
        return LlavaProcessor(CLIPImageProcessorPil(**common), **given)
    return LlavaNextProcessor(LlavaNextImageProcessorPil(**common, image_grid_pinpoints=PINPOINTS), **given)


def save_tiny_llava(folder: Path, kind: str = "llava_next", *, dtype: torch.dtype = torch.float32) -> Path:
    """Write the tiny model and its processor as a checkpoint of transformers."""
    tiny_llava(kind).to(dtype).save_pretrained(folder)
    llava_processor(kind).save_pretrained(folder)
    return folder
