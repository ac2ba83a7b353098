"""A failed gate's message stands alone: who, what, by how much, which bound, and what now."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from quantcheck.gate import Verdict
from quantcheck.published import Citation
from quantcheck.report.message import NEXT, difference_unit, message
from unit.builders import gate_record

MACHINE = {"processor": "some CPU", "threads": "2"}


def lines(text: str) -> dict[str, str]:
    """The lines after the first by their first word."""
    return {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines()[1:]}


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_names_who_what_how_much_which_bound_and_what_now(verdict: Verdict) -> None:
    reason = "0.247 worse than the reference, the floor allows 0.2"
    text = message(gate_record(verdict=verdict, reasons=(reason, "and a second")), MACHINE)
    assert text.startswith(f"{verdict}: ppl/web of builtin-llama quantized by gptq-w3-g128 (smoke tier)\n")
    found = lines(text)
    assert found["measured"] == "4.48 perplexity, ↓ lower is better, n = 16"
    assert found["reference"] == "3.5 at full precision, same items"
    assert found["worse"] == "by +0.247 ± 0.0123 nat (paired), floor 0.693"
    assert found["baseline"] == "4.47, drift +0.00223, margin 0.0198"
    assert found["artifact"] == "3.250 bits per weight stored, 3 nominal"
    assert [line for line in text.splitlines() if "because" in line] == [
        f"  because    {reason}",
        "  because    and a second",
    ]
    assert found["policy"] == "calibrated methods at 3 bits"
    assert found["on"] == "processor some CPU, threads 2"
    assert found.get("now", "") == NEXT[verdict]


def test_every_verdict_but_a_pass_says_what_to_do_now() -> None:
    assert set(NEXT) == set(Verdict)
    assert [verdict for verdict in Verdict if not NEXT[verdict]] == [Verdict.PASS]
    assert len(set(NEXT.values())) == len(NEXT)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_accepting_is_offered_only_where_it_could_help(verdict: Verdict) -> None:
    assert ("--snapshot-update" in NEXT[verdict]) is verdict.updatable


@pytest.mark.parametrize(
    ("metric", "measured"),
    [
        ("artifact/weights", "0.0123 relative error, ↓ lower is better, n = 16"),
        ("artifact/gains", "0.0123 gain, ↕ either way is worse, n = 16"),
    ],
)
def test_what_moved_in_layers_is_told_as_the_ratio_that_counts(metric: str, measured: str) -> None:
    gate = gate_record(
        metric=metric, value=0.0123, baseline=0.012, drift=math.log(1.05), drift_margin=math.log(1.01)
    )
    found = lines(message(gate, MACHINE))
    assert found["measured"] == measured
    assert found["baseline"] == "0.012, drift +5.00% in the layer that moved most, margin 1.00%"
    assert "worse" not in found
    unknown = lines(message(replace(gate, drift=None), MACHINE))
    assert unknown["baseline"].startswith("0.012, drift -, margin ")


def test_an_entry_among_the_known_failures_is_shown_with_its_issue() -> None:
    known = {"known": "REGRESSED", "known_reason": "scales are rounded", "known_issue": "#12"}
    found = lines(message(gate_record(verdict=Verdict.STALE_KNOWN, **known), MACHINE))
    assert found["known"] == "as REGRESSED: scales are rounded (#12)"
    assert found["now"] == NEXT[Verdict.STALE_KNOWN]
    assert lines(message(gate_record(verdict=Verdict.NO_BASELINE, **known), MACHINE))["now"] == (
        "correct or remove its entry in known.toml: a listed gate is not accepted"
    )
    assert "known" not in lines(message(gate_record(), MACHINE))


def test_an_accuracy_is_shown_in_percent_and_judged_in_fractions() -> None:
    gate = gate_record(
        metric="acc/pooled", value=0.53125, reference=0.75, worse=0.21875, worse_stderr=0.02, n=800
    )
    found = lines(message(gate, MACHINE))
    assert found["measured"] == "53.1%, ↑ higher is better, n = 800"
    assert found["reference"] == "75.0% at full precision, same items"
    assert found["worse"] == "by +0.219 ± 0.02 fraction (paired), floor 0.693"


def test_a_floor_that_was_tested_is_shown_with_what_it_could_have_seen() -> None:
    tested = {"lower": 0.21, "upper": 0.2874, "alarm": 4e-5, "mde": 0.7241}
    found = lines(message(gate_record(**tested), MACHINE))
    assert found["tested"] == "+0.21 to +0.287; a difference of 0.7241 would have been seen (80 % power)"
    flips = gate_record(metric="acc/pooled", harmful=12, beneficial=3, n=600, **tested)
    assert lines(message(flips, MACHINE))["tested"].startswith(
        "+0.21 to +0.287, 12 harmful and 3 beneficial flips of 600; a difference"
    )


def test_a_collapsed_cell_says_that_it_has_no_floor() -> None:
    assert lines(message(gate_record(floor=None), MACHINE))["worse"].endswith(
        "floor none (declared collapsed)"
    )


def test_what_was_not_measured_is_not_shown() -> None:
    nothing = dict.fromkeys(["value", "reference", "worse", "baseline", "bpw", "nominal_bits"])
    gate = gate_record(verdict=Verdict.NON_FINITE, reasons=("the metric produced no figure",), **nothing)
    assert list(lines(message(gate, MACHINE))) == ["because", "policy", "on", "now"]
    assert "artifact" not in lines(message(gate_record(nominal_bits=None), MACHINE))


def test_a_stale_baseline_is_shown_although_it_was_not_compared() -> None:
    assert lines(message(gate_record(drift=None), MACHINE))["baseline"] == "4.47, drift -, margin 0.0198"


def test_a_missing_standard_error_and_a_broken_figure_are_shown_as_such() -> None:
    found = lines(message(gate_record(value=math.nan, worse_stderr=math.nan, n=1), MACHINE))
    assert found["measured"].startswith("nan perplexity")
    assert found["worse"].startswith("by +0.247 ± n/a nat")


def test_perplexities_are_compared_in_nats() -> None:
    units = [difference_unit(gate_record(metric=metric)) for metric in ("ppl/x", "kld/x", "acc/x", "bpw")]
    assert units == ["nat", "nat", "fraction", "bits per weight"]


@pytest.mark.parametrize(
    ("lower", "upper", "advice"),
    [
        (0.3, 0.7, Verdict.BELOW_FLOOR),
        (0.1, 0.7, Verdict.INCONCLUSIVE),
        (0.05, 0.2, Verdict.NO_BASELINE),
        (None, None, Verdict.NO_BASELINE),
    ],
)
def test_a_first_figure_is_advised_to_be_accepted_only_where_its_floor_holds(
    lower: float | None, upper: float | None, advice: Verdict
) -> None:
    gate = gate_record(verdict=Verdict.NO_BASELINE, floor=0.2, baseline=None, lower=lower, upper=upper)
    assert lines(message(gate, MACHINE))["now"] == NEXT[advice]


def test_an_ordering_names_both_specs() -> None:
    text = message(gate_record(verdict=Verdict.BELOW_FLOOR, against="rtn-w3", baseline=None), MACHINE)
    assert text.splitlines()[0].endswith("(smoke tier), which ought not to be worse than rtn-w3")
    found = lines(text)
    assert found["reference"] == "3.5 by rtn-w3, same items"
    assert found["worse"] == "by +0.247 ± 0.0123 nat (paired), margin 0.693"


def test_a_published_figure_that_decided_is_cited() -> None:
    cited = Citation("Table 1", "6.5", "6.1", "worse", ("rounding", "window"))
    found = lines(message(gate_record(verdict=Verdict.BELOW_FLOOR, published=cited), MACHINE))
    assert found["published"] == (
        "worse: 6.5 of Table 1 (6.1 at full precision; caveats: rounding, window); it decides for want of a "
        "baseline, and has no items to test a drift on"
    )
