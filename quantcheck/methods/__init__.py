"""Quantization methods by name; their modules, and torch, are imported when one is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantcheck.registry import Capabilities, Registry
from quantcheck.spec import GRIDS

if TYPE_CHECKING:
    from quantcheck.methods.base import Method

WHOLE_BITS = (1, 2, 3, 4, 5, 6, 7, 8)
BUILT_IN = "quantcheck"

METHODS: Registry[Method | type[Method]] = Registry("method")

METHODS.register(
    "rtn", "quantcheck.methods.rtn:Rtn", Capabilities(bits=WHOLE_BITS, grids=GRIDS), origin=BUILT_IN
)
METHODS.register(
    "gptq",
    "quantcheck.methods.gptq:Gptq",
    Capabilities(
        bits=WHOLE_BITS,
        grids=GRIDS,
        calibrated=True,
        options=(("act_order", bool), ("static_groups", bool), ("percdamp", float), ("block_size", int)),
    ),
    origin=BUILT_IN,
)
