"""Which items to measure next, until every gate on them is decided.

Gates share items: perplexity and KL divergence their windows, a family's accuracy and the pooled one their
questions. Each has its own rule and order; what is next for one that is open is measured, and told to all.
Without rules, all items come in their own order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quantcheck.stopping import NO_STOPS, Places, Stops, Values


class Queue:
    """The items of one set, by position.

    Args:
        places: for each metric, the positions of its items in the set, in the metric's own order of items.
        stops: rule of each metric; where any has none, all items are taken.

    Attributes:
        stops: the rules that are followed.
    """

    def __init__(self, places: Mapping[str, Places], stops: Stops = NO_STOPS) -> None:
        self._places = dict(places)
        self.stops = {metric: stops[metric] for metric in places} if places.keys() <= stops.keys() else {}
        self._outcomes = {metric: np.full(own.size, np.nan) for metric, own in places.items()}
        self._size = 1 + max(int(own.max(initial=-1)) for own in places.values())
        self._taken = np.zeros(self._size, np.bool_)

    @property
    def done(self) -> int:
        """How many items were taken."""
        return int(self._taken.sum())

    def ahead(self, batch: int) -> Places:
        """Positions to measure now, about ``batch`` for every open gate; none where all is decided."""
        if not self.stops:
            return np.flatnonzero(~self._taken)[:batch]
        wanted = [self._next(metric)[:batch] for metric in self.stops]
        return np.asarray(list(dict.fromkeys(np.concatenate(wanted).tolist())), np.int64)

    def put(self, places: Places, outcomes: Mapping[str, Values] | Values) -> None:
        """Tell what became of items: an outcome for each of ``places``, for all metrics or by metric."""
        self._taken[places] = True
        values = np.full(self._size, np.nan)
        for metric, own in self._places.items():
            values[places] = outcomes[metric] if isinstance(outcomes, Mapping) else outcomes
            asked = np.isin(own, places)
            self._outcomes[metric][asked] = values[own[asked]]

    def outcomes(self, metric: str) -> Values:
        """What became of each item of a metric, in the metric's own order; NaN where it was not taken."""
        return self._outcomes[metric]

    def taken(self, metric: str) -> Places | None:
        """Which of a metric's items were taken, ascending; ``None`` where all were."""
        taken = self._taken[self._places[metric]]
        return None if taken.all() else np.flatnonzero(taken)

    def _next(self, metric: str) -> Places:
        """What is next for a gate, all that is left of it; none where it is decided."""
        stop, own = self.stops[metric], self._places[metric]
        missing = np.flatnonzero(~self._taken[own[stop.order]])
        first = int(missing[0]) if missing.size else stop.order.size
        decided = first and stop.answer(self._outcomes[metric][stop.order[:first]])
        return own[stop.order[[]]] if decided else own[stop.order[missing]]
