"""Who may import whom, what the plugin costs a run without gates, and a verdict without torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from quantcheck.baseline import BaselineFile, write_baseline
from quantcheck.gate import Verdict, judge
from quantcheck.policy import read_policy
from quantcheck.record import figure_fields
from unit.builders import BASIS, KEY, evidence, facts, figure, gate_record, measured, run_record

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "quantcheck"
HEAVY = (
    "torch",
    "transformers",
    "lm_eval",
    "datasets",
    "tokenizers",
    "numpy",
    "scipy",
    "hypothesis",
    "syrupy",
)

# Room -> rooms of quantcheck it may import, then packages beside the standard library. Imports inside
# functions count; imports for type checkers do not. A room is a file or a folder of quantcheck/.
PURE = {
    "errors": ("", ""),
    "registry": ("errors", ""),
    "spec": ("errors registry", ""),
    "plan": ("errors registry spec", ""),
    "measurement": ("", "numpy"),
    "statistics": ("", "numpy scipy"),
    "artifact_facts": ("", ""),
    "published": ("errors measurement", ""),
    "stopping": ("measurement statistics", "numpy"),
    "judging": ("artifact_facts measurement published statistics stopping", "numpy"),
    "gate": ("artifact_facts judging measurement statistics", "numpy"),
    "orderings": ("errors gate judging measurement spec statistics", "numpy"),
    "outcomes": ("measurement", "numpy"),
    "results": ("artifact_facts measurement", ""),
    "noise": ("artifact_facts errors measurement results statistics", "numpy"),
    "provenance": ("measurement", ""),
    "baseline": ("errors judging measurement outcomes provenance", ""),
    "policy": ("errors judging measurement orderings spec", ""),
    "known": ("errors", ""),
    "known_gates": ("errors judging known measurement plan spec statistics", ""),
    "changelog": ("errors", ""),
    "record": ("judging measurement orderings outcomes published spec", ""),
    "run_verdicts": ("judging record statistics", ""),
    "report": (
        "artifact_facts errors gate judging measurement orderings published record run_verdicts spec "
        "statistics",
        "",
    ),
}
ROOMS = {
    **PURE,
    "__init__": ("", ""),
    "cache": ("errors", "filelock"),
    "progress": ("", ""),
    "cli": ("__init__ errors published report", ""),
    "codecs": ("errors registry", "torch"),
    "kernels": ("codecs errors registry", "torch triton"),
    "methods": (
        "artifact_facts codecs errors kernels registry spec",
        "torch safetensors numpy transformers peft bitsandbytes",
    ),
    "models": (
        "errors measurement spec",
        "PIL torch transformers tokenizers safetensors huggingface_hub numpy",
    ),
    "metrics": (
        "errors measurement models plan progress registry spec stopping",
        "torch transformers lm_eval datasets numpy",
    ),
    "runner": (
        "artifact_facts cache errors measurement methods metrics models progress provenance results spec "
        "stopping",
        "torch transformers",
    ),
    "recalibration": (
        "cache measurement methods metrics models noise progress results runner spec",
        "numpy",
    ),
    "strategies": ("codecs kernels methods", "hypothesis torch transformers"),
    "contracts": (
        "codecs errors judging kernels methods registry spec strategies",
        "pytest hypothesis safetensors torch transformers",
    ),
    "snapshot": ("baseline changelog measurement", "syrupy filelock"),
    "subjects": ("codecs contracts errors extensions kernels known options", "pytest"),
    "options": ("errors plan report spec", "pytest"),
    "interop": ("codecs kernels registry", "bitsandbytes compressed_tensors gptqmodel torch torchao"),
    "extensions": ("codecs errors kernels methods registry", ""),
    "decision": (
        "__init__ artifact_facts baseline changelog errors gate judging known_gates measurement methods "
        "noise options outcomes plan provenance published recalibration record registry report results "
        "snapshot spec stopping",
        "",
    ),
    "ordering_decision": ("decision errors judging known_gates orderings plan record", ""),
    "session": (
        "__init__ artifact_facts baseline decision errors extensions known_gates measurement methods metrics "
        "models options ordering_decision plan policy provenance published record report run_verdicts runner "
        "snapshot spec statistics stopping",
        "torch",
    ),
    "preflight": (
        "errors gate known_gates methods metrics models options orderings plan policy registry session spec",
        "torch",
    ),
    "state": (
        "cache errors gate options plan preflight progress provenance record report runner session spec",
        "pytest",
    ),
    "fixtures": ("errors plugin registry", "pytest"),
    "hookspec": ("", "pytest"),
    "distribution": ("", "pytest xdist"),
    "plugin": (
        "__init__ distribution errors extensions fixtures hookspec options state subjects",
        "pytest",
    ),
}
# Programs: run by people, imported by nobody outside their folder, so the rooms' rule does not bind them.
PROGRAMS = (
    "quantcheck.models.builtin.adapters",
    "quantcheck.models.builtin.curve",
    "quantcheck.models.builtin.generate",
    "quantcheck.models.builtin.train",
    "quantcheck.published.study",
    "quantcheck.report.methods",
)


@dataclass(frozen=True)
class Import:
    """One import statement's target; ``lazy`` inside a function, ``typing`` for type checkers only."""

    target: str
    lazy: bool
    typing: bool


