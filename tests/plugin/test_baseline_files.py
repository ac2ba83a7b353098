"""Baseline files that no longer fit the run, are damaged, or hold more or less than what is measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models.tiny import tiny_tokenizer
from mutants.methods import Sound
from tokenizers import pre_tokenizers
from transformers import LlamaForCausalLM

from plugin.project import GATES, STORED, Project, matched, refused, words
from quantcheck.measurement import Measurement
from quantcheck.metrics.measure import measure

REACCEPT = "restore it from version control, or delete it and accept the figures anew with --snapshot-update"


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a baseline file holds."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def assert_stale(
    project: Project, result: pytest.RunResult, *differences: str, metric: str = "ppl/eval"
) -> None:
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    gate = project.gates()[f"rtn-w8/{metric}"]
    assert gate["verdict"] == "STALE_BASELINE"
    said = "; ".join(gate["reasons"])
    assert all(difference in said for difference in differences), said


def test_another_seed_makes_a_baseline_stale(project: Project) -> None:
    project.accept()

    result = project.run("--quantcheck-seed=5")

    assert_stale(project, result, "seed: accepted with 20240414, now 5")
    matched(
        result,
        "STALE_BASELINE: ppl/eval of tiny",
        "because * seed: accepted with 20240414, now 5",
        "now * the accepted figure is of another setting: rerun under that setting, or accept this one",
    )


def test_another_dtype_makes_a_baseline_stale(project: Project) -> None:
    project.accept()

    assert_stale(
        project, project.run("--quantcheck-dtype=bfloat16"), "dtype: accepted with 'float32', now 'bfloat16'"
    )


def test_another_text_makes_a_baseline_stale(project: Project) -> None:
    project.accept()
    (project.path / "eval.txt").write_text(words(9, 400), encoding="utf-8")

    result = project.run()

    assert_stale(project, result, "items: accepted with")
    assert project.gates()["rtn-w8/bpw"]["verdict"] == "PASS"


def test_other_windows_make_a_baseline_stale(project: Project) -> None:
    project.accept()

    result = project.run("--quantcheck-windows=4")

    assert_stale(
        project, result, "items: accepted with", "protocol: accepted with", "now 'mean NLL of each window"
    )


def test_another_calibration_makes_a_calibrated_baseline_stale(project: Project) -> None:
    project.accept(specs="gptq-w8,rtn-w8")
    (project.path / "calibration.txt").write_text(words(8, 200), encoding="utf-8")

    project.run(specs="gptq-w8,rtn-w8")

    assert project.verdicts()["gptq-w8/ppl/eval"] == "STALE_BASELINE"
    assert project.verdicts()["rtn-w8/ppl/eval"] == "PASS"


def test_another_model_under_the_same_name_makes_a_baseline_stale(project: Project, other: Path) -> None:
    project.accept()

    result = project.pytester.runpytest_inprocess(
        f"--quantcheck-model=tiny={other}", *project.options[1:], "--quantcheck-specs=rtn-w8"
    )

    assert_stale(project, result, "model: accepted with")


def test_another_tokenizer_makes_a_baseline_stale(project: Project) -> None:
    project.accept()
    copy = shutil.copytree(project.model, project.path / "copy")
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.save_pretrained(copy)

    result = project.pytester.runpytest_inprocess(
        f"--quantcheck-model=tiny={copy}", *project.options[1:], "--quantcheck-specs=rtn-w8"
    )

    assert_stale(project, result, "tokenizer: accepted with", "items: accepted with")


def test_another_version_of_the_method_makes_a_baseline_stale(project: Project) -> None:
    class Newer(Sound):
        version = 2

    project.accept(specs="mine-w8", methods={"mine": Sound()})

    project.run(specs="mine-w8", methods={"mine": Newer()})

    reasons = project.gates()["mine-w8/ppl/eval"]["reasons"]
    assert reasons == ["method_version: accepted with 1, now 2"]


def test_a_stale_baseline_is_accepted_anew_and_leaves_no_trace_of_the_old(project: Project) -> None:
    project.accept()
    project.accept("--quantcheck-seed=5")

    content = json.loads(project.baseline().read_text(encoding="utf-8"))
    assert [entry["basis"]["seed"] for entry in content["made"].values()] == [5]
    assert project.run("--quantcheck-seed=5").ret == pytest.ExitCode.OK


def test_each_tier_keeps_its_own_figures(project: Project) -> None:
    project.accept()
    smoke = project.baseline().read_text(encoding="utf-8")

    standard = project.run("--quantcheck-tier=standard")
    project.accept("--quantcheck-tier=standard")

    assert standard.ret == pytest.ExitCode.TESTS_FAILED
    content = project.baseline().read_text(encoding="utf-8")
    assert all(line.rstrip(",") in content for line in smoke.splitlines() if line.startswith('"smoke'))
    assert content.count('"standard ') == len(GATES)
    assert project.run().ret == pytest.ExitCode.OK


DAMAGE: dict[str, tuple[Callable[[str], str], str]] = {
    "truncated": (lambda text: text[: len(text) // 2], "is damaged"),
    "empty": (lambda text: "", "is damaged"),
    "no object": (lambda text: "[]", "has schema None"),
    "another schema": (lambda text: text.replace('"schema": 1', '"schema": 2'), "has schema 2, this version"),
    "edited to NaN": (lambda text: text.replace('"mean": ', '"mean": NaN, "old": ', 1), "NaN is no figure"),
    "edited to a word": (lambda text: text.replace('"mean": ', '"mean": "nan", "old": ', 1), "is damaged"),
    "of another spec": (lambda text: text.replace("rtn-w8", "rtn-w4"), "it was copied or renamed"),
    "of another model": (
        lambda text: text.replace('"model": "tiny"', '"model": "big"'),
        "of big, cpu, rtn-w8",
    ),
    "without provenance": (lambda text: text.replace('"basis"', '"bases"'), "is damaged"),
    "unknown kind": (lambda text: text.replace("smoke ppl/", "smoke mos/"), "unknown kind"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_baseline_is_refused_before_anything_runs(project: Project, damage: str) -> None:
    project.accept()
    path = project.baseline()
    change, cause = DAMAGE[damage]
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    refused(project.run(), str(path), cause)


def test_a_damaged_baseline_is_refused_though_an_update_is_asked_for(project: Project) -> None:
    project.accept()
    project.baseline().write_text("{", encoding="utf-8")

    refused(project.run("--snapshot-update"), str(project.baseline()), REACCEPT)
    assert project.baseline().read_text(encoding="utf-8") == "{"


def test_a_baselines_folder_that_is_a_file_is_refused(project: Project) -> None:
    path = project.path / "figures"
    path.write_text("", encoding="utf-8")

    refused(project.run(f"--quantcheck-baselines={path}"), str(path))


def test_a_figure_deleted_by_hand_is_missed(project: Project) -> None:
    project.accept()
    edit(project.baseline(), lambda content: content["figures"].pop("smoke kld/eval"))

    result = project.run()

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    others = {f"rtn-w8/{metric}": "PASS" for metric in GATES}
    assert project.verdicts() == {**others, "rtn-w8/kld/eval": "NO_BASELINE"}


def test_an_accepted_metric_that_nothing_measures_any_more_is_red(project: Project) -> None:
    project.accept()
    edit(
        project.baseline(),
        lambda content: content["figures"].update({"smoke acc/eval": content["figures"]["smoke top1/eval"]}),
    )

    result = project.run()

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.verdicts()["rtn-w8/acc/eval"] == "NON_FINITE"
    matched(result, "NON_FINITE: acc/eval of tiny", "because * the metric produced no figure: it vanished")
    assert project.run("--snapshot-update").ret == pytest.ExitCode.TESTS_FAILED


def test_a_metric_that_vanishes_is_red_in_a_users_own_test_too(project: Project) -> None:
    project.pytester.makepyfile(
        test_gates="def test_mine(quantized_model, gate): gate(quantized_model('rtn-w8'))"
    )
    project.accept()
    edit(
        project.baseline(),
        lambda content: content["figures"].update({"smoke acc/eval": content["figures"]["smoke top1/eval"]}),
    )

    assert project.run().ret == pytest.ExitCode.TESTS_FAILED
    assert project.verdicts()["rtn-w8/acc/eval"] == "NON_FINITE"


def test_a_metric_whose_code_returns_nothing_is_red(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def without_divergence(*args: Any, **kwargs: Any) -> dict[str, Measurement]:
        return {name: value for name, value in measure(*args, **kwargs).items() if not name.startswith("kld")}

    project.accept()
    monkeypatch.setattr("quantcheck.runner.measure", without_divergence)

    result = project.run(f"--quantcheck-cache={tmp_path}")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.verdicts()["rtn-w8/kld/eval"] == "NON_FINITE"
    assert project.verdicts()["rtn-w8/ppl/eval"] == "PASS"


def test_a_non_finite_figure_is_never_stored(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def not_a_number(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits * float("nan")
        return output

    forward = LlamaForCausalLM.forward
    monkeypatch.setattr(LlamaForCausalLM, "forward", not_a_number)

    result = project.run("--snapshot-update", f"--quantcheck-cache={tmp_path}")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.verdicts()["rtn-w8/ppl/eval"] == "NON_FINITE"
    assert project.gates()["rtn-w8/ppl/eval"]["value"] == "nan"
    stored = json.loads(project.baseline().read_text(encoding="utf-8"))
    assert set(stored["figures"]) == {f"smoke {metric}" for metric in STORED}


def test_a_policy_that_covers_no_cell_is_refused(project: Project) -> None:
    policy = (project.baselines / "policy.toml").read_text(encoding="utf-8")
    (project.baselines / "policy.toml").write_text(policy.replace('["*"]', '["gptq-*"]'), encoding="utf-8")

    refused(project.run(specs="rtn-w3"), "policy.toml", "no cell covers rtn-w3")


def test_a_policy_without_reasons_is_refused(project: Project) -> None:
    (project.baselines / "policy.toml").write_text('schema = 1\n[[cell]]\nspecs = ["*"]\nstatus = "usable"\n')

    refused(project.run(), "policy.toml", "every cell needs a reason")
