"""How many tokens a picture becomes, from its size alone: no torch, no Pillow.

*LLaVA-1.5* (Liu et al., "Improved Baselines with Visual Instruction Tuning", CVPR 2024) resizes every picture
to one tile, and each patch of p x p pixels is a token.

*LLaVA-NeXT* ("any resolution": Liu et al., "LLaVA-NeXT: Improved reasoning, OCR, and world knowledge", 2024)
reads the picture twice: whole, as one tile, and again spread over a grid of tiles. Of the resolutions on
offer it takes the one that keeps most of the picture's pixels, and of equals the one that pads least. The
patches that only hold padding are dropped again, and a newline token ends each row of those that are left::

    tokens = base + rows (columns + 1)        base = patches of one tile, and its class token if that is kept
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tiling:
    """How a processor cuts pictures.

    Attributes:
        tile: side of a tile, in pixels.
        patch: side of a patch, in pixels.
        resolutions: (height, width) of the grids on offer, in pixels; none for LLaVA-1.5.
        class_tokens: how many tokens beside its patches a tile keeps: 1 for CLIP's class token, else 0.
    """

    tile: int
    patch: int
    resolutions: tuple[tuple[int, int], ...] = ()
    class_tokens: int = 0

    @classmethod
    def of(cls, processor: Any) -> Tiling:
        """Read what transformers' ``LlavaProcessor`` or ``LlavaNextProcessor`` does."""
        images = processor.image_processor
        dropped = processor.vision_feature_select_strategy == "default"
        grids = getattr(images, "image_grid_pinpoints", None) or ()
        return cls(
            _side(images.crop_size if images.do_center_crop else images.size),
            processor.patch_size,
            tuple((height, width) for height, width in grids),
            (processor.num_additional_image_tokens or 0) - dropped,
        )

    def resolution(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) of the grid that a picture is spread over, in pixels.

        That is a tile where there are no grids.
        """

        def kept_and_wasted(grid: tuple[int, int]) -> tuple[int, int]:
            scale = min(grid[1] / width, grid[0] / height)
            kept = min(int(width * scale) * int(height * scale), width * height)
            return kept, kept - grid[0] * grid[1]

        return max(self.resolutions, key=kept_and_wasted, default=(self.tile, self.tile))

    def tokens(self, height: int, width: int) -> int:
        """Return how many tokens a picture of this size, in pixels, becomes.

        Raises:
            ValueError: the picture has no pixels.
        """
        if height < 1 or width < 1:
            raise ValueError(f"a picture of {width} x {height} pixels has nothing to see")
        base = self._patches**2 + self.class_tokens
        if not self.resolutions:
            return base
        rows, columns = self._unpadded(height, width)
        return base + rows * (columns + 1)

    @property
    def _patches(self) -> int:
        return self.tile // self.patch

    def _unpadded(self, height: int, width: int) -> tuple[int, int]:
        """The rows and columns of patches that hold more than padding, by the rounding of transformers."""
        rows, columns = (side // self.tile * self._patches for side in self.resolution(height, width))
        if width / height > columns / rows:
            return rows - _padding(rows, height * (columns / width)), columns
        return rows, columns - _padding(columns, width * (rows / height))


def _padding(whole: int, filled: float) -> int:
    """How many of ``whole`` rows are padding: the same number on both sides."""
    return (whole - int(round(filled, 7))) // 2 * 2


def _side(size: Any) -> int:
    """The side of the square that a size of transformers' image processors stands for."""
    side = size["height"] if "height" in size else size["shortest_edge"]
    return int(side)
