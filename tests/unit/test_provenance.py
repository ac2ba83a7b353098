"""What a figure depends on: bases that tell settings apart, and digests of code."""

from __future__ import annotations

import builtins
import importlib.util
import os
import platform
import re
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck import provenance
from quantcheck.measurement import digest
from quantcheck.provenance import (
    LIBRARIES,
    Basis,
    library_versions,
    machine,
    made_key,
    object_digest,
    same_codes,
    source_digest,
)
from unit.builders import BASIS

BASES = st.builds(Basis, *[st.text()] * 5, st.integers(1, 99), st.integers(0, 2**31))


@given(BASES)
def test_a_basis_agrees_with_itself_as_stored(basis: Basis) -> None:
    assert basis.differences(asdict(basis)) == ()


@given(BASES, BASES)
def test_differences_are_the_fields_that_differ(left: Basis, right: Basis) -> None:
    differing = [
        field.name for field in fields(Basis) if getattr(left, field.name) != getattr(right, field.name)
    ]
    assert [text.partition(":")[0] for text in left.differences(asdict(right))] == differing


def test_provenance_is_addressed_by_all_of_it_but_the_date() -> None:
    swapped = replace(BASIS, model=BASIS.tokenizer, tokenizer=BASIS.model)
    made = {"basis": asdict(BASIS), "machine": {"threads": "1"}, "date": "2026-01-31"}
    key = made_key(made)
    assert re.fullmatch("[0-9a-f]{8}", key)
    assert made_key({**made, "date": "2026-02-01"}) == key
    others = ({"basis": asdict(swapped)}, {"machine": {"threads": "2"}}, {"libraries": {}})
    assert len({key, *(made_key({**made, **other}) for other in others)}) == 4


@pytest.mark.parametrize(
    ("changes", "device", "same"),
    [
        ({}, "cpu", True),
        ({}, "cuda", False),
        ({"machine": {"processor": "another"}}, "cpu", False),
        ({"libraries": {"torch": "1.0"}}, "cpu", False),
        ({"machine": None}, "cpu", False),
    ],
)
def test_the_same_codes_come_out_where_machine_and_libraries_are_the_same(
    changes: dict[str, object], device: str, same: bool
) -> None:
    made = {"machine": machine(), "libraries": library_versions(), **changes}
    assert same_codes(made, device) is same


def test_a_field_that_was_not_stored_differs() -> None:
    old = {name: value for name, value in asdict(BASIS).items() if name != "seed"}
    assert BASIS.differences(old) == ("seed: accepted with None, now 7",)


def test_library_versions_are_those_installed() -> None:
    found = library_versions()
    assert tuple(found) == LIBRARIES
    assert found["numpy"] == importlib.import_module("numpy").__version__


def test_a_library_that_is_not_installed_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "LIBRARIES", ("quantcheck-no-such-library",))
    assert library_versions.__wrapped__() == {"quantcheck-no-such-library": "absent"}


def test_the_machine_says_processor_threads_python_and_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = machine.__wrapped__()
    assert (found["threads"], found["python"]) == ("3", platform.python_version())
    assert found["processor"]
    assert found["system"].startswith(platform.system())
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert machine.__wrapped__()["threads"] == str(os.cpu_count())


@pytest.mark.parametrize(
    ("cpuinfo", "processor"),
    [
        ("vendor_id\t: ACME\nmodel name\t: ACME 3000: fast\n", "ACME 3000: fast (instructions e3b0c442)"),
        (
            "model name\t: A\ncpu family\t: 25\nmodel\t: 17\nstepping\t: 1\nflags\t: b a\n\nmodel\t: 18\n",
            f"A (cpu family 25, model 17, stepping 1, instructions {digest(['a', 'b'])[:8]})",
        ),
        ("BogoMIPS\t: 48.00\n", "from platform"),
        (None, "from platform"),
    ],
)
def test_the_processor_is_named_where_the_system_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, processor: str
) -> None:
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo, encoding="utf-8")
    real = builtins.open
    monkeypatch.setattr(platform, "processor", lambda: "from platform")
    monkeypatch.setattr(
        builtins, "open", lambda name, **how: real(path if name == "/proc/cpuinfo" else name, **how)
    )
    assert machine.__wrapped__()["processor"] == processor


def test_a_processor_that_nobody_names_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert machine.__wrapped__()["processor"] == "unknown"


