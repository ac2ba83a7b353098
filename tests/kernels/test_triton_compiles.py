"""Triton's compiler takes the kernels, for GPUs that need not be here: what its interpreter cannot tell."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from quantcheck.kernels import INTERPRETED

triton = pytest.importorskip("triton", reason="triton is not installed (it comes with CUDA builds of torch)")
if INTERPRETED:
    pytest.skip("TRITON_INTERPRET=1 leaves nothing to compile", allow_module_level=True)

TILE = {"TOKENS": 16, "ROWS": 64, "COLS": 32}
TYPES = {
    **dict.fromkeys(("packed", "zero_points", "planes", "masks"), "*u8"),
    **dict.fromkeys(("inputs", "scales", "offsets", "levels", "absmax", "token_scales"), "*fp32"),
    **dict.fromkeys(("weight", "result"), "*fp32"),
    **dict.fromkeys(("table", "g_idx"), "*i32"),
    "columns": "*i64",
    "steps": "*i8",
}
PLANES = {"SIGNED": True, "OFFSETS": True, "MASKS": True}
ONES = {"tokens": 1, "groups": 1, "runs": 1, "count": 1, "out_features": 1}
"""Sizes of one are compiled in."""


def compiled(kernel: Any, capability: int, constants: dict[str, Any], types: dict[str, str]) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    constants = {name: value for name, value in constants.items() if name in names}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    target, options = GPUTarget("cuda", capability, 32), {"enable_fp_fusion": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return triton.compile(source, target=target, options=options)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("ones", [{}, ONES], ids=["sizes", "ones"])
@pytest.mark.parametrize(
    ("module", "constants"),
    [
        ("grouped", {"BITS": 4, "ZEROS": True}),
        ("grouped", {"BITS": 3, "ZEROS": False}),
        ("integer", {"BITS": 6, "ZEROS": True}),
        ("codebook", {}),
        ("planes", PLANES),
        ("planes", dict.fromkeys(PLANES, False)),
    ],
)
def test_every_kernel_compiles(
    module: str, constants: dict[str, Any], ones: dict[str, int], capability: int
) -> None:
    import triton.language as tl

    kernels = __import__(f"quantcheck.kernels.triton_{module}", fromlist=["_multiply"])
    halves = (("*fp16", tl.float16), ("*bf16", tl.bfloat16)) if module == "grouped" else ()
    for pointer, dtype in (("*fp32", tl.float32), *halves):
        given = {**TILE, **constants, **ones, "DTYPE": dtype}
        product = compiled(kernels._multiply, capability, given, {**TYPES, "inputs": pointer})
        assert product.asm["cubin"]
        # Tensor cores multiply integers and halves; float32 is multiplied as it is.
        assert ("mma" in product.asm["ptx"]) == (module == "integer" or pointer != "*fp32")
    if hasattr(kernels, "_decode"):
        assert compiled(kernels._decode, capability, {**TILE, **constants, **ones}, TYPES).asm["cubin"]
