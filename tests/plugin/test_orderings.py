"""Orderings end to end: gates where the policy names them, notes everywhere, alone and with workers."""

from __future__ import annotations

import pytest

from plugin.project import POLICY, Project, matched, refused

SUITE = "from quantcheck.suites.test_language import test_gate, test_ordering\n"
SPECS = "rtn-w2,rtn-w8"
ENTRY = """
[[ordering]]
better = "{}"
worse = "{}"
metric = "kld"
margin = 0.0
reason = "six bits more"
"""
ONLY = ("-k", "test_ordering")
WORKERS = [(), pytest.param(("-n2",), marks=pytest.mark.slow)]
GATE = "rtn-w8-over-rtn-w2/kld/eval"


@pytest.fixture
def ordered(project: Project) -> Project:
    """A project whose policy says that eight bits are not worse than two."""
    project.pytester.makepyfile(test_gates=SUITE)
    name(project, "rtn-w8", "rtn-w2")
    return project


def name(project: Project, better: str, worse: str) -> None:
    """Let the policy say that one spec is not worse than the other."""
    (project.baselines / "policy.toml").write_text(POLICY + ENTRY.format(better, worse), encoding="utf-8")


@pytest.mark.parametrize("workers", WORKERS)
def test_a_named_ordering_that_holds_is_a_green_gate_without_a_baseline(
    ordered: Project, workers: tuple[str, ...]
) -> None:
    result = ordered.run(*ONLY, *workers, specs=SPECS)

    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    matched(result, "1 of 1 orderings that the policy names hold", "1 gates: 1 PASS")
    (gate,) = ordered.report()["gates"]
    assert (gate["spec"], gate["against"], gate["metric"]) == ("rtn-w8", "rtn-w2", "kld/eval")
    assert gate["worse"] < 0 < gate["reference"]
    assert (gate["floor"], gate["drift_margin"], gate["policy"]) == (0.0, None, "six bits more")
    assert not list(ordered.baselines.rglob("*.json"))


@pytest.mark.parametrize("workers", WORKERS)
def test_a_named_ordering_that_is_violated_is_red_and_says_so(
    ordered: Project, workers: tuple[str, ...]
) -> None:
    name(ordered, "rtn-w2*", "rtn-w8*")

    result = ordered.run(*ONLY, *workers, specs=SPECS)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    matched(
        result,
        "BELOW_FLOOR: kld/eval of tiny quantized by rtn-w2 (smoke tier), which ought not to be worse than *",
        "reference * by rtn-w8, same items",
        "because *worse than rtn-w8*, the ordering allows 0",
    )


def test_it_is_counted_listed_and_chosen_like_any_gate(ordered: Project) -> None:
    listed = ordered.run("--quantcheck-list", specs=SPECS)
    matched(listed, f"tiny/{GATE}  quantcheck bits(w=8)")

    alone = ordered.run("-m", "bits(w=8)", "-k", "ordering", "--collect-only", "-q", specs=SPECS)
    matched(alone, f"test_gates.py::test_ordering?tiny/{GATE}?")
    other = ordered.run("-m", "ultra_low_bit", "--collect-only", "-q", specs=SPECS)
    other.stdout.no_fnmatch_line("*test_ordering*")


def test_an_ordering_of_which_one_spec_does_not_run_is_no_gate_of_the_run(ordered: Project) -> None:
    result = ordered.run("--collect-only", "-q", specs="rtn-w8")
    result.stdout.no_fnmatch_line("*test_ordering*")


@pytest.mark.parametrize(
    ("better", "worse", "message"),
    [
        ("gtpq-w3*", "rtn-w3*", "ordering 1: 'gtpq-w3*' matches no spec of any tier; did you mean"),
        ("rtn-w3", "rtn-w3.5", "ordering 1: rtn-w3.5: rtn supports "),
        ("rtn-w3*", "rtn-w3", "ordering 1: better and worse are two spec ids"),
    ],
)
def test_an_entry_that_names_no_spec_is_refused_before_anything_runs(
    ordered: Project, better: str, worse: str, message: str
) -> None:
    name(ordered, better, worse)
    refused(ordered.run(specs=SPECS), message)


def test_a_test_of_ones_own_may_ask_for_it(ordered: Project) -> None:
    ordered.pytester.makepyfile(
        test_gates="""
        def test_named(quantized_model, gate):
            (record,) = gate(quantized_model("rtn-w8"), against="rtn-w2")
            assert record.id == "tiny/rtn-w8-over-rtn-w2/kld/eval"

        def test_not_named(quantized_model, gate):
            gate(quantized_model("rtn-w2"), against="rtn-w8")
        """
    )
    result = ordered.run(specs=SPECS)
    result.assert_outcomes(passed=1, failed=1)
    matched(result, "no ordering says that rtn-w2 is not worse than rtn-w8; add an [[][[]ordering]]")


@pytest.mark.parametrize("workers", WORKERS)
def test_what_is_expected_is_noted_and_decides_nothing(project: Project, workers: tuple[str, ...]) -> None:
    """Random weights lose nothing by fewer bits, so that only the distance from full precision is ordered."""
    project.accept(specs=SPECS)
    result = project.run(*workers, specs=SPECS)

    assert result.ret == pytest.ExitCode.OK
    matched(result, "2 orderings: *(notes, no verdicts)")
    noted = {each["metric"]: each for each in project.report()["orderings"]}
    assert set(noted) == {"ppl/eval", "kld/eval"}
    assert noted["kld/eval"]["standing"] == "holds"
    assert (noted["kld/eval"]["better"], noted["kld/eval"]["worse"]) == ("tiny/rtn-w8", "tiny/rtn-w2")
    assert noted["kld/eval"]["alarm"] == 0.01 / 2
