"""Where relative paths lead, and where accepted figures land by default."""

from __future__ import annotations

import pytest

from quantcheck.options import read_settings


def test_the_suites_of_the_package_take_the_baselines_of_the_folder_they_are_run_in(
    pytester: pytest.Pytester,
) -> None:
    config = pytester.parseconfigure("--pyargs", "quantcheck.suites")

    assert read_settings(config).baselines == pytester.path / "baselines"


def test_baselines_lie_below_the_root_of_the_project(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini("[pytest]\n")
    monkeypatch.chdir(pytester.mkdir("deeper"))

    assert read_settings(pytester.parseconfigure()).baselines == pytester.path / "baselines"


def test_paths_in_the_ini_file_are_relative_to_it_and_on_the_command_line_to_the_shell(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini("[pytest]\nquantcheck_calibration = c.txt\nquantcheck_text = a.txt b.txt\n")
    deeper = pytester.mkdir("deeper")
    monkeypatch.chdir(deeper)

    settings = read_settings(pytester.parseconfigure("--quantcheck-text=here.txt"))

    assert settings.calibration == pytester.path / "c.txt"
    assert settings.texts == (deeper / "here.txt",)
