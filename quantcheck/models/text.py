"""Texts as token windows: what perplexity is measured on and what quantizers are calibrated with.

One rule for every text: unify line ends; split into documents, strip each, drop empty ones; tokenize, put BOS
where its rule says, concatenate; cut into contiguous windows. The label of a window's last position is the
next window's first token, so that every token but the first is predicted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantcheck.errors import DataError
from quantcheck.measurement import digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BOS_RULES = ("document", "first", "none")
MAX_WINDOW = 2048
_SHARED_RUN = 64

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class TextSource:
    """A text file and how to cut it.

    Attributes:
        name: the ``what`` of its metrics, as in ``ppl/<name>``.
        path: a UTF-8 file.
        separator: between documents; ``None`` makes the file one document.
        bos: the tokenizer's BOS token goes before every ``document``, before the ``first``, or ``none``.
        windows: how many windows to take, from the start; ``None`` takes all.
        window: inputs a window, in tokens; ``None`` takes the model's context, at most 2048.
    """

    name: str
    path: Path
    separator: str | None = None
    bos: str = "first"
    windows: int | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if self.bos not in BOS_RULES:
            raise DataError(f"text {self.name}: unknown BOS rule {self.bos!r}; known: {', '.join(BOS_RULES)}")
        if self.separator == "":
            raise DataError(f"text {self.name}: the separator is empty; leave it out for one document")
        for what, value in (("windows", self.windows), ("window", self.window)):
            if value is not None and value < 1:
                raise DataError(f"text {self.name}: {what} must be 1 or more, got {value}")


@dataclass(frozen=True, eq=False)
class Windows:
    """Contiguous token windows of one text.

    Attributes:
        name: of the text.
        ids: int64, [n, length + 1] with the label of the last position (evaluation), else [n, length].
        documents: int64, [n]: index of the document in which each window starts, for clustering; where the
            text was not split into documents, of the window, since nothing else is known to be independent.
        length: inputs a window, in tokens.
        protocol: how the text was cut, in words that a reader can compare.
    """

    name: str
    ids: Ids
    documents: Ids
    length: int
    protocol: str

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def inputs(self) -> Ids:
        """The tokens a model reads, [n, length]."""
        return self.ids[:, : self.length]

    @property
    def labels(self) -> Ids:
        """The token that follows each input, [n, length] (one column fewer without the last label)."""
        return self.ids[:, 1:]

    def first(self, count: int) -> Windows:
        """The first ``count`` windows, or all of fewer."""
        return replace(self, ids=self.ids[:count], documents=self.documents[:count])

    def shuffled(self, seed: int) -> Windows:
        """The same windows in another, seeded order."""
        order = np.random.default_rng(seed).permutation(len(self))
        return replace(self, ids=self.ids[order], documents=self.documents[order])

    @cached_property
    def digest(self) -> str:
        """Digest of the windows' tokens in order: equal digests mean equal items."""
        return digest(row.astype("<i8").tobytes() for row in self.ids)


def evaluation_windows(
    source: TextSource, tokenizer: PreTrainedTokenizerBase, context_length: int
) -> Windows:
    """The windows to measure on, each with the label of its last position.

    Raises:
        DataError: the file cannot be read, or holds fewer tokens than asked for.
    """
    return _windows(source, tokenizer, context_length, labelled=True)


def calibration_windows(
    source: TextSource, tokenizer: PreTrainedTokenizerBase, context_length: int
) -> Windows:
    """The windows to calibrate with: inputs only; errors as in `evaluation_windows`."""
    return _windows(source, tokenizer, context_length, labelled=False)


def other_calibration_windows(
    source: TextSource, tokenizer: PreTrainedTokenizerBase, context_length: int, draw: int, seed: int
) -> Windows:
    """As many other windows of the same text, for calibrating anew; errors as in `evaluation_windows`.

    Draw 1, 2 .. takes the windows that come next where the text has so many more. Where it ends, they begin
    at seeded random tokens and may overlap.
    """
    ids, documents = _tokens(source, read_documents(source), tokenizer)
    accepted = _windows(source, tokenizer, context_length, labelled=False)
    count, length = accepted.ids.shape
    starts: Ids = (draw * count + np.arange(count)) * length
    if starts[-1] + length > ids.size:
        starts = np.random.default_rng((seed, draw)).integers(0, ids.size - length + 1, count)
    return replace(accepted, ids=ids[starts[:, None] + np.arange(length)], documents=documents[starts])


