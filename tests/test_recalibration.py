"""The noise of a tiny model's figures: measured on other batches and samples, once, and kept."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.tiny import save_tiny_llama

from quantcheck.artifact_facts import GAINS, OUTPUTS, ROWS, WEIGHTS
from quantcheck.cache import Cache
from quantcheck.errors import DataError
from quantcheck.metrics.catalog import MetricPlan, TextPlan, builtin_calibration, plan_metrics
from quantcheck.models.text import TextSource, Windows
from quantcheck.noise import Spread
from quantcheck.progress import Mode, Progress
from quantcheck.recalibration import measured_noise, recalibrated_figures
from quantcheck.runner import Runner
from quantcheck.spec import ModelSpec, QuantSpec

GPTQ, RTN = QuantSpec.parse("gptq-w4"), QuantSpec.parse("rtn-w4")
BUILTIN = ModelSpec.parse("builtin-llama")
METRICS = ("ppl/eval", "kld/eval", "top1/eval")


def prose(seed: int, characters: int) -> str:
    words = ["the", "grain", "of", "a", "small", "house", "weighs", "more", "than", "its", "shadow"]
    drawn = random.Random(seed)
    return " ".join(drawn.choice(words) for _ in range(characters))[:characters]


def runner_of(folder: Path, model: ModelSpec, calibration: str, seed: int = 0) -> Runner:
    (folder / "eval.txt").write_text(prose(1, 32 * 6 + 1))
    (folder / "calibration.txt").write_text(calibration)
    evaluation = TextSource("eval", folder / "eval.txt", bos="none", window=32)
    return Runner(
        Cache.open(folder / "cache"),
        Progress(sys.stderr, Mode.OFF),
        device="cpu",
        dtype="auto",
        seed=seed,
        plans={model.name: MetricPlan((TextPlan(evaluation),))},
        calibrations={model.name: TextSource("calibration", folder / "calibration.txt", None, "none", 4, 32)},
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return ModelSpec.parse(f"tiny={save_tiny_llama(tmp_path_factory.mktemp('model'))}")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, model: ModelSpec) -> Iterator[Runner]:
    """One for all tests that only read from it."""
    made = runner_of(tmp_path_factory.mktemp("runner"), model, prose(2, 32 * 12))
    yield made
    made.cache.close()


def test_a_method_that_reads_no_data_is_only_evaluated_again(runner: Runner, model: ModelSpec) -> None:
    found = measured_noise(runner, model, RTN, 3)
    assert tuple(found.evaluation) == tuple(found.shift) == METRICS
    assert all(0 <= change < 1e-4 for change in found.evaluation.values())
    assert found.evaluation["ppl/eval"] > 0  # also where batches of any size give the same bits
    assert found.recalibration == {}


def test_a_calibrated_method_moves_with_its_samples(runner: Runner, model: ModelSpec) -> None:
    found = measured_noise(runner, model, GPTQ, 2)
    figures = [runner.figures(model, GPTQ), *recalibrated_figures(runner, model, GPTQ, 2)]
    for name in METRICS:
        means = [each.measurements[name].mean for each in figures]
        assert found.recalibration[name] == Spread(pytest.approx(np.std(means, ddof=1)), 2)
        assert means[0] != means[1]
    layers = {name: spread for name, spread in found.recalibration.items() if name not in METRICS}
    assert {name: np.size(spread.deviation) for name, spread in layers.items()} == {
        WEIGHTS: 14,
        GAINS: 14,
        ROWS: 14,
        OUTPUTS: 2,
    }
    for spread in layers.values():
        assert 2 <= spread.freedom <= 2 * np.size(spread.deviation)
        assert np.min(spread.deviation) > 1e-5


def test_noise_is_measured_once(runner: Runner, model: ModelSpec) -> None:
    once, created = measured_noise(runner, model, GPTQ, 2), runner.cache.counts.created
    assert measured_noise(runner, model, GPTQ, 2) == once
    assert runner.cache.counts.created == created
    more = measured_noise(runner, model, GPTQ, 1)
    assert more.recalibration["ppl/eval"].freedom == 1 and more != once


def test_samples_are_others_and_the_last_has_another_order_and_seed(
    tmp_path: Path, model: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of(tmp_path, model, prose(2, 32 * 12))
    seen: list[tuple[Windows, int]] = []
    quantized = runner.quantized

    def spy(model: ModelSpec, spec: QuantSpec, windows: Windows, seed: int, *rest: Any) -> Any:
        seen.append((windows, seed))
        return quantized(model, spec, windows, seed, *rest)

    monkeypatch.setattr(runner, "quantized", spy)
    recalibrated_figures(runner, model, GPTQ, 2)
    accepted = runner.calibration(model)
    rows = [{row.tobytes() for row in windows.ids} for windows in (accepted, *(each for each, _ in seen))]
    assert [seed for _, seed in seen] == [0, 1]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]
    tokens = runner.tokenizer(model)(prose(2, 32 * 12))["input_ids"]
    third = np.array(tokens[256:384]).reshape(4, 32).tolist()
    assert seen[1][0].ids.tolist() != third
    assert sorted(seen[1][0].ids.tolist()) == sorted(third)


def test_samples_that_are_measured_on_are_refused(tmp_path: Path, model: ModelSpec) -> None:
    runner = runner_of(tmp_path, model, prose(2, 32 * 4) + prose(1, 32 * 6))
    assert len(runner.calibration(model)) == 4
    with pytest.raises(DataError, match=r"4 calibration windows of calibration\.txt occur in the text eval"):
        measured_noise(runner, model, GPTQ, 1)


def test_recalibrations_can_be_left_out(runner: Runner, model: ModelSpec) -> None:
    found = measured_noise(runner, model, GPTQ, 0)
    assert tuple(found.evaluation) == METRICS
    assert found.recalibration == {}


@pytest.mark.parametrize("when", ["before it is looked at", "before it is evaluated"])
def test_a_reference_that_was_written_to_is_told_and_loaded_anew(
    tmp_path: Path, model: ModelSpec, when: str
) -> None:
    runner = runner_of(tmp_path, model, prose(2, 32 * 12))
    touched = runner.loaded(model)
    if when == "before it is evaluated":
        assert runner.facts(model, RTN).reference_untouched is True
    touched.model.model.norm.weight.data[3] += 1
    facts = runner.figures(model, RTN).facts
    assert facts is not None and facts.reference_untouched is False
    assert runner.loaded(model) is not touched
    assert runner.facts(model, QuantSpec.parse("rtn-w8")).reference_untouched is True


def builtin_runner(folder: Path, *metrics: str) -> Runner:
    return Runner(
        Cache.open(folder),
        Progress(sys.stderr, Mode.OFF),
        device="cpu",
        dtype="auto",
        seed=0,
        plans={BUILTIN.name: plan_metrics(BUILTIN, "smoke").only(metrics)},
        calibrations={BUILTIN.name: builtin_calibration("smoke")},
    )


@pytest.mark.slow
def test_the_builtin_models_noise_is_small_against_what_quantizing_costs(tmp_path: Path) -> None:
    runner = builtin_runner(tmp_path, "ppl/encyclopedia", "kld/encyclopedia")
    spec = QuantSpec.parse("gptq-w3")
    found = measured_noise(runner, BUILTIN, spec, 3)
    cost = runner.figures(BUILTIN, spec).measurements["kld/encyclopedia"].mean
    assert found.evaluation["kld/encyclopedia"] < 1e-4
    spreads = {name: spread.deviation for name, spread in found.recalibration.items()}
    assert 0 < spreads["kld/encyclopedia"] < 0.2 * cost
    typical = {metric: float(np.median(spreads[metric])) for metric in (GAINS, WEIGHTS, OUTPUTS)}
    assert 0 < 5 * typical[GAINS] < typical[WEIGHTS] < 0.1
    assert 0 < typical[OUTPUTS] < 0.2


@pytest.mark.slow
def test_rounding_activations_makes_much_of_float_noise(tmp_path: Path) -> None:
    runner = builtin_runner(tmp_path, "ppl/encyclopedia")
    rounded, plain = (
        measured_noise(runner, BUILTIN, QuantSpec.parse(spec), 0).evaluation["ppl/encyclopedia"]
        for spec in ("rtn-w8a8", "rtn-w8")
    )
    assert plain < 1e-5
    assert 1e-4 < rounded < 1e-2
