"""The progress line of long work: which spec, which metric, how far, how much longer.

On a terminal one line is rewritten in place and leaves nothing behind; elsewhere a plain line is printed when
a task ends, and every half minute within a long one. Under ``-q`` and in xdist workers there is nothing.
"""

from __future__ import annotations

import math
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import TextIO

Update = Callable[[str, int, int], None]

CHOICES = ("auto", "on", "off")

_LIVE_SECONDS = 0.1
_PLAIN_SECONDS = 30.0
_WORTH_SECONDS = 0.5


class Mode(Enum):
    """How progress is shown."""

    OFF = "off"
    PLAIN = "plain"
    LIVE = "live"


def choose_mode(choice: str, *, isatty: bool, verbosity: int, ci: str, worker: bool) -> Mode:
    """How to show progress.

    Args:
        choice: one of `CHOICES`; ``on`` also speaks under ``-q``, where ``auto`` is silent.
        isatty: whether the stream is a terminal that can rewrite a line.
        verbosity: pytest's, below 0 under ``-q``.
        ci: the environment variable ``CI``, empty where it is not set.
        worker: whether this process is an xdist worker, whose output nobody sees.
    """
    if worker or choice == "off" or (choice == "auto" and verbosity < 0):
        return Mode.OFF
    on_ci = ci.lower() not in ("", "0", "false")
    return Mode.LIVE if isatty and not on_ci else Mode.PLAIN


class Progress:
    """Reports tasks on a stream: commonly one a spec, with a stage for quantizing and one for each metric.

    Tasks of less than half a second are not worth a line. Before anyone else writes to the stream, `clear`.
    A stream that can no longer be written to ends the reporting, never the work.

    Args:
        stream: where to write.
        mode: how, from `choose_mode`.
        tasks: how many outermost tasks there will be, for the time left in all; 0 where that is not known.
        newline: ends a line that someone else began (``TerminalReporter.ensure_newline``, for pytest's dots).
        uncaptured: makes the context to write in (``CaptureManager.global_and_fixture_disabled``).
        clock: seconds, never going back.
        columns: width of the terminal, in columns.
    """

    def __init__(
        self,
        stream: TextIO,
        mode: Mode,
        *,
        tasks: int = 0,
        newline: Callable[[], object] = lambda: None,
        uncaptured: Callable[[], AbstractContextManager[object]] = nullcontext,
        clock: Callable[[], float] = time.monotonic,
        columns: Callable[[], int] = lambda: shutil.get_terminal_size().columns,
    ) -> None:
        self.mode = mode
        self.tasks = tasks
        self._stream = stream
        self._newline = newline
        self._uncaptured = uncaptured
        self._clock = clock
        self._columns = columns
        self._open: list[_Task] = []
        self._finished: list[float] = []
        self._written = -math.inf
        self._shown = False

    @contextmanager
    def task(self, name: str, total: int = 1) -> Iterator[Update]:
        """Report a task of ``total`` stages while the block runs.

        The callable that is yielded takes the stage, the items done and the items in all; a change of name
        begins the next stage. A task inside another is shown in its place.
        """
        task = _Task(name, max(total, 1), self._clock())
        self._open.append(task)
        try:
            yield lambda stage, done, items: self._update(task, stage, done, items)
        except BaseException:
            self._close(task, "stopped")
            raise
        self._close(task, "done")

    def clear(self) -> None:
        """Take the live line away, so that others can write."""
        if self._shown:
            self._shown = False
            self._write("\r\x1b[2K", fresh=False)

    def _update(self, task: _Task, stage: str, done: int, items: int) -> None:
        if task not in self._open:
            return
        task.advance(stage, done, items)
        now = self._clock()
        began = self._open[0].began
        if self.mode is Mode.LIVE and now >= max(began + _WORTH_SECONDS, self._written + _LIVE_SECONDS):
            self._draw(now, task)
        elif self.mode is Mode.PLAIN and now >= max(began, self._written) + _PLAIN_SECONDS:
            self._print(now, self._line(now, task))

    def _close(self, task: _Task, ending: str) -> None:
        self._open.remove(task)
        if self._open:
            return
        now = self._clock()
        took = now - task.began
        self._finished.append(took)
        self.clear()
        if self.mode is Mode.PLAIN and took >= _WORTH_SECONDS:
            text = f"{self._count(len(self._finished))}{task.name}  {ending} in {duration(took)}"
            self._print(now, text + self._left(now))

    def _draw(self, now: float, task: _Task) -> None:
        line = cut(self._confined(self._line(now, task)), self._columns() - 1)
        self._write(f"\r{line}\x1b[K", fresh=not self._shown)
        self._shown = True
        self._written = now

    def _print(self, now: float, line: str) -> None:
        self._write(f"quantcheck: {self._confined(line)}\n", fresh=True)
        self._written = now

    def _line(self, now: float, task: _Task) -> str:
        count = self._count(len(self._finished) + 1)
        return f"{count}{task.name}  {task.stage} {task.done}/{task.items}{self._left(now)}"

    def _count(self, number: int) -> str:
        return f"[{number}/{self.tasks}] " if self.tasks else ""

    def _left(self, now: float) -> str:
        """Time left in all tasks, from what the finished ones took and how far the running one is."""
        took = list(self._finished)
        left = 0.0
        for task in self._open[:1]:
            expected = task.expected(now, math.fsum(took) / len(took) if took else math.nan)
            left += max(expected - (now - task.began), 0.0)
            took.append(expected)
        left += max(self.tasks - len(took), 0) * math.fsum(took) / len(took)
        return f", {duration(left)} left" if left > 0 else ""

    def _confined(self, text: str) -> str:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return printable(text).encode(encoding, "backslashreplace").decode(encoding)

    def _write(self, text: str, *, fresh: bool) -> None:
        try:
            with self._uncaptured():
                if fresh:
                    self._newline()
                self._stream.write(text)
                self._stream.flush()
        except (OSError, ValueError):  # closed, or nobody reads it any more
            self.mode = Mode.OFF


@dataclass(eq=False)
class _Task:
    name: str
    total: int
    began: float
    passed: int = 0
    stage: str = ""
    done: int = 0
    items: int = 0

    def advance(self, stage: str, done: int, items: int) -> None:
        self.passed += self.stage not in ("", stage)
        self.stage, self.done, self.items = stage, done, items

    def expected(self, now: float, otherwise: float) -> float:
        """Seconds this task will have taken at its rate so far; ``otherwise`` before there is one."""
        fraction = (self.passed + self.done / max(self.items, 1)) / self.total
        return (now - self.began) / min(fraction, 1.0) if fraction > 0 else otherwise


def duration(seconds: float) -> str:
    """Format ``seconds`` as ``m:ss``, or ``h:mm:ss`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def printable(text: str) -> str:
    """Escape whatever could move the cursor, colour, hide or reorder text."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def cut(text: str, columns: int) -> str:
    """Shorten ``text`` to what fits into ``columns`` of a terminal."""
    for end, char in enumerate(text):
        wide = unicodedata.east_asian_width(char) in "WF"
        columns -= 0 if unicodedata.combining(char) else 1 + wide
        if columns < 0:
            return text[:end]
    return text
