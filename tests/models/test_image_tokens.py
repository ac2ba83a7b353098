"""The predicted number of image tokens is the one that the real processors insert and the models expect."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

from models.tiny_llava import llava_processor, llava_tokenizer, tiny_llava
from quantcheck.models.image_tokens import Tiling

SIDES = st.integers(1, 200) | st.integers(1, 6000)
PUBLISHED = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


def big_processor(grids: list[list[int]], tile: int, patch: int, strategy: str) -> Any:
    size = {"height": tile, "width": tile}
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": tile}, crop_size=size, image_grid_pinpoints=grids
    )
    return LlavaNextProcessor(
        images,
        llava_tokenizer(),
        patch_size=patch,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,
    )


def theirs(processor: Any, height: int, width: int) -> int:
    found = processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
    return int(found.num_image_tokens[0])


@given(st.data(), SIDES, SIDES)
def test_any_size_over_any_grids_makes_as_many_tokens_as_the_processor_inserts(
    data: st.DataObject, height: int, width: int
) -> None:
    tile, patch = data.draw(st.sampled_from([(336, 14), (48, 8), (384, 14), (16, 4)]))
    sides = st.integers(1, 4).map(lambda tiles: tiles * tile)
    grids = data.draw(st.lists(st.tuples(sides, sides).map(list), min_size=1, max_size=6))
    processor = big_processor(grids, tile, patch, data.draw(st.sampled_from(["default", "full"])))
    assert Tiling.of(processor).tokens(height, width) == theirs(processor, height, width)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: tiny_llava(kind) for kind in ("llava_next", "llava")}


@pytest.mark.parametrize("kind", ["llava_next", "llava"])
@pytest.mark.parametrize(
    "size", [(1, 1), (16, 16), (17, 16), (21, 40), (40, 21), (3, 90), (90, 3), (47, 16), (16, 49), (31, 33)]
)
def test_text_and_features_hold_that_many_tokens(
    models: dict[str, Any], kind: str, size: tuple[int, int]
) -> None:
    processor = llava_processor(kind)
    picture = Image.fromarray(np.zeros((*size, 3), np.uint8))
    inputs = processor(images=picture, text="<image>?", return_tensors="pt")
    with torch.no_grad():
        features = models[kind].get_image_features(
            **{name: inputs[name] for name in inputs if name in ("pixel_values", "image_sizes")},
            return_dict=True,
        )
    tokens = Tiling.of(processor).tokens(*size)
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == tokens
    assert sum(len(each) for each in features.pooler_output) == tokens


def test_a_picture_is_spread_over_the_grid_that_keeps_most_of_it() -> None:
    tiling = Tiling(336, 14, PUBLISHED)
    assert tiling.resolution(336, 672) == (336, 672)
    assert tiling.resolution(1000, 1000) == (672, 672)
    assert tiling.resolution(2000, 500) == (1008, 336)
    assert tiling.resolution(100, 100) == (336, 672)  # all keep it whole; the first of the smallest
    assert Tiling(336, 14).resolution(100, 900) == (336, 336)


def test_published_counts_of_tokens() -> None:
    """576 of LLaVA-1.5; and 576 more, 24 rows of 48, with 24 newlines for a picture of one row of tiles."""
    assert Tiling(336, 14).tokens(480, 640) == 576
    assert Tiling(336, 14, PUBLISHED).tokens(336, 672) == 576 + 24 * (48 + 1)
    assert Tiling(336, 14, PUBLISHED).tokens(672, 672) == 576 + 48 * (48 + 1)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_picture_without_pixels_has_no_tokens(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="nothing to see"):
        Tiling(336, 14).tokens(*size)
