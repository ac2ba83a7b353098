"""What the promises of kernels stand on: which kernels at which widths, and how one is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from typing import Any, ClassVar, TypeVar, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quantcheck.contracts.base import examples
from quantcheck.errors import SpecError
from quantcheck.kernels import KERNELS, KernelCapabilities
from quantcheck.kernels.base import Kernel, Operand
from quantcheck.registry import did_you_mean
from quantcheck.strategies.operands import Product, WeightRecipe

Source = str | Kernel | type[Kernel]
Test = TypeVar("Test", bound=Callable[..., None])


@dataclass(frozen=True)
class Subject:
    """One kernel at one width of weights and activations, on one device.

    Attributes:
        name: of the kernel.
        source: the kernel, its class, or its registered name.
        can: its capabilities.
        bits: width of the codes.
        act_bits: width of the inputs; ``None``: as they are.
        device: where it runs.
    """

    name: str
    source: Source
    can: KernelCapabilities
    bits: int
    act_bits: int | None
    device: str

    @property
    def id(self) -> str:
        """``name-w4`` or ``name-w8a8``; on a device that is not the first one here, ``-cuda`` follows."""
        device = "" if self.device == _devices(self.can)[0] else f"-{self.device}"
        return f"{self.spec}{device}"

    @property
    def spec(self) -> str:
        """``name-w4`` or ``name-w8a8``, wherever it runs."""
        activations = "" if self.act_bits is None else f"a{self.act_bits}"
        return f"{self.name}-w{self.bits}{activations}"

    @property
    def accumulates(self) -> torch.dtype:
        """The dtype that the kernel declares to add up in."""
        return dtype_of(self.can.accumulates)

    def made(self) -> Kernel:
        """Return the kernel itself."""
        found = KERNELS.resolve(self.source) if isinstance(self.source, str) else self.source
        return found() if isinstance(found, type) else found

    def dequantize(self, weight: WeightRecipe, dtype: torch.dtype, operand: Operand | None = None) -> Tensor:
        """Decode a weight; ``operand`` stands in for the recipe's own."""
        kernel = self.made()
        placed = moved(weight.operand() if operand is None else operand, self.device)
        return kernel.dequantize(kernel.prepare(placed, dtype), dtype)

    def multiply(self, product: Product, x: Tensor | None = None, operand: Operand | None = None) -> Tensor:
        """Multiply; ``x`` and ``operand`` stand in for the recipe's own."""
        kernel, inputs = self.made(), product.x() if x is None else x
        placed = moved(product.weight.operand() if operand is None else operand, self.device)
        prepared = kernel.prepare(placed, inputs.dtype)
        return kernel.matmul(inputs.to(self.device), prepared, act_bits=self.act_bits)


class KernelTests:
    """Which kernels are asked; see `quantcheck.contracts.KernelContract`."""

    kernels: ClassVar[Sequence[Source]] = ()
    examples: ClassVar[int] = 12

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._refuse_unknown()
        asked = subjects(cls.kernels)
        for name, (test, applies) in _OPTIONAL.items():
            if asked and not any(map(applies, asked)):
                setattr(cls, name, None)
            elif getattr(cls, name, test) is None:
                setattr(cls, name, test)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test for each kernel that makes its promise."""
        if "kernel" not in metafunc.fixturenames:
            return
        _, applies = _OPTIONAL.get(metafunc.function.__name__, (None, None))
        asked = [each for each in self.source(metafunc.config) if applies is None or applies(each)]
        reason = "none of the selected kernels makes this promise"
        nothing = pytest.param(None, id="nothing-asked-for", marks=pytest.mark.skip(reason))
        metafunc.parametrize("kernel", [_parameter(each) for each in asked] or [nothing])

    @classmethod
    def source(cls, config: pytest.Config) -> Sequence[Subject]:
        """Return whom to ask; override it where a run's options choose."""
        return subjects(cls.kernels)

    def hold(self, promise: Callable[..., None], *drawn: st.SearchStrategy[Any]) -> None:
        """Check a promise on ``examples`` drawn examples, the same in every run."""
        examples(self.examples)(given(*drawn)(promise))()

    @classmethod
    def _refuse_unknown(cls) -> None:
        known = ("kernels", "examples")
        for name, value in vars(cls).items():
            if not name.startswith("_") and name not in known and isinstance(value, Kernel | tuple | int):
                raise SpecError(f"{cls.__name__}: unknown attribute {name!r}{did_you_mean(name, known)}")
        if "kernels" in vars(cls) and not cls.kernels:
            raise SpecError(f"{cls.__name__} gives no kernels; a contract about none would promise nothing")


_OPTIONAL: dict[str, tuple[Callable[..., None], Callable[[Subject], bool]]] = {}


def where(applies: Callable[[Subject], bool]) -> Callable[[Test], Test]:
    """Run a test for the kernels that make its promise, and collect it nowhere where none does."""

    def remember(test: Test) -> Test:
        _OPTIONAL[test.__name__] = test, applies
        return test

    return remember


def subjects(kernels: Sequence[Source]) -> list[Subject]:
    """List kernels at each of their widths on each device that is here; where none is, on the first one."""
    return [
        Subject(name, source, can, bits, act_bits, device)
        for source in kernels
        for name, can in [_declared(source)]
        for bits in can.bits
        for act_bits in can.act_bits
        for device in _devices(can)
    ]


def _declared(source: Source) -> tuple[str, KernelCapabilities]:
    if isinstance(source, str):
        return source, KERNELS.entry(source).capabilities
    return source.name, source.capabilities


def _devices(can: KernelCapabilities) -> list[str]:
    return [device for device in can.devices if available(device)] or [can.devices[0]]


def available(device: str) -> bool:
    """Whether this machine has such a device."""
    return device == "cpu" or (device == "cuda" and torch.cuda.is_available())


def _parameter(subject: Subject) -> Any:
    can = subject.can
    missing = [module for module in can.requires if find_spec(module) is None]
    here = available(subject.device) and not missing
    needed = " and ".join((" or ".join(can.devices), *missing))
    marks = [] if here else [pytest.mark.skip(f"{subject.name} needs {needed}, which is not here")]
    return pytest.param(subject, id=subject.id, marks=marks)


def dtype_of(name: str) -> torch.dtype:
    """Return torch's dtype of a name."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def tensors_of(operand: Operand) -> dict[str, Tensor]:
    """Return the tensors of an operand by their names."""
    parts = {field.name: getattr(operand, field.name) for field in fields(operand)}
    return {name: part for name, part in parts.items() if isinstance(part, Tensor)}


def with_tensors(operand: Operand, tensors: Mapping[str, Tensor]) -> Operand:
    """Return an operand with other tensors of these names."""
    return cast("Operand", replace(cast("Any", operand), **tensors))


def altered(operand: Operand, change: Callable[[Tensor], Tensor]) -> Operand:
    """Return an operand with each of its tensors changed."""
    changed = {name: change(tensor) for name, tensor in tensors_of(operand).items()}
    return with_tensors(operand, changed)


def moved(operand: Operand, device: str) -> Operand:
    """Return an operand on a device."""
    return operand if device == "cpu" else altered(operand, lambda tensor: tensor.to(device))
