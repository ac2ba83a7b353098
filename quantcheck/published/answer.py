"""What the published figures answer to a run's: the figure of its model, spec and metric, and what it says.

A model is known by its name or its hub id (`Published.is_of`): nothing else of it can be looked up offline.
That it is the model of the study, measured as there, shows in its full precision, which the bound compares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from quantcheck.errors import QuantcheckError
from quantcheck.published.bound import TASKS, Answer, Bound, Finding, bound
from quantcheck.published.figures import Published, PublishedFigure


@dataclass(frozen=True)
class Citation:
    """What was compared with, as a record keeps it.

    Attributes:
        table: where it is printed.
        printed: the characters.
        reference: those of full precision in the same table.
        answer: what it says of the run's figure.
        caveats: their ids.
    """

    table: str
    printed: str
    reference: str
    answer: str
    caveats: tuple[str, ...]

    def __str__(self) -> str:
        caveats = ", ".join(self.caveats) or "none"
        return f"{self.printed} of {self.table} ({self.reference} at full precision; caveats: {caveats})"


@dataclass(frozen=True)
class RunFigure:
    """One figure of a run.

    Attributes:
        model: name of the run's model.
        source: the folder or hub id that it was loaded from.
        spec, metric: as the gate's.
        value: of the quantized model; ``None`` where there is no figure.
        reference: the run's own full precision, in the same unit; ``None`` where there is none.
        stderr: of the difference between the two over items, in nats or as a fraction; ``None`` when unknown.
        n: number of items.
    """

    model: str
    source: str
    spec: str
    metric: str
    value: float | None
    reference: float | None
    stderr: float | None
    n: int

    @property
    def sampling_error(self) -> float:
        """``stderr``, or 0 over all items of a task: the study saw them, too, so they are no sample."""
        whole = self.metric in TASKS and self.n >= TASKS[self.metric].items
        return 0.0 if whole or self.stderr is None else self.stderr


@dataclass(frozen=True)
class Match:
    """A published figure that a run's is compared with.

    Attributes:
        figure: of the quantized model.
        reference: of full precision, from the same table.
        limits: the losses that agree; ``None`` where the run has no full precision to tell them by.
        finding: the answer.
    """

    figure: PublishedFigure
    reference: PublishedFigure
    limits: Bound | None
    finding: Finding

    @property
    def citation(self) -> Citation:
        """What is printed where, and what it says."""
        figure, answer = self.figure, self.finding.answer.value
        caveats = tuple(caveat.id for caveat in figure.caveats)
        return Citation(figure.table, figure.printed, self.reference.printed, answer, caveats)


def matches(published: Iterable[Published], run: RunFigure) -> Iterator[Match]:
    """Compare a run's figure with every published one of its model, spec and metric."""
    for file in (file for file in published if file.is_of(run.model, run.source)):
        for figure in file.of(run.spec, run.metric):
            reference = file.reference(figure)
            if reference is not None:
                yield _match(figure, reference, run)


def decisive(found: Iterable[Match]) -> Match | None:
    """The least favourable of several answers; ``None`` where nothing is published."""
    return min(found, key=lambda match: list(Answer).index(match.finding.answer), default=None)


def _match(figure: PublishedFigure, reference: PublishedFigure, run: RunFigure) -> Match:
    try:
        limits = bound(figure, reference, math.nan if run.reference is None else run.reference)
    except QuantcheckError as error:
        return Match(figure, reference, None, Finding(Answer.CANNOT_TELL, math.nan, (str(error),)))
    value = math.nan if run.value is None else run.value
    return Match(figure, reference, limits, limits.judge(value, run.sampling_error))
