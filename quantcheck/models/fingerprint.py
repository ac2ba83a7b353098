"""Whether a model in memory still is what was loaded: an integer a tensor, cheap enough to take again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_CHUNK = 1 << 22
_STEP = 0x1E3779B97F4A7C15
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fingerprints(model: nn.Module) -> dict[str, int]:
    """Sum up the bits of every parameter and buffer of ``model``, by name.

    With b_i the bits of element i as an integer, the sum of ``b_i (2i + 1)``, by chunks of 4 million elements
    whose sums are taken up in turn, modulo 2^64. One changed element always shows, since its weight is odd,
    and so does an exchange of two that differ, unless by chance. Not seen are changes of several elements
    whose weighted sums happen to cancel (about one in 2^64 of them), a change that was undone, a tensor
    that took another's place with the same bits, and whatever is neither parameter nor buffer: the config,
    hooks, code.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: _fingerprint(tensor.detach()) for name, tensor in tensors.items()}


def _fingerprint(tensor: Tensor) -> int:
    bits = tensor.contiguous().reshape(-1).view(_INTEGERS[tensor.element_size()])
    total = bits.numel()
    for start in range(0, bits.numel(), _CHUNK):
        chunk = bits[start : start + _CHUNK]
        odd = torch.arange(1, 2 * chunk.numel(), 2, device=chunk.device)
        # int64 wraps around: the sum is modulo 2^64, in any order.
        total = (total * _STEP + int((chunk.to(torch.int64) * odd).sum())) % 2**64
    return total
