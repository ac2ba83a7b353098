"""Models under test: where they are, how they load, and the texts they are measured and calibrated on.

Importing this package imports no torch; `quantcheck.models.source` and `quantcheck.models.text` do not either.
"""
