"""The gates that users run: ``pytest --pyargs quantcheck.suites -m ultra_low_bit``."""
