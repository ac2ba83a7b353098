"""What all tests of quantcheck share."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["pytester"]

# The same examples in every run, and no deadline: the machine may be busy.
hypothesis.settings.register_profile("quantcheck", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("quantcheck")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference models, data and oracles beside the checkout; tests that need them skip without."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "oracles").is_dir():
        pytest.skip("the reference folder ../shared (oracles, models, data) is not here")
    return folder
