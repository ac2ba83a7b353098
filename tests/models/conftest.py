from __future__ import annotations

from pathlib import Path

import pytest

from models.tiny import save_tiny_llama


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder of its own for each test, so that the test may break it."""
    return save_tiny_llama(tmp_path / "tiny")
