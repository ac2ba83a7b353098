"""The frozen base of a fine-tuning run: a Linear made of our own packed tensors.

What is trained on is what is stored: bitsandbytes' ``Linear4bit`` takes over the codes and scales of a
`NormalFloatWeight` and quantizes nothing itself. Where it does not serve, a plain Linear holds the decoded
weight: it knows no shift of a block (ICQ), and version 0.50.2 takes wrong scales on processors with AVX-512
where blocks cross rows, at in-features that 64 does not divide.
"""

from __future__ import annotations

import logging
import warnings
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantcheck.codecs.normal_float import BLOCK_SIZE, NESTED_BLOCK_SIZE, codebook, dynamic_map
from quantcheck.errors import MissingPackageError
from quantcheck.methods.packed.normal_float import NormalFloatWeight

PACKAGE = "quantcheck[finetune]"


def frozen_linear(packed: NormalFloatWeight, linear: nn.Linear, dtype: torch.dtype) -> nn.Module:
    """Return a Linear that computes in ``dtype`` with ``packed`` and the bias of ``linear``, on its device.

    Raises:
        MissingPackageError: bitsandbytes is not installed.
    """
    layer: nn.Module
    if packed.shifts is None and linear.in_features % BLOCK_SIZE == 0:
        layer = _linear4bit(packed, linear, dtype)
    else:
        layer = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
        layer.weight = nn.Parameter(packed.decode().to(linear.weight.device, dtype), requires_grad=False)
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.detach().to(dtype), requires_grad=False)
    return layer


@cache
def import_bitsandbytes() -> Any:
    """Import bitsandbytes without its warnings and log lines about what it could also use.

    Raises:
        MissingPackageError: it is not installed.
    """
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import bitsandbytes
    except ImportError as error:
        raise MissingPackageError("fine-tuning on a 4-bit base", PACKAGE) from error
    finally:
        logger.setLevel(level)
    return cast("Any", bitsandbytes)


def _linear4bit(packed: NormalFloatWeight, linear: nn.Linear, dtype: torch.dtype) -> nn.Module:
    modules, device = import_bitsandbytes().nn, linear.weight.device
    kind = {"compress_statistics": packed.offset is not None, "quant_type": packed.data_type}
    layer = modules.Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=dtype, device="meta", **kind
    )
    layer.weight = modules.Params4bit(
        _high_nibble_first(packed).to(device),
        requires_grad=False,
        quant_state=_quant_state(packed, device),
        blocksize=BLOCK_SIZE,
        bnb_quantized=True,
        module=layer,
        **kind,
    )
    return cast("nn.Module", layer)


def _high_nibble_first(packed: NormalFloatWeight) -> Tensor:
    """Pack the codes as bitsandbytes does, uint8 [ceil(out * in / 2), 1]: first code in the high nibble."""
    codes = F.pad(packed.codes(), (0, packed.codes().numel() % 2))
    return (codes[::2] << 4 | codes[1::2])[:, None]


def _quant_state(packed: NormalFloatWeight, device: torch.device) -> Any:
    state = import_bitsandbytes().functional.QuantState
    nested = None
    if packed.nested_absmax is not None:
        nested = state(
            absmax=packed.nested_absmax.to(device),
            code=dynamic_map(device),
            blocksize=NESTED_BLOCK_SIZE,
            dtype=torch.float32,
        )
    return state(
        absmax=packed.absmax.to(device),
        shape=torch.Size(packed.shape),
        code=codebook(packed.data_type, device),
        blocksize=BLOCK_SIZE,
        quant_type=packed.data_type,
        dtype=torch.float32,
        offset=None if packed.offset is None else packed.offset[0].to(device),
        state2=nested,
    )
