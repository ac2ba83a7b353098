"""Sharing a run among pytest-xdist workers; imported only where xdist is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


class SpecScheduling(LoadScopeScheduling):
    """Like xdist's ``load``, but the gates of one model and spec go to one worker, which measures once."""

    def _split_scope(self, nodeid: str) -> str:
        """``...[model/spec/metric]`` -> ``...[model/spec``; any other test is a scope of its own."""
        test, bracket, cell = nodeid.partition("[")
        return f"{test}[{'/'.join(cell.split('/')[:2])}" if bracket and cell.count("/") >= 2 else nodeid


class XdistHooks:
    """Hooks of pytest-xdist, on the controller."""

    def __init__(self, run_folder: Callable[[], str]) -> None:
        self._run_folder = run_folder

    def pytest_configure_node(self, node: Any) -> None:
        """Tell each worker the run's own folder: without a cache, too, each spec is quantized once."""
        node.workerinput["quantcheck_run_folder"] = self._run_folder()

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> SpecScheduling | None:
        """Keep the gates of a spec together, unless the user chose another distribution than the default."""
        return SpecScheduling(config, log) if config.getvalue("dist") == "load" else None
