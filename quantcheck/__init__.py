"""Evidence whether a quantized model, a quantizer or a kernel got worse."""

__version__ = "0.1.0"
