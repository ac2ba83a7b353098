"""Pictures as a processor can read them: 8-bit RGB, upright, of a bearable size; all else is an error.

What is done to a picture on the way is said in its notes, and every error names the item.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from quantcheck.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded: a small file can unfold to gigabytes."""

_ORIENTATION = 0x0112
_UPRIGHT = 1
_KEPT = ("RGB", "L", "1", "P")
_DEEP = ("I", "F")
"""Modes of more than 8 bits a sample, ``I;16`` among them, which a conversion to RGB would cut off."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture.

    Attributes:
        image: 8-bit RGB, upright.
        notes: what was done to it beside decoding, one sentence each.
    """

    image: Image
    notes: tuple[str, ...] = ()


def read_picture(item: str, source: Path | bytes) -> Picture:
    """Decode the picture of one item.

    CMYK and transparency are converted to RGB, and an EXIF orientation is applied; both are noted.

    Args:
        item: id of the item, for messages.
        source: a file, or its content.

    Raises:
        DataError: the picture is not there, cannot be decoded, has no or too many pixels, or more than 8
            bits a sample.
    """
    from PIL import ImageOps

    try:
        raw = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise DataError(f"item {item}: its picture {source!s} cannot be read ({error.strerror})") from error
    image = _decoded(item, raw)
    notes = []
    if image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT:
        notes.append(f"item {item}: its picture was turned upright, as its EXIF orientation says")
    if image.mode not in _KEPT:
        notes.append(f"item {item}: its picture was converted from {image.mode} to RGB")
    return Picture(ImageOps.exif_transpose(image).convert("RGB"), tuple(notes))


def _decoded(item: str, raw: bytes) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow only warns of what lies above our own limit.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(raw))
        _check_size(item, *image.size)
        image.load()
    except UnidentifiedImageError as error:  # Pillow knows no format of pictures without pixels
        raise DataError(
            f"item {item}: its picture cannot be decoded (no known format, or no pixels)"
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(f"item {item}: its picture is far too large ({error})") from error
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError) as error:
        raise DataError(f"item {item}: its picture cannot be decoded ({error})") from error
    if image.mode.startswith(_DEEP):
        raise DataError(
            f"item {item}: its picture has samples of more than 8 bits (mode {image.mode}), which would be "
            "cut off; save it with 8 bits"
        )
    return image


def _check_size(item: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(
            f"item {item}: its picture has {width} x {height} pixels, more than {MAX_PIXELS:,}; shrink it"
        )
