from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.progress import CHOICES, Mode, Progress, choose_mode, cut, duration, printable

WIPE = "\r\x1b[2K"


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Screen:
    """A stream, the clock it is watched by, and the reporter that writes to it."""

    def __init__(self, mode: Mode, *, tasks: int = 0, columns: int = 80, encoding: str = "utf-8") -> None:
        self.raw = io.BytesIO()
        self.stream = io.TextIOWrapper(self.raw, encoding=encoding, newline="")
        self.clock = Clock()
        self.newlines = 0
        self.progress = Progress(
            self.stream,
            mode,
            tasks=tasks,
            newline=self._newline,
            clock=self.clock,
            columns=lambda: columns,
        )

    def _newline(self) -> None:
        self.newlines += 1

    @property
    def text(self) -> str:
        self.stream.flush()
        return self.raw.getvalue().decode(self.stream.encoding)

    @property
    def line(self) -> str:
        """What the last live line shows."""
        return self.text.rpartition("\r")[2].removesuffix("\x1b[K")

    def take(self, seconds: float) -> None:
        self.clock.now += seconds


@pytest.mark.parametrize(
    ("choice", "isatty", "verbosity", "ci", "worker", "mode"),
    [
        ("auto", True, 0, "", False, Mode.LIVE),
        ("auto", True, 2, "", False, Mode.LIVE),
        ("auto", False, 0, "", False, Mode.PLAIN),
        ("auto", True, 0, "true", False, Mode.PLAIN),
        ("auto", True, 0, "false", False, Mode.LIVE),
        ("auto", True, -1, "", False, Mode.OFF),
        ("auto", False, -1, "true", False, Mode.OFF),
        ("on", True, -1, "", False, Mode.LIVE),
        ("on", False, -1, "1", False, Mode.PLAIN),
    ],
)
def test_mode_follows_terminal_ci_and_verbosity(
    choice: str, isatty: bool, verbosity: int, ci: str, worker: bool, mode: Mode
) -> None:
    assert choose_mode(choice, isatty=isatty, verbosity=verbosity, ci=ci, worker=worker) is mode


@given(st.sampled_from(CHOICES), st.booleans(), st.integers(-2, 2), st.sampled_from(["", "true", "0"]))
def test_workers_and_off_are_always_silent(choice: str, isatty: bool, verbosity: int, ci: str) -> None:
    assert choose_mode(choice, isatty=isatty, verbosity=verbosity, ci=ci, worker=True) is Mode.OFF
    assert choose_mode("off", isatty=isatty, verbosity=verbosity, ci=ci, worker=False) is Mode.OFF


def test_live_line_names_spec_metric_count_and_time_left() -> None:
    screen = Screen(Mode.LIVE)
    with screen.progress.task("gptq-w3-g128", total=2) as update:
        screen.take(10)
        update("quantize", 5, 10)
        assert screen.line == "gptq-w3-g128  quantize 5/10, 0:30 left"
        screen.take(20)
        update("ppl/encyclopedia", 10, 40)
        assert screen.line == "gptq-w3-g128  ppl/encyclopedia 10/40, 0:18 left"
    assert screen.text.endswith(WIPE)
    assert "\n" not in screen.text


def test_time_left_covers_the_tasks_to_come() -> None:
    screen = Screen(Mode.LIVE, tasks=3)
    with screen.progress.task("rtn-w4"):
        screen.take(10)
    with screen.progress.task("rtn-w3") as update:
        screen.take(5)
        update("ppl/web", 0, 4)  # no rate of its own yet: as long as the first
        assert screen.line == "[2/3] rtn-w3  ppl/web 0/4, 0:15 left"
        screen.take(5)
        update("ppl/web", 1, 4)  # 40 s in all, then (10 + 40) / 2
        assert screen.line == "[2/3] rtn-w3  ppl/web 1/4, 0:55 left"


def test_no_time_left_is_made_up_before_there_is_a_rate() -> None:
    screen = Screen(Mode.LIVE, tasks=3)
    with screen.progress.task("rtn-w4") as update:
        screen.take(5)
        update("quantize", 0, 4)
    assert "[1/3] rtn-w4  quantize 0/4\x1b[K" in screen.text


def test_live_line_is_drawn_ten_times_a_second_at_most() -> None:
    screen = Screen(Mode.LIVE)
    with screen.progress.task("rtn-w4") as update:
        for done in range(2000):
            screen.take(0.001)
            update("quantize", done, 2000)
    draws = screen.text.count("\x1b[K")
    assert 14 <= draws <= 16  # of the 1.5 s that follow the first half second


@pytest.mark.parametrize("mode", list(Mode))
def test_short_tasks_are_not_worth_a_line(mode: Mode) -> None:
    screen = Screen(mode)
    for number in range(50):
        with screen.progress.task(f"rtn-w{number}") as update:
            screen.take(0.4)
            update("quantize", 1, 1)
    assert screen.text == ""


def test_off_writes_nothing() -> None:
    screen = Screen(Mode.OFF)
    with screen.progress.task("rtn-w4") as update:
        screen.take(1000)
        update("quantize", 1, 2)
        screen.progress.clear()
    assert screen.text == ""
    assert screen.newlines == 0


def test_clear_wipes_the_line_once_and_the_next_draw_starts_a_line_of_its_own() -> None:
    screen = Screen(Mode.LIVE)
    with screen.progress.task("rtn-w4") as update:
        screen.take(1)
        update("quantize", 1, 4)
        screen.take(1)
        update("quantize", 2, 4)
        assert screen.newlines == 1
        screen.progress.clear()
        screen.progress.clear()
        assert screen.text.count(WIPE) == 1
        screen.take(1)
        update("quantize", 3, 4)
        assert screen.newlines == 2


