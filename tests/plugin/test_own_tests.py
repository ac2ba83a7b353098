"""A user's own tests: three lines, by the documented fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin.project import GATES, Project, all_ended, matched, refused, said


def run_tests(project: Project, source: str, *args: str) -> pytest.RunResult:
    project.pytester.makepyfile(test_gates=source)
    return project.pytester.runpytest_inprocess(*project.options, *args)


def test_three_lines_gate_every_metric(project: Project) -> None:
    source = """
        def test_release(quantized_model, gate):
            gate(quantized_model("gptq-w8"))
    """

    first = run_tests(project, source)
    accepted = run_tests(project, source, "--snapshot-update")
    rerun = run_tests(project, source)

    assert [first.ret, accepted.ret, rerun.ret] == [1, 0, 0]
    matched(
        first,
        *(f"NO_BASELINE: {metric} of tiny" for metric in GATES),
        all_ended("NO_BASELINE"),
    )
    assert set(project.gates()) == {f"gptq-w8/{metric}" for metric in GATES}


def test_one_metric_and_a_glob_of_metrics(project: Project) -> None:
    source = """
        def test_release(quantized_model, gate):
            model = quantized_model("rtn-w8")
            assert [record.metric for record in gate(model, "ppl/eval")] == ["ppl/eval"]
            assert [record.metric for record in gate(model, metric="[kt]*/eval")] == ["kld/eval", "top1/eval"]
    """
    project.accept()

    result = run_tests(project, source)

    assert result.ret == pytest.ExitCode.OK, said(result)


def test_an_unknown_metric_fails_with_a_hint(project: Project) -> None:
    result = run_tests(
        project, "def test_mine(quantized_model, gate): gate(quantized_model('rtn-w8'), 'pql/eval')"
    )

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    matched(result, "tiny/rtn-w8: no metric matches 'pql/eval'; did you mean 'ppl/eval'")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("gtpq-w3", "unknown method 'gtpq'; did you mean 'gptq'?"),
        ("rtn-w9", "rtn supports"),
        ("rtn-w4-g0", "group_size must be 1 or more"),
    ],
)
def test_a_spec_that_cannot_be_served_fails_with_a_hint(project: Project, spec: str, sentence: str) -> None:
    result = run_tests(project, f"def test_mine(quantized_model, gate): gate(quantized_model({spec!r}))")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    matched(result, sentence)


def test_a_method_that_reads_no_data_is_not_asked_for_a_text_that_only_others_need(project: Project) -> None:
    options = [option for option in project.options if "calibration" not in option]
    project.pytester.makepyfile(
        test_gates="def test_mine(quantized_model, gate): gate(quantized_model('rtn-w8'))"
    )

    result = project.pytester.runpytest_inprocess(*options, "--snapshot-update")

    assert result.ret == pytest.ExitCode.OK, said(result)
    # Blocks are compared on the calibration text.
    assert set(project.verdicts()) == {f"rtn-w8/{metric}" for metric in GATES if metric != "artifact/outputs"}


def test_a_method_that_calibrates_fails_where_it_has_no_text(project: Project) -> None:
    options = [option for option in project.options if "calibration" not in option]
    project.pytester.makepyfile(
        test_gates="def test_mine(quantized_model, gate): gate(quantized_model('gptq-w8'))"
    )

    result = project.pytester.runpytest_inprocess(*options)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    matched(result, "calibrated methods need a text: --quantcheck-calibration FILE")


def test_several_models_need_a_name(project: Project, other: Path) -> None:
    source = """
        def test_first(quantized_model, gate):
            gate(quantized_model("rtn-w8", model="other"), "bpw")

        def test_unnamed(quantized_model, gate):
            gate(quantized_model("rtn-w8"), "bpw")
    """

    result = run_tests(project, source, f"--quantcheck-model=other={other}", "--snapshot-update")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    matched(result, "it has tiny, other: name one")
    assert project.baseline(model="other").exists()


def test_the_artifact_its_facts_and_the_models_can_be_looked_at(project: Project) -> None:
    source = """
        import torch

        def test_look(quantized_model, reference_model):
            model = quantized_model("rtn-w4-g16")
            assert model.artifact.spec == "rtn-w4-g16"
            assert model.facts.really_quantized and model.facts.nominal_bits == 4
            ids = torch.tensor([[1, 2, 3]])
            reference = reference_model().model
            with torch.no_grad():
                assert not torch.equal(model.module(ids).logits, reference(ids).logits)
            assert model.module is quantized_model("rtn-w4-g16").module
            assert reference_model("tiny").spec.name == "tiny"
    """

    result = run_tests(project, source)

    assert result.ret == pytest.ExitCode.OK, said(result)


def test_a_bits_mark_selects_a_users_own_test(project: Project) -> None:
    source = """
        import pytest

        @pytest.mark.bits(w=2)
        def test_two(quantized_model, gate): gate(quantized_model("rtn-w2"), "bpw")

        def test_other(quantized_model, gate): gate(quantized_model("rtn-w8"), "bpw")
    """

    result = run_tests(project, source, "-m", "bits(w=2)", "--snapshot-update")

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1, deselected=1)


def test_a_model_that_is_not_there_is_refused_before_a_users_own_test_runs(project: Project) -> None:
    project.pytester.makeini("[pytest]\nquantcheck_model = nowhere\nquantcheck_text = eval.txt\n")
    project.pytester.makepyfile(
        test_gates="def test_mine(quantized_model, gate): gate(quantized_model('rtn-w8'))"
    )

    refused(project.pytester.runpytest_inprocess(), "nowhere", "no such folder")


def test_the_header_is_shown_where_only_a_test_asks_for_gates(project: Project) -> None:
    project.pytester.makeini(
        f"[pytest]\nquantcheck_model = tiny={project.model}\nquantcheck_text = eval.txt\n"
    )
    project.pytester.makepyfile(
        test_gates="def test_mine(quantized_model, gate): gate(quantized_model('rtn-w8'))"
    )

    result = project.pytester.runpytest_inprocess("--collect-only")

    matched(result, "collected 1 item", f"quantcheck *: tiny ({project.model}) | tier smoke")
