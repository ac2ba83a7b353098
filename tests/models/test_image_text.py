"""Pictures with texts are prepared one by one, all of them or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.tiny_llava import CONTEXT, IMAGE, IMAGE_ID, llava_processor
from quantcheck.errors import DataError
from quantcheck.models.image_text import ImageTexts, ImageTextSource, image_texts, read_image_texts

SIZES = ((40, 21), (16, 16), (20, 50), (33, 30))


def row(name: str, text: str = f"{IMAGE}\nWhat is it?") -> dict[str, str]:
    return {"id": name, "image": f"{name}.png", "text": text}


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def processor() -> Any:
    return llava_processor()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Four items a to d, each of its own size."""
    made = np.random.default_rng(0)
    for name, (width, height) in zip("abcd", SIZES, strict=True):
        pixels = made.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return write(tmp_path, *map(row, "abcd"))


def prepared(path: Path, processor: Any, count: int | None = None, **draw: int) -> ImageTexts:
    return image_texts(ImageTextSource(path, count), processor, CONTEXT, **draw)


def test_an_item_is_what_its_processor_makes_of_it(pairs: Path, processor: Any) -> None:
    made = prepared(pairs, processor)
    for name, inputs in zip("abcd", made.inputs, strict=True):
        image = Image.open(pairs.parent / f"{name}.png")
        expected = processor(images=image, text=row(name)["text"], return_tensors="pt")
        assert inputs.keys() == {"input_ids", "pixel_values", "image_sizes"}
        assert all(torch.equal(inputs[key], expected[key]) for key in inputs)
    assert made.length == sum(inputs["input_ids"].numel() for inputs in made.inputs) // 4
    assert made.notes == ()


def test_the_digest_is_of_texts_pixels_and_order(pairs: Path, processor: Any) -> None:
    whole = prepared(pairs, processor)
    digests = {whole.digest, whole.first(3).digest, whole.shuffled(2).digest}
    write(pairs.parent, row("a", f"{IMAGE}\nWho is it?"), *map(row, "bcd"))
    digests.add(prepared(pairs, processor).digest)
    write(pairs.parent, *map(row, "abcd"))
    assert prepared(pairs, processor).digest == whole.digest
    with Image.open(pairs.parent / "d.png") as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(pairs.parent / "d.png")
    digests.add(prepared(pairs, processor).digest)
    assert len(digests) == 5


def test_other_draws_come_next_and_then_again(pairs: Path, processor: Any) -> None:
    each = [example.digest for example in prepared(pairs, processor).examples]
    first, second, drawn = (prepared(pairs, processor, 2, draw=draw, seed=3).examples for draw in (0, 1, 2))
    assert [example.digest for example in (*first, *second)] == each
    assert len(drawn) == 2 and {example.digest for example in drawn} <= set(each)
    again = prepared(pairs, processor, 2, draw=2, seed=3).examples
    assert [example.digest for example in again] == [example.digest for example in drawn]


def test_notes_on_pictures_are_kept(pairs: Path, processor: Any) -> None:
    with Image.open(pairs.parent / "b.png") as image:
        image.convert("RGBA").save(pairs.parent / "b.png")
    made = prepared(pairs, processor)
    assert made.notes == ("item b: its picture was converted from RGBA to RGB",)
    assert made.shuffled(0).notes == made.notes


def no_image(folder: Path) -> None:
    write(folder, row("a"), row("b", "What is it?"))


def two_images(folder: Path) -> None:
    write(folder, row("a"), row("b", f"{IMAGE}{IMAGE}\nWhat is it?"))


def long_text(folder: Path) -> None:
    write(folder, row("a"), row("b", f"{IMAGE}{'?' * CONTEXT}"))


def broken_picture(folder: Path) -> None:
    (folder / "b.png").write_bytes(b"<html>")


def half_missing(folder: Path) -> None:
    for name in "bd":
        (folder / f"{name}.png").unlink()


def twins(folder: Path) -> None:
    write(folder, row("b"), row("a"), row("b"))


def no_items(folder: Path) -> None:
    write(folder)


def no_json(folder: Path) -> None:
    (folder / "pairs.jsonl").write_text(json.dumps(row("a")) + "\n{\n")


def no_text(folder: Path) -> None:
    write(folder, row("a"), {"id": "b", "image": "b.png"})


def no_file(folder: Path) -> None:
    (folder / "pairs.jsonl").unlink()


@pytest.mark.parametrize(
    ("breakage", "says"),
    [
        (no_image, "item b: its text names no picture; <image> must stand in it once"),
        (two_images, "item b: its text names 2 pictures; <image> must stand in it once"),
        (long_text, r"item b: .* 16 x 16 pixels makes 36 tokens and its text 192, more .* context of 192"),
        (broken_picture, "item b: its picture cannot be decoded"),
        (half_missing, r"2 of 4 pictures are not there, that of item b first .* download the whole folder"),
        (twins, "item b is there twice"),
        (no_items, "no item in"),
        (no_json, "line 2 is no JSON"),
        (no_text, "line 2 has not id, image, text, each a string"),
        (no_file, "cannot be read as UTF-8 text"),
    ],
)
def test_one_broken_item_is_an_error_that_names_it(
    pairs: Path, processor: Any, breakage: Callable[[Path], None], says: str
) -> None:
    breakage(pairs.parent)
    with pytest.raises(DataError, match=says):
        prepared(pairs, processor)


def test_the_files_are_checked_without_being_opened(pairs: Path) -> None:
    broken_picture(pairs.parent)
    assert [item.id for item in read_image_texts(pairs)] == list("abcd")


def test_more_items_than_there_are_is_an_error(pairs: Path, processor: Any) -> None:
    with pytest.raises(DataError, match=r"5 items asked for, .* holds 4; give more of them or ask for fewer"):
        prepared(pairs, processor, 5)


def test_a_processor_at_odds_with_its_own_tiles_is_seen(
    pairs: Path, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_get_number_of_features", lambda *_: 8)
    with pytest.raises(
        DataError, match="item a: the processor makes 7 tokens of a picture of 40 x 21 pixels"
    ):
        prepared(pairs, processor)


def test_every_image_token_stands_for_a_part_of_the_picture(pairs: Path, processor: Any) -> None:
    inputs = prepared(pairs, processor).inputs[1]
    assert int((inputs["input_ids"] == IMAGE_ID).sum()) == 36
