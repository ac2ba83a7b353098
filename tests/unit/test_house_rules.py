"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LONGEST = 400
GATE_MARKS = {"quantcheck", "ultra_low_bit", "canary", "bits"}
PICKLES = {"pickle", "cPickle", "shelve", "dill", "cloudpickle", "joblib"}
TRUST = {"trust_remote_code", "allow_pickle"}
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".cfg", ".ini", ".json", ""}
HOSTS = {"github.com", "arxiv.org", "pypi.org", "download.pytorch.org", "huggingface.co", "www.apache.org"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 0)}"


@cache
def tracked() -> tuple[Path, ...]:
    """The text files under version control; the built-in model's own data is not ours to name hosts in."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no git checkout, so nothing says which files are ours")
    paths = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    return tuple(
        path for path in paths if path.is_file() and path.suffix in TEXT and "files" not in path.parts
    )


def test_no_file_is_longer_than_a_reader_keeps_in_mind() -> None:
    lengths = {
        path.relative_to(REPOSITORY).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources("quantcheck", "suites", "tests")
    }
    assert len(lengths) > 50
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_no_string_stands_where_it_does_nothing() -> None:
    """A string cut off from its ``return`` by a line break is a statement, and half a message is lost."""
    stray = [
        where(path, statement)
        for path in sources("quantcheck", "suites", "tests")
        for body in _bodies(tree(path))
        for before, statement in zip([None, *body], body, strict=False)
        if isinstance(statement, ast.Expr)
        and (
            isinstance(statement.value, ast.JoinedStr)
            or (_is_string(statement.value) and isinstance(before, ast.Return | ast.Raise | ast.Expr))
        )
    ]
    assert stray == []


def _bodies(module: ast.Module) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(module):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield block


def _is_string(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_no_test_of_the_project_carries_a_mark_of_the_gates() -> None:
    """``pytest -m ultra_low_bit`` collects tests/ too, and must find nothing but gates."""
    marked = [
        where(path, node)
        for path in sources("tests")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and node.attr in GATE_MARKS
        and ast.unparse(node.value) == "pytest.mark"
    ]
    assert marked == []


def test_nothing_is_pickled_and_no_remote_code_is_run() -> None:
    found = [
        where(path, node)
        for path in sources("quantcheck", "suites")
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Import) and PICKLES & {alias.name for alias in node.names})
        or (isinstance(node, ast.ImportFrom) and node.module in PICKLES)
        or (isinstance(node, ast.Attribute) and ast.unparse(node) in {"torch.load", "torch.save"})
        or (isinstance(node, ast.keyword) and node.arg in TRUST and ast.unparse(node.value) != "False")
        or (isinstance(node, ast.Call) and ast.unparse(node.func) in {"eval", "exec"})
    ]
    assert found == []


def test_nothing_random_goes_unseeded() -> None:
    """Only generators that are given a seed: ``random.Random(seed)``, ``np.random.default_rng(seed)``."""
    seeded = {"random": {"random.Random"}, "numpy": {"np.random.default_rng", "np.random.Generator"}}
    loose = []
    for path in sources("quantcheck", "suites", "tests"):
        for package, generators in seeded.items():
            if package in _imported(tree(path)):
                loose += [where(path, node) for node in ast.walk(tree(path)) if _is_loose(node, generators)]
    assert loose == []


def _imported(module: ast.Module) -> set[str]:
    return {alias.name for node in ast.walk(module) if isinstance(node, ast.Import) for alias in node.names}


def _is_loose(node: ast.AST, generators: set[str]) -> bool:
    if isinstance(node, ast.Call) and ast.unparse(node.func) in generators:
        return not node.args and not node.keywords
    if not isinstance(node, ast.Attribute) or ast.unparse(node) in generators:
        return False
    return ast.unparse(node.value) in {generator.rpartition(".")[0] for generator in generators}


def test_no_file_names_a_folder_of_the_machine_it_was_written_on() -> None:
    folders = {REPOSITORY, REPOSITORY.parent, Path.home(), Path(sys.prefix)} - {Path(REPOSITORY.anchor)}
    found = [
        f"{path.relative_to(REPOSITORY)}: {folder}"
        for path in tracked()
        for folder in folders
        if re.search(rf"(?<![\w.~-]){re.escape(folder.as_posix())}/", path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_every_address_is_one_that_a_reader_can_open() -> None:
    found = {
        f"{path.relative_to(REPOSITORY)}: {host}"
        for path in tracked()
        for host in re.findall(r"https?://([A-Za-z0-9.-]+)", path.read_text(encoding="utf-8"))
        if host not in HOSTS and not host.endswith((".invalid", ".example"))
    }
    assert sorted(found) == []
