"""Language models: every method, every width, every metric of the tier, one gate each."""

from __future__ import annotations

from collections.abc import Callable

from quantcheck.plan import Cell


def test_gate(quantcheck_cell: Cell, quantized_model: Callable, gate: Callable) -> None:
    """One cell of the matrix ends in one verdict."""
    gate(quantized_model(quantcheck_cell.spec, quantcheck_cell.model), quantcheck_cell.metric)


def test_ordering(quantcheck_ordering: Cell, quantized_model: Callable, gate: Callable) -> None:
    """One ordering that the policy names: a spec is not worse than another."""
    cell = quantcheck_ordering
    gate(quantized_model(cell.spec, cell.model), cell.metric, against=cell.against)
