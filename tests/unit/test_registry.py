"""Names to objects: collisions are refused, targets are imported late, misspellings get a suggestion."""

from __future__ import annotations

import fractions
import sys
from typing import Any

import pytest

from quantcheck.errors import SpecError
from quantcheck.registry import Capabilities, Registry, did_you_mean

ANY = Capabilities(bits=(3,))


@pytest.fixture
def methods() -> Registry[object, Any]:
    registry: Registry[object, Any] = Registry("method")
    registry.register("rtn", "fractions:Fraction", ANY, origin="quantcheck")
    registry.register("gptq", 17, ANY, origin="quantcheck")
    return registry


def test_names_stand_in_the_order_of_registration(methods: Registry[object, Any]) -> None:
    assert methods.names() == ("rtn", "gptq")


def test_a_collision_names_both_origins_and_changes_nothing(methods: Registry[object, Any]) -> None:
    with pytest.raises(SpecError, match="two methods are called 'gptq': one from quantcheck, one from mine"):
        methods.register("gptq", 18, ANY, origin="mine")
    assert methods.resolve("gptq") == 17


@pytest.mark.parametrize("name", ["", "a-b", "A", "_a", "1a", "caf\u00e9", "a.b", "a\n", "a b"])
def test_a_name_that_cannot_stand_in_a_spec_is_refused(methods: Registry[object, Any], name: str) -> None:
    with pytest.raises(SpecError, match=r"method name .* from mine must be lower-case letters"):
        methods.register(name, 1, ANY, origin="mine")


def test_an_entry_keeps_capabilities_and_origin(methods: Registry[object, Any]) -> None:
    entry = methods.entry("rtn")
    assert (entry.name, entry.target, entry.capabilities) == ("rtn", "fractions:Fraction", ANY)
    assert entry.origin == "quantcheck"


def test_an_unknown_name_gets_a_suggestion(methods: Registry[object, Any]) -> None:
    with pytest.raises(SpecError, match="unknown method 'gtpq'; did you mean 'gptq'"):
        methods.entry("gtpq")
    with pytest.raises(SpecError, match="unknown method 'gtpq'"):
        methods.resolve("gtpq")


def test_a_target_is_imported_when_it_is_resolved_and_not_before(methods: Registry[object, Any]) -> None:
    methods.register("late", "quantcheck_no_such_module:Method", ANY, origin="mine")
    assert methods.entry("late").target == "quantcheck_no_such_module:Method"
    assert "quantcheck_no_such_module" not in sys.modules
    assert methods.resolve("rtn") is fractions.Fraction
    with pytest.raises(ModuleNotFoundError, match="quantcheck_no_such_module"):
        methods.resolve("late")


def test_what_is_unregistered_may_be_registered_again(methods: Registry[object, Any]) -> None:
    methods.unregister("gptq")
    assert methods.names() == ("rtn",)
    methods.register("gptq", 18, ANY, origin="mine")
    assert methods.resolve("gptq") == 18


@pytest.mark.parametrize(
    ("name", "known", "tail"),
    [
        ("gtpq", ["rtn", "gptq"], "; did you mean 'gptq'?"),
        ("gptq2", ["gptq", "gptq1"], "; did you mean 'gptq' or 'gptq1'?"),
        ("zzz", ["rtn", "gptq"], "; known: gptq, rtn"),
        ("zzz", [], "; known: none"),
    ],
)
def test_suggestions_are_the_closest_names_or_all(name: str, known: list[str], tail: str) -> None:
    assert did_you_mean(name, known) == tail
