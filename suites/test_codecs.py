"""Pack formats: every codec, built in or plugged in, at every width, keeps its contract."""

from __future__ import annotations

import pytest

from quantcheck.contracts import CodecContract
from quantcheck.subjects import chosen_codecs, registered_codecs, times_examples

pytestmark = pytest.mark.codec


class TestCodec(CodecContract):
    """The codecs that the run's globs choose; each may convert into all."""

    @classmethod
    def source(cls, config):
        """Choose by ``--quantcheck-specs``; the tier says how many examples are drawn."""
        cls.examples = CodecContract.examples * times_examples(config)
        return chosen_codecs(config)

    @classmethod
    def partners(cls, codec, codecs):
        """Let a codec convert into all others, chosen or not."""
        return super().partners(codec, registered_codecs())
