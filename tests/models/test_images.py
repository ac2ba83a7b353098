"""A picture is read as 8-bit RGB, upright; what cannot be read that way is an error that names the item."""

from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from quantcheck.errors import DataError
from quantcheck.models.images import MAX_PIXELS, read_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    raw = BytesIO()
    image.save(raw, kind, **options)
    return raw.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png(width: int, height: int) -> bytes:
    """A PNG of any size without its pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT", b"IEND")
    framed = (
        struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


PLAIN = encoded(Image.fromarray(PIXELS))


def test_a_picture_is_decoded_as_it_is() -> None:
    picture = read_picture("a", PLAIN)
    assert np.array_equal(np.asarray(picture.image), PIXELS)
    assert picture.notes == ()


def test_a_file_is_read_like_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PLAIN)
    assert np.array_equal(np.asarray(read_picture("a", tmp_path / "a.png").image), PIXELS)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_and_palettes_lose_nothing_and_are_not_worth_a_note(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    picture = read_picture("a", encoded(image))
    assert picture.image.mode == "RGB"
    assert np.array_equal(np.asarray(picture.image), np.asarray(image.convert("RGB")))
    assert picture.notes == ()


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "TIFF"), ("RGBA", "PNG")])
def test_a_conversion_is_stated(mode: str, kind: str) -> None:
    picture = read_picture("a7", encoded(Image.fromarray(PIXELS).convert(mode), kind))
    assert picture.image.mode == "RGB"
    assert picture.notes == (f"item a7: its picture was converted from {mode} to RGB",)


@pytest.mark.parametrize(("orientation", "turns"), [(6, 3), (3, 2), (8, 1)])
def test_an_exif_orientation_is_applied_and_stated(orientation: int, turns: int) -> None:
    picture = read_picture("a", encoded(Image.fromarray(PIXELS), exif=turned(orientation)))
    assert np.array_equal(np.asarray(picture.image), np.rot90(PIXELS, turns))
    assert picture.notes == ("item a: its picture was turned upright, as its EXIF orientation says",)


BAD = {
    "empty": (b"", "cannot be decoded"),
    "another file": (b"<html>", r"cannot be decoded \(no known format, or no pixels\)"),
    "truncated": (PLAIN[: len(PLAIN) // 2], "cannot be decoded"),
    "no width": (png(0, 5), "no known format, or no pixels"),
    "no height": (b"P6 5 0 255\n", "no known format, or no pixels"),
    "huge": (png(8001, 8000), "8001 x 8000 pixels, more than 64,000,000; shrink it"),
    "larger than Pillow likes": (png(10_000, 10_000), "10000 x 10000 pixels, more than"),
    "larger than Pillow opens": (png(100_000, 100_000), "far too large"),
    "a line": (png(1, 201), "of 1 x 201 pixels is over 200 times as long as wide; cut it"),
    "16 bits": (encoded(Image.new("I;16", (4, 4))), "more than 8 bits .* save it with 8"),
    "floats": (encoded(Image.new("F", (4, 4)), "TIFF"), "samples of more than 8 bits"),
}


@pytest.mark.parametrize("damage", BAD)
def test_a_picture_that_cannot_be_used_is_an_error_of_its_item(damage: str) -> None:
    raw, says = BAD[damage]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=f"^item a7: its picture .*({says})"):
            read_picture("a7", raw)


def test_the_largest_picture_is_refused_before_it_is_decoded() -> None:
    """A header alone is enough: nothing is there to decode."""
    assert 8001 * 8000 > MAX_PIXELS > 8000 * 7999
    with pytest.raises(DataError, match="cannot be decoded"):
        read_picture("a", png(8000, 8000))


def test_a_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"item a: its picture .*none.png cannot be read \(No such file"):
        read_picture("a", tmp_path / "none.png")


KINDS = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM")
GOOD = [encoded(Image.fromarray(PIXELS), kind) for kind in KINDS]
GOOD += [encoded(Image.fromarray(PIXELS), kind, exif=turned(6)) for kind in ("JPEG", "PNG", "WEBP")]


@settings(max_examples=60)
@given(st.sampled_from(GOOD), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4))
def test_a_damaged_file_is_a_picture_or_an_error_of_its_item(
    raw: bytes, damage: list[tuple[int, int]]
) -> None:
    broken = bytearray(raw)
    for place, byte in damage:
        broken[place % len(broken)] = byte
    try:
        assert read_picture("a7", bytes(broken)).image.mode == "RGB"
    except DataError as error:
        assert str(error).startswith("item a7: its picture ")
