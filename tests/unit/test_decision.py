"""What a gate's evidence says beside its figures."""

from __future__ import annotations

import pytest

from quantcheck.decision import codes_are_due
from quantcheck.methods import METHODS
from quantcheck.provenance import library_versions, machine


@pytest.mark.parametrize("method", METHODS.names())
def test_the_accepted_codes_are_due_where_nothing_can_change_them(method: str) -> None:
    needs = METHODS.entry(method).capabilities
    here = {"machine": machine(), "libraries": library_versions()}
    elsewhere = {**here, "machine": {**machine(), "processor": "another"}}

    assert codes_are_due(needs, here, "cpu")
    rounds_alone = method in {"rtn", "nf4", "fp4"}
    assert codes_are_due(needs, elsewhere, "cpu") is rounds_alone
    assert codes_are_due(needs, here, "cuda") is rounds_alone
