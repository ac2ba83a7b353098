"""Pictures as a processor can read them: 8-bit RGB, upright, of a bearable size; all else is an error.

What is done to a picture on the way is said in its notes, and every error names the item.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from quantcheck.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded: a small file can unfold to gigabytes."""

MAX_ASPECT = 200
"""Longer strips are refused, since processors that scale the shorter side would blow them up."""

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
        DataError: the picture is not there, cannot be decoded, is too large or a mere line, or has more than
            8 bits a sample.
    """
    try:
        raw = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise DataError(f"item {item}: its picture {source!s} cannot be read ({error.strerror})") from error
    with warnings.catch_warnings():
        # Pillow warns of what is decided here: large pictures, and EXIF data that it cannot read.
        warnings.simplefilter("ignore")
        return _decoded(item, raw)


def _decoded(item: str, raw: bytes) -> Picture:
    from PIL import Image, ImageOps, UnidentifiedImageError

    where = f"item {item}: its picture"
    try:
        image = Image.open(BytesIO(raw))
        _check_size(where, *image.size)
        upright = ImageOps.exif_transpose(image)
        _check_depth(where, image.mode)
        return Picture(upright.convert("RGB"), tuple(_notes(where, image)))
    except DataError:
        raise
    except UnidentifiedImageError as error:  # Pillow knows no format of pictures without pixels
        raise DataError(f"{where} cannot be decoded (no known format, or no pixels)") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{where} is far too large ({error})") from error
    except Exception as error:  # decoders raise whatever they trip over
        raise DataError(f"{where} cannot be decoded ({error})") from error


def _notes(where: str, image: Image) -> Iterator[str]:
    if image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT:
        yield f"{where} was turned upright, as its EXIF orientation says"
    if image.mode not in _KEPT:
        yield f"{where} was converted from {image.mode} to RGB"


def _check_size(where: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"{where} has {width} x {height} pixels, more than {MAX_PIXELS:,}; shrink it")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise DataError(
            f"{where} of {width} x {height} pixels is over {MAX_ASPECT} times as long as wide; cut it"
        )


def _check_depth(where: str, mode: str) -> None:
    if mode.startswith(_DEEP):
        raise DataError(
            f"{where} has samples of more than 8 bits (mode {mode}), which would be cut off; save it with 8"
        )
