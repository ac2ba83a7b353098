"""Metrics: perplexity, divergence from the reference, and zero-shot accuracy, each with its per-item outcomes.

Importing this package imports no torch; `quantcheck.metrics.catalog` does not either.
"""
