"""Who catches planted faults: our gates and the rules of others, on the same models and items.

Every fault of ``tests/mutants/model`` is planted in the built-in model and run through pytest, at the smoke
tier and, if that misses it, at the standard tier; the rules of ``benchmarks.peer_rules`` look at what was
measured. The same is done with sound models that are measured in other batches and orders, and calibrated
with other samples: whoever turns red there cries wolf. Run by ``make power``, or::

    PYTHONPATH=tests python -m benchmarks.power --into docs/power.md

Runs are kept below ``--folder`` for one state of the product's code, so that an interrupted table goes on
where it stopped; a fault that was edited is run again with ``--anew GLOB``. Specs are run side by side
(``--jobs``), each on one thread.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from filelock import FileLock
from mutants.model.bench import EARLY, STORED, Bench
from mutants.model.fault import Fault, Plant, all_of
from mutants.model.faults import FAULTS
from mutants.model.methods import unguarded
from mutants.model.sound import early, recalibration, rerun
from mutants.model.trial import Trial

from benchmarks.power_table import Alarms, Row, decided_before, faults_table, misses, rules_table, sums_table
from benchmarks.timing import publish
from quantcheck.measurement import digest

REPOSITORY = Path(__file__).resolve().parent.parent
TIERS = ("smoke", "standard")
CALIBRATED = ("gptq-w4", "gptq-w3-g128", "awq-w4", "smoothquant-w8a8", "pbllm-w2-g128")
DRAWS = 7
RERUN = (*CALIBRATED[:4], "rtn-w4", "rtn-w4-g128", "rtn-w8", "quip-w4", "nf4-w4", "qlora-w4")


class Store:
    """Runs of one tier, each made once.

    Args:
        folder: where they are kept.
        tier: how much is measured.
        anew: names of runs that are made again.
    """

    def __init__(self, folder: Path, tier: str, anew: str = "") -> None:
        self.runs, self.anew = folder / tier / "runs", anew
        self.bench = Bench(folder / tier / "bench", tier)
        self.runs.mkdir(parents=True, exist_ok=True)

    def accepted(self, spec: str) -> Trial:
        """The sound run whose figures are accepted."""
        return self._kept(f"accepted {spec}", lambda: self.bench.accept(spec))

    def struck(self, fault: Fault) -> Trial:
        """The run with a fault."""
        for spec in {fault.spec, *fault.needs}:
            self.accepted(spec)
        return self._kept(fault.name, lambda: self.bench.strike(fault))

    def seen(self, fault: Fault) -> Trial:
        """What there is to see of a fault where nothing refuses to measure it."""
        trial = self.struck(fault)
        if trial.candidate or not trial.refused:
            return trial
        plant = all_of(unguarded, fault.plant)
        return self._kept(f"{fault.name} unguarded", lambda: self.bench.strike(fault, plant))

    def early(self, fault: Fault) -> Trial:
        """The run with a fault that stops as soon as a gate is decided."""
        return self._kept(f"{fault.name} early", lambda: self.bench.strike(fault, None, EARLY))

    def sound(self, name: str, plant: Plant, spec: str, *options: str, **more: Any) -> tuple[Trial, Trial]:
        """The accepted run of a spec, and one under circumstances that must not matter."""
        run = partial(self.bench.sound, spec, plant, *options, **more)
        return self.accepted(spec), self._kept(f"{name} {spec}", run)

    def _kept(self, name: str, make: Callable[[], Trial]) -> Trial:
        path = self.runs / f"{name}.json"
        with FileLock(path.with_suffix(".lock")):
            if path.is_file() and not fnmatchcase(name, self.anew):
                return Trial.loads(path.read_text(encoding="utf-8"))
            print(f"{self.bench.tier}: {name}", flush=True)
            trial = make()
            draft = path.with_suffix(".draft")
            draft.write_text(trial.dumps(), encoding="utf-8")
            os.replace(draft, path)
        return trial


def gathered(faults: Iterable[Fault], stores: Sequence[Store]) -> list[Row]:
    """Run every fault at the first tier that catches it."""
    return [_row(fault, stores) for fault in faults]


def _row(fault: Fault, stores: Sequence[Store]) -> Row:
    first, trials = stores[0], {}
    for store in stores:
        trials[store.bench.tier] = last = store.struck(fault)
        if last.caught:
            break
    late = last.caught and not decided_before(last)
    return Row(
        fault,
        accepted=first.accepted(fault.spec),
        compared=first.accepted(fault.compared or fault.spec),
        trials=trials,
        seen=first.seen(fault),
        early=store.early(fault) if late else None,
    )


def wolves(store: Store, reruns: int, only: str = "*") -> Alarms:
    """Run sound models, those of specs that match ``only``, under circumstances that must not matter."""
    drawn = [(seed, RERUN[seed % len(RERUN)]) for seed in range(reruns)]
    drawn = [(seed, spec) for seed, spec in drawn if fnmatchcase(spec, only)]
    return Alarms(
        reruns=[store.sound(f"rerun {seed}", rerun(seed), spec, kept=STORED) for seed, spec in drawn],
        early=[store.sound(f"early {seed}", early(seed), spec, EARLY, kept=STORED) for seed, spec in drawn],
        recalibrations=[
            store.sound(f"recalibration {draw}", recalibration(draw), spec)
            for spec in CALIBRATED
            for draw in range(1, DRAWS + 1)
            if fnmatchcase(spec, only)
        ],
    )


def groups(faults: Iterable[Fault]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Specs, each with the names of its faults, that no other group's runs look at; longest first."""
    names: dict[str, list[str]] = {spec: [] for spec in RERUN}
    for fault in faults:
        names.setdefault(fault.spec, []).append(fault.name)
    yield from ((spec, tuple(found)) for spec, found in sorted(names.items(), key=lambda item: -len(item[1])))


