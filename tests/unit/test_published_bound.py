"""A run beside a published figure: it agrees with what was printed, and with nothing worse."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.errors import QuantcheckError
from quantcheck.published import FULL_PRECISION, Answer, Bound, Effect, PublishedFigure, bound, load, names
from quantcheck.published.bound import ALARM, NOISE_SHARE, noise_of
from unit.test_published import one, published_figure

ORDER = (Answer.BETTER, Answer.AGREES, Answer.CANNOT_TELL, Answer.WORSE)


def in_units(entry: PublishedFigure) -> float:
    """The printed value as a run measures it; nothing at all where a word is printed."""
    value = entry.value if entry.recomputed is None else entry.recomputed
    return (value or 0.0) / (1 if entry.metric.startswith("ppl/") else 100)


def pairs(name: str) -> Iterator[tuple[PublishedFigure, PublishedFigure]]:
    """Every figure of a quantized model, with that of full precision."""
    file = load(name)
    for entry in file.figures:
        reference = file.reference(entry)
        if entry.method != FULL_PRECISION and reference is not None:
            yield entry, reference


def of(name: str, spec: str, metric: str, measured: float | None = None) -> Bound:
    found, reference = one(name, spec, metric), one(name, FULL_PRECISION, metric)
    return bound(found, reference, in_units(reference) if measured is None else measured)


@pytest.mark.parametrize("name", names())
def test_the_study_agrees_with_itself(name: str) -> None:
    for entry, reference in pairs(name):
        answer = bound(entry, reference, in_units(reference)).judge(in_units(entry)).answer
        silent = entry.effect in {Effect.SUSPECT, Effect.EXCLUDED}
        assert answer is (Answer.CANNOT_TELL if silent else Answer.AGREES), (entry.row, entry.metric)


@pytest.mark.parametrize("name", names())
def test_beyond_the_bound_a_run_is_better_or_worse(name: str) -> None:
    for entry, reference in pairs(name):
        limits, where = bound(entry, reference, in_units(reference)), (entry.row, entry.metric)
        if entry.effect is Effect.EXCLUDED:
            assert (limits.best, limits.worst, limits.telling) == (-math.inf, math.inf, False), where
            continue
        best, worst = limits.interval
        little = 1e-6 if best < worst else -1e-6
        assert limits.judge(best - little).answer is Answer.BETTER, where
        if entry.effect is Effect.MAGNITUDE:
            assert limits.worst == math.inf, where
        else:
            assert limits.judge(worst + little).answer is Answer.WORSE, where
        inside = limits.judge(best + little).answer
        assert inside is (Answer.AGREES if limits.telling else Answer.CANNOT_TELL), where


@given(st.floats(0.87, 1.14), st.floats(1.0, 3.0))
def test_only_the_ratio_to_the_own_full_precision_counts(scale: float, ratio: float) -> None:
    plain = of("llama3-8b", "gptq-w3-g128", "ppl/wikitext2").judge(6.1 * ratio)
    scaled = of("llama3-8b", "gptq-w3-g128", "ppl/wikitext2", 6.1 * scale).judge(6.1 * scale * ratio)
    assert scaled.loss == pytest.approx(plain.loss, abs=1e-9)
    assert scaled.answer is plain.answer


@given(st.floats(5.0, 60.0), st.floats(5.0, 60.0), st.floats(0, 0.3))
def test_a_worse_figure_never_has_a_better_answer(one_of: float, other: float, stderr: float) -> None:
    limits = of("llama3-8b", "gptq-w3-g128", "ppl/wikitext2")
    better, worse = (limits.judge(value, stderr).answer for value in sorted((one_of, other)))
    assert ORDER.index(better) <= ORDER.index(worse)


def test_the_bound_is_made_of_rounding_and_noise() -> None:
    limits = of("llama3-8b", "gptq-w3-g128", "ppl/wikitext2")
    low, high = math.log(8.15 / 6.15), math.log(8.25 / 6.05)
    noise = ALARM * NOISE_SHARE * (low + high) / 2
    assert (limits.best, limits.worst) == pytest.approx((low - noise, high + noise))
    assert limits.interval == pytest.approx((6.1 * math.exp(limits.best), 6.1 * math.exp(limits.worst)))
    piqa = of("llama3-8b", "gptq-w3-g128", "acc/piqa")
    noise = ALARM * math.sqrt(0.749 * 0.251 / 1838)
    assert (piqa.best, piqa.worst) == pytest.approx((0.05 - 0.001 - noise, 0.05 + 0.001 + noise))
    assert piqa.interval == pytest.approx((0.75 + noise, 0.748 - noise))


def test_the_average_s_noise_is_that_of_its_tasks_together() -> None:
    average = one("llama3-8b", "gptq-w3-g128", "acc/average")
    assert noise_of(average, 0.07) == pytest.approx(0.0052, abs=1e-4)


def test_an_order_of_magnitude_is_compared_as_collapsed_or_not() -> None:
    limits = of("llama3-8b", "awq-w2-g128", "ppl/wikitext2")
    assert [limits.judge(value).answer for value in (60.9, 61.1, 1e9)] == [
        Answer.BETTER,
        Answer.AGREES,
        Answer.AGREES,
    ]
    halfway = of("llama3-8b", "awq-w2-g128", "acc/hellaswag")  # of 60.2 and the 25 of guessing
    assert [halfway.judge(value).answer for value in (0.427, 0.425)] == [Answer.BETTER, Answer.AGREES]
    unread = of("llava-next-8b", "awq-w2-g128", "score/ai2d")
    assert [unread.judge(value).answer for value in (0.36, 0.0)] == [Answer.BETTER, Answer.AGREES]


def test_a_suspect_row_only_tells_who_is_worse() -> None:
    limits = of("llama3-8b", "rtn-w4-g128", "ppl/wikitext2")
    found = [limits.judge(value).answer for value in (6.7, 8.5, 9.5)]
    assert found == [Answer.BETTER, Answer.CANNOT_TELL, Answer.WORSE]
    assert any(reason.startswith("rtn_too_bad: ") for reason in limits.reasons)


@pytest.mark.parametrize(
    ("spec", "metric"),
    [
        ("gptq-w4-g128", "ppl/c4"),
        ("gptq-w4-g128", "ppl/ptb"),
        ("SpinQuant W4A8", "acc/piqa"),
        ("I-LLM W6A6", "ppl/wikitext2"),
    ],
)
def test_what_is_excluded_is_not_compared(spec: str, metric: str) -> None:
    finding = of("llama3-8b", spec, metric).judge(0.5)
    assert finding.answer is Answer.CANNOT_TELL
    assert finding.reasons[0] == "not compared"
    assert finding.reasons[1].partition(":")[0] in {"corpus", "other_accuracy", "copied"}


def test_a_run_with_few_items_cannot_tell() -> None:
    limits = of("llama3-8b", "gptq-w4-g128", "acc/piqa")
    good, bad = 0.784, 0.70
    assert limits.judge(good, 0.005).answer is Answer.AGREES
    finding = limits.judge(good, 0.05)
    assert finding.answer is Answer.CANNOT_TELL
    assert finding.reasons[0].startswith("a loss of 0.015+-0.05 where")
    assert limits.judge(bad, 0.005).answer is Answer.WORSE
    assert limits.judge(bad, 0.05).answer is Answer.CANNOT_TELL
    assert limits.judge(good, math.nan).answer is Answer.CANNOT_TELL


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_worse_than_any_figure(value: float) -> None:
    for metric in ("ppl/wikitext2", "acc/piqa"):
        finding = of("llama3-8b", "awq-w2-g128", metric).judge(value)
        assert (finding.answer, finding.loss) == (Answer.WORSE, math.inf)


@pytest.mark.parametrize(
    ("metric", "measured"),
    [
        ("ppl/wikitext2", 7.33),  # perplexity by words
        ("ppl/wikitext2", 5.0),
        ("acc/hellaswag", 0.79),  # acc_norm
        ("acc/arc_challenge", 0.45),
        ("acc/piqa", 0.5),  # guessing
        ("acc/average", 0.35),
    ],
)
def test_a_run_with_another_full_precision_is_not_compared(metric: str, measured: float) -> None:
    finding = of("llama3-8b", "gptq-w4-g128", metric, measured).judge(measured)
    assert finding.answer is Answer.CANNOT_TELL
    assert finding.reasons[0].startswith("the run's full precision")


@pytest.mark.parametrize(
    ("metric", "measured"), [("ppl/wikitext2", 5.54), ("ppl/wikitext2", 6.137), ("acc/hellaswag", 0.615)]
)
def test_another_window_or_harness_does_not_keep_a_run_from_being_compared(
    metric: str, measured: float
) -> None:
    limits = of("llama3-8b", "gptq-w8", metric, measured)
    assert limits.judge(measured).answer is Answer.AGREES


def test_a_task_of_unknown_size_is_not_compared() -> None:
    entry = published_figure(metric="acc/other", value=50.0, printed="50.0")
    reference = published_figure(metric="acc/other", method=FULL_PRECISION, value=60.0, printed="60.0")
    finding = bound(entry, reference, 0.6).judge(0.5)
    assert finding.answer is Answer.CANNOT_TELL
    assert "item count" in finding.reasons[0]


def test_figures_that_do_not_belong_together_are_refused() -> None:
    entry, reference = published_figure(), published_figure(method=FULL_PRECISION, spec=None)
    for other in (
        published_figure(method=FULL_PRECISION, table="Table 2"),
        published_figure(method=FULL_PRECISION, metric="ppl/c4"),
        published_figure(method="AWQ"),
    ):
        with pytest.raises(QuantcheckError, match="full precision of the same table and metric"):
            bound(entry, other, 6.1)
    for value in (math.nan, math.inf, 0.0, -1.0):
        with pytest.raises(QuantcheckError, match="nothing can be compared with it"):
            bound(entry, reference, value)
    with pytest.raises(QuantcheckError, match="a perplexity is positive"):
        of("llama3-8b", "gptq-w4-g128", "ppl/wikitext2").judge(0.0)
