"""Other libraries' CPU kernels and one of their packers, held to our contracts: a pytest plugin.

::

    pytest --pyargs quantcheck.suites -p quantcheck.interop -m "codec or kernel" --quantcheck-specs 'bnb_*'

Each is an object of its own module that hands what it gets to the library as it is; what it supports is
declared here, without importing it, as the library itself states it. The extra ``interop`` installs them all.
What they break is told in ``docs/findings.md``.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from quantcheck.codecs import CodecCapabilities
from quantcheck.kernels import KernelCapabilities

if TYPE_CHECKING:
    from quantcheck.codecs import Factory
    from quantcheck.kernels.base import Kernel
    from quantcheck.registry import Registry

_ALL = ("float32", "float16", "bfloat16")
_INT8 = KernelCapabilities(
    "grouped",
    (8,),
    zero_points=False,
    g_idx=False,
    act_bits=(8,),
    dtypes=_ALL,
    group_sizes=(None,),
    in_multiple=2,  # torch's product of one column is not written: docs/findings.md
)
_KERNELS = (
    (
        "bnb_blockwise",
        "bitsandbytes:Blockwise",
        KernelCapabilities(
            "codebook", (4,), dtypes=_ALL, group_sizes=(64, 128, 256), requires=("bitsandbytes",)
        ),
    ),
    (
        "bnb_int8",
        "bitsandbytes:Int8",
        replace(_INT8, requires=("bitsandbytes",)),
    ),
    (
        "torchao_int8",
        "torchao:Int8",
        replace(_INT8, requires=("torchao",)),
    ),
    (
        "torchao_intx",
        "torchao:Intx",
        KernelCapabilities(
            "grouped",
            (1, 2, 3, 4, 5, 6, 7, 8),
            g_idx=False,
            dtypes=_ALL,
            group_sizes=(None, 16, 32),
            in_multiple=32,
            requires=("torchao",),
        ),
    ),
    (
        "gptqmodel_torch",
        "gptqmodel:Torch",
        KernelCapabilities(
            "grouped",
            (2, 3, 4, 8),
            dtypes=("float16", "bfloat16"),
            in_multiple=32,
            out_multiple=32,
            requires=("gptqmodel",),
        ),
    ),
    (
        "gptqmodel_fused",
        "gptqmodel:Fused",
        KernelCapabilities(
            "grouped",
            (4,),
            g_idx=False,
            dtypes=("bfloat16",),
            group_sizes=(32, 64),
            in_multiple=64,
            out_multiple=32,
            requires=("gptqmodel",),
        ),
    ),
)
_CODECS = (("ct_library", "compressed_tensors:Library", (1, 2, 3, 4, 5, 6, 7, 8), "compressed_tensors"),)


def pytest_quantcheck_register_kernels(kernels: Registry[Kernel | type[Kernel], KernelCapabilities]) -> None:
    """Register the kernels; those of a library that is missing are skipped when they are asked for."""
    for name, target, capabilities in _KERNELS:
        kernels.register(name, f"{__name__}.{target}", capabilities, origin=__name__)


def pytest_quantcheck_register_codecs(codecs: Registry[Factory, CodecCapabilities]) -> None:
    """Register the packers of the libraries that are installed."""
    for name, target, bits, module in _CODECS:
        if find_spec(module) is not None:
            codecs.register(name, f"{__name__}.{target}", CodecCapabilities(bits), origin=__name__)
