"""The gates of models are worth what they catch: planted faults turn them red, each for its reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from models.tiny import save_tiny_llama
from plugin.project import POLICY, words

from mutants.model.bench import Bench
from mutants.model.fault import Fault, Kind
from mutants.model.faults import FAULTS
from mutants.model.sound import rerun
from mutants.model.trial import Trial

BY_NAME = {fault.name: fault for fault in FAULTS}
TASKS = re.compile("choices|item-|outcome-|key-|shots|prompts|first-token")
"""Faults in questions, which a model without tasks cannot have."""

# A fault, the gate that must notice, its verdict, and words of its reason.
CAUGHT = [
    ("code-top-bit", "artifact/weights", "REGRESSED", "are not the accepted ones bit for bit"),
    ("scales-5-percent", "artifact/weights", "REGRESSED", "are not the accepted ones bit for bit"),
    ("nibbles-one-layer", "artifact/outputs", "REGRESSED", "of 2 blocks is beyond its band"),
    ("layer-left-out", "bpw", "NOT_QUANTIZED", "1 of 14 decoder Linears are not quantized"),
    ("bos-doubled", "ppl/encyclopedia", "STALE_BASELINE", "items: accepted with"),
    ("temperature-1.05", "kld/encyclopedia", "STALE_BASELINE", "the evaluation changed, not the model"),
    ("reference-elsewhere", "ppl/encyclopedia", "STALE_BASELINE", "beside a full-precision mean of"),
    ("metric-vanished", "kld/encyclopedia", "NON_FINITE", "the metric produced no figure"),
]
REFUSED = [
    ("test-set", "calibration windows of calibration.txt occur in the text encyclopedia"),
    ("baseline-copied", "says inside that it is of bench, cpu, rtn-w4-g128"),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    save_tiny_llama(folder / "tiny")
    (folder / "encyclopedia.txt").write_text(words(1, 400), encoding="utf-8")
    (folder / "calibration.txt").write_text(words(2, 600), encoding="utf-8")
    texts = (
        f"--quantcheck-text={folder / 'encyclopedia.txt'}",
        f"--quantcheck-calibration={folder / 'calibration.txt'}",
        "--quantcheck-calibration-windows=4",
    )
    made = Bench(folder, model=f"bench={folder / 'tiny'}", options=texts, policy=POLICY)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CI", "PYTEST_ADDOPTS"):
            patch.delenv(name, raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield made


def accept(bench: Bench, *specs: str) -> None:
    """Accept the sound figures of specs, once."""
    for spec in specs:
        if not (bench.baselines / spec).is_dir():
            bench.accept(spec)


def struck(bench: Bench, fault: Fault) -> Trial:
    """Run a fault where the sound figures are accepted."""
    accept(bench, fault.spec, *fault.needs)
    return bench.strike(fault)


@pytest.mark.parametrize(("name", "metric", "verdict", "reason"), CAUGHT, ids=[each[0] for each in CAUGHT])
def test_a_fault_turns_its_gate_red(bench: Bench, name: str, metric: str, verdict: str, reason: str) -> None:
    found = struck(bench, BY_NAME[name])

    assert found.red[metric] == verdict
    assert reason in " ".join(found.reasons[metric])


@pytest.mark.parametrize(("name", "reason"), REFUSED, ids=[each[0] for each in REFUSED])
def test_a_fault_is_refused_before_anything_is_measured(bench: Bench, name: str, reason: str) -> None:
    found = struck(bench, BY_NAME[name])

    assert reason in found.refused
    assert not found.verdicts


@pytest.mark.parametrize("spec", ["rtn-w4", pytest.param("gptq-w4", marks=pytest.mark.slow)])
def test_a_sound_model_in_other_batches_and_another_order_is_green(bench: Bench, spec: str) -> None:
    accept(bench, spec)

    assert not bench.sound(spec, rerun(7)).caught


def test_a_trial_is_read_back_as_it_was(bench: Bench) -> None:
    found = struck(bench, BY_NAME["temperature-1.05"])
    again = Trial.loads(found.dumps())

    assert again.dumps() == found.dumps()
    assert (again.red, again.caught) == (found.red, True)


def test_faults_are_told_apart_and_there_is_enough_of_every_kind() -> None:
    assert len(BY_NAME) == len(FAULTS) >= 40
    for kind in Kind:
        assert sum(fault.kind is kind for fault in FAULTS) >= 8, kind


def test_the_document_has_a_row_for_every_fault_and_sums_what_its_rows_say(repository: Path) -> None:
    text = (repository / "docs" / "power.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]

    assert [(row[0], row[1], row[2]) for row in rows] == [
        (f"| `{fault.name}`", fault.what, f"`{fault.spec}`") for fault in FAULTS
    ]
    caught = sum("**missed**" not in row[5] for row in rows)
    assert f"| **quantcheck** | {caught} |" in text


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_can_be_planted(bench: Bench, fault: Fault) -> None:
    if fault.spec == "qlora-w4" or TASKS.match(fault.name):
        pytest.skip("the tiny model has neither instructions nor tasks")
    if "act_order" in fault.spec:
        pytest.skip("the tiny model has one group")

    struck(bench, fault)
