"""What the promises of codecs stand on: which codecs, and which promises each of them makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcheck.codecs.affine import AffineFormat
from quantcheck.codecs.base import Codec
from quantcheck.contracts.base import examples
from quantcheck.contracts.bits import difference
from quantcheck.errors import SpecError
from quantcheck.registry import did_you_mean
from quantcheck.strategies.codecs import Parts

FEW = 4
"""An example of a dear promise costs as much as this many of another."""

Test = TypeVar("Test", bound=Callable[..., None])
_OPTIONAL: dict[str, tuple[Callable[..., None], Callable[[Codec], bool]]] = {}


def where(applies: Callable[[Codec], bool]) -> Callable[[Test], Test]:
    """Run a test for the codecs that make its promise, and collect it nowhere where none does."""

    def remember(test: Test) -> Test:
        _OPTIONAL[test.__name__] = test, applies
        return test

    return remember


class CodecTests:
    """Which codecs are asked; see `quantcheck.contracts.CodecContract`."""

    codecs: ClassVar[tuple[Codec, ...]] = ()
    examples: ClassVar[int] = 20

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._refuse_unknown()
        for name, (test, applies) in _OPTIONAL.items():
            if cls.codecs and not any(map(applies, cls.codecs)):
                setattr(cls, name, None)
            elif getattr(cls, name, test) is None:
                setattr(cls, name, test)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test for each codec that makes its promise, with the others that it may convert into."""
        if "codec" not in metafunc.fixturenames:
            return
        codecs = self.source(metafunc.config)
        _, applies = _OPTIONAL.get(metafunc.function.__name__, (None, None))
        asked = [codec for codec in codecs if applies is None or applies(codec)]
        names = [name for name in ("codec", "others") if name in metafunc.fixturenames]
        rows = [
            pytest.param(*(codec, self.partners(codec, codecs))[: len(names)], id=codec.id) for codec in asked
        ]
        reason = "none of the selected codecs makes this promise"
        nothing = pytest.param(
            *(None, ())[: len(names)], id="nothing-asked-for", marks=pytest.mark.skip(reason)
        )
        metafunc.parametrize(names, rows or [nothing])

    @classmethod
    def source(cls, config: pytest.Config) -> Sequence[Codec]:
        """Return the codecs to ask; override it where a run's options choose."""
        return cls.codecs

    @classmethod
    def partners(cls, codec: Codec, codecs: Sequence[Codec]) -> tuple[Codec, ...]:
        """Return the other affine codecs of the same width; where there is none, the codec itself."""
        others = (each for each in codecs if is_affine(each) and each.bits == codec.bits)
        return tuple(each for each in others if each.id != codec.id) or (codec,)

    def hold(self, promise: Callable[..., None], *drawn: st.SearchStrategy[Any], cost: int = 1) -> None:
        """Check a promise on drawn examples, the same in every run: ``examples``, or a share of them."""
        asked = settings(examples(max(2, self.examples // cost)), report_multiple_bugs=False)
        asked(given(*drawn)(promise))()

    @classmethod
    def _refuse_unknown(cls) -> None:
        known = ("codecs", "examples")
        for name, value in vars(cls).items():
            if not name.startswith("_") and name not in known and isinstance(value, Codec | tuple | int):
                raise SpecError(f"{cls.__name__}: unknown attribute {name!r}{did_you_mean(name, known)}")
        if "codecs" in vars(cls) and not cls.codecs:
            raise SpecError(f"{cls.__name__} gives no codecs; a contract about none would promise nothing")
        for codec in cls.codecs:
            if not isinstance(codec, Codec):
                raise SpecError(f"{cls.__name__}: {codec!r} is no codec; give objects, made at a width")


def is_affine(codec: Codec) -> bool:
    """Whether a codec converts into others."""
    return isinstance(codec, AffineFormat)


def assert_round_trip(codec: Codec, parts: Parts) -> None:
    """Fail unless `unpack` gives back what `pack` took, bit for bit."""
    tensors = parts.build(codec)
    wrong = difference(tensors, codec.unpack(codec.pack(tensors, parts.shape), parts.shape))
    assert not wrong, f"{codec.id}: {parts}: packed and unpacked, {wrong}"
