"""The life of a baseline: nothing accepted, accepted, unchanged, changed, accepted anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mutants.methods import ScalesOff, Sound

from plugin.project import GATES, POLICY, Project, all_ended, files, matched, refused, said

ACCEPT = "review the figures, then accept them with the same command and --snapshot-update"


def test_a_first_run_is_red_and_prints_how_to_accept(project: Project) -> None:
    result = project.run()

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=len(GATES))
    assert set(project.verdicts().values()) == {"NO_BASELINE"}
    matched(
        result,
        "NO_BASELINE: bpw of tiny quantized by rtn-w8 (smoke tier)",
        f"now * {ACCEPT}",
        all_ended("NO_BASELINE"),
        "No baseline yet for tiny: review * then accept with the same command and --snapshot-update.",
    )
    assert files(project.baselines).keys() == {"policy.toml"}


def test_accepting_prints_old_and_new_and_makes_the_next_run_green(project: Project) -> None:
    accepted = project.run("--snapshot-update")

    assert accepted.ret == pytest.ExitCode.OK
    accepted.assert_outcomes(passed=len(GATES))
    matched(
        accepted,
        "accepted tiny/rtn-w8/bpw (smoke): none -> 9.167",
        all_ended("PASS"),
    )
    before = files(project.baselines)

    rerun = project.run()

    assert rerun.ret == pytest.ExitCode.OK
    rerun.assert_outcomes(passed=len(GATES))
    assert set(project.verdicts().values()) == {"PASS"}
    rerun.stdout.no_fnmatch_line("*accepted*")
    assert files(project.baselines) == before


def test_a_broken_method_turns_red_and_the_message_names_the_gate(project: Project) -> None:
    project.accept(specs="mine-w3,rtn-w3", methods={"mine": Sound()})

    changed = project.run(specs="mine-w3,rtn-w3", methods={"mine": ScalesOff()})

    assert changed.ret == pytest.ExitCode.TESTS_FAILED
    assert project.gates()["mine-w3/kld/eval"]["verdict"] == "REGRESSED"
    matched(
        changed,
        "REGRESSED: kld/eval of tiny quantized by mine-w3 (smoke tier)",
        "because * worse than the accepted baseline, the drift margin is 0.01",
        "now * mend what changed since the baseline; if the loss is intended, accept it",
        "REGRESSED *tiny/mine-w3/kld/eval",
    )
    assert {gate["verdict"] for name, gate in project.gates().items() if "rtn-w3" in name} == {"PASS"}


def test_a_loss_beyond_the_floor_is_not_stored_even_when_asked(project: Project) -> None:
    project.accept(specs="mine-w8", methods={"mine": Sound()})
    before = files(project.baselines)

    changed = project.run("--snapshot-update", specs="mine-w8", methods={"mine": ScalesOff()})

    assert changed.ret == pytest.ExitCode.TESTS_FAILED
    assert project.gates()["mine-w8/kld/eval"]["verdict"] == "BELOW_FLOOR"
    matched(
        changed,
        "because * worse than the reference, * at least, the floor allows 0.01",
        "now * never moves a floor",
    )
    kept = [line for line in before["tiny/cpu/mine-w8.json"].decode().splitlines() if "kld/eval" in line]
    assert kept[0] in project.baseline("mine-w8").read_text(encoding="utf-8")


def test_an_intended_loss_is_accepted_and_shown_old_to_new(project: Project) -> None:
    project.accept(specs="mine-w3", methods={"mine": Sound()})
    old = project.gates()["mine-w3/kld/eval"]["value"]

    result = project.run("--snapshot-update", specs="mine-w3", methods={"mine": ScalesOff()})

    assert result.ret == pytest.ExitCode.OK
    matched(result, f"accepted tiny/mine-w3/kld/eval (smoke): {old:.4g} -> *")
    assert project.run(specs="mine-w3", methods={"mine": ScalesOff()}).ret == pytest.ExitCode.OK


def test_an_improvement_is_green_and_asks_for_a_new_baseline(project: Project) -> None:
    project.accept(specs="mine-w3", methods={"mine": ScalesOff()})
    before = files(project.baselines)

    result = project.run("-k", "not artifact", specs="mine-w3", methods={"mine": Sound()})

    assert result.ret == pytest.ExitCode.OK
    assert project.gates()["mine-w3/kld/eval"]["verdict"] == "IMPROVED"
    matched(
        result,
        "IMPROVED tiny/mine-w3/kld/eval: * better than the accepted baseline, *0.01: accept a new baseline",
    )
    assert files(project.baselines) == before


def test_accepting_within_the_margin_leaves_the_file_alone(project: Project) -> None:
    project.accept()
    path = project.baseline()
    text = path.read_text(encoding="utf-8")
    figure = json.loads(text)["figures"]["smoke ppl/eval"]["mean"]
    path.write_text(text.replace(str(figure), str(figure + 0.00005)), encoding="utf-8")
    moved = path.read_bytes()

    result = project.run("--snapshot-update")

    assert result.ret == pytest.ExitCode.OK
    assert path.read_bytes() == moved != text.encode()


def test_another_artifact_of_a_method_that_reads_no_data_is_red_even_where_it_is_better(
    project: Project,
) -> None:
    project.accept(specs="mine-w3", methods={"mine": ScalesOff()})

    result = project.run("-k", "weights", specs="mine-w3", methods={"mine": Sound()})

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    matched(
        result,
        "REGRESSED: artifact/weights",
        "because * are not the accepted ones bit for bit, model.layers.0",
    )


def test_figures_are_accepted_together_with_the_artifact_that_they_are_of(project: Project) -> None:
    project.accept(specs="mine-w3", methods={"mine": Sound()})
    old = project.gates()["mine-w3/ppl/eval"]["artifact"]

    project.accept(specs="mine-w3", methods={"mine": ScalesOff()})

    assert project.gates()["mine-w3/ppl/eval"]["artifact"] != old
    assert old not in project.baseline("mine-w3").read_text(encoding="utf-8")


def test_accepting_one_model_leaves_anothers_files_as_they_are(project: Project, other: Path) -> None:
    project.accept(specs="rtn-w8,rtn-w3")
    before = files(project.baselines / "tiny")

    result = project.pytester.runpytest_inprocess(
        *project.options[1:],
        f"--quantcheck-model=other={other}",
        "--quantcheck-specs=rtn-w4",
        "--snapshot-update",
    )

    assert result.ret == pytest.ExitCode.OK
    assert files(project.baselines / "tiny") == before
    assert files(project.baselines / "other").keys() == {"cpu/rtn-w4.json"}


def test_accepting_one_spec_leaves_the_others_files_as_they_are(project: Project) -> None:
    project.accept(specs="rtn-w8,rtn-w3")
    before = files(project.baselines / "tiny")

    project.accept("-k", "kld", specs="rtn-w4")

    after = files(project.baselines / "tiny")
    assert {name: after[name] for name in before} == before
    assert list(json.loads(after["cpu/rtn-w4.json"])["figures"]) == ["smoke kld/eval"]


@pytest.mark.parametrize("ci", ["true", "1"])
def test_accepting_is_refused_under_ci_unless_allowed_by_name(
    project: Project, monkeypatch: pytest.MonkeyPatch, ci: str
) -> None:
    monkeypatch.setenv("CI", ci)

    refused(project.run("--snapshot-update"), "refused under CI", "--quantcheck-update-in-ci")
    assert not project.baseline().exists()

    assert project.run("--snapshot-update", "--quantcheck-update-in-ci").ret == pytest.ExitCode.OK
    assert project.baseline().exists()


def test_ci_set_to_false_is_no_ci(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "false")

    assert project.run("--snapshot-update").ret == pytest.ExitCode.OK


def test_accepting_is_refused_under_ci_for_a_users_own_test(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    project.pytester.makepyfile(
        test_gates="def test_mine(quantized_model, gate): gate(quantized_model('rtn-w8'))"
    )
    project.pytester.makeini(
        f"[pytest]\nquantcheck_model = {project.model}\nquantcheck_text = eval.txt\n"
        f"quantcheck_cache = {project.cache}\n"
    )

    refused(project.pytester.runpytest_inprocess("--snapshot-update"), "refused under CI")
    assert not project.baseline().exists()


def test_the_packaged_baselines_are_a_fallback_and_never_written_to(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project.accept(specs="mine-w3", methods={"mine": Sound()})
    packaged = tmp_path / "packaged"
    project.baselines.rename(packaged)
    (packaged / "policy.toml").write_text(POLICY, encoding="utf-8")
    monkeypatch.setattr("quantcheck.options._packaged", lambda _: packaged)
    before = files(packaged)

    assert project.run(specs="mine-w3", methods={"mine": Sound()}).ret == pytest.ExitCode.OK
    project.accept(specs="mine-w3", methods={"mine": ScalesOff()})

    assert files(packaged) == before
    assert project.baseline("mine-w3").is_file()
    assert project.run(specs="mine-w3", methods={"mine": ScalesOff()}).ret == pytest.ExitCode.OK


def test_without_a_folder_named_baselines_lie_below_the_root(project: Project) -> None:
    result = project.pytester.runpytest_inprocess(
        *project.options[:5],
        "--quantcheck-specs=rtn-w8",
        "--snapshot-update",
        f"--quantcheck-cache={project.cache}",
    )

    assert result.ret == pytest.ExitCode.OK, said(result)
    assert (project.path / "baselines" / "tiny" / "cpu" / "rtn-w8.json").is_file()