@cache
def imports(path: Path) -> tuple[Import, ...]:
    return tuple(_imports(ast.parse(path.read_text(encoding="utf-8")), lazy=False, typing=False))


def _imports(node: ast.AST, *, lazy: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, lazy, typing) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            # "from quantcheck.report import terminal" may name a module or an attribute of one.
            yield from (
                Import(_module(f"{child.module}.{alias.name}"), lazy, typing) for alias in child.names
            )
        else:
            guarded = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, lazy=lazy or inside, typing=typing or guarded)


def _module(dotted: str) -> str:
    path = REPOSITORY.joinpath(*dotted.split("."))
    known = path.is_dir() or path.with_suffix(".py").is_file()
    return dotted if known else dotted.rpartition(".")[0]


def modules(folder: Path) -> dict[str, Path]:
    """Every module below a folder by its dotted name."""
    return {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(folder.rglob("*.py"))
    }


MODULES = modules(PACKAGE)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("module", sorted(set(MODULES) - set(PROGRAMS)))
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    assert room(module) in ROOMS, f"state in ROOMS what {room(module)} may import"
    inside, outside = (set(allowed.split()) for allowed in ROOMS[room(module)])
    for found in imports(MODULES[module]):
        top = found.target.partition(".")[0]
        if found.typing or top in sys.stdlib_module_names:
            continue
        if top == "quantcheck":
            assert room(found.target) in inside | {room(module)}, f"{module} imports {found.target}"
        else:
            assert top in outside, f"{module} imports {found.target}"


def test_the_pure_core_reaches_nothing_but_itself_the_standard_library_numpy_and_scipy() -> None:
    for name, (inside, outside) in PURE.items():
        assert set(inside.split()) <= set(PURE) - {name}, name
        assert set(outside.split()) <= {"numpy", "scipy"}, name


def test_the_pure_core_imports_scipy_when_a_bound_is_asked_for_and_not_before() -> None:
    eager = [
        module
        for module, path in MODULES.items()
        for found in imports(path)
        if room(module) in PURE and found.target.partition(".")[0] == "scipy" and not found.lazy
    ]
    assert eager == []


def test_values_of_the_pure_core_never_change() -> None:
    decorators = [
        (module, ast.unparse(decorator))
        for module, path in MODULES.items()
        if room(module) in PURE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
    ]
    assert len(decorators) > 10
    assert [found for found in decorators if "frozen=True" not in found[1]] == []


def test_every_room_of_the_rule_is_there() -> None:
    assert {room(module) for module in MODULES} >= set(PURE) | {
        "methods",
        "metrics",
        "models",
        "plugin",
        "session",
    }
    assert set(ROOMS) - {room(module) for module in MODULES} == set()


def test_every_folder_of_modules_is_packaged() -> None:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        packaged = set(tomllib.load(file)["tool"]["setuptools"]["packages"])
    folders = {".".join(path.parent.relative_to(REPOSITORY).parts) for path in PACKAGE.rglob("__init__.py")}
    assert packaged == folders | {"quantcheck.baselines", "quantcheck.suites"}


def test_programs_are_imported_by_nobody_outside_their_folder() -> None:
    for module, path in MODULES.items():
        for found in imports(path):
            assert found.target not in PROGRAMS or module in PROGRAMS, f"{module} imports {found.target}"


def test_only_the_fixtures_import_the_plugin_and_only_when_they_are_used() -> None:
    importers = {
        (module, found.lazy)
        for module, path in MODULES.items()
        for found in imports(path)
        if found.target == "quantcheck.plugin"
    }
    assert importers == {("quantcheck.fixtures", True)}


