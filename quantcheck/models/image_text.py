"""Pictures with texts, as a multimodal model reads them: checked item by item, never fewer than asked for.

A file is JSON lines of objects with ``id``, ``image`` (a file, relative to this one) and ``text``, in which
the processor's image token stands once, where the picture goes. One item that cannot be used is an error
that names it, since leaving it out would change what is measured, or calibrated on, without a word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantcheck.errors import DataError
from quantcheck.measurement import digest
from quantcheck.models.image_tokens import Tiling
from quantcheck.models.images import read_picture

if TYPE_CHECKING:
    from torch import Tensor

_FIELDS = ("id", "image", "text")


@dataclass(frozen=True)
class ImageTextSource:
    """A file of pictures with texts; ``count`` takes the first ones, ``None`` all."""

    path: Path
    count: int | None = None


@dataclass(frozen=True)
class ImageText:
    """A picture and the text that it belongs to."""

    id: str
    image: Path
    text: str


@dataclass(frozen=True, eq=False)
class Example:
    """An item, prepared for a model.

    Attributes:
        inputs: what the model is called with, by name: ``input_ids`` [1, tokens], ``pixel_values`` and, for
            LLaVA-NeXT, ``image_sizes``; not padded, so without a mask.
        digest: of the inputs, pixels included.
        notes: what was done to the picture, one sentence each.
    """

    inputs: Mapping[str, Tensor]
    digest: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageTexts:
    """Pictures with texts, prepared for a model."""

    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def inputs(self) -> tuple[Mapping[str, Tensor], ...]:
        """What the model is called with, example by example."""
        return tuple(example.inputs for example in self.examples)

    @property
    def length(self) -> int:
        """Tokens of an example, on average."""
        return sum(inputs["input_ids"].numel() for inputs in self.inputs) // len(self)

    @property
    def digest(self) -> str:
        """Digest of the examples in order: equal digests mean equal items."""
        return digest(example.digest for example in self.examples)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to pictures, each once."""
        return tuple(dict.fromkeys(note for example in self.examples for note in example.notes))

    def first(self, count: int) -> ImageTexts:
        """The first ``count`` examples, or all of fewer."""
        return ImageTexts(self.examples[:count])

    def shuffled(self, seed: int) -> ImageTexts:
        """The same examples in another, seeded order."""
        order = np.random.default_rng(seed).permutation(len(self))
        return ImageTexts(tuple(self.examples[place] for place in order))


def read_image_texts(path: Path) -> list[ImageText]:
    """Read the items of a file; their pictures must be there, but are not opened.

    Raises:
        DataError: the file cannot be read, is empty or in another format, two items share an id, or pictures
            are missing.
    """
    items = list(_items(path))
    if not items:
        raise DataError(f"pictures {path.name}: no item in {path}")
    ids = [item.id for item in items]
    twins = sorted({each for each in ids if ids.count(each) > 1})
    if twins:
        raise DataError(f"pictures {path.name}: item {twins[0]} is there twice; ids must tell items apart")
    missing = [item for item in items if not item.image.is_file()]
    if missing:
        raise DataError(
            f"pictures {path.name}: {len(missing)} of {len(items)} pictures are not there, that of item "
            f"{missing[0].id} first ({missing[0].image}); download the whole folder again"
        )
    return items


def image_texts(
    source: ImageTextSource, processor: Any, context_length: int, draw: int = 0, seed: int = 0
) -> ImageTexts:
    """Prepare the first items of a file, or others of it, for calibrating anew.

    Draw 1, 2 .. takes the items that come next where the file has so many more. Where it ends, they are drawn
    from all of its items, seeded and with replacement.

    Args:
        source: the file, and how many items to take.
        processor: of a LLaVA, from `quantcheck.models.processor.load_processor`.
        context_length: of the model, in tokens.
        draw: which items.
        seed: of items that are drawn.

    Raises:
        DataError: as `read_image_texts` and `prepare`, or there are fewer items than asked for.
    """
    items = read_image_texts(source.path)
    count = _count(source, items)
    chosen = items[draw * count : (draw + 1) * count]
    if len(chosen) < count:
        places = np.random.default_rng((seed, draw)).integers(0, len(items), count)
        chosen = [items[place] for place in places]
    return ImageTexts(tuple(prepare(item, processor, context_length) for item in chosen))


def prepare(item: ImageText, processor: Any, context_length: int) -> Example:
    """Turn an item into what the model is called with.

    Raises:
        DataError: the picture cannot be used (`quantcheck.models.images.read_picture`), the text does not
            name it exactly once, or picture and text make more tokens than the context holds.
    """
    _check_named_once(item, processor.image_token)
    picture = read_picture(item.id, item.image)
    width, height = picture.image.size
    tokens = Tiling.of(processor).tokens(height, width)
    words = len(processor.tokenizer(item.text)["input_ids"]) - 1
    if tokens + words > context_length:
        raise DataError(
            f"item {item.id}: its picture of {width} x {height} pixels makes {tokens} tokens and its text "
            f"{words}, more than the context of {context_length} holds; shrink the picture or the text"
        )
    inputs = processor(images=picture.image, text=item.text, return_tensors="pt")
    inserted = int((inputs["input_ids"] == processor.image_token_id).sum())
    if inserted != tokens:
        raise DataError(
            f"item {item.id}: the processor makes {inserted} tokens of a picture of {width} x {height} "
            f"pixels where its tiles and patches make {tokens}; its settings contradict each other"
        )
    read = {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}
    parts = (part for name, tensor in read.items() for part in (name, tensor.numpy().tobytes()))
    return Example(read, digest(parts), picture.notes)


def _check_named_once(item: ImageText, token: str) -> None:
    named = item.text.count(token)
    if named != 1:
        raise DataError(
            f"item {item.id}: its text names {named or 'no'} picture{'s' * (named > 1)}; {token} must stand "
            "in it once, where the picture goes"
        )


def _count(source: ImageTextSource, items: Sequence[ImageText]) -> int:
    if source.count is not None and source.count > len(items):
        raise DataError(
            f"pictures {source.path.name}: {source.count} items asked for, {source.path} holds {len(items)}; "
            "give more of them or ask for fewer"
        )
    return source.count or len(items)


def _items(path: Path) -> Iterator[ImageText]:
    for number, line in enumerate(_lines(path), start=1):
        where = f"pictures {path.name}: line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where} is no JSON ({error}); expected one object a line") from error
        if not isinstance(row, dict) or not all(isinstance(row.get(field), str) for field in _FIELDS):
            raise DataError(f"{where} has not {', '.join(_FIELDS)}, each a string")
        yield ImageText(row["id"], path.parent / row["image"], row["text"])


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"pictures {path.name}: cannot be read as UTF-8 text: {error}") from error
    return [line for line in text.split("\n") if line.strip()]
