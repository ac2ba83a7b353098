"""Every option on the command line and in the ini file: what it takes, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plugin.project import GATES, Project, all_ended, entries, matched, refused
from quantcheck.options import OPTIONS

CHOSEN = [option for option in OPTIONS if option.choices]
COUNTED = [
    ("windows", "0"),
    ("window", "1"),
    ("calibration-windows", "0"),
    ("recalibrations", "-1"),
    ("seed", "-1"),
    ("windows", "many"),
    ("seed", "1.5"),
]


def ini(project: Project, *lines: str) -> None:
    project.pytester.makeini("\n".join(["[pytest]", *lines]))


def test_help_lists_every_option_and_ini_key(project: Project) -> None:
    text = project.pytester.runpytest_inprocess("--help").stdout.str()

    for option in OPTIONS:
        assert f"--quantcheck-{option.name}" in text
        assert option.flag or option.dest in text.replace("\n", "")


@pytest.mark.parametrize("option", CHOSEN, ids=lambda option: option.name)
def test_an_unknown_choice_is_refused_with_the_known_ones(project: Project, option: object) -> None:
    result = project.run(f"--quantcheck-{option.name}=nonsense")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert all(choice in result.stderr.str() for choice in option.choices)


@pytest.mark.parametrize("option", CHOSEN, ids=lambda option: option.name)
def test_an_unknown_choice_in_the_ini_file_is_refused(project: Project, option: object) -> None:
    ini(project, f"{option.dest} = nonsense")

    refused(project.run(), f"{option.dest} = 'nonsense'", *option.choices)


@pytest.mark.parametrize(("name", "value"), COUNTED)
def test_a_number_that_cannot_be_is_refused(project: Project, name: str, value: str) -> None:
    refused(project.run(f"--quantcheck-{name}={value}"), f"--quantcheck-{name}", "whole number", repr(value))


def test_every_setting_may_stand_in_the_ini_file(project: Project) -> None:
    ini(
        project,
        f"quantcheck_model = tiny={project.model}",
        "quantcheck_text = eval.txt",
        "quantcheck_calibration = calibration.txt",
        "quantcheck_calibration_windows = 4",
        "quantcheck_specs = rtn-w8",
        "quantcheck_seed = 7",
        f"quantcheck_cache = {project.cache}",
        "quantcheck_baselines = accepted",
        "quantcheck_report = json:report.json",
        "quantcheck_windows = 12",
        "quantcheck_window = 32",
        "quantcheck_dtype = bfloat16",
    )
    (project.path / "accepted").mkdir()
    (project.baselines / "policy.toml").rename(project.path / "accepted" / "policy.toml")

    result = project.pytester.runpytest_inprocess("--snapshot-update")

    assert result.ret == pytest.ExitCode.OK
    matched(result, f"collected {len(GATES)} items", "dtype bfloat16 | seed 7", all_ended("PASS"))
    assert (project.path / "accepted" / "tiny" / "cpu" / "rtn-w8.json").is_file()
    assert project.report()["header"]["seed"] == 7
    gate = project.gates()["rtn-w8/ppl/eval"]
    assert (gate["n"], gate["dtype"]) == (12, "bfloat16")
    assert "12 contiguous windows of 32" in gate["protocol"]


def test_the_command_line_overrides_the_ini_file(project: Project) -> None:
    ini(project, "quantcheck_seed = 7", "quantcheck_tier = full")

    result = project.run("--quantcheck-seed=8", "--quantcheck-tier=smoke", "--collect-only")

    matched(result, "tier smoke *seed 8")


def test_the_header_says_what_is_under_test(project: Project) -> None:
    result = project.run("--collect-only", "--quantcheck-methods=rtn", specs="*")

    matched(
        result,
        f"quantcheck *: tiny ({project.model}) | tier smoke | device auto | dtype auto | seed 20240414",
        f"quantcheck matrix: 7 specs of rtn, {7 * len(GATES)} gates, 0 unsupported combinations left out",
        f"quantcheck baselines: {project.baselines} | policy *policy.toml | cache {project.cache}",
    )


def test_a_run_without_gates_shows_the_version_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_other(): pass")

    result = pytester.runpytest_inprocess("-p", "no:warnings")

    assert result.ret == pytest.ExitCode.OK
    assert [line for line in result.outlines if "quantcheck" in line and "plugins:" not in line] == [
        line for line in result.outlines if line.startswith("quantcheck 0.")
    ]


def test_windows_and_window_bound_what_is_measured(project: Project) -> None:
    project.run("--quantcheck-windows=3", "--quantcheck-window=40")

    gate = project.gates()["rtn-w8/ppl/eval"]
    assert gate["n"] == 3
    assert "3 contiguous windows of 40" in gate["protocol"]


def test_separator_and_bos_rule_are_recorded_with_the_figure(project: Project) -> None:
    (project.path / "eval.txt").write_text("a fox sings\n###\nold birds run\n###\n" * 20, encoding="utf-8")

    project.run(r"--quantcheck-text-separator=\n###\n", "--quantcheck-text-bos=none")

    protocol = project.gates()["rtn-w8/ppl/eval"]["protocol"]
    assert r"documents split at '\n###\n', stripped, no BOS" in protocol


def test_the_tier_decides_which_specs_there_are(project: Project) -> None:
    def specs(tier: str) -> int:
        result = project.run("--collect-only", "-q", f"--quantcheck-tier={tier}", specs="rtn-*")
        return sum("/bpw]" in line for line in result.outlines)

    assert specs("smoke") < specs("standard") < specs("full")


@pytest.mark.parametrize(("dtype", "shown"), [("auto", "float32"), ("float16", "float16")])
def test_the_dtype_is_computed_in_and_recorded(project: Project, dtype: str, shown: str) -> None:
    project.run(f"--quantcheck-dtype={dtype}", "--quantcheck-device=cpu")

    gate = project.gates()["rtn-w8/ppl/eval"]
    assert (gate["dtype"], gate["device"]) == (shown, "cpu")


def test_require_refuses_a_package_that_is_not_there(project: Project) -> None:
    refused(project.run("--quantcheck-require=no-such-package"), "no-such-package", "pip install")


def test_require_accepts_what_is_there(project: Project) -> None:
    assert project.run("--quantcheck-require=safetensors", "--collect-only").ret == pytest.ExitCode.OK


def test_require_cuda_refuses_a_machine_without_a_gpu(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    refused(project.run("--quantcheck-require=cuda"), "--quantcheck-require cuda", "no GPU")


def test_a_device_that_is_not_there_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    refused(project.run("--quantcheck-device=cuda"), "cuda")


def test_paths_in_the_ini_file_are_relative_to_it_and_those_of_the_command_line_to_where_one_stands(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    ini(
        project,
        f"quantcheck_model = tiny={project.model}",
        "quantcheck_text = eval.txt",
        f"quantcheck_cache = {project.cache}",
    )
    (project.path / "below").mkdir()
    monkeypatch.chdir(project.path / "below")

    result = project.pytester.runpytest_inprocess(
        "..", "--quantcheck-specs=rtn-w8", "--quantcheck-report=json:here.json", "--snapshot-update"
    )

    assert result.ret == pytest.ExitCode.OK
    assert (project.path / "below" / "here.json").is_file()
    assert project.baseline().is_file()


def test_cache_off_leaves_nothing_behind(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(project.path / "tmp"))

    project.run("--quantcheck-cache=off")

    assert not [path for path in (project.path / "tmp").iterdir() if path.is_dir()]
    assert not (project.path / ".cache").exists()


def test_the_default_cache_lies_in_the_users_cache_folder(project: Project) -> None:
    project.pytester.runpytest_inprocess(*project.options[:5], "--quantcheck-specs=rtn-w8")

    home = Path(os.environ["HOME"])
    assert home == project.path
    assert len(entries(home / ".cache" / "quantcheck", "artifact")) == 1


def test_two_models_with_one_name_are_refused(project: Project) -> None:
    refused(
        project.run(f"--quantcheck-model=tiny={project.path}"), "two models are called 'tiny'", "NAME=PATH"
    )


def test_a_model_that_cannot_be_named_is_refused(project: Project) -> None:
    refused(project.run("--quantcheck-model=.../..."), "name")


@pytest.mark.parametrize(
    ("report", "cause"),
    [
        ("html:x", "KIND one of json"),
        ("report.json", "KIND:PATH"),
        ("json:", "KIND:PATH"),
        ("json:.", "is a folder"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused(project: Project, report: str, cause: str) -> None:
    refused(project.run(f"--quantcheck-report={report}"), cause)


def test_a_mistake_in_the_ini_file_is_one_sentence_without_a_traceback(project: Project) -> None:
    ini(project, "quantcheck_specs = rtn-w9", "quantcheck_report = json:report.json")

    result = project.pytester.runpytest_inprocess()

    refused(result, "rtn-w9: rtn supports")
    assert not (project.path / "report.json").exists()


def test_a_mistake_in_the_ini_file_spares_runs_without_gates(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nquantcheck_tier = nonsense\n")
    pytester.makepyfile("def test_other(): pass")

    assert pytester.runpytest_inprocess().ret == pytest.ExitCode.OK
    assert pytester.runpytest_subprocess("-n1").ret == pytest.ExitCode.OK
