"""Quantization methods by name; their modules, and torch, are imported when one is used.

The rows are those of the study's tables 1 to 4 and 7 (arXiv 2404.14047), and at the higher tiers what lies
beyond them: other widths and group sizes, and the official options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantcheck.registry import Capabilities, Registry, Rows
from quantcheck.spec import GRIDS

if TYPE_CHECKING:
    from quantcheck.methods.base import Method

WHOLE_BITS = (1, 2, 3, 4, 5, 6, 7, 8)
BUILT_IN = "quantcheck"

METHODS: Registry[Method | type[Method], Capabilities] = Registry("method")


def _register(name: str, target: str, capabilities: Capabilities) -> None:
    METHODS.register(name, f"quantcheck.methods.{target}", capabilities, origin=BUILT_IN)


_register(
    "rtn",
    "rtn:Rtn",
    Capabilities(
        bits=WHOLE_BITS,
        grids=GRIDS,
        act_bits=(None, *WHOLE_BITS[1:], 16),
        options=(("mse", bool), ("icq", bool), ("per_tensor", bool), ("vision", bool)),
        rows=Rows(
            standard=("rtn-w8a8-symr", "rtn-w6a6-symr", "rtn-w4a4-symr"),
            full=("rtn-w4-mse", "rtn-w3-g128-mse", "rtn-w3-g128-icq", "rtn-w8a8-symr-per_tensor"),
        ),
    ),
)
_register(
    "gptq",
    "gptq:Gptq",
    Capabilities(
        bits=WHOLE_BITS,
        grids=GRIDS,
        calibrated=True,
        options=(
            ("act_order", bool),
            ("static_groups", bool),
            ("true_sequential", bool),
            ("mse", bool),
            ("icq", bool),
            ("percdamp", float),
            ("block_size", int),
            ("vision", bool),
        ),
        rows=Rows(
            full=(
                *(f"gptq-w{bits}-act_order" for bits in (2, 3, 4)),
                *(f"gptq-w{bits}-act_order-true_sequential" for bits in (2, 3, 4)),
                *(f"gptq-w{bits}-g128-act_order-static_groups" for bits in (2, 3, 4)),
                *(f"gptq-w{bits}-g128-{search}" for bits in (2, 3, 4) for search in ("mse", "icq")),
            )
        ),
    ),
)
_register(
    "awq",
    "awq:Awq",
    Capabilities(
        bits=WHOLE_BITS,
        calibrated=True,
        options=(("scale", bool), ("clip", bool)),
        rows=Rows(
            full=tuple(f"awq-w{bits}-g128-{part}=false" for bits in (2, 3, 4) for part in ("clip", "scale"))
        ),
    ),
)
_register(
    "smoothquant",
    "smoothquant:SmoothQuant",
    Capabilities(
        bits=WHOLE_BITS[1:],
        grouped=False,
        calibrated=True,
        act_bits=(*WHOLE_BITS[1:], 16, None),
        options=(("alpha", float), ("per_tensor", bool), ("quantize_bmm_input", bool)),
        uniform=False,
        rows=Rows(
            smoke=("smoothquant-w4a4", "smoothquant-w8a8"),
            standard=("smoothquant-w6a6",),
            full=("smoothquant-w8a8-alpha=0.5", "smoothquant-w8a8-per_tensor"),
        ),
    ),
)
_register(
    "quip",
    "quip:Quip",
    Capabilities(
        bits=WHOLE_BITS,
        grouped=False,
        calibrated=True,
        options=(
            ("rounding", str),
            ("npasses", int),
            ("incoherence", bool),
            ("kronecker", bool),
            ("percdamp", float),
        ),
        uniform=False,
        rows=Rows(
            smoke=("quip-w2", "quip-w3", "quip-w4"),
            standard=("quip-w1", "quip-w5", "quip-w6", "quip-w7", "quip-w8"),
            full=tuple(
                f"quip-w{bits}-{option}"
                for bits in (2, 3, 4)
                for option in ("rounding=ldlq_rg", "rounding=near", "kronecker", "incoherence=false")
            ),
        ),
    ),
)
_register(
    "pbllm",
    "pbllm:PbLlm",
    Capabilities(
        bits=(1.7, 2),
        between=(1.05, 7.9),
        calibrated=True,
        options=(("salient_metric", str), ("disable_gptq", bool), ("alpha", str), ("percdamp", float)),
        uniform=False,
        rows=Rows(
            smoke=("pbllm-w1.7-g128", "pbllm-w2-g128"),
            standard=("pbllm-w1.7", "pbllm-w2", "pbllm-w2.4-g128", "pbllm-w4.5-g128"),
            full=tuple(
                f"pbllm-w{bits}-g128-{option}"
                for bits in ("1.7", "2")
                for option in ("salient_metric=magnitude", "alpha=binarized", "disable_gptq")
            ),
        ),
    ),
)
_register(
    "billm",
    "billm:BiLlm",
    Capabilities(
        bits=(1.1,),
        calibrated=True,
        options=(("salient_metric", str), ("disable_gptq", bool), ("search", str), ("percdamp", float)),
        uniform=False,
        rows=Rows(
            smoke=("billm-w1.1-g128",),
            standard=("billm-w1.1", "billm-w1.1-g64"),
            full=tuple(
                f"billm-w1.1-g128-{option}"
                for option in (
                    "salient_metric=magnitude",
                    "search=weight_order1",
                    "search=weight_order2",
                    "disable_gptq",
                )
            ),
        ),
    ),
)
_register(
    "slimllm",
    "slimllm:SlimLlm",
    Capabilities(
        bits=(2, 3, 4, 5, 6, 7),
        group_required=True,
        calibrated=True,
        options=(
            ("lambda_salience", float),
            ("paper_salience", bool),
            ("double_pointer", bool),
            ("symmetric_start", bool),
            ("percdamp", float),
        ),
        uniform=False,
        rows=Rows(
            smoke=tuple(f"slimllm-w{bits}-g128" for bits in (2, 3, 4)),
            standard=(
                *(f"slimllm-w{bits}-g64" for bits in (2, 3, 4)),
                *(f"slimllm-w{bits}-g128" for bits in (5, 6, 7)),
            ),
            full=(
                *(f"slimllm-w{bits}-g32" for bits in (2, 3, 4)),
                *(f"slimllm-w{bits}-g64-paper_salience" for bits in (2, 3, 4)),
                *(f"slimllm-w{bits}-g64-double_pointer" for bits in (2, 3, 4)),
            ),
        ),
    ),
)
_register(
    "dbllm",
    "dbllm:DbLlm",
    Capabilities(
        bits=(2,),
        options=(("steps", int), ("gamma", float), ("lr", float), ("weight_lr", float)),
        distilled=True,
        uniform=False,
        rows=Rows(
            smoke=("dbllm-w2-g128",),
            standard=("dbllm-w2-g64",),
            full=("dbllm-w2", "dbllm-w2-g128-steps=0", "dbllm-w2-g128-weight_lr=0.001"),
        ),
    ),
)
_register(
    "nf4",
    "nf4:Nf4",
    Capabilities(
        bits=(4,),
        grouped=False,
        options=(("double_quant", bool), ("icq", bool), ("vision", bool)),
        uniform=False,
        rows=Rows(smoke=("nf4-w4",), full=("nf4-w4-double_quant=false", "nf4-w4-icq")),
    ),
)
_register(
    "fp4",
    "nf4:Fp4",
    Capabilities(
        bits=(4,),
        grouped=False,
        options=(("double_quant", bool), ("vision", bool)),
        uniform=False,
        rows=Rows(standard=("fp4-w4",), full=("fp4-w4-double_quant=false",)),
    ),
)
TUNING: tuple[tuple[str, type], ...] = (("rank", int), ("steps", int), ("lr", float))
_register(
    "qlora",
    "qlora:Qlora",
    Capabilities(
        bits=(4,), grouped=False, tuned=True, options=TUNING, uniform=False, rows=Rows(smoke=("qlora-w4",))
    ),
)
_register(
    "irqlora",
    "irqlora:IrQlora",
    Capabilities(
        bits=(4,),
        grouped=False,
        tuned=True,
        options=(*TUNING, ("iec", bool), ("icq", bool)),
        uniform=False,
        rows=Rows(smoke=("irqlora-w4",), full=("irqlora-w4-iec=false", "irqlora-w4-icq=false")),
    ),
)
