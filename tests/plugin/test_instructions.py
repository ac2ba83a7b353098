"""``--quantcheck-instructions``: who needs it, what it must hold, and that a tuned model is gated."""

from __future__ import annotations

import importlib.util
import json

import pytest

from plugin.project import Project, refused
from quantcheck.methods.parts.linear4bit import import_bitsandbytes

ROWS = [
    {"instruction": f"Say {word}.", "input": "", "output": word} for word in ("one", "two", "three", "four")
]
SPEC = "qlora-w4-rank=2-steps=1"


@pytest.fixture(scope="module")
def imported() -> None:
    """What imports only once, before pytester notes what is to be forgotten after a test."""
    import_bitsandbytes()


@pytest.fixture
def with_pairs(imported: None, project: Project) -> Project:
    (project.path / "pairs.json").write_text(json.dumps(ROWS), encoding="utf-8")
    return project


def test_a_tuned_model_is_gated_and_the_cache_knows_its_instructions(with_pairs: Project) -> None:
    option = "--quantcheck-instructions=pairs.json"
    with_pairs.accept(option, specs=SPEC)
    again = with_pairs.run(option, specs=SPEC)
    assert again.ret == pytest.ExitCode.OK, again.stdout.str()
    (with_pairs.path / "pairs.json").write_text(json.dumps(ROWS[:3]), encoding="utf-8")
    stale = with_pairs.run(option, specs=SPEC)
    assert stale.ret == pytest.ExitCode.TESTS_FAILED
    stale.stdout.fnmatch_lines(["STALE_BASELINE: bpw of tiny*", "*because    calibration: accepted with*"])


def test_a_tuned_method_without_instructions_is_refused(project: Project) -> None:
    refused(project.run(specs=SPEC), f"{SPEC} on tiny is fine-tuned", "--quantcheck-instructions FILE")


def test_instructions_that_cannot_be_used_are_refused_before_anything_runs(with_pairs: Project) -> None:
    (with_pairs.path / "pairs.json").write_text('{"prompt": "Say."}', encoding="utf-8")
    refused(
        with_pairs.run("--quantcheck-instructions=pairs.json", specs=SPEC),
        "instructions pairs.json: object 1 has no text 'instruction'",
    )


def test_they_are_not_asked_for_where_nothing_is_tuned(project: Project) -> None:
    assert project.run("--quantcheck-instructions=absent.json", "--snapshot-update").ret == 0


@pytest.mark.parametrize("package", ["peft", "bitsandbytes"])
def test_a_package_that_training_needs_is_named_before_anything_runs(
    with_pairs: Project, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else find_spec(name, *rest)
    )
    refused(
        with_pairs.run("--quantcheck-instructions=pairs.json", specs=SPEC),
        f"fine-tuned with {package}",
        "pip install 'quantcheck[finetune]'",
    )
