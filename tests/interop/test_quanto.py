"""Quanto's packed weights against optimum-quanto: its packing and its quantizer.

Its operator ``quanto::unpack`` compiles C++ for a minute on first use; the Python function that it replaces
is what runs here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantcheck.codecs.base import Shape, Tensors

from .peers import Peer, PeerTests, group_size, library

pack_weights = library("optimum.quanto.tensor.packed").pack_weights
library("optimum.quanto.library.unpack")
PLAIN = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)
grouped = library("optimum.quanto.tensor.grouped")
DATA = "weight._data._data"


class Quanto(Peer):
    library = "optimum-quanto"
    what = "pack_weights, quanto::unpack, group, ungroup"

    def decode(self, stored: Tensors, shape: Shape) -> dict[str, Tensor]:
        codes = torch.ops.quanto.unpack.default.redispatch(PLAIN, stored[DATA], self.codec.bits)
        groups = codes[: shape.rows * shape.groups]
        return {"codes": grouped.ungroup(groups, 0, (shape.rows, shape.cols))}

    def encode(self, parts: Tensors, shape: Shape) -> dict[str, Tensor]:
        matrix = grouped.group(parts["codes"], 0, group_size(shape))
        return {DATA: pack_weights(matrix, self.codec.bits)}


class TestQuanto(PeerTests):
    peers = tuple(Quanto("quanto", bits) for bits in (2, 4))
