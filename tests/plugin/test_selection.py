"""Which gates a run has: globs, exact specs, marks, and a selection that is empty."""

from __future__ import annotations

import sys

import pytest

from plugin.project import GATES, STORED, Project, all_ended, files, matched, refused, said

LIST = "--quantcheck-list"


def collected(project: Project, *args: str, specs: str = "*") -> set[str]:
    """The specs whose gates are selected."""
    result = project.run("--collect-only", "-q", *args, specs=specs)
    ids = [line for line in result.outlines if "::test_gate[" in line]
    return {line.partition("[tiny/")[2].partition("/")[0] for line in ids}


def test_list_prints_every_gate_with_its_marks_and_runs_none(project: Project) -> None:
    result = project.run(LIST, "--quantcheck-methods=rtn", specs="rtn-w8,rtn-w3")

    assert result.ret == pytest.ExitCode.OK
    matched(
        result,
        *(f"tiny/rtn-w8/{metric}  quantcheck canary bits(w=8)" for metric in STORED),
        "tiny/rtn-w8/ppl/eval  quantcheck canary bits(w=8)",
        "tiny/rtn-w3/bpw  quantcheck ultra_low_bit bits(w=3)",
        f"quantcheck matrix: 2 specs of rtn, {2 * len(GATES)} gates",
    )
    assert not (project.path / "report.json").exists()


def test_list_refuses_what_a_run_refuses(project: Project) -> None:
    result = project.run(LIST, specs="rtn-w9")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "rtn supports" in said(result)