def test_plain_prints_one_line_a_finished_task() -> None:
    screen = Screen(Mode.PLAIN, tasks=2)
    for name in ("rtn-w4", "rtn-w3"):
        with screen.progress.task(name) as update:
            for done in range(100):
                screen.take(0.25)
                update("quantize", done, 100)
    assert screen.text.splitlines() == [
        "quantcheck: [1/2] rtn-w4  done in 0:25, 0:25 left",
        "quantcheck: [2/2] rtn-w3  done in 0:25",
    ]
    assert screen.newlines == 2


def test_plain_prints_every_half_minute_within_a_long_task() -> None:
    screen = Screen(Mode.PLAIN)
    with screen.progress.task("gptq-w3") as update:
        for done in range(1, 101):
            screen.take(1)
            update("quantize", done, 100)
    assert screen.text.splitlines() == [
        "quantcheck: gptq-w3  quantize 30/100, 1:10 left",
        "quantcheck: gptq-w3  quantize 60/100, 0:40 left",
        "quantcheck: gptq-w3  quantize 90/100, 0:10 left",
        "quantcheck: gptq-w3  done in 1:40",
    ]


def test_a_task_that_fails_says_so_and_passes_the_failure_on() -> None:
    screen = Screen(Mode.PLAIN)
    with pytest.raises(ZeroDivisionError), screen.progress.task("gptq-w3"):
        screen.take(3)
        raise ZeroDivisionError
    assert screen.text == "quantcheck: gptq-w3  stopped in 0:03\n"


def test_an_inner_task_is_shown_in_place_of_the_outer_and_counts_for_nothing() -> None:
    screen = Screen(Mode.LIVE, tasks=2)
    with screen.progress.task("rtn-w4") as outer:
        screen.take(1)
        outer("quantize", 1, 2)
        with screen.progress.task("reference") as inner:
            screen.take(1)
            inner("ppl/web", 1, 2)
            assert screen.line.startswith("[1/2] reference  ppl/web 1/2")
        screen.take(1)
        outer("quantize", 2, 2)
        assert screen.line.startswith("[1/2] rtn-w4  quantize 2/2")


def test_twins_are_told_apart() -> None:
    screen = Screen(Mode.LIVE)
    with screen.progress.task("rtn-w4") as outer:
        with screen.progress.task("rtn-w4"):
            pass
        screen.take(1)
        outer("quantize", 1, 2)
        assert screen.line.startswith("rtn-w4  quantize 1/2")


def test_an_update_after_the_task_ended_is_ignored() -> None:
    screen = Screen(Mode.LIVE)
    with screen.progress.task("rtn-w4") as update:
        pass
    screen.take(5)
    update("quantize", 1, 2)
    assert screen.text == ""


def test_everything_is_written_uncaptured() -> None:
    events: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            events.append("write")
            return super().write(text)

    @contextmanager
    def uncaptured() -> Iterator[None]:
        events.append("suspend")
        yield
        events.append("resume")

    clock = Clock()
    progress = Progress(
        Stream(), Mode.LIVE, newline=lambda: events.append("newline"), uncaptured=uncaptured, clock=clock
    )
    with progress.task("rtn-w4") as update:
        clock.now += 1
        update("quantize", 1, 2)
    assert events == ["suspend", "newline", "write", "resume", "suspend", "write", "resume"]


def test_live_line_never_wraps() -> None:
    screen = Screen(Mode.LIVE, columns=20)
    with screen.progress.task("a-very-long-spec-name-w3-g128") as update:
        screen.take(1)
        update("ppl/encyclopedia", 1, 2)
        assert screen.line == "a-very-long-spec-na"


def test_names_cannot_move_the_cursor() -> None:
    screen = Screen(Mode.PLAIN)
    with screen.progress.task("evil\x1b[2J\r\n\u202e\x9b name"):
        screen.take(1)
    assert screen.text == r"quantcheck: evil\x1b[2J\r\n\u202e\x9b name  done in 0:01" + "\n"


def test_a_stream_that_cannot_encode_a_name_shows_it_escaped() -> None:
    screen = Screen(Mode.PLAIN, encoding="ascii")
    with screen.progress.task("größe"):
        screen.take(1)
    assert screen.text == "quantcheck: gr\\xf6\\xdfe  done in 0:01\n"


def test_a_stream_that_fails_ends_the_reporting_and_not_the_work() -> None:
    screen = Screen(Mode.LIVE)
    screen.stream.close()
    with screen.progress.task("rtn-w4") as update:
        screen.take(1)
        update("quantize", 1, 2)
    assert screen.progress.mode is Mode.OFF


@given(st.text())
def test_printable_text_is_printable_and_plain_text_is_kept(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


@given(st.text(alphabet="a漢é\u0301"), st.integers(0, 30))
def test_cut_keeps_the_longest_beginning_that_fits(text: str, columns: int) -> None:
    width = {"a": 1, "é": 1, "漢": 2, "\u0301": 0}
    kept = cut(text, columns)
    assert text.startswith(kept)
    assert sum(width[char] for char in kept) <= columns
    if kept != text:
        assert sum(width[char] for char in text[: len(kept) + 1]) > columns


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00"), (36061, "10:01:01")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
