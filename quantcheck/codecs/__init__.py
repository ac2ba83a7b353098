"""Pack formats: codes to bytes and back, one format a file.

``CODECS`` names them all, by family and without importing torch; `build` makes one at a width. A codec's id
is ``name-wBITS``: ``gptq_v1-w4``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantcheck.errors import QuantcheckError
from quantcheck.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantcheck.codecs.base import Codec

    Factory = Callable[[int], Codec]


class CodecError(QuantcheckError):
    """Codes that do not fit a pack format, or bytes that it did not write."""


@dataclass(frozen=True)
class CodecCapabilities:
    """What a pack format supports, as data.

    Attributes:
        bits: widths of its codes.
    """

    bits: tuple[int, ...]


CODECS: Registry[Factory, CodecCapabilities] = Registry("codec")

_BUILT_IN = (
    ("bitstream", "bitstream:Bitstream", (1, 2, 3, 4, 5, 6, 7, 8)),
    ("gptq_v1", "gptq:v1", (2, 3, 4, 8)),
    ("gptq_v2", "gptq:v2", (2, 3, 4, 8)),
    ("gptq_planar", "gptq_planar:GptqPlanar", (3, 5, 6, 7)),
    ("awq_gemm", "awq_gemm:AwqGemm", (4,)),
    ("llm_awq", "llm_awq:LlmAwq", (4,)),
    ("ct_dense", "compressed_tensors:dense", (1, 2, 3, 4, 5, 6, 7, 8)),
    ("ct_padded", "compressed_tensors:padded", (1, 2, 3, 4, 5, 6, 7, 8)),
    ("ct_fp4", "compressed_tensors_fp4:Fp4Packed", (4,)),
    ("bnb_nf4", "bitsandbytes:nf4", (4,)),
    ("bnb_nf4_nested", "bitsandbytes:nf4_nested", (4,)),
    ("bnb_fp4", "bitsandbytes:fp4", (4,)),
    ("bnb_fp4_nested", "bitsandbytes:fp4_nested", (4,)),
    ("hqq", "hqq:Hqq", (1, 2, 3, 4, 8)),
    ("quanto", "quanto:Quanto", (2, 4)),
    ("torchao_uintx", "torchao_uintx:Uintx", (1, 2, 3, 4, 5, 6, 7)),
    ("torchao_int4", "torchao_int4:PlainInt4", (4,)),
    ("torchao_tile_packed", "torchao_tile_packed:TilePacked", (4,)),
    ("gguf_q4_0", "gguf.q4_0:Q4_0", (4,)),
    ("gguf_q5_0", "gguf.q5_0:Q5_0", (5,)),
    ("gguf_q8_0", "gguf.q8_0:Q8_0", (8,)),
    ("gguf_q2_k", "gguf.q2_k:Q2K", (2,)),
    ("gguf_q3_k", "gguf.q3_k:Q3K", (3,)),
    ("gguf_q4_k", "gguf.q4_k:Q4K", (4,)),
    ("gguf_q5_k", "gguf.q5_k:Q5K", (5,)),
    ("gguf_q6_k", "gguf.q6_k:Q6K", (6,)),
    ("gguf_tq1_0", "gguf.tq1_0:TQ1_0", (2,)),
    ("gguf_tq2_0", "gguf.tq2_0:TQ2_0", (2,)),
)

for _name, _target, _bits in _BUILT_IN:
    CODECS.register(_name, f"quantcheck.codecs.{_target}", CodecCapabilities(_bits), origin="quantcheck")


def build(name: str, bits: int) -> Codec:
    """Make the codec ``name`` at a width.

    Raises:
        SpecError: the name is unknown.
        CodecError: the format has no such width.
    """
    widths = CODECS.entry(name).capabilities.bits
    if bits not in widths:
        raise CodecError(f"{name} packs codes of {', '.join(map(str, widths))} bits, not {bits}")
    return CODECS.resolve(name)(bits)
