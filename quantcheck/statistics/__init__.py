"""Statistics of verdicts: pure, from outcomes to bounds, answers and error rates.

Everywhere a difference is positive where the candidate is worse, as in `quantcheck.gate`.
``docs/statistics.md`` says which test is used where and which errors it controls.
"""
