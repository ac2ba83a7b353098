"""Pack formats: codes to bytes and back, one format a file."""

from __future__ import annotations

from quantcheck.errors import QuantcheckError


class CodecError(QuantcheckError):
    """Codes that do not fit a pack format, or bytes that it did not write."""
