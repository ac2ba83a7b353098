"""Published figures of one model on disk: ``baselines/published/<model>.json``, one figure a line.

    {
    "schema": 1, "model": "llama3-8b", "title": "LLaMA3-8B", "sources": ["meta-llama/..."], "study": "...",
    "settings": {"ppl": "..."},
    "caveats": {
    "window": {"effect": "note", "text": "..."},
    ...
    },
    "figures": [
    {"table": "Table 1", "method": "GPTQ", "spec": "gptq-w4-g128", ..., "caveats": ["window"]},
    ...
    ]
    }

Values are as printed: perplexities, accuracies and scores in percent. What is wrong or doubtful about a
figure is data beside it: the caveats that it carries, each with an effect on how a run is compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Any

from quantcheck.errors import BaselineError

SCHEMA = 1
FULL_PRECISION = "FP16"
REFETCH = "restore it from version control, or install quantcheck anew"


class Effect(StrEnum):
    """What a caveat does to a comparison; the last of this order that a figure carries decides."""

    NOTE = "note"
    """Said beside the answer."""
    WIDENS = "widens"
    """Printed elsewhere with another value: the bound spans both."""
    SUSPECT = "suspect"
    """Too bad to be believed: only being worse than it tells something."""
    MAGNITUDE = "magnitude"
    """An order of magnitude: only collapsed or not is compared."""
    EXCLUDED = "excluded"
    """Not compared."""


@dataclass(frozen=True)
class Caveat:
    """One thing to know before a figure is compared with."""

    id: str
    effect: Effect
    text: str


@dataclass(frozen=True)
class PublishedFigure:
    """One printed figure.

    Attributes:
        table: where it is printed.
        method: as printed there.
        spec: the spec id where quantcheck has the method, else ``None``.
        bits, act_bits: nominal widths; ``None`` for activations in floating point.
        group_size: columns that share a scale; ``None`` is per channel.
        metric: ``kind/what``: ``ppl/wikitext2``, ``acc/piqa``, ``score/ai2d``, ``cost/...``.
        value: as printed, in percent for accuracies and scores; ``None`` where a word is printed.
        printed: the characters.
        rounding: half a unit of the last printed digit; ``None`` as ``value``.
        source: how the figure was read.
        elsewhere: printed by the same authors in another place: ``(place, characters)``.
        recomputed: an average's value from its printed parts, which counts instead of ``value``.
        caveats: what to know before comparing.
    """

    table: str
    method: str
    spec: str | None
    bits: float
    act_bits: int | None
    group_size: int | None
    metric: str
    value: float | None
    printed: str
    rounding: float | None
    source: str
    elsewhere: tuple[tuple[str, str], ...] = ()
    recomputed: float | None = None
    caveats: tuple[Caveat, ...] = ()

    @property
    def row(self) -> str:
        """The spec id, or method and widths where there is none."""
        if self.spec is not None or self.method == FULL_PRECISION:
            return self.spec or self.method
        widths = f"W{self.bits:g}" + (f"A{self.act_bits}" if self.act_bits else "")
        return f"{self.method} {widths}" + (f" g{self.group_size}" if self.group_size else "")

    @property
    def effect(self) -> Effect:
        """The strongest effect of its caveats."""
        order = list(Effect)
        return max((caveat.effect for caveat in self.caveats), key=order.index, default=Effect.NOTE)

    def span(self) -> tuple[float, float]:
        """From the least to the largest value that the printed characters allow, those elsewhere included.

        Raises:
            ValueError: no number is printed.
        """
        if self.value is None or self.rounding is None:
            raise ValueError(f"{self.row} {self.metric}: {self.printed!r} is no number")
        if self.recomputed is None:
            spans = [(self.value, self.rounding)]
        else:  # the parts are rounded, too
            spans = [(self.recomputed, 2 * self.rounding)]
        spans += [(float(text), half_unit(text)) for _, text in self.elsewhere]
        return min(mid - half for mid, half in spans), max(mid + half for mid, half in spans)


@dataclass(frozen=True)
class Published:
    """The published figures of one model.

    Attributes:
        model: the file's name.
        title: the model's name in the study.
        sources: hub ids of the model.
        study: where the figures are from.
        settings: how each kind of metric was measured, in words.
        caveats: all that the figures carry, by id.
        figures: in the order of the tables.
    """

    model: str
    title: str
    sources: tuple[str, ...]
    study: str
    settings: Mapping[str, str]
    caveats: Mapping[str, Caveat]
    figures: tuple[PublishedFigure, ...] = field(default_factory=tuple)

    def of(self, spec: str, metric: str) -> tuple[PublishedFigure, ...]:
        """The figures of one spec and metric; a table that repeats another repeats them."""
        return tuple(figure for figure in self.figures if (figure.spec, figure.metric) == (spec, metric))

    def reference(self, figure: PublishedFigure) -> PublishedFigure | None:
        """The full-precision figure of the same table and metric."""
        wanted = (figure.table, figure.metric, FULL_PRECISION)
        found = (entry for entry in self.figures if (entry.table, entry.metric, entry.method) == wanted)
        return next(found, None)

    def is_of(self, name: str, source: str) -> bool:
        """Whether a run's model, by its name and source, is this one."""
        hub_id = source.partition("@")[0].casefold()
        return name.casefold() == self.model or hub_id in {known.casefold() for known in self.sources}

    def dumps(self) -> str:
        """The text of the file: one caveat and one figure a line."""
        head = {
            "schema": SCHEMA,
            "model": self.model,
            "title": self.title,
            "sources": list(self.sources),
            "study": self.study,
        }
        caveats = (
            f"{json.dumps(caveat.id)}: {json.dumps({'effect': caveat.effect, 'text': caveat.text})}"
            for caveat in self.caveats.values()
        )
        lines = ["{", json.dumps(head)[1:-1] + ",", f'"settings": {json.dumps(dict(self.settings))},']
        lines += ['"caveats": {', ",\n".join(caveats), "},"]
        lines += [
            '"figures": [',
            ",\n".join(json.dumps(_written(figure)) for figure in self.figures),
            "]",
            "}",
        ]
        return "\n".join(lines) + "\n"


