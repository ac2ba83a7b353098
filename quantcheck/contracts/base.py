"""What the promises stand on: which method and specs a contract is about, and which tests it collects."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from torch import Tensor, nn

from quantcheck.errors import SpecError
from quantcheck.methods import METHODS
from quantcheck.methods.artifact import Artifact, quantize
from quantcheck.methods.base import Method, PackedWeight, Progress
from quantcheck.methods.layerwise import HessianMethod, LinearMethod
from quantcheck.registry import Capabilities, did_you_mean
from quantcheck.spec import QuantSpec, refusal
from quantcheck.strategies import DAMAGES, TinyInstructions, TinyLlama

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

LAYER_PROMISES = ("rows_independent", "scales_with_weights", "hessian_scale_free", "diagonal_twin")

Target = Method | type[Method]
Test = TypeVar("Test", bound=Callable[..., None])


class Contract:
    """One method and its specs; see `quantcheck.contracts.MethodContract`."""

    method: ClassVar[str | Target]
    specs: ClassVar[tuple[str, ...]]
    model: ClassVar[TinyLlama] = TinyLlama()
    calibration_order_free: ClassVar[bool] = False
    adapted: ClassVar[bool] = False
    widths: ClassVar[tuple[str, ...]] = ()
    rows_independent: ClassVar[bool] = False
    scales_with_weights: ClassVar[bool] = False
    hessian_scale_free: ClassVar[bool] = False
    diagonal_twin: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not hasattr(cls, "method"):
            return
        cls._refuse_undeclared()
        for name, (test, applies) in _OPTIONAL.items():
            if not applies(cls):
                setattr(cls, name, None)
            elif getattr(cls, name) is None:
                setattr(cls, name, test)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test for each spec, and the tests on damaged models for each kind of damage."""
        for name, values in (("spec", self.specs), ("narrow", self.narrow()), ("damage", DAMAGES)):
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, values)

    @classmethod
    def instructions(cls) -> object:
        """Return what a method that is ``tuned`` is fine-tuned on."""
        return TinyInstructions()

    @classmethod
    def capabilities(cls) -> Capabilities:
        """Return what the method declares to support."""
        if isinstance(cls.method, str):
            return METHODS.entry(cls.method).capabilities
        return cast("Capabilities", cast("Any", cls.method).capabilities)

    @classmethod
    def target(cls) -> Target:
        """Return the method, a class or an object."""
        return METHODS.resolve(cls.method) if isinstance(cls.method, str) else cls.method

    @classmethod
    def layerwise(cls) -> bool:
        """Whether the method quantizes one Linear at a time, so that it can be asked about a layer."""
        target = cls.target()
        kind = target if isinstance(target, type) else type(target)
        return issubclass(kind, LinearMethod | HessianMethod)

    @classmethod
    def narrow(cls) -> tuple[str, ...]:
        """Return the specs with fewer levels than columns that share them: float weights cannot fit these."""
        columns = min(cls.model.hidden_size, cls.model.intermediate_size)
        return tuple(
            spec
            for spec, parsed in zip(cls.specs, map(QuantSpec.parse, cls.specs), strict=True)
            if min(parsed.group_size or columns, columns) > 2 ** math.ceil(parsed.bits)
        )

    @classmethod
    def quantize(
        cls,
        model: nn.Module,
        spec: str | QuantSpec,
        windows: Tensor,
        *,
        scale_dtype: torch.dtype = torch.float16,
        progress: Progress | None = None,
    ) -> Artifact:
        """Quantize ``model``, which is left altered, the way every run does, with seed 0."""
        wanted = QuantSpec.parse(spec) if isinstance(spec, str) else spec
        capabilities = cls.capabilities()
        with cls._registered():
            return quantize(
                model,
                wanted,
                scale_dtype=scale_dtype,
                calibration=windows if capabilities.calibrated else None,
                instructions=cls.instructions() if capabilities.tuned else None,
                progress=progress,
            )

    @classmethod
    def quantize_layer(
        cls, weight: Tensor, hessian: Tensor, spec: str, scale_dtype: torch.dtype = torch.float32
    ) -> PackedWeight:
        """Quantize one weight, with seed 0; the Hessian goes to a method that asks for one."""
        return quantize_weight(cls.target(), weight, hessian, QuantSpec.parse(spec), scale_dtype)

    @classmethod
    def refuses(cls, spec: QuantSpec) -> bool:
        """Whether the method declares that it does not support ``spec``."""
        return refusal(spec, cls.capabilities()) is not None

    @classmethod
    def _refuse_undeclared(cls) -> None:
        if not getattr(cls, "specs", ()):
            raise SpecError(f"{cls.__name__} gives no specs; a contract about none would promise nothing")
        names = {QuantSpec.parse(spec).method for spec in (*cls.specs, *cls.widths)}
        if len(names) > 1 or (isinstance(cls.method, str) and names != {cls.method}):
            raise SpecError(f"{cls.__name__} is about one method, its specs name {', '.join(sorted(names))}")
        if not isinstance(cls.method, str) and not hasattr(cls.method, "capabilities"):
            raise SpecError(f"{cls.__name__}: a method that is not given by name needs capabilities")
        for spec in (*cls.specs, *cls.widths):
            if refused := refusal(QuantSpec.parse(spec), cls.capabilities()):
                raise SpecError(f"{cls.__name__}: {spec}: {refused}")
        flags = [name for name, value in vars(Contract).items() if isinstance(value, bool)]
        for name, value in vars(cls).items():
            if isinstance(value, bool) and name not in flags:
                raise SpecError(f"{cls.__name__}: unknown promise {name!r}{did_you_mean(name, flags)}")
        for name in LAYER_PROMISES:
            if getattr(cls, name) and not cls.layerwise():
                raise SpecError(
                    f"{cls.__name__} promises {name}, which is about single layers; its method is neither a "
                    "LinearMethod nor a HessianMethod"
                )

    @classmethod
    @contextmanager
    def _registered(cls) -> Iterator[None]:
        """Let a method that was given as an object be found under the name that its specs use."""
        name = QuantSpec.parse(cls.specs[0]).method
        if isinstance(cls.method, str) or (
            name in METHODS.names() and METHODS.entry(name).target is cls.method
        ):
            yield
            return
        METHODS.register(name, cls.method, cls.capabilities(), origin=cls.__name__)
        try:
            yield
        finally:
            METHODS.unregister(name)


