"""Errors: one base that callers can catch, and a missing package names its remedy."""

from __future__ import annotations

import inspect

from quantcheck import errors
from quantcheck.errors import MissingPackageError, QuantcheckError


def test_everything_raised_on_purpose_has_one_base() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    assert len(kinds) > 5
    assert all(issubclass(kind, QuantcheckError) for kind in kinds)
    assert not issubclass(QuantcheckError, (ValueError, OSError))


def test_a_missing_package_says_how_to_install_it() -> None:
    message = str(MissingPackageError("zero-shot accuracy", "lm-eval"))
    assert message == "zero-shot accuracy needs lm-eval, which is not installed: pip install 'lm-eval'"
