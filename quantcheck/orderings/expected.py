"""Which of two specs of one model ought not to be the worse: what the study's tables show without exception.

More bits are not worse than fewer by the same method, with the same groups, grid and options. Groups are not
worse than one scale a row, from 3 bits: below, both have collapsed in the study. `BETTER_METHODS` orders
methods at equal bits and groups. A pair of methods stands there where

- no row of LLaMA3-8B, LLaMA3-70B or LLaVA-Next-8B says otherwise, be it the perplexity of WikiText2 or the
  recomputed average of the five tasks, the two columns that compare among methods;
- one row at least says so beyond rounding and noise (`quantcheck.published.bound`), or since the worse method
  collapsed alone. Rows that are themselves at issue do not count: RTN's of LLaMA3 (``rtn_too_bad``), and
  collapses at 2 bits that nobody can explain (``collapses_everywhere``);
- their bits are equal indeed: PB-LLM and BiLLM store masks, QLoRA and IR-QLoRA adapters on top.

The same pairs are found again from ``baselines/published/`` by ``tests/unit/test_orderings_study.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from quantcheck.spec import QuantSpec

BETTER_METHODS: tuple[tuple[str, str, tuple[float, ...]], ...] = (
    ("awq", "gptq", (3,)),
    ("awq", "rtn", (3, 4)),
    ("dbllm", "gptq", (2,)),
    ("dbllm", "slimllm", (2,)),
    ("gptq", "rtn", (3, 4)),
    ("quip", "awq", (3, 4)),
    ("quip", "gptq", (2, 3, 4)),
    ("slimllm", "awq", (3,)),
    ("slimllm", "gptq", (2, 3)),
    ("slimllm", "rtn", (3, 4)),
)
"""Better method, worse method, and the widths at which the study shows it."""

GROUPS_FROM = 3.0
FLOAT_BITS = 16


class Rule(StrEnum):
    """Why one is expected to be no worse than the other."""

    BITS = "more bits"
    GROUPS = "groups"
    METHOD = "better method"
    SIZE = "larger model"


@dataclass(frozen=True)
class Pair:
    """Two specs, the first of which ought not to be the worse."""

    better: QuantSpec
    worse: QuantSpec
    rule: Rule


def expected(specs: Sequence[QuantSpec]) -> Iterator[Pair]:
    """Every pair among the specs of one model; of more bits to the next width alone: the rest follows."""
    for better in specs:
        for worse in specs:
            if _more_bits(better, worse):
                if not any(_more_bits(better, other) and _more_bits(other, worse) for other in specs):
                    yield Pair(better, worse, Rule.BITS)
            elif _grouped(better, worse):
                yield Pair(better, worse, Rule.GROUPS)
            elif _better_method(better, worse):
                yield Pair(better, worse, Rule.METHOD)


def _more_bits(better: QuantSpec, worse: QuantSpec) -> bool:
    rest = [(spec.method, spec.group_size, spec.grid, spec.options) for spec in (better, worse)]
    widths = [(spec.bits, spec.act_bits or FLOAT_BITS) for spec in (better, worse)]
    no_fewer = all(more >= fewer for more, fewer in zip(*widths, strict=True))
    return rest[0] == rest[1] and widths[0] != widths[1] and no_fewer


def _grouped(better: QuantSpec, worse: QuantSpec) -> bool:
    return (
        better.bits >= GROUPS_FROM
        and (better.group_size is not None and worse.group_size is None)
        and better.method == worse.method
        and _width(better) == _width(worse)
        and (better.grid, better.options) == (worse.grid, worse.options)
    )


def _better_method(better: QuantSpec, worse: QuantSpec) -> bool:
    """Options change a method, so that the study says nothing of it."""
    return (
        any(
            (better.method, worse.method) == (first, second) and better.bits in widths
            for first, second, widths in BETTER_METHODS
        )
        and (*_width(better), better.group_size, better.grid)
        == (*_width(worse), worse.group_size, worse.grid)
        and not (better.options or worse.options)
    )


def _width(spec: QuantSpec) -> tuple[float, int | None]:
    return spec.bits, spec.act_bits
