"""Other samples of a calibration text: as many, as long, from elsewhere, and the same ones every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.test_windows import Bytes, write
from quantcheck.models.text import Windows, calibration_windows, other_calibration_windows

TEXT = "".join(chr(33 + at % 90) for at in range(101))


def accepted(folder: Path, windows: int | None) -> Windows:
    source = write(folder, TEXT, window=10, windows=windows, bos="none")
    return calibration_windows(source, Bytes(), 10)  # type: ignore[arg-type]


def other(folder: Path, windows: int | None, draw: int, seed: int = 0) -> Windows:
    source = write(folder, TEXT, window=10, windows=windows, bos="none")
    return other_calibration_windows(source, Bytes(), 10, draw, seed)  # type: ignore[arg-type]


def test_the_next_windows_of_the_text_come_first(tmp_path: Path) -> None:
    stream = np.frombuffer(TEXT.encode(), dtype=np.uint8)
    for draw in (1, 2):
        found = other(tmp_path, 3, draw)
        assert found.ids.reshape(-1).tolist() == stream[30 * draw : 30 * (draw + 1)].tolist()
    beyond = other(tmp_path, 3, 3)
    assert not np.array_equal(beyond.ids, accepted(tmp_path, 3).ids)


@settings(max_examples=20)
@given(st.integers(4, 10), st.integers(1, 5), st.integers(0, 99))
def test_where_the_text_ends_windows_begin_anywhere(
    tmp_path_factory: pytest.TempPathFactory, count: int, draw: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("text")
    draw += 10 // count
    found, first = other(folder, count, draw, seed), accepted(folder, count)
    assert (found.ids.shape, found.length, found.protocol) == (first.ids.shape, 10, first.protocol)
    assert all(bytes(row.astype(np.uint8)).decode() in TEXT for row in found.ids)
    assert found.digest == other(folder, count, draw, seed).digest
    assert found.digest not in {
        first.digest,
        other(folder, count, draw + 1, seed).digest,
        other(folder, count, draw, seed + 1).digest,
    }


def test_shuffled_windows_are_the_same_ones_in_another_order(tmp_path: Path) -> None:
    windows = accepted(tmp_path, None)
    found = windows.shuffled(3)
    assert found.digest == windows.shuffled(3).digest != windows.digest
    assert sorted(map(tuple, found.ids)) == sorted(map(tuple, windows.ids))
    assert windows.first(4).ids.tolist() == windows.ids[:4].tolist()
    assert len(windows.first(40)) == len(windows) == 10
