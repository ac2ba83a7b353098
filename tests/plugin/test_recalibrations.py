"""What accepting measures of a figure's noise: stored with it, and no gate claims less."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plugin.project import GATES, STORED, Project, entries
from quantcheck.judging.drift import HONEST
from quantcheck.statistics.band import reach


@pytest.fixture
def own(project: Project, tmp_path: Path) -> Project:
    """A project with a cache of its own."""
    return Project(project.pytester, project.model, tmp_path / "own-cache")


@pytest.mark.parametrize(
    "workers", [(), pytest.param(("-n2",), marks=pytest.mark.slow)], ids=["alone", "workers"]
)
def test_no_gate_claims_less_than_recalibrating_moved_it(own: Project, workers: tuple[str, ...]) -> None:
    own.run(specs="gptq-w3")
    policy = {name: gate["drift_margin"] for name, gate in own.gates().items()}

    own.accept("--quantcheck-recalibrations=2", *workers, specs="gptq-w3")
    own.run(*workers, specs="gptq-w3")

    stored = json.loads(own.baseline("gptq-w3").read_text(encoding="utf-8"))["figures"]
    assert [len(entries(own.cache, kind)) for kind in ("recalibration", "noise")] == [2, 1]
    for metric in GATES:
        figure, gate = stored[f"smoke {metric}"], own.gates()[f"gptq-w3/{metric}"]
        assert gate["verdict"] == "PASS"
        if metric == "bpw":  # counted: no calibration moves it
            assert "spread" not in figure
            continue
        layers = gate["n"] if metric in STORED else None
        if layers is None:
            assert figure["freedom"] == 2
            moves = reach(figure["spread"], 2, HONEST)
        else:
            assert 2 <= figure["freedom"] <= 2 * layers
            bands = reach(figure["spread"], figure["freedom"], HONEST / (2 * layers))
            assert len(bands) == layers
            moves = min(bands, key=lambda band: abs(band - gate["drift_margin"]))
        assert gate["drift_margin"] == moves > policy[f"gptq-w3/{metric}"]


def test_a_method_that_reads_no_data_is_measured_again_and_never_recalibrated(own: Project) -> None:
    own.accept("--quantcheck-recalibrations=2", specs="rtn-w3")

    stored = json.loads(own.baseline("rtn-w3").read_text(encoding="utf-8"))["figures"]
    assert not [name for name, figure in stored.items() if "spread" in figure]
    assert [len(entries(own.cache, kind)) for kind in ("recalibration", "noise")] == [0, 1]


def test_no_recalibration_leaves_the_margins_to_the_policy(own: Project) -> None:
    own.run(specs="gptq-w3")
    policy = {name: gate["drift_margin"] for name, gate in own.gates().items()}

    own.accept("--quantcheck-recalibrations=0", specs="gptq-w3")
    own.run(specs="gptq-w3")

    assert {name: gate["drift_margin"] for name, gate in own.gates().items()} == policy
    assert not entries(own.cache, "recalibration")


@pytest.mark.parametrize(("spec", "count"), [("rtn-w3", 4), ("gptq-w3", 0)])
def test_what_is_stored_is_accepted_without_evaluating_anything(own: Project, spec: str, count: int) -> None:
    own.accept("-k", "artifact", f"--quantcheck-recalibrations={count}", specs=spec)

    assert set(own.verdicts()) == {f"{spec}/{metric}" for metric in STORED if metric != "bpw"}
    assert [len(entries(own.cache, kind)) for kind in ("facts", "measurement", "noise")] == [1, 0, 0]


def test_a_method_that_fails_on_other_samples_is_not_accepted_and_ends_in_a_verdict(own: Project) -> None:
    own.pytester.makeconftest("""
        from quantcheck.errors import QuantizationError
        from quantcheck.methods.gptq import Gptq

        class Once(Gptq):
            calls = 0

            def quantize(self, *given, **named):
                Once.calls += 1
                if Once.calls > 1:
                    raise QuantizationError("the Hessian of this sample is singular")
                return super().quantize(*given, **named)

        def pytest_quantcheck_register_methods(methods):
            methods.register("once", Once(), methods.entry("gptq").capabilities, origin="conftest.py")
    """)
    own.run("--snapshot-update", "--quantcheck-recalibrations=1", specs="once-w4")

    assert set(own.verdicts().values()) == {"NOT_QUANTIZED"}
    assert "singular" in own.gates()["once-w4/kld/eval"]["reasons"][0]
    assert not own.baseline("once-w4").exists()
