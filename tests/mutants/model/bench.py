"""Runs the gates on a fault: pytest itself, in this process, in a project of its own.

The sound model's figures are accepted first, by the same gates, each spec's in a folder of its own. A run
with a fault then starts from a copy of those that it needs and, unless the fault could reach them, from the
reference figures of the sound run.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from mutants.model.fault import Fault, Plant, Site
from mutants.model.trial import Trial
from quantcheck.gate import Verdict
from quantcheck.plugin import STATE

MODEL = "bench=builtin-llama"
"""Under a name of its own: nothing but what is accepted here counts as accepted."""

SUITE = "from quantcheck.suites.test_language import test_gate\n"
QUIETLY = (
    "-q --capture=sys --import-mode=importlib -p no:cacheprovider -p no:unraisableexception "
    "--quantcheck-progress=off"
)
KEPT = ("reference", "sound")
"""Cache entries that say nothing about a quantized model."""

STORED = ("artifact", "facts")
"""Those that say what is stored of one, and nothing about what it answers."""

EARLY = "--quantcheck-sequential"


class Bench:
    """Projects that faults are planted in.

    Args:
        folder: where accepted baselines and the sound runs' cache stay.
        tier: how much is measured.
        model: what is quantized.
        options: further options of every run.
        policy: text of the margins; empty for the packaged ones.
    """

    def __init__(
        self,
        folder: Path,
        tier: str = "smoke",
        *,
        model: str = MODEL,
        options: Sequence[str] = (),
        policy: str = "",
    ) -> None:
        self.tier, self.baselines, self.cache = tier, folder / "baselines", folder / "cache"
        self.options = (f"--quantcheck-tier={tier}", f"--quantcheck-model={model}", *options)
        self.policy = policy

    def accept(self, spec: str) -> Trial:
        """Accept the sound figures of a spec."""
        baselines = self.baselines / spec
        baselines.mkdir(parents=True, exist_ok=True)
        if self.policy:
            (baselines / "policy.toml").write_text(self.policy, encoding="utf-8")
        trial = self._run(spec, baselines, self.cache, "--snapshot-update", "--quantcheck-update-in-ci")
        assert not trial.caught, (spec, trial.refused, trial.reasons)
        return trial

    def strike(self, fault: Fault, plant: Plant | None = None, *options: str) -> Trial:
        """Run a spec with its fault, or with another plant of it."""
        needs = (fault.spec, *fault.needs)
        with self._site(*needs, alone=fault.alone) as (site, cache), (plant or fault.plant)(site):
            return self._run(fault.spec, site.baselines, cache, *options)

    def sound(self, spec: str, plant: Plant, *options: str, kept: Sequence[str] = ()) -> Trial:
        """Run a sound spec, under circumstances that must not matter; ``kept`` kinds are taken over."""
        with self._site(spec, kept=(*KEPT, *kept)) as (site, cache), plant(site):
            return self._run(spec, site.baselines, cache, *options)

    @contextmanager
    def _site(
        self, *needs: str, alone: bool = False, kept: Sequence[str] = KEPT
    ) -> Iterator[tuple[Site, Path]]:
        with tempfile.TemporaryDirectory(prefix="site-") as name:
            baselines, cache = Path(name, "baselines"), Path(name, "cache")
            for spec in needs:
                shutil.copytree(self.baselines / spec, baselines, dirs_exist_ok=True)
            if not alone:
                _copy_entries(self.cache, cache, kept)
            yield Site(baselines, lambda spec, *more: self._run(spec, baselines, cache, *more)), cache

    def _run(self, spec: str, baselines: Path, cache: Path, *options: str) -> Trial:
        said = io.StringIO()
        with tempfile.TemporaryDirectory(prefix="project-") as name:
            project, report = Path(name), Path(name, "report.json")
            (project / "test_planted.py").write_text(SUITE, encoding="utf-8")
            (project / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
            arguments = [
                *(name, f"--rootdir={name}", *QUIETLY.split(), *self.options, f"--quantcheck-specs={spec}"),
                *(f"--quantcheck-cache={cache}", f"--quantcheck-baselines={baselines}"),
                *(f"--quantcheck-report=json:{report}", *options),
            ]
            witness = _Witness()
            with redirect_stdout(said), redirect_stderr(said):
                ended = pytest.main(arguments, plugins=[witness])
            gates = json.loads(report.read_text(encoding="utf-8"))["gates"] if report.is_file() else []
        candidate, reference = witness.figures
        if gates and _crashed(gates, ended):
            raise RuntimeError(said.getvalue())
        return Trial(
            spec,
            self.tier,
            verdicts={gate["metric"]: gate["verdict"] for gate in gates},
            reasons={gate["metric"]: gate["reasons"] for gate in gates if _red(gate)},
            refused="" if gates else _refusal(said.getvalue(), ended),
            candidate=candidate.measurements if candidate else {},
            reference=reference.measurements if reference else {},
            items={gate["metric"]: gate["n"] for gate in gates},
            seconds=witness.ended - witness.began,
        )


class _Witness:
    """Keeps the figures of a run on all items, those of a model that no gate would evaluate, too."""

    def __init__(self) -> None:
        self.began = self.ended = time.perf_counter()
        self.figures: list[Any] = [None, None]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.ended = time.perf_counter()
        state = session.config.stash.get(STATE, None)
        if state is None or "runner" not in vars(state) or state.session.settings.sequential:
            return
        (model,), (spec,) = state.session.settings.models, state.session.matrix.specs
        try:
            self.figures = [state.runner.figures(model, spec), state.runner.reference(model)]
        except Exception:  # the gates said why already
            return


def _red(gate: dict[str, Any]) -> bool:
    return not Verdict(gate["verdict"]).green


def _crashed(gates: Sequence[dict[str, Any]], ended: int) -> bool:
    """Whether a test failed for another reason than its verdict, or the fault itself did."""
    failed = ended != pytest.ExitCode.OK
    return failed != any(map(_red, gates)) or "AssertionError" in str(gates)


def _refusal(said: str, ended: int) -> str:
    """What a run without verdicts was refused with; a crash is no refusal."""
    lines = [line for line in said.splitlines() if line.startswith("ERROR: quantcheck: ")]
    if ended != pytest.ExitCode.USAGE_ERROR or not lines:
        raise RuntimeError(said)
    return lines[-1].removeprefix("ERROR: quantcheck: ")


def _copy_entries(source: Path, target: Path, kinds: Sequence[str]) -> None:
    for manifest in (source / "entries").glob("*/manifest.json"):
        if json.loads(manifest.read_bytes())["key"]["kind"] in kinds:
            shutil.copytree(manifest.parent, target / "entries" / manifest.parent.name)
