"""A model's figures survive the way to text and back."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from quantcheck.artifact_facts import BlockFacts
from quantcheck.measurement import measurement
from quantcheck.results import Figures
from unit.builders import facts

OUTSIDE = st.none() | st.lists(st.text(max_size=3), max_size=2).map(tuple)


@given(st.lists(st.floats(), max_size=5), st.floats(0, 1e6), OUTSIDE)
def test_figures_come_back_bit_by_bit(
    outcomes: list[float], seconds: float, outside: tuple[str, ...] | None
) -> None:
    blocks = (BlockFacts("model.layers.0", 0.1), BlockFacts("model.layers.1", seconds))
    found = replace(
        facts(weight_error=0.2), blocks=blocks, fed="cd", reference_untouched=True, outside=outside
    )
    figures = Figures({"ppl/web": measurement("ppl/web", outcomes, "ab", "one", 1)}, found, seconds, False)

    back = Figures.loads(figures.dumps())

    assert back.facts == figures.facts and (back.seconds, back.reused) == (seconds, False)
    read, wrote = back.measurements["ppl/web"], figures.measurements["ppl/web"]
    assert repr(read.outcomes.tolist()) == repr(wrote.outcomes.tolist())
    assert (read.metric, read.items, read.protocol, read.version) == ("ppl/web", "ab", "one", 1)


def test_a_reference_has_no_facts() -> None:
    assert Figures.loads(Figures({}, None, 1.0, True).dumps()) == Figures({}, None, 1.0, True)
