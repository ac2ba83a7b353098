"""Every statement of the verdict, broken one at a time: what the unit tests notice, and what they cannot.

cosmic-ray alters one operator, number or condition of a module after another, in a copy of the tree,
and runs the unit tests of the gate. Whoever survives must be listed in ``tests/mutants/survivors.toml`` with
the reason why nothing can tell it from the original; an entry that did not survive is an error, too. Run by
``make mutation``, which installs cosmic-ray in an environment of its own, or, with it on the path::

    python -m benchmarks.mutation --into docs/mutants.md

Left out are operators in types, which nothing evaluates.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import heads, publish, row

REPOSITORY = Path(__file__).resolve().parent.parent
SURVIVORS = REPOSITORY / "tests" / "mutants" / "survivors.toml"
MODULES = ("gate",)
LEAST = 0.95
"""Share of each module's mutants that must be killed, whatever is listed."""

TYPES = "core/ReplaceBinaryOperator_BitOr_.*"
"""Operators in types, `float | None`, which nothing evaluates."""

TESTS = (
    "tests/unit/test_gate*.py",
    "tests/unit/test_orderings_named.py",
    "tests/unit/test_published_answer.py",
)
CONFIG = """
[cosmic-ray]
module-path = ["quantcheck/{module}.py"]
timeout = 120.0
excluded-modules = []
test-command = {command}

[cosmic-ray.distributor]
name = "local"

[cosmic-ray.filters.operators-filter]
exclude-operators = {types}
"""


@dataclass(frozen=True)
class Mutant:
    """One change and what became of it.

    Attributes:
        module: file below the package, without its suffix.
        operator: what was replaced by what, in cosmic-ray's words.
        line: the line as it was.
        changed: the line as it became.
        killed: whether a test failed.
    """

    module: str
    operator: str
    line: str
    changed: str
    killed: bool


def mutants(module: str, folder: Path) -> list[Mutant]:
    """Break one module in a copy of the tree below ``folder``."""
    tree = folder / module.replace("/", "-")
    for name in ("quantcheck", "tests", "baselines"):
        shutil.copytree(REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "files"))
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(REPOSITORY / name, tree)
    tests = sorted(str(path.relative_to(REPOSITORY)) for glob in TESTS for path in REPOSITORY.glob(glob))
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider -p no:xdist {' '.join(tests)}"
    settings = CONFIG.format(module=module, command=json.dumps(command), types=json.dumps([TYPES]))
    (tree / "config.toml").write_text(settings, encoding="utf-8")
    for step in (
        ("cosmic-ray", "init", "config.toml", "session.sqlite"),
        ("cr-filter-operators", "session.sqlite", "config.toml"),
        ("cosmic-ray", "baseline", "config.toml"),
        ("cosmic-ray", "exec", "config.toml", "session.sqlite"),
    ):
        subprocess.run(step, cwd=tree, check=True, stdout=subprocess.DEVNULL)
    told = subprocess.run(
        ("cosmic-ray", "dump", "session.sqlite"), cwd=tree, check=True, capture_output=True, text=True
    )
    return [found for line in told.stdout.splitlines() if (found := _mutant(module, *json.loads(line)))]


def _mutant(module: str, work: Mapping[str, object], result: Mapping[str, str] | None) -> Mutant | None:
    """One line of a dump; nothing for a mutant that was left out."""
    assert result is not None, work
    if result["worker_outcome"] == "skipped":
        return None
    changes = [line for line in result["diff"].splitlines() if line[:1] in {"-", "+"}]
    before, after = (
        "\n".join(line[1:].strip() for line in changes if line[0] == sign and line[:3] != 3 * sign)
        for sign in "-+"
    )
    (mutation,) = work["mutations"]  # type: ignore[misc]
    operator = mutation["operator_name"].removeprefix("core/")
    return Mutant(module, operator, before, after, result["test_outcome"] == "killed")


def reasons(survivors: Sequence[Mutant]) -> dict[str, str]:
    """By changed line, why nothing can tell a survivor from the original.

    Raises:
        ValueError: one is not listed, or one is listed that did not survive.
    """
    listed = tomllib.loads(SURVIVORS.read_text(encoding="utf-8")).get("survivor", [])
    found = {(each["module"], each["changed"]): each["reason"] for each in listed}
    now = {(each.module, each.changed) for each in survivors}
    unlisted, stale = now - set(found), set(found) - now
    if unlisted or stale:
        raise ValueError(f"survivors without a reason: {sorted(unlisted)}; listed, killed: {sorted(stale)}")
    return {changed: reason for (_, changed), reason in found.items()}


def sums(found: Mapping[str, Sequence[Mutant]]) -> Iterator[str]:
    """A row a module."""
    yield from heads(("module", "mutants", "killed", "share"))
    for module, each in found.items():
        killed = sum(one.killed for one in each)
        yield row((f"`{module}.py`", len(each), killed, f"{killed / len(each):.1%}"))


def listing(survivors: Sequence[Mutant], why: Mapping[str, str]) -> Iterator[str]:
    """A row a survivor."""
    yield ""
    yield from heads(("survivor", "in place of", "in", "why nothing can tell"))
    for one in survivors:
        yield row((f"`{one.changed}`", f"`{one.line}`", f"`{one.module}.py`", why[one.changed]))


def main() -> None:
    """Print the tables, or put them into a document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=__doc__)
    parser.add_argument("--into", type=Path, help="document to fill, at mutation")
    parser.add_argument("--modules", default=",".join(MODULES), help="comma between")
    parser.add_argument("--jobs", type=int, default=2, help="modules side by side")
    options = parser.parse_args()
    modules = options.modules.split(",")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        found = dict(
            zip(modules, pool.map(lambda module: mutants(module, Path(folder)), modules), strict=True)
        )
    survivors = [one for each in found.values() for one in each if not one.killed]
    for one in survivors:
        print(f"{one.module}: {one.operator}\n- {one.line}\n+ {one.changed}", file=sys.stderr)
    tables = [*sums(found), *listing(survivors, reasons(survivors))]
    publish(tables, "mutation", options.into)
    if any(sum(one.killed for one in each) < LEAST * len(each) for each in found.values()):
        raise SystemExit(f"fewer than {LEAST:.0%} killed")


if __name__ == "__main__":
    main()
