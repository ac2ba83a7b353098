"""Nothing passes by absence: a gate that skips, is never called, or has nothing to decide is red."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaForCausalLM

from plugin.project import GATES, Project, all_ended, matched, refused

ABSENT = "nothing passes by absence"


def run_tests(project: Project, source: str, *args: str) -> pytest.RunResult:
    project.pytester.makepyfile(test_gates=source)
    return project.run(*args)


@pytest.mark.parametrize(
    "body",
    [
        "@pytest.mark.skip\ndef test_mine(gate): gate(None)",
        "@pytest.mark.skipif(True, reason='no GPU')\ndef test_mine(gate): gate(None)",
        "def test_mine(gate): pytest.skip('not today')",
        "@pytest.fixture\ndef gpu(): pytest.skip('no GPU')\ndef test_mine(gate, gpu): gate(None)",
        "def test_mine(gate): pytest.importorskip('no_such_package')",
    ],
)
def test_a_gate_that_skips_fails(project: Project, body: str) -> None:
    result = run_tests(project, f"import pytest\n{body}\n")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    matched(result, f"test_mine asked for a gate and was skipped: {ABSENT}")


def test_a_gate_that_skips_fails_though_nothing_else_asks_for_gates(project: Project) -> None:
    project.pytester.makeini(f"[pytest]\nquantcheck_model = {project.model}\nquantcheck_text = eval.txt\n")
    project.pytester.makepyfile(
        test_gates="import pytest\n@pytest.mark.skip\ndef test_mine(gate): gate(None)"
    )

    result = project.pytester.runpytest_inprocess()

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    matched(result, f"test_mine asked for a gate and was skipped: {ABSENT}")


def test_a_gate_that_is_never_called_fails(project: Project) -> None:
    result = run_tests(project, "def test_mine(quantized_model, gate): quantized_model('rtn-w8')")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    matched(result, f"test_mine asked for a gate and ended without a verdict: {ABSENT}")


def test_an_expected_failure_is_left_to_its_author(project: Project) -> None:
    test = "def test_mine(quantized_model, gate): gate(quantized_model('rtn-w8'))"

    result = run_tests(project, f"import pytest\n@pytest.mark.xfail\n{test}")

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(xfailed=1)
    matched(result, all_ended("NO_BASELINE"))


def test_another_projects_fixture_of_that_name_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import pytest\n@pytest.fixture\ndef gate(): return 1\n"
        "def test_one(gate): pass\ndef test_two(gate): pytest.skip('theirs')\n"
    )

    result = pytester.runpytest_inprocess()

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1, skipped=1)
    assert "quantcheck matrix" not in result.stdout.str()


def test_a_plain_skip_beside_the_gates_is_left_alone(project: Project) -> None:
    project.accept()
    project.pytester.makepyfile(test_other="import pytest\ndef test_other(): pytest.skip('theirs')")

    result = project.run()

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=len(GATES), skipped=1)


def test_not_a_number_in_the_logits_is_red(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    def not_a_number(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        quantized = any("Quantized" in type(module).__name__ for module in self.modules())
        return output if not quantized else type(output)(logits=output.logits * float("nan"))

    project.accept()
    forward = LlamaForCausalLM.forward
    monkeypatch.setattr(LlamaForCausalLM, "forward", not_a_number)

    result = project.run(f"--quantcheck-cache={tmp_path}")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.verdicts()["rtn-w8/ppl/eval"] == "NON_FINITE"
    assert project.verdicts()["rtn-w8/kld/eval"] == "NON_FINITE"
    matched(result, "NON_FINITE: ppl/eval of tiny", "measured * nan perplexity")


def test_agreement_of_logits_that_are_not_a_number_is_red(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    def not_a_number(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        return type(output)(logits=output.logits * float("nan"))

    forward = LlamaForCausalLM.forward
    monkeypatch.setattr(LlamaForCausalLM, "forward", not_a_number)

    project.run("--snapshot-update", f"--quantcheck-cache={tmp_path}")

    assert project.verdicts()["rtn-w8/top1/eval"] == "NON_FINITE"


def test_an_empty_matrix_is_refused(project: Project) -> None:
    class Unable:
        def pytest_quantcheck_register_methods(self, methods: Any) -> None:
            from quantcheck.registry import Capabilities

            methods.register("mine", object(), Capabilities(bits=(5.0,)), origin="a test")

    result = project.pytester.runpytest_inprocess(
        *project.options, "--quantcheck-methods=mine", plugins=[Unable()]
    )

    refused(result, "the matrix is empty", "mine", "--quantcheck-specs")


def test_a_suite_in_which_nothing_is_a_gate_any_more_is_refused(project: Project) -> None:
    project.pytester.makepyfile(test_gates="")

    refused(project.run(), "nothing is selected")
