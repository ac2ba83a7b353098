"""A user's project in a folder of its own: a tiny model, texts, one test file, and `pytest` run in it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SUITE = "from quantcheck.suites.test_language import test_gate\n"
WORDS = "the a small fox runs over hills and rivers while seven old birds sing about rain in autumn".split()

STORED = ("artifact/weights", "artifact/gains", "artifact/rows", "artifact/outputs", "bpw")
MEASURED = ("ppl/eval", "kld/eval", "top1/eval")
GATES = (*STORED, *MEASURED)
"""What is gated of each spec of the tiny model, in this order."""

POLICY = """
schema = 1

[[cell]]
specs = ["*-w8*"]
status = "usable"
floor = { ppl = 1.02, acc = 0.2, kld = 0.01, top1 = 0.2, bpw = 2.0 }
drift = { ppl = 1.002, acc = 0.02, kld = 0.001, top1 = 0.02, bpw = 0.001, artifact = 1.02 }
reason = "eight bits keep what the model knows"

[[cell]]
specs = ["*"]
status = "collapsed"
drift = { ppl = 1.01, acc = 0.02, kld = 0.01, top1 = 0.02, bpw = 0.001, artifact = 1.02 }
reason = "a random model has nothing to lose"
"""


def words(seed: int, count: int) -> str:
    """``count`` words in an order of their own, a little over five bytes each."""
    choose = random.Random(seed)
    return " ".join(choose.choice(WORDS) for _ in range(count)) + "\n"


@dataclass(frozen=True)
class Methods:
    """A plugin that registers methods by name, as a conftest would."""

    targets: dict[str, Any]

    def pytest_quantcheck_register_methods(self, methods: Any) -> None:
        from quantcheck.registry import Capabilities

        for name, target in self.targets.items():
            methods.register(name, target, Capabilities(bits=(2, 3, 4, 8)), origin="a test")


@dataclass(frozen=True)
class Project:
    """Where `pytest` runs with every file of its own, and what it runs with."""

    pytester: pytest.Pytester
    model: Path
    cache: Path

    @property
    def path(self) -> Path:
        return self.pytester.path

    @property
    def baselines(self) -> Path:
        return self.path / "baselines"

    @property
    def options(self) -> list[str]:
        """The options that name the model, its texts and the folders; accepting recalibrates nothing."""
        return [
            f"--quantcheck-model=tiny={self.model}",
            "--quantcheck-text=eval.txt",
            "--quantcheck-calibration=calibration.txt",
            "--quantcheck-calibration-windows=4",
            "--quantcheck-recalibrations=0",
            *self.folders,
        ]

    @property
    def folders(self) -> list[str]:
        """The options that keep a run inside this project."""
        return [
            f"--quantcheck-cache={self.cache}",
            f"--quantcheck-baselines={self.baselines}",
            "--quantcheck-report=json:report.json",
        ]

    def run(
        self, *args: str, specs: str = "rtn-w8", methods: dict[str, Any] | None = None
    ) -> pytest.RunResult:
        """Gate ``specs`` of the tiny model in this process; later options override earlier ones."""
        return self.pytester.runpytest_inprocess(
            *("-p", "no:unraisableexception"),  # it collects garbage five times, half a second each run
            *self.options,
            f"--quantcheck-specs={specs}",
            *args,
            plugins=[Methods(methods or {})],
            no_reraise_ctrlc=True,
        )

    def run_apart(self, *args: str, specs: str = "rtn-w8") -> pytest.RunResult:
        """The same in a process of its own."""
        return self.pytester.runpytest_subprocess(*self.options, f"--quantcheck-specs={specs}", *args)

    def accept(self, *args: str, **kwargs: Any) -> None:
        """Accept the figures of a run as the baseline."""
        result = self.run("--snapshot-update", *args, **kwargs)
        assert result.ret == pytest.ExitCode.OK, result.stdout.str()

    def report(self) -> dict[str, Any]:
        """The JSON report of the last run."""
        return json.loads((self.path / "report.json").read_text(encoding="utf-8"))

    def gates(self) -> dict[str, dict[str, Any]]:
        """The gates of the last run by id."""
        return {f"{gate['spec']}/{gate['metric']}": gate for gate in self.report()["gates"]}

    def verdicts(self) -> dict[str, str]:
        """The verdicts of the last run, by spec and metric."""
        return {name: gate["verdict"] for name, gate in self.gates().items()}

    def baseline(self, spec: str = "rtn-w8", model: str = "tiny") -> Path:
        """Where the accepted figures of a spec lie."""
        return self.baselines / model / "cpu" / f"{spec}.json"


def all_ended(verdict: str, specs: int = 1) -> str:
    """The summary of a run of so many specs whose gates all ended alike."""
    count = specs * len(GATES)
    return f"{count} gates: {count} {verdict}"


def said(result: pytest.RunResult) -> str:
    """Everything that a run printed."""
    return f"{result.stdout.str()}\n{result.stderr.str()}"


def matched(result: pytest.RunResult, *patterns: str) -> None:
    """The patterns occur in the run's output, in this order."""
    result.stdout.fnmatch_lines([f"*{pattern}*" for pattern in patterns])


def refused(result: pytest.RunResult, *patterns: str) -> None:
    """The run ended as one usage error that says each pattern, before any test ran."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR, said(result)
    errors = [line for line in said(result).splitlines() if line.startswith("ERROR: quantcheck: ")]
    assert len(errors) == 1, said(result)
    for pattern in patterns:
        assert pattern in errors[0]
    assert "Traceback" not in said(result)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its contents."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def entries(cache: Path, kind: str) -> Sequence[Path]:
    """The entries of one kind in a cache folder."""
    manifests = sorted((cache / "entries").glob("*/manifest.json"))
    return [path for path in manifests if json.loads(path.read_bytes())["key"]["kind"] == kind]