def test_listing_needs_no_torch(project: Project) -> None:
    script = (
        "import sys, pytest\n"
        f"code = pytest.main([{LIST!r}, *sys.argv[1:]])\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    result = project.pytester.run(sys.executable, "-c", script, *project.options)

    assert result.ret == 0, said(result)
    matched(result, "tiny/gptq-w3-g128/kld/eval  quantcheck ultra_low_bit bits(w=3)")


def test_loading_the_plugin_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_lean():
            heavy = {"torch", "transformers", "numpy", "hypothesis", "syrupy.extensions.json", "lm_eval"}
            assert "quantcheck.plugin" in sys.modules
            assert not heavy & set(sys.modules)
            assert not [name for name in sys.modules if name.startswith("quantcheck.") and name not in {
                "quantcheck.plugin", "quantcheck.hookspec", "quantcheck.errors", "quantcheck.fixtures",
                "quantcheck.options", "quantcheck.spec", "quantcheck.registry", "quantcheck.plan",
                "quantcheck.distribution"}]
        """
    )

    result = pytester.runpytest_subprocess("-p", "no:hypothesispytest")

    assert result.ret == pytest.ExitCode.OK, said(result)


@pytest.mark.parametrize(
    ("expression", "specs"),
    [
        ("ultra_low_bit", {"rtn-w2", "rtn-w3", "rtn-w4"}),
        ("canary", {"rtn-w8"}),
        ("bits(w=2)", {"rtn-w2"}),
        ("ultra_low_bit and not bits(w=4)", {"rtn-w2", "rtn-w3"}),
        ("quantcheck", {"rtn-w2", "rtn-w3", "rtn-w4", "rtn-w8", "rtn-w5"}),
    ],
)
def test_marks_select_gates(project: Project, expression: str, specs: set[str]) -> None:
    every = "rtn-w2,rtn-w3,rtn-w4,rtn-w5,rtn-w8"

    assert collected(project, "-m", expression, specs=every) == specs


@pytest.mark.parametrize(
    ("globs", "specs"),
    [
        ("rtn-w?", {"rtn-w2", "rtn-w3", "rtn-w4", "rtn-w8"}),
        ("rtn-w3*,gptq-w3*", {"rtn-w3", "rtn-w3-g128", "gptq-w3", "gptq-w3-g128"}),
        ("*-w3", {"rtn-w3", "gptq-w3", "awq-w3", "quip-w3"}),
        ("gptq-w8, rtn-w8", {"gptq-w8", "rtn-w8"}),
    ],
)
def test_globs_choose_specs_of_the_tier(project: Project, globs: str, specs: set[str]) -> None:
    assert collected(project, specs=globs) == specs


def test_fine_tuned_rows_of_a_model_without_instructions_are_left_out_and_told(project: Project) -> None:
    listed = project.run(LIST, specs="")
    assert "qlora" not in "".join(line for line in listed.outlines if line.startswith("tiny/"))
    matched(listed, "*left out, and qlora-w4, irqlora-w4 for want of --quantcheck-instructions*")
    asked = project.run(specs="qlora-w4")
    assert asked.ret == pytest.ExitCode.USAGE_ERROR


def test_an_exact_spec_is_added_although_the_tier_leaves_it_out(project: Project) -> None:
    assert collected(project, specs="rtn-w5-g16-sym") == {"rtn-w5-g16-sym"}
    assert collected(project, specs="rtn-w2,gptq-w3-g16-act_order") == {"rtn-w2", "gptq-w3-g16-act_order"}


def test_methods_are_chosen_by_glob(project: Project) -> None:
    assert all(spec.startswith("gptq-") for spec in collected(project, "--quantcheck-methods=gp*"))


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--quantcheck-specs=gpqt-w3-g128", "unknown method 'gpqt'; did you mean 'gptq'?"),
        ("--quantcheck-specs=rtn-w33*", "no spec of this tier matches 'rtn-w33*'; did you mean"),
        ("--quantcheck-specs=rtn-w9", "rtn supports 1, 2, 3, 4, 5, 6, 7, 8 weight bits, not 9"),
        ("--quantcheck-specs=rtn-w4-g0", "group_size must be 1 or more, got 0"),
        ("--quantcheck-specs=rtn-w4-g-1", "group_size in 'rtn-w4-g-1' must be 1 or more"),
        ("--quantcheck-specs=rtn", "'rtn' is no spec id"),
        ("--quantcheck-specs=gptq-w4-actorder", "gptq has no option 'actorder'"),
        (
            "--quantcheck-specs=rtn-w4,rtn-w4.0",
            "two specs with one id: 'rtn-w4' and 'rtn-w4.0' are both rtn-w4",
        ),
        ("--quantcheck-methods=gptq", "'rtn-w8' is asked for, but --quantcheck-methods leaves rtn out"),
        ("--quantcheck-methods=rtm", "no method matches 'rtm'; did you mean 'rtn'?"),
    ],
)
def test_a_choice_that_cannot_be_served_is_refused_with_a_hint(
    project: Project, option: str, sentence: str
) -> None:
    refused(project.run(option), sentence)


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (("-m", "ultra_low_bit"), f"left none of {len(GATES)} gates"),
        (("-k", "nothing_is_called_so"), "--quantcheck-list"),
        (("-m", "bits(w=16)"), "nothing is selected"),
    ],
)
def test_an_empty_selection_is_refused(project: Project, args: tuple[str, ...], hint: str) -> None:
    refused(project.run(*args), "nothing is selected", hint)


def test_a_mark_expression_with_a_fraction_is_refused(project: Project) -> None:
    assert project.run("-m", "bits(w=1.7)").ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize("arguments", ["3", "w=2.5", "w=0", "w=True", "w=3, x=1", ""])
def test_a_bits_mark_that_no_gate_can_have_is_refused(pytester: pytest.Pytester, arguments: str) -> None:
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.bits({arguments})\ndef test_mine(): pass\n",
    )

    result = pytester.runpytest_inprocess()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "mark bits takes one whole number w from 1 to 16" in said(result)


def test_the_suite_runs_by_its_module_name_in_any_folder(project: Project) -> None:
    result = project.run_apart("--pyargs", "quantcheck.suites", "-m", "canary", specs="*")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    matched(result, all_ended("NO_BASELINE", specs=4))  # the canaries of rtn, gptq, awq and smoothquant
    assert files(project.baselines).keys() == {"policy.toml"}
