"""The kernels' contract is worth what it catches: each broken kernel breaks the promise that is about it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from mutants import kernels as broken
from mutants.kernels import Sound, SoundCodebook, SoundPlanes
from quantcheck.contracts import KernelContract
from quantcheck.contracts.kernel_subjects import Subject
from quantcheck.errors import SpecError
from quantcheck.kernels.base import Kernel

# What is broken, the promise that must notice, and what it says.
MUTANTS: list[tuple[type[Kernel], str, str]] = [
    (broken.HalfWeights, "test_weights_are_rounded_once", "a weight is"),
    (broken.GroupsOffByOne, "test_weights_are_rounded_once", "a weight is"),
    (broken.ScalesTransposed, "test_weights_are_rounded_once", "a weight is"),
    (broken.ZeroPointTwice, "test_weights_are_rounded_once", "a weight is"),
    (broken.SecondPlaneDropped, "test_weights_are_rounded_once", "a weight is"),
    (broken.MasksIgnored, "test_weights_are_rounded_once", "a weight is"),
    (broken.BlocksOfRows, "test_weights_are_rounded_once", "a weight is"),
    (broken.HalfSums, "test_products_are_within_their_bound", "y is"),
    (broken.ScalesInHalf, "test_products_are_within_their_bound", "y is"),
    (broken.TailOfColumnsDropped, "test_products_are_within_their_bound", "y is 0 at"),
    (broken.LastRowMissed, "test_products_are_within_their_bound", "y is 0 at"),
    (broken.SignedCodes, "test_one_hot_inputs_read_every_weight", "y is"),
    (broken.NothingCrashes, "test_nothing_times_nothing_is_zero_of_the_right_shape", "cannot reshape"),
    (broken.NaNSwallowed, "test_nan_and_inf_reach_their_row_and_no_other", "expected nan"),
    (broken.NaNSpread, "test_nan_and_inf_reach_their_row_and_no_other", "y is nan"),
    (broken.ScalesNormalized, "test_zero_scales_give_zeros", "a weight is not 0"),
    (broken.ZeroPointWrapped, "test_zero_points_lie_at_both_ends", "zero_points='low'"),
    (broken.OrderIgnored, "test_g_idx_is_an_order_of_columns", "in the groups' order is not bit-equal"),
    (broken.PeakOfTensor, "test_every_token_has_its_own_grid", "inputs='rows apart'"),
    (broken.FloorForgotten, "test_every_token_has_its_own_grid", "y is nan"),
    (broken.ActivationsWrapped, "test_every_token_has_its_own_grid", "y is"),
    (broken.TailNotWritten, "test_every_element_is_written", "y is nan"),
    (broken.InputsOverwritten, "test_operands_are_not_written_to", "writes to its operands: x["),
    (broken.CodesOverwritten, "test_operands_are_not_written_to", "writes to its operands: qweight["),
    (broken.StridesIgnored, "test_views_count_as_their_copies", "operands is"),
    (broken.AnswersInFloat32, "test_results_are_where_the_inputs_are", "answers float16 in torch.float32"),
    (broken.Dice, "test_two_runs_give_the_same_bits", "y of two runs is not bit-equal"),
    (broken.BatchDependent, "test_a_row_is_the_same_bits_in_any_batch", "alone is not bit-equal"),
    (broken.FirstTokenAlone, "test_a_row_depends_little_on_its_batch", "alone is"),
    (broken.GradientTransposed, "test_gradients_reach_the_inputs", "the gradient is"),
    (broken.GradientLost, "test_gradients_reach_the_inputs", "no gradient reaches the inputs"),
    (broken.Obliging, "test_weights_that_are_not_supported_are_refused", "takes a weight of the codebook"),
    (broken.Obliging, "test_weights_whose_tensors_do_not_fit_are_refused", "qweight one shorter"),
    (broken.Obliging, "test_dtypes_that_are_not_supported_are_refused", "takes float64, and declares"),
    (broken.Curt, "test_weights_that_are_not_supported_are_refused", "and does not name Grouped"),
    (broken.InputsFlattened, "test_inputs_that_do_not_fit_are_refused", "takes inputs of one dimension"),
]
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


@pytest.mark.parametrize(
    ("mutant", "promise"),
    [(mutant, promise) for mutant, promise, said in MUTANTS if said.startswith(("y is", "a weight is"))],
)
def test_what_fails_is_a_recipe_that_a_person_can_paste(mutant: type[Kernel], promise: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check(contract_of(mutant), promise)

    recipe = re.search(r"for (Product\(weight=\w+Recipe\(.*\)(?=$|\n))", str(caught.value))
    assert recipe, caught.value
    assert len(recipe[1]) < 400


@pytest.mark.parametrize("promise", promises_of(contract_of(*SOUND)))
def test_sound_kernels_keep_every_promise(promise: str) -> None:
    check(contract_of(*SOUND), promise)


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
