"""What the contract suites test: the registered codecs and kernels that were asked for, less known failures.

Globs of ``--quantcheck-specs`` choose among their ids. A known failure (`quantcheck.known`) is expected to
fail, strictly: once it passes, its entry is what fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from quantcheck.codecs import CODECS
from quantcheck.errors import BaselineError
from quantcheck.extensions import codec_ids, kernel_ids, selected
from quantcheck.kernels import KERNELS
from quantcheck.known import FILE, read_known, stale
from quantcheck.options import read_settings

if TYPE_CHECKING:
    from quantcheck.codecs.base import Codec
    from quantcheck.contracts.kernel_subjects import Subject

EXAMPLES = {"smoke": 1, "standard": 3, "full": 20}
"""How many times its own number of examples a contract draws at each tier."""

PARAMETERS = ("quantcheck_cell", "quantcheck_ordering", "codec", "kernel")


def registered_codecs() -> list[Codec]:
    """Make every registered codec at every width."""
    return [
        CODECS.resolve(name)(bits) for name in CODECS.names() for bits in CODECS.entry(name).capabilities.bits
    ]


def chosen_codecs(config: pytest.Config) -> list[Codec]:
    """Make the codecs that the run's globs choose."""
    chosen = set(selected(codec_ids(), read_settings(config).specs))
    return [codec for codec in registered_codecs() if codec.id in chosen]


def chosen_kernels(config: pytest.Config) -> list[Subject]:
    """List the kernels, at a width on a device, that the run's globs choose."""
    from quantcheck.contracts.kernel_subjects import subjects

    chosen = set(selected(kernel_ids(), read_settings(config).specs))
    return [subject for subject in subjects(KERNELS.names()) if subject.spec in chosen]


def times_examples(config: pytest.Config) -> int:
    """How many times its examples a contract draws in this run."""
    return EXAMPLES[read_settings(config).tier]


def deselect_nothing(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out tests that stand for an empty choice, which pytest refuses to parametrize with."""
    empty = [item for item in items if any(_params(item).get(name, item) is None for name in PARAMETERS)]
    if empty:
        config.hook.pytest_deselected(items=empty)
        items[:] = [item for item in items if item not in empty]


def expect_known_failures(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Mark the tests of known failures as expected to fail.

    Raises:
        BaselineError: an entry's codec or kernel was collected as a whole, and has no such test.
    """
    tests = {name: item for item in items if (name := contract_id(item)) is not None}
    if not tests:
        return
    known = read_known(read_settings(config).baseline_folders)
    whole = not any("::" in argument for argument in config.invocation_params.args)
    if whole and (gone := stale(known.values(), tests)):
        raise BaselineError(f"{FILE}: {gone[0]!r} names no test any more; remove the entry")
    for name in known.keys() & tests.keys():
        reason = f"{known[name].reason} ({known[name].issue})"
        tests[name].add_marker(pytest.mark.xfail(reason=reason, strict=True))


def contract_id(item: pytest.Item) -> str | None:
    """``subject::promise`` of a contract's test of a codec or kernel."""
    params = _params(item)
    subject = getattr(params.get("codec", params.get("kernel")), "id", None)
    return None if subject is None else f"{subject}::{getattr(item, 'originalname', item.name)}"


def _params(item: pytest.Item) -> dict[str, object]:
    return getattr(getattr(item, "callspec", None), "params", {})
