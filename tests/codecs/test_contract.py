"""The contract itself: sound codecs of every kind keep it, and it asks each what it should."""

from __future__ import annotations

from quantcheck.codecs import gptq
from quantcheck.contracts import CodecContract


class TestGptq(CodecContract):
    """GPTQ, which has every part that a promise may be about."""

    codecs = (gptq.v1(3), gptq.v2(3), gptq.v1(4), gptq.v2(4))
