"""Timings beside other libraries; `docs/performance.md` holds their tables."""
