"""Models under test: where they are, how they load, and the texts they are measured and calibrated on.

Importing this package, `quantcheck.models.source`, `quantcheck.models.text` or
`quantcheck.models.calibration` imports no torch.
"""
