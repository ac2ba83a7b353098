"""The fixtures a user's own test builds on. ``docs/extending.md`` shows them at work.

A release test is three lines::

    def test_release(quantized_model, gate):
        gate(quantized_model("gptq-w3-g128"))
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pytest

from quantcheck.errors import QuantcheckError

if TYPE_CHECKING:
    from syrupy.assertion import SnapshotAssertion

    from quantcheck.models.load import LoadedModel
    from quantcheck.record import GateRecord
    from quantcheck.spec import QuantSpec
    from quantcheck.state import QuantizedModel, State


@pytest.fixture(scope="session")
def reference_model(pytestconfig: pytest.Config) -> Callable[[str | None], LoadedModel]:
    """Full-precision models by name: ``reference_model(None)`` is the run's only model.

    Scope: session. Cost: the first call for a model loads it; later ones are free.
    """
    state = _state(pytestconfig)

    def load(name: str | None = None) -> LoadedModel:
        return state.runner.loaded(state.session.model(name))

    return load


@pytest.fixture(scope="session")
def quantized_model(pytestconfig: pytest.Config) -> Callable[..., QuantizedModel]:
    """Quantized models by spec: ``quantized_model("gptq-w3-g128", model=None)``.

    What it returns names a model; its ``artifact`` (packed tensors), ``facts`` and ``module`` are made when
    they are first looked at, and ``gate`` needs none of them while its figures are in the cache.

    Scope: session. Cost: none by itself; quantizing a spec happens once, for all tests, workers and later
        runs on the same cache.
    """
    state = _state(pytestconfig)
    return state.quantized


@pytest.fixture
def gate(request: pytest.FixtureRequest, snapshot: SnapshotAssertion) -> Callable[..., list[GateRecord]]:
    """Gate a quantized model: ``gate(model, metric="*")`` fails unless every metric that matches is green.

    ``gate(model, metric="*", against="rtn-w3")`` fails where it is worse than that spec, by the metrics of
    the orderings that the policy names.

    Returns the records, one a metric. With ``--snapshot-update`` the figures become the accepted baseline
    where their floors hold.

    Scope: function. Cost: the first gate of a spec measures all its metrics, a few seconds for the built-in
        model at the smoke tier;
    its other gates are free.
    """
    state = _state(request.config)

    def decide(
        model: QuantizedModel, metric: str = "*", against: str | QuantSpec | None = None
    ) -> list[GateRecord]:
        __tracebackhide__ = True
        try:
            other = None if against is None else state.session.spec(against)
            names = _matching(state, model, metric, other)
            records = [state.decide(request.node, model, name, snapshot, other) for name in names]
        except QuantcheckError as error:
            pytest.fail(f"{model.model}/{model.spec}: {error}", pytrace=False)
        if failure := state.failure(records):
            pytest.fail(failure, pytrace=False)
        return records

    return decide


def _matching(state: State, model: QuantizedModel, metric: str, against: QuantSpec | None) -> list[str]:
    session = state.session
    # An accepted metric that nothing measures any more is asked for, too, and judged as vanished.
    known = (*session.metrics(model.model), *session.vanished(model.model, model.spec))
    if against is not None:
        known = session.ordered(model.model, model.spec, against)
    found = [name for name in known if fnmatchcase(name, metric)]
    if not found:
        from quantcheck.registry import did_you_mean

        raise QuantcheckError(f"no metric matches {metric!r}{did_you_mean(metric, known)}")
    return found


def _state(config: pytest.Config) -> State:
    from quantcheck.plugin import get_state

    return get_state(config)
