"""What a planted fault is, and the ways to plant one: in a product function, in what is stored, in a method.

Nothing here touches outcomes: a fault is planted where a real one would be, and the product measures it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor

from quantcheck.methods import METHODS
from quantcheck.methods.artifact import Artifact
from quantcheck.methods.base import PackedWeight
from quantcheck.methods.packed.grouped import GroupedWeight


class Kind(StrEnum):
    """Where a fault sits."""

    STORED = "what is stored"
    METHOD = "how it is quantized"
    METRIC = "how it is measured"
    BOOKS = "what it is compared with"


@dataclass(frozen=True)
class Site:
    """The project that a fault is planted in.

    Attributes:
        baselines: the folder of accepted figures, a copy that a fault may write to.
        measure: measure a sound spec there before the fault strikes: ``measure(spec, *options)``.
    """

    baselines: Path
    measure: Callable[..., None]


Plant = Callable[[Site], AbstractContextManager[object]]
"""Makes the context in which a run meets the fault."""


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    Attributes:
        name: its row in the table.
        kind: where it sits.
        spec: what is quantized.
        what: what is broken, in words.
        plant: breaks it.
        alone: whether it could reach the reference or the items, so that none may come from another run.
        compared: the spec whose figures a stored threshold was taken from, where a fault mixes them up.
        needs: other specs whose figures must have been accepted.
    """

    name: str
    kind: Kind
    spec: str
    what: str
    plant: Plant
    alone: bool = False
    compared: str | None = None
    needs: tuple[str, ...] = ()


def altered(path: str, alter: Callable[[Any], Any]) -> Plant:
    """Replace ``module:name.of.it`` by what ``alter`` makes of it."""
    module, _, dotted = path.partition(":")
    owner, _, name = dotted.rpartition(".")

    def plant(_: Site) -> AbstractContextManager[object]:
        holder = pkgutil.resolve_name(f"{module}:{owner}" if owner else module)
        return mock.patch.object(holder, name, alter(getattr(holder, name)))

    return plant


def all_of(*plants: Plant) -> Plant:
    """Plant several faults that make one."""

    @contextmanager
    def plant(site: Site) -> Iterator[None]:
        with ExitStack() as stack:
            for each in plants:
                stack.enter_context(each(site))
            yield

    return plant


def stored(alter: Callable[[Artifact], Artifact]) -> Plant:
    """Alter the artifact between quantizing and saving."""
    return altered(
        "quantcheck.runner:quantize", lambda real: lambda *given, **named: alter(real(*given, **named))
    )


def layers(glob: str, alter: Callable[[Any], PackedWeight]) -> Plant:
    """Alter the packed weights of the layers whose path matches ``glob``."""

    def change(artifact: Artifact) -> Artifact:
        chosen = {name: alter(packed) for name, packed in artifact.weights.items() if fnmatchcase(name, glob)}
        assert chosen, f"no layer is called {glob}"
        return replace(artifact, weights={**artifact.weights, **chosen})

    return stored(change)


def method(name: str, target: Any) -> Plant:
    """Register another object as the method called ``name``, in its place."""

    def plant(_: Site) -> AbstractContextManager[object]:
        return mock.patch.dict(METHODS._entries, {name: replace(METHODS.entry(name), target=target)})

    return plant


def recoded(
    packed: GroupedWeight, codes: Tensor | None = None, zeros: Tensor | None = None, bits: int | None = None
) -> GroupedWeight:
    """Pack other codes or zero points with the scales that are there."""
    found = packed.zeros()
    kept = found if isinstance(found, Tensor) else None
    return GroupedWeight.from_codes(
        packed.codes() if codes is None else codes,
        packed.scales,
        kept if zeros is None else zeros,
        bits=bits or packed.bits,
        group_size=packed.group_size,
        g_idx=packed.g_idx,
    )


def rescaled(packed: GroupedWeight, scales: Tensor) -> GroupedWeight:
    """Store other scales, in the dtype that they had."""
    return replace(packed, scales=scales.to(packed.scales.dtype).contiguous())