def half_unit(printed: str) -> float:
    """Half a unit of the last printed digit: .05 of ``6.1``, 50000 of ``1.7e6``; `ValueError` for a word."""
    try:
        exponent = Decimal(printed).as_tuple().exponent
    except InvalidOperation:
        exponent = "n"
    if not isinstance(exponent, int):
        raise ValueError(f"{printed!r} is no number")
    return float(Decimal("0.5").scaleb(exponent))


def packaged() -> Path:
    """The folder that the package ships: inside it when installed, beside it in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "baselines"
    return (inside if inside.is_dir() else package.parent / "baselines") / "published"


def load(name: str, folder: Path | None = None) -> Published:
    """Read the published figures of a model, from the packaged folder unless another is given.

    Raises:
        BaselineError: there are none, or the file cannot be read or is damaged.
    """
    folder = packaged() if folder is None else folder
    path = folder / f"{name}.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BaselineError(
            f"no published figures of {name!r}; known: {', '.join(names(folder)) or 'none'}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"published figures {path} cannot be read ({error}): {REFETCH}") from error
    return loads(text, str(path))


def names(folder: Path | None = None) -> tuple[str, ...]:
    """The models with published figures."""
    return tuple(sorted(path.stem for path in (folder or packaged()).glob("*.json")))


def loads(text: str, where: str) -> Published:
    """Read the text of a file of published figures.

    Raises:
        BaselineError: not JSON, another schema, a field missing, a caveat that is not listed, or a value that
            is not what is printed.
    """
    try:
        raw = json.loads(text)
        schema = raw["schema"]
        if schema != SCHEMA:
            raise BaselineError(
                f"published figures {where} have schema {schema!r}, this version of quantcheck reads {SCHEMA}"
            )
        caveats = {
            name: Caveat(name, Effect(entry["effect"]), entry["text"])
            for name, entry in raw["caveats"].items()
        }
        return Published(
            raw["model"],
            raw["title"],
            tuple(raw["sources"]),
            raw["study"],
            raw["settings"],
            caveats,
            tuple(_read(raw["figures"], caveats)),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BaselineError(
            f"published figures {where} are damaged ({type(error).__name__}: {error}): {REFETCH}"
        ) from error


def _read(entries: Iterable[Mapping[str, Any]], caveats: Mapping[str, Caveat]) -> Iterator[PublishedFigure]:
    for entry in entries:
        figure = PublishedFigure(
            **{
                **entry,
                "elsewhere": tuple((where, printed) for where, printed in entry.get("elsewhere", ())),
                "caveats": tuple(caveats[name] for name in entry.get("caveats", ())),
            }
        )
        if figure.value is not None and not _as_printed(figure):
            raise ValueError(f"{figure.row} {figure.metric}: {figure.value} is not what is printed")
        yield figure


def _as_printed(figure: PublishedFigure) -> bool:
    return float(figure.printed) == figure.value and half_unit(figure.printed) == figure.rounding


def _written(figure: PublishedFigure) -> dict[str, Any]:
    """What is not there is left out, so that a line stays short."""
    caveats = [caveat.id for caveat in figure.caveats]
    fields = {**vars(figure), "elsewhere": [list(entry) for entry in figure.elsewhere], "caveats": caveats}
    empty = ("elsewhere", "recomputed", "caveats")
    return {name: value for name, value in fields.items() if name not in empty or value}
