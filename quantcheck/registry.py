"""Names to objects, resolved lazily, with capabilities as data and a did-you-mean.

Capabilities are stored beside the target so that the matrix can be built, listed and counted without
importing torch: the target (``"module:attribute"``) is imported only when something is quantized.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from quantcheck.errors import SpecError

T = TypeVar("T")
C = TypeVar("C")

NAME = re.compile(r"[a-z][a-z0-9_]*")
"""What methods and their options may be called: spec ids are split at '-' and are file names."""


@dataclass(frozen=True)
class Rows:
    """The matrix rows that a method runs at each tier, as spec ids; a tier runs those before it, too."""

    smoke: tuple[str, ...] = ()
    standard: tuple[str, ...] = ()
    full: tuple[str, ...] = ()

    def of(self, tier: str) -> tuple[str, ...]:
        """The rows of ``tier`` and of the tiers below it."""
        tiers = ("smoke", "standard", "full")
        return tuple(row for name in tiers[: tiers.index(tier) + 1] for row in getattr(self, name))


@dataclass(frozen=True)
class Capabilities:
    """What a quantization method supports, as data.

    Attributes:
        bits: nominal weight bits, in bits per weight.
        grids: the grids of ``quantcheck.spec.GRIDS``; the first one is the default. A method with a grid of
            its own leaves ``("asym",)``, which spec ids do not print.
        grouped: whether a group size may be given.
        group_required: whether one must be given.
        calibrated: whether the method needs calibration windows.
        tuned: whether the method is fine-tuned on instructions.
        distilled: whether the method trains on text that the model itself makes.
        act_bits: activation bits; ``None`` stands for weights only.
        options: spec option names and their types (``bool``, ``int``, ``float`` or ``str``).
        between: any width in this closed range is supported, too.
        uniform: whether the matrix runs whole widths per channel and at group 128, with the first of
            ``act_bits``.
        rows: what the matrix runs beside them.
    """

    bits: tuple[float, ...]
    grids: tuple[str, ...] = ("asym",)
    grouped: bool = True
    group_required: bool = False
    calibrated: bool = False
    tuned: bool = False
    distilled: bool = False
    act_bits: tuple[int | None, ...] = (None,)
    options: tuple[tuple[str, type], ...] = ()
    between: tuple[float, float] | None = None
    uniform: bool = True
    rows: Rows = Rows()

    def serves(self, bits: float) -> bool:
        """Whether a width is supported."""
        return bits in self.bits or (self.between is not None and self.between[0] <= bits <= self.between[1])


@dataclass(frozen=True)
class Entry(Generic[T, C]):
    """One registered name."""

    name: str
    target: T | str
    capabilities: C
    origin: str


class Registry(Generic[T, C]):
    """A table of names with capabilities; ``kind`` is the word that error messages use for one of them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T, C]] = {}

    def register(self, name: str, target: T | str, capabilities: C, *, origin: str) -> None:
        """Add ``name``; ``target`` is the object itself or ``"module:attribute"``.

        Raises:
            SpecError: the name is taken by another origin, or cannot stand in a spec id.
        """
        if not NAME.fullmatch(name):
            raise SpecError(
                f"{self.kind} name {name!r} from {origin} must be lower-case letters, digits and '_', a "
                f"letter first, since it stands in spec ids"
            )
        if name in self._entries:
            raise SpecError(
                f"two {self.kind}s are called {name!r}: one from {self._entries[name].origin}, one from "
                f"{origin}; rename one"
            )
        self._entries[name] = Entry(name, target, capabilities, origin)

    def unregister(self, name: str) -> None:
        """Take ``name`` out again: what a conftest registers ends with its run."""
        del self._entries[name]

    def names(self) -> tuple[str, ...]:
        """All names, in the order of registration."""
        return tuple(self._entries)

    def entry(self, name: str) -> Entry[T, C]:
        """The entry of ``name``; raises `SpecError` with a suggestion when it is unknown."""
        if name not in self._entries:
            raise SpecError(f"unknown {self.kind} {name!r}{did_you_mean(name, self._entries)}")
        return self._entries[name]

    def resolve(self, name: str) -> T:
        """The object behind ``name``, importing it when it was registered as ``"module:attribute"``."""
        target = self.entry(name).target
        if not isinstance(target, str):
            return target
        module, _, attribute = target.partition(":")
        return cast("T", getattr(importlib.import_module(module), attribute))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A tail for an error message: the closest known names, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(repr(match) for match in close)}?"
    return f"; known: {', '.join(names) or 'none'}"
