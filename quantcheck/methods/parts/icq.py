"""ICQ: shift each block to where its NF4 codes carry most information.

Qin et al., "Accurate LoRA-Finetuning Quantization of LLMs via Information Retention" (IR-QLoRA), ICML 2024,
section 3.2. A block of 64 weights has the entropy ``H = -sum_i p_i log2 p_i`` over the shares of its 16
codes, 4 bits at most. It is searched for the shift

    tau = tau_0 + f max|w - tau_0|,  f in linspace(-lambda sigma, lambda sigma, 2n + 1),

where tau_0 is the block's lower median and sigma = 1 / Phi^-1(.9677083) is the spread of the normal
distribution that NF4's outermost level stands for; the first f with the largest H wins. Nothing here looks
at the error: the entropy goes up, the error may go either way.

Defaults: lambda = .1, n = 100, as the paper and the official script have them (the official function's own
default is 51). The official code needs blocks in multiples of 256; here a last block may be shorter, and what
fills it up takes no part in its median and entropy. The integer version is an option of the grids.
"""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor

from quantcheck.codecs.normal_float import (
    BLOCK_SIZE,
    NORMAL_TAIL,
    codebook,
    in_blocks,
    midpoints,
    relative,
)

SEARCH_WIDTH = 0.1
SEARCH_STEPS = 100

_BLOCKS_AT_ONCE = 1 << 12
_SIGMA = 1 / NormalDist().inv_cdf(torch.tensor(NORMAL_TAIL).item())


def best_shifts(weight: Tensor, width: float = SEARCH_WIDTH, steps: int = SEARCH_STEPS) -> Tensor:
    """Search the shift of each block of ``weight``, float32 [out, in]: float32 [blocks].

    Args:
        weight: the weight.
        width: lambda.
        steps: n; 2n + 1 shifts are tried.
    """
    whole = weight.numel() // BLOCK_SIZE * BLOCK_SIZE
    flat = weight.flatten()
    parts = [*torch.split(in_blocks(flat[:whole], BLOCK_SIZE), _BLOCKS_AT_ONCE), flat[None, whole:]]
    return torch.cat([_search(blocks, width, steps) for blocks in parts if blocks.numel()])


def entropy(counts: Tensor) -> Tensor:
    """Return the entropy in bits of codes that occur ``counts`` times, integers [codes, n]: float32 [n]."""
    shares = counts / counts.sum(dim=0)
    return -torch.where(counts > 0, shares * shares.log2(), 0).sum(dim=0)


def _search(blocks: Tensor, width: float, steps: int) -> Tensor:
    # Neither shift nor scale changes the order, so sorted blocks are counted at the borders of codes alone.
    ordered = blocks.sort(dim=1).values
    median = ordered[:, (blocks.shape[1] - 1) // 2]
    reach = (ordered - median[:, None]).abs().amax(dim=1)
    borders = midpoints(codebook("nf4", blocks.device)).expand(blocks.shape[0], -1).contiguous()
    best, best_entropy = median, torch.full_like(median, -1)
    for factor in torch.linspace(
        -width * _SIGMA, width * _SIGMA, 2 * steps + 1, dtype=torch.float64
    ).tolist():
        shift = factor * reach + median
        shifted = ordered - shift[:, None]
        absmax = torch.maximum(shifted[:, 0].abs(), shifted[:, -1].abs())
        found = entropy(_counts(relative(shifted, absmax), borders))
        better = found > best_entropy
        best, best_entropy = torch.where(better, shift, best), torch.where(better, found, best_entropy)
    return best


def _counts(ordered: Tensor, borders: Tensor) -> Tensor:
    """Count the values of ascending rows, [n, size], between ``borders``, [n, codes - 1]: [codes, n]."""
    below = torch.searchsorted(ordered, borders, right=True, out_int32=True)
    ends = below.new_zeros(1, len(below)), below.new_full((1, len(below)), ordered.shape[1])
    return torch.cat([ends[0], below.T, ends[1]]).diff(dim=0)
