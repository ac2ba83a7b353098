"""Which of two quantized models ought not to be the worse, and whether it is: see ``docs/verdicts.md``."""

from __future__ import annotations

from quantcheck.orderings.compare import Ordering, Side, Standing, notes
from quantcheck.orderings.expected import BETTER_METHODS, Pair, Rule, expected
from quantcheck.orderings.named import NamedOrdering, read_named

__all__ = [
    "BETTER_METHODS",
    "NamedOrdering",
    "Ordering",
    "Pair",
    "Rule",
    "Side",
    "Standing",
    "expected",
    "notes",
    "read_named",
]
