"""All planted faults of models, in the order of the table."""

from __future__ import annotations

from mutants.model import books, methods, metrics, stored
from mutants.model.fault import Fault

FAULTS: tuple[Fault, ...] = (*stored.FAULTS, *methods.FAULTS, *metrics.FAULTS, *books.FAULTS)
