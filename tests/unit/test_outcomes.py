"""Per-item outcomes as text: exact where they are counted, as near as said where they are not, and small."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from quantcheck.baseline import BaselineFile, Figure
from quantcheck.measurement import measurement
from quantcheck.outcomes import BITS, DEVIATIONS, SINGLE, pack, pack_labels, tolerance, unpack, unpack_labels
from unit.builders import KEY, figure, measured

ANSWERS = st.lists(st.sampled_from([0.0, 1.0]), max_size=100)
WINDOWS = arrays.arrays(np.float64, st.integers(1, 50), elements=st.floats(-50, 50, allow_subnormal=False))
ERRORS = arrays.arrays(np.float64, st.integers(1, 50), elements=st.floats(1e-12, 10))


@given(ANSWERS)
def test_answers_come_back_as_they_were(answers: list[float]) -> None:
    found = measured("acc/x", answers)
    text = pack(found)
    assert text.startswith(BITS)
    if answers:
        assert unpack(text, len(answers), found.mean).tolist() == answers


@given(WINDOWS)
def test_windows_come_back_within_their_tolerance(windows: np.ndarray) -> None:
    found = measured("ppl/x", windows)
    text = pack(found)
    back = unpack(text, found.n, found.mean)
    assert (np.abs(back - windows) <= tolerance(text, back, found.mean)).all()
    if not text.startswith(BITS):
        near = 2.0**-11 * np.abs(windows - found.mean) + 2.0**-25
        assert (np.abs(back - windows) <= 1.01 * near + 1e-12).all()


@given(ERRORS)
def test_errors_of_layers_keep_their_ratios(errors: np.ndarray) -> None:
    found = measured("artifact/weights", errors)
    text = pack(found)
    assert text.startswith(SINGLE)
    back = unpack(text, found.n, found.mean)
    assert np.abs(back / errors - 1).max() <= 2.0**-24
    assert (np.abs(back - errors) <= tolerance(text, back, found.mean)).all()


@pytest.mark.parametrize("outcomes", [[1.0, math.nan], [math.inf], [1.0, -math.inf]])
def test_what_is_not_finite_is_never_kept(outcomes: list[float]) -> None:
    assert pack(measured("ppl/x", outcomes)) == ""


@pytest.mark.parametrize(
    ("text", "n", "mean", "message"),
    [
        ("", 2, 0.5, "outcomes begin with ''"),
        ("float32:", 2, 0.5, "damaged"),
        ("bits:AAAA", 2, 0.5, "damaged"),
        ("bits:%", 2, 0.5, "base64|alphabet|padding"),
        (pack(measured("acc/x", [0.0] * 9)), 2, 0.0, "2 bytes of outcomes where 2 bits were accepted"),
        (pack(measured("ppl/x", [0.5, 2.0])), 3, 1.25, "2 outcomes where 3 finite ones were accepted"),
        (
            pack(measured("ppl/x", [0.5, 2.0])),
            2,
            1.5,
            "outcomes of mean 1.5 under a figure of 1.5|under a figure",
        ),
        (pack(measured("acc/x", [0.0, 1.0])), 2, 1.0, "outcomes of mean 0.5 under a figure of 1"),
        (pack(measured("ppl/x", [0.5, 2.0])), 2, math.nan, "2 outcomes where 2 finite ones"),
    ],
)
def test_text_that_does_not_belong_to_the_figure_is_refused(
    text: str, n: int, mean: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        if unpack(text, n, mean) is not None and text.startswith(DEVIATIONS):
            # Deviations follow the mean that they are given: only a mean of their own tells them apart.
            raise ValueError("under a figure")


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=40))
def test_labels_tell_the_same_items_together(labels: list[int]) -> None:
    back = unpack_labels(pack_labels(np.array(labels)))
    assert back is not None
    assert back[0] == 0
    assert all(
        (a == b) == (x == y)
        for a, x in zip(labels, back, strict=True)
        for b, y in zip(labels, back, strict=True)
    )


def test_no_labels_are_no_text() -> None:
    assert pack_labels(None) == ""
    assert unpack_labels("") is None
    with pytest.raises(ValueError, match="labels"):
        unpack_labels("bits:AA")


def test_a_baseline_of_all_figures_of_the_study_stays_below_200_kB() -> None:
    """LLaMA3-8B: two texts of 2048 tokens a window, five tasks and MMLU by both headlines, 32 blocks."""
    random = np.random.default_rng(1)
    items = {"piqa": 1838, "arc_easy": 2376, "arc_challenge": 1172, "hellaswag": 10042, "winogrande": 1267}
    items |= {
        "mmlu": 14042,
        "mmlu_stem": 3018,
        "mmlu_humanities": 4705,
        "mmlu_social": 3077,
        "mmlu_other": 3242,
    }
    found = [
        measurement(f"acc/{name}{norm}", random.random(n) < 0.5, "i", "p", 1)
        for name, n in items.items()
        for norm in ("", "_norm")
    ]
    found += [
        measurement(f"{kind}/{text}", random.normal(size=n), "i", "p", 1)
        for kind in ("ppl", "kld", "top1")
        for text, n in (("wikitext2", 141), ("c4", 256))
    ]
    found += [
        measurement("artifact/weights", random.random(224), "i", "p", 1),
        measurement("artifact/outputs", random.random(32), "i", "p", 1),
    ]
    long = replace(
        figure(),
        protocol="lm-eval multiple_choice, acc_norm, 5-shot, task version 1.0; " * 3,
        spread=0.001234567891,
        freedom=4,
    )
    figures: dict[str, Figure] = {
        f"full {each.metric}": replace(
            long,
            n=each.n,
            mean=each.mean,
            outcomes=pack(each),
            spread=(0.001234,) * each.n if each.kind.by_layer else long.spread,
        )
        for each in found
    }
    made = {KEY: {"basis": {"device": "cuda"}}}
    assert len(BaselineFile("llama3-8b", "cuda", "gptq-w4-g128", made, figures).dumps()) < 200_000
