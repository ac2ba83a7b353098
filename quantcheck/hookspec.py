"""Hooks that a conftest or another plugin may implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from quantcheck.methods.base import Method
    from quantcheck.registry import Capabilities, Registry


@pytest.hookspec
def pytest_quantcheck_register_methods(methods: Registry[Method | type[Method], Capabilities]) -> None:
    """Register quantization methods of your own; they join the matrix and are gated like the built-in ones.

    Called once a run, after the built-in methods and those of the entry point group ``quantcheck.methods``
    are registered::

        def pytest_quantcheck_register_methods(methods):
            methods.register("mine", MyMethod(), Capabilities(bits=(3.0, 4.0)), origin="conftest.py")
    """
