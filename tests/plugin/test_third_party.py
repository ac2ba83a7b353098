"""Somebody else's method: from a conftest or an installed package, gated, listed and named like ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutants.methods import ScalesOff, Sound

from plugin.project import Project, matched, refused
from quantcheck.methods import METHODS

METHOD = """
    from quantcheck.methods.rtn import Rtn
    from quantcheck.registry import Capabilities

    class Mine(Rtn):
        capabilities = Capabilities(bits=(3, 8))

        def quantize_weight(self, weight, spec, scale_dtype):
            return super().quantize_weight(weight * {factor}, spec, scale_dtype)
"""
HOOK = """
    def pytest_quantcheck_register_methods(methods):
        methods.register({name!r}, Mine(), Mine.capabilities, origin="conftest.py")
"""


def write_conftest(project: Project, *, name: str = "mine", factor: float = 1.0) -> None:
    project.pytester.makeconftest(METHOD.format(factor=factor) + HOOK.format(name=name))


def install(
    project: Project, monkeypatch: pytest.MonkeyPatch, *, name: str = "mine", factor: float = 1.0
) -> None:
    """A distribution with an entry point, as pip would leave it."""
    site = project.path / "site"
    info = site / "mine-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[quantcheck.methods]\n{name} = mine_methods:Mine\n")
    project.pytester.makepyfile(**{"site/mine_methods": METHOD.format(factor=factor)})
    monkeypatch.syspath_prepend(site)


@pytest.fixture(params=["conftest", "entry point"])
def registered(request: pytest.FixtureRequest, project: Project, monkeypatch: pytest.MonkeyPatch):
    """Registers the method ``mine``, with a factor by which its weights are off."""
    if request.param == "conftest":
        return lambda factor=1.0: write_conftest(project, factor=factor)
    return lambda factor=1.0: install(project, monkeypatch, factor=factor)


def test_a_method_joins_the_matrix_with_what_it_supports(project: Project, registered) -> None:
    registered()

    result = project.run("--quantcheck-list", "--quantcheck-methods=mine", specs="*")

    assert result.ret == pytest.ExitCode.OK
    matched(
        result, "tiny/mine-w3/bpw  quantcheck ultra_low_bit bits(w=3)", "tiny/mine-w8/bpw  quantcheck canary"
    )
    result.stdout.no_fnmatch_line("*mine-w4*")
    matched(result, "4 unsupported combinations left out")


def test_a_method_is_gated_like_ours(project: Project, registered) -> None:
    registered()
    first = project.run(specs="mine-w8")
    project.accept(specs="mine-w8")
    rerun = project.run(specs="mine-w8")
    registered(factor=1.05)
    changed = project.run(specs="mine-w8")

    assert [first.ret, rerun.ret, changed.ret] == [1, 0, 1]
    assert project.verdicts()["mine-w8/kld/eval"] == "BELOW_FLOOR"


def test_a_misspelled_method_gets_a_hint(project: Project, registered) -> None:
    registered()

    refused(project.run(specs="mien-w8"), "unknown method 'mien'; did you mean 'mine'?")


def test_a_method_ends_with_the_run_that_registered_it(project: Project, registered) -> None:
    registered()

    project.run("--collect-only", specs="mine-w8")

    assert "mine" not in METHODS.names()


def test_a_name_that_is_taken_is_refused_and_says_by_whom(project: Project) -> None:
    write_conftest(project, name="rtn")

    refused(project.run(), "two methods are called 'rtn': one from quantcheck, one from conftest.py")


def test_a_package_and_a_conftest_cannot_share_a_name(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(project, monkeypatch)
    write_conftest(project)

    refused(project.run(), "two methods are called 'mine': one from mine, one from conftest.py")
    assert "mine" not in METHODS.names()


def test_a_name_that_no_spec_could_hold_is_refused(project: Project) -> None:
    write_conftest(project, name="my-method")

    refused(project.run(), "method name 'my-method' from conftest.py must be lower-case letters")


def test_a_package_that_cannot_be_imported_is_refused_by_name(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(project, monkeypatch)
    Path(project.path / "site" / "mine_methods.py").write_text("import no_such_package\n")

    refused(project.run(), "method 'mine' of mine cannot be loaded", "no_such_package")


def test_a_method_without_capabilities_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    install(project, monkeypatch)
    Path(project.path / "site" / "mine_methods.py").write_text("class Mine: pass\n")

    refused(project.run(), "method 'mine' of mine cannot be loaded", "capabilities")


def test_a_methods_own_settings_keep_the_cache_from_answering_for_others(project: Project) -> None:
    class Scaled(ScalesOff):
        def __init__(self, factor: float) -> None:
            self.factor = factor

        def alter(self, packed):
            from dataclasses import replace

            return replace(packed, scales=packed.scales * self.factor)

    def figure(method: object) -> float:
        project.run(specs="mine-w8", methods={"mine": method})
        return project.gates()["mine-w8/kld/eval"]["value"]

    assert figure(Scaled(1.0)) == figure(Sound())
    assert figure(Scaled(1.1)) > figure(Scaled(1.05)) > figure(Scaled(1.0))