def read_documents(source: TextSource) -> list[str]:
    """The stripped, non-empty documents of a file; raises `DataError` when there is none to read."""
    try:
        raw = source.path.read_bytes()
    except OSError as error:
        raise DataError(f"text {source.name}: cannot read {source.path}: {error.strerror}") from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"text {source.name}: {source.path} is not UTF-8 at byte {error.start} ({error.reason}); "
            "convert it, with iconv for one"
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    parts = [text] if source.separator is None else text.split(source.separator)
    documents = [part.strip() for part in parts if part.strip()]
    if not documents:
        raise DataError(f"text {source.name}: {source.path} is empty; nothing can be measured on it")
    return documents


def shared_windows(calibration: Windows, evaluation: Windows) -> tuple[int, ...]:
    """Indices of the calibration windows that share a run of tokens with the evaluation windows.

    Blocks of 64 evaluation tokens (a window's length, where that is shorter) at multiples of 64 are sought at
    every position of the calibration windows: a shared run of 127 tokens is always found, one below 64 never.
    """
    run = min(_SHARED_RUN, calibration.length, evaluation.length)
    blocks = {
        row[start : start + run].tobytes()
        for row in evaluation.inputs
        for start in range(0, evaluation.length - run + 1, run)
    }
    return tuple(index for index, row in enumerate(calibration.inputs) if _contains(row, blocks, run))


def _contains(row: Ids, blocks: set[bytes], run: int) -> bool:
    return any(row[start : start + run].tobytes() in blocks for start in range(row.size - run + 1))


def _windows(
    source: TextSource, tokenizer: PreTrainedTokenizerBase, context_length: int, *, labelled: bool
) -> Windows:
    length = source.window or min(MAX_WINDOW, context_length)
    if length > context_length:
        raise DataError(
            f"text {source.name}: windows of {length} tokens exceed the model's context of "
            f"{context_length}; ask for shorter ones"
        )
    ids, documents = _tokens(source, read_documents(source), tokenizer)
    count = _count(source, ids.size, length, extra=int(labelled))
    starts = np.arange(count) * length
    width = length + int(labelled)
    return Windows(
        name=source.name,
        ids=ids[starts[:, None] + np.arange(width)],
        documents=np.arange(count) if source.separator is None else documents[starts],
        length=length,
        protocol=f"{count} contiguous windows of {length}, {_document_rule(source)}",
    )


def _count(source: TextSource, tokens: int, length: int, *, extra: int) -> int:
    available = (tokens - extra) // length
    if available < 1:
        raise DataError(
            f"text {source.name}: {tokens} tokens in {source.path}, but one window of {length} needs "
            f"{length + extra}; give a longer text or a shorter window"
        )
    if source.windows is not None and source.windows > available:
        raise DataError(
            f"text {source.name}: {source.windows} windows of {length} asked for, but the {tokens} tokens in "
            f"{source.path} make {available}; give a longer text or ask for fewer windows"
        )
    return source.windows or available


def _tokens(
    source: TextSource, documents: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[Ids, Ids]:
    encoded = tokenizer(
        list(documents), add_special_tokens=False, return_attention_mask=False, verbose=False
    )["input_ids"]
    bos = _bos(source, tokenizer)
    parts = [
        np.array((bos if index == 0 or source.bos == "document" else []) + ids, dtype=np.int64)
        for index, ids in enumerate(encoded)
    ]
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), [part.size for part in parts])


def _bos(source: TextSource, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if source.bos == "none":
        return []
    if not isinstance(tokenizer.bos_token_id, int):
        raise DataError(
            f"text {source.name}: BOS rule {source.bos!r}, but the tokenizer has no BOS token; "
            "use the rule 'none'"
        )
    return [tokenizer.bos_token_id]


def _document_rule(source: TextSource) -> str:
    split = "one document" if source.separator is None else f"documents split at {source.separator!r}"
    bos = {"document": "BOS before each document", "first": "BOS before the first", "none": "no BOS"}[
        source.bos
    ]
    return f"{split}, stripped, {bos}"
