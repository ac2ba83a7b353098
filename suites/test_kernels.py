"""Kernels: every one, built in or plugged in, at every width, on every device that is here."""

from __future__ import annotations

import pytest

from quantcheck.contracts import KernelContract
from quantcheck.subjects import chosen_kernels, times_examples

pytestmark = pytest.mark.kernel


class TestKernel(KernelContract):
    """The kernels that the run's globs choose."""

    @classmethod
    def source(cls, config):
        """Choose by ``--quantcheck-specs``; the tier says how many examples are drawn."""
        cls.examples = KernelContract.examples * times_examples(config)
        return chosen_kernels(config)
