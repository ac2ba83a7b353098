"""What `quantcheck.gate` decides with: the vocabulary of evidence, what is looked at first, and the drift."""

from __future__ import annotations