def load(path: Path, text: str) -> ModuleType:
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("third_party_method", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    def make(text: str) -> ModuleType:
        module = load(tmp_path / "third_party_method.py", text)
        monkeypatch.setitem(sys.modules, "third_party_method", module)
        return module

    return make


def test_a_method_from_elsewhere_is_digested_with_its_own_file(
    third_party: Callable[[str], ModuleType],
) -> None:
    first = third_party("class Mine:\n    version = 1\n")
    before = source_digest(first.Mine())
    assert before == source_digest(first.Mine) == source_digest(first.Mine())
    assert before != source_digest()
    edited = third_party("class Mine:\n    version = 1  # edited\n")
    assert source_digest(edited.Mine()) != before


class Setting:
    """A method whose objects are told apart by what they were set to."""

    def __init__(self, **settings: float) -> None:
        self.__dict__.update(settings)


class Other(Setting):
    pass


@given(*[st.dictionaries(st.sampled_from("abc"), st.floats(0, 1), max_size=2)] * 2)
def test_objects_of_one_class_are_told_apart_by_their_settings(
    left: dict[str, float], right: dict[str, float]
) -> None:
    same = object_digest(Setting(**left)) == object_digest(Setting(**right))
    assert same is (repr(sorted(left.items())) == repr(sorted(right.items())))
    assert object_digest(Setting(**left)) != object_digest(Other(**left))


def test_a_class_is_an_object_without_settings() -> None:
    assert object_digest(Setting) == object_digest(Setting())
    assert object_digest(Setting) != object_digest(Other)


def test_our_own_code_is_digested_once_for_all() -> None:
    assert source_digest(BASIS) == source_digest(None) == source_digest()
    assert re.fullmatch("[0-9a-f]{16}", source_digest())


def test_code_without_a_file_is_never_answered_for() -> None:
    namespace: dict[str, Any] = {"__name__": "quantcheck_no_such_module"}
    exec("class Typed: pass", namespace)
    typed = namespace["Typed"]()
    assert source_digest(typed) != source_digest(typed)
    assert source_digest(3) != source_digest(3)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose rooms hold one file each, below a folder with an awkward name."""
    root = tmp_path / "builtin" / "quantcheck"
    for room in ("codecs", "kernels", "methods", "metrics", "models", "models/builtin", "report"):
        (root / room).mkdir(parents=True, exist_ok=True)
        (root / room / "one.py").write_text(f"# {room}", encoding="utf-8")
    monkeypatch.setattr(provenance, "__file__", str(root / "provenance.py"))
    return root


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("methods/one.py", True),
        ("models/one.py", True),
        ("metrics/two.py", True),
        ("models/builtin/one.py", False),
        ("report/one.py", False),
        ("methods/notes.txt", False),
    ],
)
def test_the_rooms_whose_code_makes_figures_are_digested(checkout: Path, path: str, counts: bool) -> None:
    digest = provenance._rooms_digest.__wrapped__
    before = digest()
    (checkout / path).write_text("# edited", encoding="utf-8")
    assert (digest() != before) is counts


def test_code_that_moves_to_another_file_changes_the_digest(checkout: Path) -> None:
    before = provenance._rooms_digest.__wrapped__()
    (checkout / "methods" / "one.py").rename(checkout / "methods" / "two.py")
    assert provenance._rooms_digest.__wrapped__() != before


def test_a_class_is_known_by_the_files_of_its_functions_not_by_its_modules_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conftest(folder: str, body: str) -> type:
        path = tmp_path / folder / "conftest.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(body, encoding="utf-8")
        namespace: dict[str, Any] = {"__name__": "conftest"}
        exec(compile(body, str(path), "exec"), namespace)
        return namespace["Mine"]

    body = "class Mine:\n    def quantize(self):\n        return {}\n"
    taken = types.ModuleType("conftest")
    taken.__file__ = str(tmp_path / "elsewhere.py")
    (tmp_path / "elsewhere.py").write_text("", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "conftest", taken)

    first = source_digest(conftest("one", body)())
    same = source_digest(conftest("two", body)())
    edited = source_digest(conftest("one", body.replace("{}", "{1: 2}"))())

    assert first == same != edited


def test_an_inherited_class_has_the_same_digest_in_every_process(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "from abc import ABC\nfrom quantcheck.provenance import source_digest\n"
        "class Mine(ABC):\n    made = object()\n    def quantize(self): ...\n"
        "print(source_digest(Mine()))\n",
        encoding="utf-8",
    )
    said = {
        subprocess.run([sys.executable, script], capture_output=True, check=True).stdout for _ in range(2)
    }
    assert len(said) == 1