def run_group(folder: Path, tiers: int, reruns: int, anew: str, group: tuple[str, tuple[str, ...]]) -> None:
    """Make the runs of one group, which are kept; one that crashes does not keep the others back."""
    spec, names = group
    stores = [Store(folder, tier, anew) for tier in TIERS[:tiers]]
    for fault in FAULTS:
        if fault.name not in names:
            continue
        try:
            gathered([fault], stores)
        except Exception as error:
            print(f"{fault.name} crashed: {str(error)[-2000:]}", file=sys.stderr, flush=True)
    wolves(stores[0], reruns, spec)


def state() -> str:
    """Digest of the code and the margins that the runs depend on."""
    paths = [*sorted((REPOSITORY / "quantcheck").rglob("*.py")), REPOSITORY / "baselines" / "policy.toml"]
    return digest(
        part for path in paths for part in (path.relative_to(REPOSITORY).as_posix(), path.read_bytes())
    )


def main() -> None:
    """Print the tables, or put them into a document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.power", description=__doc__)
    parser.add_argument("--into", type=Path, help="document to fill, at sums, rules, misses and faults")
    parser.add_argument(
        "--folder", type=Path, default=REPOSITORY / "build" / "power", help="where runs are kept"
    )
    parser.add_argument("--only", default="*", help="faults by name")
    parser.add_argument("--anew", default="", help="runs that are made again, by name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--tiers", type=int, default=len(TIERS), help="how many tiers a fault may take")
    parser.add_argument(
        "--reruns", type=int, default=100, help="sound reruns of all items, and as many that stop early"
    )
    options = parser.parse_args()
    folder = options.folder / state()
    faults = [fault for fault in FAULTS if fnmatchcase(fault.name, options.only)]
    run = partial(run_group, folder, options.tiers, options.reruns, options.anew)
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        list(pool.map(run, groups(faults)))
    stores = [Store(folder, tier) for tier in TIERS[: options.tiers]]
    rows, alarms = gathered(faults, stores), wolves(stores[0], options.reruns)
    publish(sums_table(rows, alarms), "sums", options.into)
    publish(rules_table(), "rules", options.into)
    publish(misses(rows, alarms), "misses", options.into)
    publish(faults_table(rows), "faults", options.into)


if __name__ == "__main__":
    main()
