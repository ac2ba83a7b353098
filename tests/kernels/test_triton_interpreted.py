"""Runs the tests of Triton's kernels in Triton's interpreter, where there is no GPU to run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantcheck.kernels import INTERPRETED


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="test_triton itself runs here")
def test_the_interpreter_passes_them(repository: Path) -> None:
    pytest.importorskip("triton", reason="triton is not installed (it comes with CUDA builds of torch)")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels/test_triton.py"],
        cwd=repository,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "passed" in ran.stdout and "skipped" not in ran.stdout, ran.stdout
