"""Known failures of gates: green as listed and red otherwise, checked before the run, never accepted over."""

from __future__ import annotations

import pytest

from plugin.project import POLICY, Project, files, matched, refused

ENTRY = {
    "id": "tiny/rtn-w8/kld/eval",
    "tier": "smoke",
    "device": "cpu",
    "verdict": "BELOW_FLOOR",
    "reason": "scales are rounded",
    "issue": "https://github.com/mine/mine/issues/12",
}
WORKERS = pytest.mark.parametrize(
    "workers", [(), pytest.param(("-n2",), marks=pytest.mark.slow)], ids=["alone", "workers"]
)


def known(project: Project, **changes: str) -> None:
    """List one gate as a known failure."""
    lines = [f'{key} = "{value}"' for key, value in {**ENTRY, **changes}.items()]
    text = "\n".join(["schema = 1", "[[gate]]", *lines, ""])
    (project.baselines / "known.toml").write_text(text, encoding="utf-8")


def floor(project: Project, kld: str) -> None:
    """Let 8 bits lose so much KL divergence."""
    text = POLICY.replace("kld = 0.01, top1 = 0.2", f"kld = {kld}, top1 = 0.2", 1)
    (project.baselines / "policy.toml").write_text(text, encoding="utf-8")


@WORKERS
def test_a_gate_that_fails_as_listed_is_green_and_shown_with_its_issue(
    project: Project, workers: tuple[str, ...]
) -> None:
    floor(project, "1e-5")
    known(project)

    result = project.run("-k", "kld", *workers)

    assert result.ret == pytest.ExitCode.OK
    matched(
        result,
        "known failures (green as long as they end as listed):",
        f"BELOW_FLOOR  {ENTRY['id']}  scales are rounded  https://github.com/mine/mine/issues/12",
        "1 gates: 1 KNOWN",
    )
    record = project.gates()["rtn-w8/kld/eval"]
    assert (record["verdict"], record["known"]) == ("KNOWN", "BELOW_FLOOR")
    assert (record["known_reason"], record["known_issue"]) == (ENTRY["reason"], ENTRY["issue"])
    assert "worse than the reference" in record["reasons"][-1]


@WORKERS
def test_a_listed_gate_that_passes_is_red_until_its_entry_goes(
    project: Project, workers: tuple[str, ...]
) -> None:
    project.accept("-k", "kld")
    known(project)

    result = project.run("-k", "kld", *workers)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    matched(
        result,
        "STALE_KNOWN: kld/eval of tiny quantized by rtn-w8",
        "because    listed as BELOW_FLOOR in known.toml, and ended PASS: remove the entry",
        "known      as BELOW_FLOOR: scales are rounded (https://github.com/mine/mine/issues/12)",
        "now        remove its entry",
        "1 gates: 1 STALE_KNOWN",
    )


def test_a_gate_that_fails_otherwise_is_red_and_names_both_verdicts(project: Project) -> None:
    known(project, verdict="REGRESSED")

    result = project.run("-k", "kld")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    matched(
        result, "NO_BASELINE: kld/eval", "because    listed as REGRESSED in known.toml, and ended NO_BASELINE"
    )


@pytest.mark.parametrize("changes", [{"tier": "full"}, {"device": "cuda"}])
def test_an_entry_of_another_tier_or_device_excuses_nothing(
    project: Project, changes: dict[str, str]
) -> None:
    floor(project, "1e-5")
    known(project, **changes)

    assert project.run("-k", "kld").ret == pytest.ExitCode.TESTS_FAILED


def test_listed_gates_are_not_accepted_over(project: Project) -> None:
    known(project, verdict="REGRESSED")
    before = files(project.baselines)

    result = project.run("-k", "kld", "--snapshot-update")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.verdicts() == {"rtn-w8/kld/eval": "NO_BASELINE"}
    matched(result, "now        correct or remove its entry in known.toml: a listed gate is not accepted")
    assert files(project.baselines) == before


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "workers"])
def test_a_stale_entry_is_refused_before_the_run(project: Project, workers: tuple[str, ...]) -> None:
    known(project, id="tiny/rtn-w8/kld/gone")

    result = project.run(*workers)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    message = "known.toml: 'tiny/rtn-w8/kld/gone' names no gate of the smoke tier any more; remove the entry"
    assert message in result.stderr.str()


def test_an_entry_that_cannot_be_is_refused_before_the_run(project: Project) -> None:
    known(project, verdict="NO_BASELINE")
    refused(
        project.run(), "known.toml", "with verdict 'NO_BASELINE'; it takes NON_FINITE, BELOW_FLOOR, REGRESSED"
    )
    known(project, id="tiny/*/kld/eval")
    refused(project.run(), "known.toml", "'tiny/*/kld/eval' is no exact id")


def test_a_deselected_gate_makes_no_entry_stale(project: Project) -> None:
    known(project, id="tiny/rtn-w8/kld/eval")

    assert project.run("-k", "bpw", "--snapshot-update").ret == pytest.ExitCode.OK
