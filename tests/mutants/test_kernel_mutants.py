"""The kernels' contract is worth what it catches: each broken kernel breaks the promise that is about it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mutants import kernels as broken
from mutants.fixed_seed_kernels import product_fails
from mutants.kernels import MUTANTS
from mutants.sound_kernels import Sound, SoundCodebook, SoundPlanes
from quantcheck.contracts import KernelContract
from quantcheck.contracts.kernel_subjects import Subject
from quantcheck.errors import SpecError
from quantcheck.kernels.base import Kernel

# They run on the plainest operand there is, or end in another library's error.
WITHOUT_RECIPES = {
    "test_nothing_times_nothing_is_zero_of_the_right_shape",
    "test_weights_that_are_not_supported_are_refused",
    "test_weights_whose_tensors_do_not_fit_are_refused",
    "test_dtypes_that_are_not_supported_are_refused",
    "test_inputs_that_do_not_fit_are_refused",
}
SOUND = (Sound, SoundPlanes, SoundCodebook)


@cache
def contract_of(*kernels: type[Kernel]) -> type[KernelContract]:
    return type(f"Test{kernels[0].__name__}", (KernelContract,), {"kernels": kernels})


def promises_of(contract: type[KernelContract]) -> list[str]:
    return [name for name in dir(contract) if name.startswith("test_") and callable(getattr(contract, name))]


def asked(contract: type[KernelContract], promise: str) -> Iterator[Subject]:
    """The subjects that the promise's test is collected for."""
    metafunc = Recorder(getattr(contract, promise))
    contract().pytest_generate_tests(metafunc)  # type: ignore[arg-type]
    yield from (parameter.values[0] for parameter in metafunc.parameters)


class Recorder:
    """As much of `pytest.Metafunc` as a contract uses."""

    config = None

    def __init__(self, function: Any) -> None:
        self.function, self.fixturenames = function, ("kernel",)
        self.parameters: list[Any] = []

    def parametrize(self, name: str, parameters: list[Any]) -> None:
        self.parameters = parameters


def check(contract: type[KernelContract], promise: str) -> None:
    """Run one promise's test as pytest would, for each subject that it is collected for."""
    test, reported = getattr(contract(), promise), list[tuple[str, object]]()
    extra = {"record_property": lambda *pair: reported.append(pair)}
    wanted = {name: extra[name] for name in inspect.signature(test).parameters if name in extra}
    for subject in asked(contract, promise):
        test(subject, **wanted)
    assert len(reported) == (len(list(asked(contract, promise))) if wanted else 0)


@pytest.mark.parametrize(
    ("mutant", "promise", "said"), MUTANTS, ids=[f"{m[0].__name__}-{m[1]}" for m in MUTANTS]
)
def test_a_broken_kernel_breaks_the_promise_that_is_about_it(
    mutant: type[Kernel], promise: str, said: str
) -> None:
    with pytest.raises(BaseException, match=re.escape(said)) as caught:
        check(contract_of(mutant), promise)

    assert not isinstance(caught.value, KeyboardInterrupt | SystemExit)
    message = str(caught.value)
    if ", for Product(" in message:
        [recipe] = re.findall(r"for (Product\(weight=\w+Recipe\(.*\))$", message.splitlines()[0])
        assert len(recipe) < 400, "a person reads it at a glance"
    else:
        assert promise in WITHOUT_RECIPES


@pytest.mark.parametrize("promise", promises_of(contract_of(*SOUND)))
def test_sound_kernels_keep_every_promise(promise: str) -> None:
    check(contract_of(*SOUND), promise)


def test_the_usual_test_is_passed_by_sound_kernels() -> None:
    assert not any(product_fails(sound()) for sound in SOUND)


def test_every_promise_is_broken_by_some_mutant() -> None:
    made = {*promises_of(contract_of(*SOUND)), *promises_of(contract_of(broken.FirstTokenAlone))}
    assert {promise for _, promise, _ in MUTANTS} == made


def test_promises_are_collected_where_they_are_made() -> None:
    everything, planes = promises_of(contract_of(*SOUND)), promises_of(contract_of(SoundPlanes))
    assert set(everything) - set(planes) == {
        "test_zero_points_lie_at_both_ends",
        "test_every_token_has_its_own_grid",
        "test_a_row_is_the_same_bits_in_any_batch",
        "test_gradients_reach_the_inputs",
    }
    ids = [subject.id for subject in asked(contract_of(*SOUND), "test_every_token_has_its_own_grid")]
    assert ids == ["sound-w4a8"]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"kernels": ()}, "gives no kernels; a contract about none would promise nothing"),
        ({"kernel": (Sound,)}, "unknown attribute 'kernel'; did you mean 'kernels'"),
        ({"kernels": ("sonud",)}, "unknown kernel 'sonud'"),
    ],
)
def test_a_contract_that_says_something_impossible_is_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        type("TestMine", (KernelContract,), declared)


@pytest.fixture
def page(repository: Path) -> str:
    """The part on kernels of the contracts' page."""
    text = (repository / "docs" / "contracts.md").read_text(encoding="utf-8")
    [part] = [part for part in text.split("\n# ") if part.startswith("Kernels")]
    return part


def test_the_kernel_of_the_docs_keeps_its_contract(page: str, pytester: pytest.Pytester) -> None:
    [example] = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    pytester.makepyfile(example)

    result = pytester.runpytest("-p", "no:quantcheck", "-p", "no:cacheprovider")

    result.assert_outcomes(passed=2 * 18)


def test_every_promise_is_in_the_docs(page: str) -> None:
    made = {*promises_of(contract_of(*SOUND)), *promises_of(contract_of(broken.FirstTokenAlone))}
    assert set(re.findall(r"`(test_\w+)`", page)) == made