_OPTIONAL: dict[str, tuple[Callable[..., None], Callable[[Any], bool]]] = {}


def where(applies: Callable[[Any], bool]) -> Callable[[Test], Test]:
    """Collect a test only in the contract classes that make its promise."""

    def remember(test: Test) -> Test:
        _OPTIONAL[test.__name__] = test, applies
        return test

    return remember


def examples(count: int) -> settings:
    """Draw the same ``count`` examples in every run."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        # Tests are inherited by many classes here, which hypothesis takes for a mistake.
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )


@dataclass(frozen=True)
class Made:
    """What a spec made of a contract's model, once for all its tests.

    Attributes:
        original: the model as it was.
        altered: the copy that the method was given, as it left it.
        artifact: what it returned.
        told: the calls of the progress callback.
    """

    original: LlamaForCausalLM
    altered: LlamaForCausalLM
    artifact: Artifact
    told: tuple[tuple[str, int, int], ...]


_MADE: dict[tuple[type[Contract], str], Made] = {}


def made(contract: type[Contract], spec: str) -> Made:
    """Quantize the contract's model by ``spec``, once; tests read the result and change nothing."""
    key = contract, spec
    if key not in _MADE:
        recipe, told = contract.model, list[tuple[str, int, int]]()
        altered = recipe.build()
        artifact = contract.quantize(
            altered, spec, recipe.windows(), progress=lambda *call: told.append(call)
        )
        _MADE[key] = Made(recipe.build(), altered, artifact, tuple(told))
    return _MADE[key]


def quantize_weight(
    target: Target, weight: Tensor, hessian: Tensor, spec: QuantSpec, scale_dtype: torch.dtype
) -> PackedWeight:
    """Quantize one weight by a layerwise method, with seed 0, leaving the ambient random state alone."""
    method = target() if isinstance(target, type) else target
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        if isinstance(method, HessianMethod):
            return method.quantize_weight(weight, hessian, spec, scale_dtype)
        return cast("LinearMethod", method).quantize_weight(weight, spec, scale_dtype)


def logits_of(model: nn.Module, recipe: TinyLlama) -> Tensor:
    """Run ``model`` on the recipe's windows."""
    with torch.no_grad():
        return cast("Tensor", model(input_ids=recipe.windows(), use_cache=False).logits)


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same values in the same dtype; a NaN equals none."""
    return one.dtype == other.dtype and torch.equal(one, other)


def unlike(one: PackedWeight, other: PackedWeight) -> str:
    """Name what two packed weights differ in; empty where they are the same bit for bit."""
    if type(one) is not type(other):
        return "format"
    first, second = one.tensors(), other.tensors()
    if first.keys() != second.keys() or one.meta() != other.meta():
        return "meta"
    return next((name for name in first if not same(first[name], second[name])), "")


def differing(one: Artifact, other: Artifact) -> str:
    """Name what two artifacts differ in; empty where they are the same bit for bit."""
    if one.weights.keys() != other.weights.keys() or one.parameters.keys() != other.parameters.keys():
        return "their layers or parameters"
    for name, packed in one.weights.items():
        if what := unlike(packed, other.weights[name]):
            return f"{what} of {name} {packed.shape}"
    for name, tensor in one.parameters.items():
        if not same(tensor, other.parameters[name]):
            return name
    if one.adapters.keys() != other.adapters.keys():
        return "their adapters"
    for name, adapter in one.adapters.items():
        twin = other.adapters[name]
        if adapter.scaling != twin.scaling or not (
            same(adapter.lora_a, twin.lora_a) and same(adapter.lora_b, twin.lora_b)
        ):
            return f"the adapter of {name}"
    return "" if one.notes == other.notes else "notes"


def assert_sound(packed: PackedWeight, shape: tuple[int, int], where: str) -> None:
    """Fail unless ``packed`` decodes to finite weights of its levels and survives being stored."""
    decoded = packed.decode()
    assert packed.shape == tuple(decoded.shape) == shape, (
        f"{where} is {packed.shape} and decodes to {tuple(decoded.shape)}, not {shape}"
    )
    assert torch.isfinite(decoded).all(), f"{where} decodes to NaN or Inf, and no error said so"
    assert packed.levels_respected(decoded), f"{where} decodes to more levels than its codes can tell apart"
    loaded = type(packed).from_tensors(packed.tensors(), packed.meta())
    assert not unlike(packed, loaded), f"{where} is put back together with another {unlike(packed, loaded)}"
    assert same(loaded.decode(), decoded), f"{where} is put back together and decodes to something else"
