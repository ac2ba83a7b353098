"""Texts become windows by one rule, and a text that cannot is refused with numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.errors import DataError
from quantcheck.models.text import (
    TextSource,
    Windows,
    calibration_windows,
    evaluation_windows,
    read_documents,
    shared_windows,
)

BOS = 1000


class Bytes:
    """A tokenizer with one token a byte."""

    def __init__(self, bos_token_id: int | None = BOS) -> None:
        self.bos_token_id = bos_token_id

    def __call__(self, texts: list[str], *, add_special_tokens: bool, **_: Any) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [list(text.encode()) for text in texts]}


def write(folder: Path, text: str | bytes, **options: Any) -> TextSource:
    path = folder / "text.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return TextSource("text", path, **options)


def evaluate(source: TextSource, *, context: int = 8, tokenizer: Any = None) -> Windows:
    return evaluation_windows(source, tokenizer or Bytes(), context)


documents = st.lists(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1), min_size=1, max_size=8
)


@given(documents=documents, length=st.integers(1, 6), rule=st.sampled_from(["document", "first", "none"]))
def test_windows_are_the_stream_cut_in_order(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str], length: int, rule: str
) -> None:
    documents = [document.replace("|", "!") for document in documents]
    stream: list[int] = []
    owner: list[int] = []
    for index, document in enumerate(documents):
        bos = [BOS] if rule == "document" or (rule == "first" and index == 0) else []
        stream += [*bos, *document.encode()]
        owner += [index] * (len(bos) + len(document.encode()))
    source = write(
        tmp_path_factory.mktemp("text"), "|".join(documents), separator="|", bos=rule, window=length
    )
    count = (len(stream) - 1) // length
    if count == 0:
        with pytest.raises(DataError, match=f"one window of {length} needs {length + 1}"):
            evaluate(source)
        return
    windows = evaluate(source)
    assert len(windows) == count
    assert windows.inputs.reshape(-1).tolist() == stream[: count * length]
    assert windows.labels.reshape(-1).tolist() == stream[1 : count * length + 1]
    assert windows.documents.tolist() == owner[: count * length : length]


def test_documents_are_stripped_and_empty_ones_dropped(tmp_path: Path) -> None:
    source = write(tmp_path, " one \n|\n\n|two\n", separator="|")
    assert read_documents(source) == ["one", "two"]


def test_a_file_without_separator_is_one_document(tmp_path: Path) -> None:
    assert read_documents(write(tmp_path, "\n one | two \n")) == ["one | two"]


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_line_ends_do_not_matter(tmp_path: Path, newline: str) -> None:
    (tmp_path / "other").mkdir()
    plain, other = (
        evaluate(write(folder, f"first line{end}second line"))
        for folder, end in ((tmp_path, "\n"), (tmp_path / "other", newline))
    )
    assert plain.digest == other.digest


def test_without_a_window_the_context_is_the_window_up_to_2048(tmp_path: Path) -> None:
    source = write(tmp_path, "x" * 5000)
    assert evaluate(source, context=100).length == 100
    assert evaluate(source, context=131072).length == 2048


def test_calibration_needs_no_label_after_the_last_window(tmp_path: Path) -> None:
    source = write(tmp_path, "x" * 16, bos="none")
    assert calibration_windows(source, Bytes(), 8).ids.shape == (2, 8)
    assert evaluate(source).ids.shape == (1, 9)


def test_the_protocol_says_how_the_text_was_cut(tmp_path: Path) -> None:
    windows = evaluate(write(tmp_path, "one|two|three|four", separator="|", bos="document", windows=2))
    assert (
        windows.protocol
        == "2 contiguous windows of 8, documents split at '|', stripped, BOS before each document"
    )


def test_the_digest_is_of_the_tokens(tmp_path: Path) -> None:
    same = [evaluate(write(tmp_path, "some text that is long")).digest for _ in range(2)]
    other = evaluate(write(tmp_path, "same text that is long")).digest
    assert same[0] == same[1] != other


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("", {}, "is empty; nothing can be measured"),
        (" \n\t ", {}, "is empty"),
        ("||", {"separator": "|"}, "is empty"),
        (b"good \xff bad", {}, "not UTF-8 at byte 5 .* convert it"),
        ("short", {}, "6 tokens in .* one window of 8 needs 9; give a longer text or a shorter window"),
        (
            "x" * 20,
            {"windows": 3},
            "3 windows of 8 asked for, but the 21 tokens in .* make 2; give a longer text",
        ),
        (
            "x" * 20,
            {"window": 9},
            "windows of 9 tokens exceed the model's context of 8; ask for shorter ones",
        ),
    ],
)
def test_a_text_that_cannot_be_measured_is_refused(
    tmp_path: Path, text: str | bytes, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=f"text text: .*{says}"):
        evaluate(write(tmp_path, text, **options))


def test_a_calibration_set_shorter_than_asked_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path, "x" * 20, windows=3)
    with pytest.raises(DataError, match="3 windows of 8 asked for, but the 21 tokens"):
        calibration_windows(source, Bytes(), 8)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nowhere.txt: No such file"):
        read_documents(TextSource("text", tmp_path / "nowhere.txt"))


def test_a_bos_rule_needs_a_bos_token(tmp_path: Path) -> None:
    source = write(tmp_path, "x" * 20)
    with pytest.raises(DataError, match="the tokenizer has no BOS token; use the rule 'none'"):
        evaluate(source, tokenizer=Bytes(bos_token_id=None))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bos": "always"}, "unknown BOS rule 'always'; known: document, first, none"),
        ({"separator": ""}, "the separator is empty; leave it out"),
        ({"windows": 0}, "windows must be 1 or more, got 0"),
        ({"window": -1}, "window must be 1 or more, got -1"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        TextSource("text", tmp_path, **options)


def windows_of(ids: np.ndarray, length: int) -> Windows:
    return Windows("w", ids.reshape(-1, length).astype(np.int64), np.zeros(ids.size // length), length, "")


@given(start=st.integers(0, 512 - 127), target=st.integers(0, 512 - 127), seed=st.integers(0, 99))
def test_a_shared_run_of_127_tokens_is_found_wherever_it_lies(start: int, target: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    evaluation = rng.integers(0, 1000, (2, 512))
    calibration = rng.integers(1000, 2000, (3, 512))
    calibration[1, target : target + 127] = evaluation[1, start : start + 127]
    assert shared_windows(windows_of(calibration, 512), windows_of(evaluation, 512)) == (1,)


def test_texts_that_share_less_than_a_block_are_apart() -> None:
    evaluation, calibration = np.arange(1024), np.arange(1024) + 2000
    calibration[100:163] = evaluation[64:127]
    assert shared_windows(windows_of(calibration, 512), windows_of(evaluation, 512)) == ()
