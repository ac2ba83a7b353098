"""What every test of the plugin needs; a conftest that imports these names has them."""

from __future__ import annotations

import sys
from pathlib import Path

import hypothesis
import pytest
from models.tiny import save_tiny_llama

from plugin.project import POLICY, SUITE, Project, words
from quantcheck import runner, snapshot, state
from quantcheck.metrics import zeroshot
from quantcheck.models.load import load_model
from quantcheck.spec import ModelSpec

# pytester forgets what a run in this process imported; torch bears that only once, and all are slow.
IMPORTED_ONCE = (hypothesis, runner, snapshot, state, zeroshot)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that no test may write to."""
    folder = save_tiny_llama(tmp_path_factory.mktemp("checkpoint") / "tiny")
    load_model(ModelSpec.parse(str(folder)), device="cpu")
    return folder


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkpoint of the same architecture."""
    return save_tiny_llama(tmp_path_factory.mktemp("checkpoint") / "other", seed=1)


@pytest.fixture(scope="session")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests that are not about the cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def project(
    pytester: pytest.Pytester, tiny: Path, warm_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """A project with a policy, no baselines yet, and the gates of the package's suite."""
    for name in ("CI", "PYTEST_ADDOPTS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    # A file that a test writes twice within a second would be taken for the first one.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pytester.makepyfile(test_gates=SUITE)
    pytester.makeini("[pytest]\n")
    made = Project(pytester, tiny, warm_cache)
    made.baselines.mkdir()
    (made.baselines / "policy.toml").write_text(POLICY, encoding="utf-8")
    (made.path / "eval.txt").write_text(words(1, 400), encoding="utf-8")
    (made.path / "calibration.txt").write_text(words(2, 200), encoding="utf-8")
    return made
