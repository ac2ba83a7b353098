"""Metrics: perplexity, divergence from the reference and zero-shot accuracy, item by item.

Importing this package or `quantcheck.metrics.catalog` imports no torch.
"""