def test_no_module_needs_itself_to_be_imported() -> None:
    graph = {
        module: {
            found.target
            for found in imports(path)
            if not found.lazy and not found.typing and found.target in MODULES and found.target != module
        }
        for module, path in MODULES.items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def test_suites_import_the_plans_types_and_contracts_and_nothing_else_of_quantcheck() -> None:
    suites = modules(REPOSITORY / "suites")
    assert any(name.startswith("suites.test_") for name in suites)
    for module, path in suites.items():
        targets = {found.target for found in imports(path) if found.target.partition(".")[0] == "quantcheck"}
        assert targets <= {"quantcheck.contracts", "quantcheck.plan", "quantcheck.subjects"}, module


def run_python(code: str, folder: Path, *arguments: str) -> str:
    """What a fresh interpreter prints; it fails where the code does."""
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return ended.stdout


LOADED = f"import sys; print([name for name in {HEAVY} if name in sys.modules])"


def test_importing_the_plugin_imports_nothing_heavy(tmp_path: Path) -> None:
    assert run_python(f"import quantcheck.plugin; {LOADED}", tmp_path).strip() == "[]"


def test_a_run_without_gates_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import sys\n"
        "def test_mine(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.hasplugin('quantcheck')\n"
        f"    heavy = {[name for name in HEAVY if name != 'syrupy']}\n"
        "    assert [name for name in heavy if name in sys.modules] == []\n",
        encoding="utf-8",
    )
    code = "import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '--rootdir', '.']))"
    assert "1 passed" in run_python(code, tmp_path)


def test_the_pure_core_is_imported_where_there_is_neither_torch_nor_pytest(tmp_path: Path) -> None:
    found = [module for module in MODULES if room(module) in PURE]
    names = "torch", "transformers", "lm_eval", "pytest", "syrupy", "hypothesis"
    code = f"import sys\nsys.modules.update(dict.fromkeys({names}))\nimport {', '.join(found)}"
    run_python(code, tmp_path)


REJUDGE = """
import json, sys
from pathlib import Path
sys.modules.update(dict.fromkeys(("torch", "transformers", "lm_eval", "datasets", "pytest", "syrupy")))

from quantcheck.artifact_facts import ArtifactFacts, LayerFacts
from quantcheck.baseline import read_baseline
from quantcheck.gate import Evidence, judge
from quantcheck.measurement import measurement
from quantcheck.policy import read_policy
from quantcheck.provenance import Basis
from quantcheck.record import GateRecord
from quantcheck.report.message import message

stored = json.loads(Path("figures.json").read_text(encoding="utf-8"))
record = GateRecord.from_json(json.loads(Path("run.json").read_text(encoding="utf-8"))["gates"][0])
layers = tuple(LayerFacts(**layer) for layer in stored["facts"]["layers"])
facts = ArtifactFacts(tuple(stored["facts"]["expected_layers"]), layers, reference_untouched=True)
candidate, reference = (measurement(**stored[who]) for who in ("candidate", "reference"))
file = read_baseline([Path("baselines")], record.model, record.device, record.spec)
figure = file.get(record.tier, record.metric)
baseline = figure.accepted(candidate, file.made[figure.made], Basis(**stored["basis"]))
bounds = read_policy(Path("policy.toml")).bounds(record.spec, record.metric)
found = judge(Evidence(record.metric, candidate, reference, facts, baseline, bounds))
assert (found.verdict, found.reasons) == (record.verdict, record.reasons)
assert (found.drift.change, found.drift.margin) == (record.drift, record.drift_margin)
assert message(record, {}).startswith(f"{found.verdict}: ")
print(found.verdict)
"""


@pytest.mark.parametrize(
    ("shift", "accepted", "verdict"),
    [(0.25, 2.25, "PASS"), (0.25, 1.75, "REGRESSED"), (2.0, 4.0, "BELOW_FLOOR")],
)
def test_a_verdict_is_recomputed_from_stored_files_where_there_is_no_torch(
    tmp_path: Path, shift: float, accepted: float, verdict: str
) -> None:
    candidate = measured("ppl/web", [1.5 + shift, 2.0 + shift, 2.5 + shift])
    reference = measured("ppl/web", [1.5, 2.0, 2.5])
    (tmp_path / "policy.toml").write_bytes((REPOSITORY / "baselines" / "policy.toml").read_bytes())
    bounds = read_policy(tmp_path / "policy.toml").bounds("gptq-w3-g128", "ppl/web")
    old = figure(mean=accepted, n=3)
    made = {KEY: {"basis": asdict(BASIS)}}
    write_baseline(
        tmp_path / "baselines",
        BaselineFile("builtin-llama", "cpu", "gptq-w3-g128", made, {"smoke ppl/web": old}),
    )
    world = evidence(
        candidate=candidate,
        reference=reference,
        bounds=bounds,
        baseline=old.accepted(candidate, made[KEY], BASIS),
    )
    found = judge(world)
    assert found.verdict is Verdict(verdict)
    record = gate_record(**figure_fields(found, bounds, candidate, reference))
    (tmp_path / "run.json").write_text(run_record(record).dumps(), encoding="utf-8")
    stored = {
        "candidate": {**asdict(candidate), "outcomes": candidate.outcomes.tolist()},
        "reference": {**asdict(reference), "outcomes": reference.outcomes.tolist()},
        "facts": asdict(facts()),
        "basis": asdict(BASIS),
    }
    (tmp_path / "figures.json").write_text(json.dumps(stored), encoding="utf-8")
    assert run_python(REJUDGE, tmp_path).strip() == verdict
