"""Hooks that a conftest or another plugin may implement.

All are called once a run, after what is built in and the entry points of their kind are registered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from quantcheck.codecs import CodecCapabilities, Factory
    from quantcheck.kernels import KernelCapabilities
    from quantcheck.kernels.base import Kernel
    from quantcheck.methods.base import Method
    from quantcheck.registry import Capabilities, Registry


@pytest.hookspec
def pytest_quantcheck_register_methods(methods: Registry[Method | type[Method], Capabilities]) -> None:
    """Register quantization methods of your own; they join the matrix and are gated like the built-in ones.

    Called after the entry points of the group ``quantcheck.methods``::

        def pytest_quantcheck_register_methods(methods):
            methods.register("mine", MyMethod(), Capabilities(bits=(3.0, 4.0)), origin="conftest.py")
    """


@pytest.hookspec
def pytest_quantcheck_register_codecs(codecs: Registry[Factory, CodecCapabilities]) -> None:
    """Register pack formats of your own; they are held to the same contract as the built-in ones.

    Called after the entry points of the group ``quantcheck.codecs``. The target makes a codec at a width::

        def pytest_quantcheck_register_codecs(codecs):
            codecs.register("mine", MyCodec, CodecCapabilities(bits=(3, 4)), origin="conftest.py")
    """


@pytest.hookspec
def pytest_quantcheck_register_kernels(
    kernels: Registry[Kernel | type[Kernel], KernelCapabilities],
) -> None:
    """Register kernels of your own; they are held to the same contract as the built-in ones.

    Called after the entry points of the group ``quantcheck.kernels``::

        def pytest_quantcheck_register_kernels(kernels):
            kernels.register("mine", MyKernel(), MyKernel.capabilities, origin="conftest.py")
    """
