"""How numbers are printed: percent, four digits, a sign where it is a difference; never a hidden NaN."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.report.figures import arrow, figure, signed, with_error


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("acc/pooled", 0.53125, "53.1%"),
        ("top1/web", 1.0, "100.0%"),
        ("ppl/web", 4.481689, "4.482"),
        ("ppl/web", 27123.4, "2.712e+04"),
        ("kld/web", 0.00123456, "0.001235"),
        ("bpw", 3.25, "3.25"),
        ("acc/pooled", None, "-"),
        ("ppl/web", math.inf, "inf"),
        ("acc/pooled", math.nan, "nan"),
    ],
)
def test_a_figure_is_shown_as_its_kind_is_read(metric: str, value: float | None, shown: str) -> None:
    assert figure(metric, value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.31, "+0.31"),
        (-0.00123456, "-0.00123"),
        (0.0, "+0"),
        (None, "-"),
        (math.nan, "n/a"),
        (math.inf, "+inf"),
    ],
)
def test_a_difference_has_its_sign(value: float | None, shown: str) -> None:
    assert signed(value) == shown


@pytest.mark.parametrize(
    ("value", "stderr", "shown"),
    [
        (0.31, 0.05123, "+0.31 ± 0.0512"),
        (-0.31, 0.0, "-0.31 ± 0"),
        (0.31, math.nan, "+0.31 ± n/a"),
        (None, None, "- ± -"),
    ],
)
def test_a_standard_error_has_no_sign(value: float | None, stderr: float | None, shown: str) -> None:
    assert with_error(value, stderr) == shown


@given(st.floats(1e-6, 1e6), st.booleans())
def test_a_difference_is_shown_to_three_digits(size: float, negative: bool) -> None:
    value = -size if negative else size
    assert float(signed(value)) == pytest.approx(value, rel=5.1e-3)
    assert signed(value)[0] == ("-" if negative else "+")


def test_arrows_point_to_the_better_side() -> None:
    assert (arrow(True), arrow(False), arrow(None)) == ("↑", "↓", "↕")
