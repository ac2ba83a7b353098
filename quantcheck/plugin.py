"""The door: pytest hooks of a few lines each. Loads without torch, transformers, numpy or hypothesis.

A plugin that pytest loads by itself taxes every test run of its environment, so what the hooks delegate to
is imported only when a gate is asked for: by an option, a mark expression or a test.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import quantcheck
from quantcheck import hookspec
from quantcheck.errors import QuantcheckError
from quantcheck.fixtures import gate, quantized_model, reference_model
from quantcheck.options import add_options, given_on_command_line

if TYPE_CHECKING:
    from quantcheck.extensions import Extensions
    from quantcheck.state import State

__all__ = ["gate", "quantized_model", "reference_model"]

STATE = pytest.StashKey["State"]()
EXTENSIONS = pytest.StashKey["Extensions"]()
RUN_FOLDER = pytest.StashKey[str]()
CELLS = ("quantcheck_cell", ORDERING := "quantcheck_ordering")
SUITES = ("quantcheck", "codec", "kernel")
MARKERS = (
    "quantcheck: every gate of the matrix",
    "ultra_low_bit: gates of 4 weight bits and fewer",
    "canary: one 8-bit row a method, which must stay lossless",
    "codec: gates of pack formats",
    "kernel: gates of dequantize and matmul kernels",
    "bits(w): gates whose nearest whole weight width is w, from 1 to 16; select with -m 'bits(w=2)'",
)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that a conftest or another plugin may implement."""
    pluginmanager.add_hookspecs(hookspec)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the command line options and their ini keys."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks and register what gathers the records."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        return
    config.pluginmanager.register(Gathering(config), "quantcheck-gathering")
    if config.pluginmanager.hasplugin("xdist"):
        from quantcheck.distribution import XdistHooks

        config.pluginmanager.register(XdistHooks(lambda: run_folder(config)), "quantcheck-xdist")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the run: its cache, and what its conftests registered."""
    if STATE in config.stash:
        config.stash[STATE].close()
        del config.stash[STATE]
    if EXTENSIONS in config.stash:
        config.stash[EXTENSIONS].close()
        del config.stash[EXTENSIONS]
    if RUN_FOLDER in config.stash:
        shutil.rmtree(config.stash[RUN_FOLDER], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Print the gates and leave, for ``--quantcheck-list``."""
    if not config.getoption("quantcheck_list"):
        return None
    config._do_configure()
    try:
        with _usage_errors():
            return get_state(config).list_gates()
    finally:
        config._ensure_unconfigure()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Where gates are asked for on the command line, check what they need before anything is collected."""
    if _asked_for(session.config) and not hasattr(session.config, "workerinput"):
        with _usage_errors():
            get_state(session.config).check()


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each gate of the matrix a test of its own, and the contracts' suites what is plugged in."""
    if any(metafunc.definition.get_closest_marker(mark) for mark in ("codec", "kernel")):
        with _usage_errors(pytest.Collector.CollectError):
            extend(metafunc.config)
    name = next((name for name in CELLS if name in metafunc.fixturenames), None)
    if name is None:
        return
    with _usage_errors(pytest.Collector.CollectError):
        every = get_state(metafunc.config).session.cells
    cells = [cell for cell in every if (cell.against is not None) is (name == ORDERING)]
    # Globs may choose codecs and kernels alone; pytest refuses to parametrize with nothing.
    nothing = [pytest.param(None, id="nothing-asked-for", marks=pytest.mark.quantcheck)]
    metafunc.parametrize(
        name,
        [
            pytest.param(
                cell,
                id=cell.id,
                marks=[
                    pytest.mark.bits(w=cell.spec.whole_bits),
                    *(getattr(pytest.mark, mark) for mark in cell.marks),
                ],
            )
            for cell in cells
        ]
        or nothing,
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse arguments of the ``bits`` mark that no gate can have; expect the known failures of contracts."""
    if any(item.get_closest_marker(mark) for item in items for mark in SUITES):
        from quantcheck.subjects import deselect_nothing, expect_known_failures

        deselect_nothing(config, items)
        with _usage_errors():
            expect_known_failures(config, items)
    for item in items:
        for mark in item.iter_markers("bits"):
            width = mark.kwargs.get("w")
            if mark.args or set(mark.kwargs) != {"w"} or type(width) is not int or not 1 <= width <= 16:
                raise pytest.UsageError(
                    f"{item.nodeid}: mark bits takes one whole number w from 1 to 16, as in bits(w=3); got "
                    f"{mark.args or mark.kwargs}"
                )


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Check the gates that were selected, once, before any of them runs."""
    config, items = session.config, session.items
    if _gates_asked_for(config, items) and not hasattr(config, "workerinput"):
        with _usage_errors():
            get_state(config).check_selection(items, complete=not session.testsfailed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the records of a gate to its report; a gate that skipped, or ended without a verdict, fails."""
    report = yield
    if _uses(item, "gate"):
        from quantcheck.state import annotate

        annotate(item, report)
    return report


class Gathering:
    """Gathers records from the reports, also those of xdist workers, and renders them; absent in workers."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.raw: list[dict[str, Any]] = []
        self._announced = False

    def pytest_report_header(self) -> list[str]:
        """Say what is under test."""
        self._announced = STATE in self.config.stash
        if self._announced:
            return get_state(self.config).session.header_lines()
        return [f"quantcheck {quantcheck.__version__}"]

    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> list[str]:
        """Say it after the collection, where nothing but a test asked for gates."""
        if self._announced or self.config.get_verbosity() < 0 or not _gates_asked_for(self.config, items):
            return []
        with _usage_errors():
            return get_state(self.config).session.header_lines()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the records that a report carries."""
        if STATE in self.config.stash:
            get_state(self.config).progress.clear()
        self.raw += getattr(report, "quantcheck", ())

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the report files and say what the whole run tells; one that decided nothing leaves both."""
        if not self.raw:
            return
        state = get_state(self.config)
        state.write_reports(self.raw)
        if session.exitstatus == pytest.ExitCode.OK and state.found_by_the_run(self.raw):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, and how kernels treat rows that come with others."""
        if self.raw:
            get_state(self.config).print_summary(terminalreporter, self.raw)
        for line in _batch_lines(terminalreporter):
            terminalreporter.write_line(line)


def _batch_lines(reporter: pytest.TerminalReporter) -> Iterator[str]:
    """Sum up what the contract found of kernels that promise no batch invariance, a line a kernel."""
    found: dict[str, list[int]] = {}
    reports = (report for outcome in reporter.stats.values() for report in outcome)
    calls = (report for report in reports if getattr(report, "when", "") == "call")
    for name, value in (pair for report in calls for pair in report.user_properties):
        if name == "quantcheck_batch_invariant":
            sums = found.setdefault(value[0], [0, 0])
            sums[:] = sums[0] + value[1], sums[1] + value[2]
    for kernel, (same, drawn) in found.items():
        yield f"batch invariance of {kernel}: {same} of {drawn} rows are the same bits alone as in a batch"


def get_state(config: pytest.Config) -> State:
    """The state of this run, made on first use; raises `QuantcheckError` when an option cannot be used."""
    if STATE not in config.stash:
        from quantcheck.state import State

        extend(config)
        config.stash[STATE] = State(config, lambda: run_folder(config))
    return config.stash[STATE]


def extend(config: pytest.Config) -> Extensions:
    """Register what packages, conftests and plugins bring, once a run; raises `QuantcheckError`."""
    if EXTENSIONS not in config.stash:
        from quantcheck.extensions import Extensions

        config.stash[EXTENSIONS] = Extensions(config.hook)
    return config.stash[EXTENSIONS]


def run_folder(config: pytest.Config) -> str:
    """A folder that ends with the run and is shared with its xdist workers, made on first use."""
    given: str | None = getattr(config, "workerinput", {}).get("quantcheck_run_folder")
    if given is not None:
        return given
    if RUN_FOLDER not in config.stash:
        config.stash[RUN_FOLDER] = tempfile.mkdtemp(prefix="quantcheck-")
    return config.stash[RUN_FOLDER]


def _asked_for(config: pytest.Config) -> bool:
    marks = ("quantcheck", "ultra_low_bit", "canary", "bits")
    if any(mark in (config.getoption("markexpr", "") or "") for mark in marks):
        return True
    return given_on_command_line(config) or any(
        "quantcheck.suites" in argument for argument in config.invocation_params.args
    )


def _gates_asked_for(config: pytest.Config, items: list[pytest.Item]) -> bool:
    return STATE in config.stash or any(_uses(item, name) for item in items for name in __all__)


def _uses(item: pytest.Item, fixture: str) -> bool:
    """Whether a test uses this plugin's fixture, not one of its own by that name."""
    if not isinstance(item, pytest.Function):
        return False
    definitions = item._fixtureinfo.name2fixturedefs.get(fixture, ())
    return bool(definitions) and definitions[-1].func.__module__ == gate.__module__


@contextmanager
def _usage_errors(kind: type[Exception] = pytest.UsageError) -> Iterator[None]:
    try:
        yield
    except QuantcheckError as error:
        raise kind(f"quantcheck: {error}") from error
