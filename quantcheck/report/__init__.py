"""Renderings of one run record. Every one is a pure function of `quantcheck.record.RunRecord`."""
