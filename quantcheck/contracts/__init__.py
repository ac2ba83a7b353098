"""What every quantization method, codec and kernel promises, as property tests that its author runs on it.

Derive a class from `MethodContract` in a test module, name the method and a few of its specs, and pytest
collects the promises, one test each and spec::

    class TestMine(MethodContract):
        method = "mine"
        specs = ("mine-w4-g16",)
        rows_independent = True

They run on tiny models and layers made from seeds (``strategies``): no files, no network, the same examples
in every run. A codec's author derives from `CodecContract`::

    class TestMyCodec(CodecContract):
        codecs = (MyCodec(3), MyCodec(4))

and a kernel's from `KernelContract`::

    class TestMyKernel(KernelContract):
        kernels = (MyKernel(),)

``docs/contracts.md`` lists the promises.
"""

from __future__ import annotations

from quantcheck.contracts.codec_refusals import RefusalPromises
from quantcheck.contracts.codec_weights import WeightPromises
from quantcheck.contracts.codecs import StoragePromises
from quantcheck.contracts.kernel_refusals import KernelRefusalPromises
from quantcheck.contracts.kernels import KernelPromises
from quantcheck.contracts.layers import LayerPromises
from quantcheck.contracts.models import ModelPromises

__all__ = ["CodecContract", "KernelContract", "MethodContract"]


class MethodContract(ModelPromises, LayerPromises):
    """The promises of one method; derive from it, and give ``method`` and ``specs``.

    Promises that not every method makes are declared by the flags below, and their tests are collected only
    where they are; say in the class's docstring why one is left out. Tests of a single layer are collected
    for a `LinearMethod` or `HessianMethod`.

    Attributes:
        method: registered name, or a method (class or object) that has ``capabilities``.
        specs: spec ids to run; they must fit the in-features of ``model``.
        model: recipe of the tiny model.
        calibration_order_free: another order of the calibration windows hardly changes the result.
        adapted: it leaves a low-rank adapter at each Linear.
        widths: spec ids by rising width; at each, the model's outputs are not much worse than at the one
            before.
        rows_independent: (layer) what becomes of a row of the weight depends on no other row.
        scales_with_weights: (layer) twice the weight gives exactly twice the result, with float32 scales.
        hessian_scale_free: (layer) the Hessian times a power of four gives the same bits.
        diagonal_twin: (layer) the method without data that it equals, bit for bit, where the Hessian is
            diagonal.
    """


class CodecContract(StoragePromises, RefusalPromises, WeightPromises):
    """The promises of codecs; derive from it, and give ``codecs``.

    Every promise is a test a codec. Those about places, ranges, ``g_idx``, affine weights, conversions and
    ``encode`` are asked of the codecs that have them.

    Attributes:
        codecs: objects with the interface of `quantcheck.codecs.base.Codec`, made at a width.
        examples: how many examples each property draws; dear ones draw fewer.
    """


class KernelContract(KernelPromises, KernelRefusalPromises):
    """The promises of kernels; derive from it, and give ``kernels``.

    Every promise is a test a kernel, width and device. Which ones a kernel makes follows from its
    `quantcheck.kernels.KernelCapabilities`.

    Attributes:
        kernels: kernels, their classes, or their registered names.
        examples: how many products each test draws.
    """
