"""The matrix: which spec of which method, on which model, by which metric, at which tier. No torch.

Rows come from the capabilities that each method declares: the uniform widths and group sizes, and rows of its
own. What a method does not support is left out and counted, never skipped test by test.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

from quantcheck.errors import SpecError
from quantcheck.registry import Capabilities, Registry, did_you_mean
from quantcheck.spec import GRIDS, ModelSpec, QuantSpec, gate_id, refusal

TIERS = ("smoke", "standard", "full")
DEVICES = ("cpu", "cuda")
ULTRA_LOW = (2.0, 3.0, 4.0)
CANARY = 8.0
OTHER = (1.0, 5.0, 6.0, 7.0)
GROUP_SIZES: tuple[int | None, ...] = (None, 128)


@dataclass(frozen=True)
class Cell:
    """One gate to decide.

    Attributes:
        model, spec, metric: what is measured.
        against: the spec that it ought not to be worse than, for an ordering; ``None``: full precision.
    """

    model: ModelSpec
    spec: QuantSpec
    metric: str
    against: QuantSpec | None = None

    @property
    def id(self) -> str:
        """The parameter part of the test id."""
        return gate_id(str(self.model), str(self.spec), self.metric, str(self.against or ""))

    @property
    def measured(self) -> tuple[Cell, ...]:
        """The gates whose figures decide it: its own, and that of the spec it is compared with."""
        specs = (self.spec, self.against) if self.against else (self.spec,)
        return tuple(Cell(self.model, spec, self.metric) for spec in specs)

    @property
    def marks(self) -> tuple[str, ...]:
        """The names of the cell's marks without arguments; ``bits(w=...)`` comes beside them."""
        marks = ["quantcheck"]
        if self.spec.ultra_low_bit:
            marks.append("ultra_low_bit")
        plain = self.against is None and self.spec.group_size is None and not self.spec.options
        if self.spec.bits == CANARY and plain:
            marks.append("canary")
        return tuple(marks)


@dataclass(frozen=True)
class Matrix:
    """The selected specs and how many combinations the methods declined."""

    specs: tuple[QuantSpec, ...]
    unsupported: int


def matrix(
    methods: Registry[Any, Capabilities],
    tier: str,
    spec_globs: Iterable[str],
    method_globs: Iterable[str],
    others: Iterable[str] = (),
) -> Matrix:
    """The specs of a tier, narrowed by the user's globs.

    A glob without wildcards names one spec exactly and adds it although the tier leaves it out. A glob that
    matches none of them may name ``others``, the ids of codecs and kernels; where all globs do, no spec is
    selected.

    Raises:
        SpecError: a glob that matches nothing, an exact spec that cannot be served, two spellings of one
            spec, a spec of a method that the method globs leave out, or an empty matrix.
    """
    names = _chosen_methods(methods, tuple(method_globs))
    rows = {name: list(candidates(name, methods.entry(name).capabilities, tier)) for name in names}
    supported = [spec for name in names for spec, why in rows[name] if why is None]
    unsupported = sum(why is not None for name in names for _, why in rows[name])
    asked, others = tuple(spec_globs), tuple(others)
    globs = tuple(glob for glob in asked if _matches(glob, supported) or not _matches(glob, others))
    if asked and not globs:
        return Matrix((), unsupported)
    selected = _chosen_specs(methods, names, supported, globs) if globs else supported
    if not selected:
        raise SpecError(
            f"the matrix is empty: no method of {', '.join(names)} supports a row of the {tier} tier; name "
            f"specs with --quantcheck-specs"
        )
    return Matrix(tuple(selected), unsupported)


def candidates(name: str, capabilities: Capabilities, tier: str) -> Iterator[tuple[QuantSpec, str | None]]:
    """Every row of a tier for one method, in running order, with why it is unsupported, or ``None``."""
    seen = set()
    for spec in _rows(name, capabilities, tier):
        if spec not in seen:
            seen.add(spec)
            yield spec, refusal(spec, capabilities)


def exact_spec(methods: Registry[Any, Capabilities], text: str) -> QuantSpec:
    """Parse a spec id and check that its method serves it.

    Raises:
        SpecError: no spec id, an unknown method (with a suggestion), or a spec that the method declines.
    """
    spec = QuantSpec.parse(text)
    if why := refusal(spec, methods.entry(spec.method).capabilities):
        raise SpecError(f"{text}: {why}")
    return spec


def cells(
    models: Iterable[ModelSpec], specs: Iterable[QuantSpec], metrics: Mapping[str, Iterable[str]]
) -> tuple[Cell, ...]:
    """Every gate of a run; ``metrics`` is by model name."""
    specs = tuple(specs)
    return tuple(
        Cell(model, spec, metric) for model in models for spec in specs for metric in metrics[model.name]
    )


def _rows(name: str, capabilities: Capabilities, tier: str) -> Iterator[QuantSpec]:
    if capabilities.uniform:
        yield from _uniform(name, capabilities, tier)
    for text in capabilities.rows.of(tier):
        yield QuantSpec.parse(text)


def _uniform(name: str, capabilities: Capabilities, tier: str) -> Iterator[QuantSpec]:
    grid, act_bits = capabilities.grids[0], capabilities.act_bits[0]
    fractional = tuple(bits for bits in capabilities.bits if bits != int(bits))
    for bits, group_size in product((*fractional, *ULTRA_LOW), GROUP_SIZES):
        yield QuantSpec(name, bits, act_bits, group_size, grid)
    yield QuantSpec(name, CANARY, act_bits, None, grid)
    if tier == "smoke":
        return
    for bits, group_size in product((*OTHER, CANARY), GROUP_SIZES):
        yield QuantSpec(name, bits, act_bits, group_size, grid)
    if tier == "standard":
        return
    for bits, other_size in product(ULTRA_LOW, (32, 64)):
        yield QuantSpec(name, bits, act_bits, other_size, grid)
    for bits, group_size, other in product(ULTRA_LOW, GROUP_SIZES, GRIDS):
        yield QuantSpec(name, bits, act_bits, group_size, other)


def _chosen_methods(methods: Registry[Any, Capabilities], globs: tuple[str, ...]) -> tuple[str, ...]:
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in methods.names()):
            raise SpecError(f"no method matches {glob!r}{did_you_mean(glob, methods.names())}")
    return tuple(
        name for name in methods.names() if not globs or any(fnmatchcase(name, glob) for glob in globs)
    )


def _matches(glob: str, ids: Iterable[object]) -> bool:
    return any(fnmatchcase(str(id), glob) for id in ids)


def _chosen_specs(
    methods: Registry[Any, Capabilities],
    names: tuple[str, ...],
    supported: list[QuantSpec],
    globs: tuple[str, ...],
) -> list[QuantSpec]:
    chosen: dict[QuantSpec, str] = {}
    for glob in globs:
        exact = not any(sign in glob for sign in "*?[")
        found = (
            [exact_spec(methods, glob)]
            if exact
            else [spec for spec in supported if fnmatchcase(str(spec), glob)]
        )
        if not found:
            raise SpecError(f"no spec of this tier matches {glob!r}{did_you_mean(glob, map(str, supported))}")
        for spec in found:
            if spec.method not in names:
                raise SpecError(f"{glob!r} is asked for, but --quantcheck-methods leaves {spec.method} out")
            if exact and chosen.get(spec, "*") != "*":
                raise SpecError(f"two specs with one id: {chosen[spec]!r} and {glob!r} are both {spec}")
            chosen[spec] = glob if exact else chosen.get(spec, "*")
    return list(chosen)
