"""A contract is worth what it catches: each broken method breaks the promise that is about it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from mutants import contract_methods as broken
from mutants import methods
from quantcheck.contracts import MethodContract
from quantcheck.errors import SpecError
from quantcheck.methods import METHODS
from quantcheck.methods.gptq import Gptq
from quantcheck.methods.rtn import Rtn
from quantcheck.registry import Capabilities
from quantcheck.strategies import DAMAGES

BITS = (2.0, 3.0, 4.0, 8.0)
ALL_PROMISES = {
    "rows_independent": True,
    "scales_with_weights": True,
    "widths": ("mine-w2-g16", "mine-w4-g16", "mine-w8-g16"),
}
CALIBRATED_PROMISES = {
    **ALL_PROMISES,
    "calibration_order_free": True,
    "hessian_scale_free": True,
    "diagonal_twin": "rtn",
}


def contract_of(
    method: type, /, *, bits: tuple[float, ...] = BITS, calibrated: bool = False, **promises: Any
) -> type[MethodContract]:
    """The contract of a method class, told that it supports these widths."""
    capable = type(
        method.__name__, (method,), {"capabilities": Capabilities(bits=bits, calibrated=calibrated)}
    )
    given = {"method": capable, "specs": ("mine-w3-g16",)} | promises
    return type(f"Test{method.__name__}", (MethodContract,), given)


def promises_of(contract: type[MethodContract]) -> list[str]:
    return [name for name in dir(contract) if name.startswith("test_") and callable(getattr(contract, name))]


def check(contract: type[MethodContract], promise: str, folder: Path) -> None:
    """Run one promise's test as pytest would, for the first spec and each kind of damage."""
    test = getattr(contract(), promise)
    wanted = inspect.signature(test).parameters
    values: dict[str, object] = {"spec": contract.specs[0], "narrow": contract.specs[0], "tmp_path": folder}
    arguments = {name: value for name, value in values.items() if name in wanted}
    for damage in ["zero layer", "zero and constant rows"] if "damage" in wanted else [None]:
        test(**arguments, **({} if damage is None else {"damage": damage}))


# What is broken, the promise that must notice, what it says, and what the contract declares.
MUTANTS: list[tuple[type, str, str, dict[str, Any]]] = [
    (broken.Silent, "test_progress_is_told_of_every_linear_once", "progress was told of []", {}),
    (methods.LayerLeftOut, "test_every_linear_is_stored_as_plain_finite_tensors", "every decoder Linear", {}),
    (methods.ScalesNaN, "test_every_linear_is_stored_as_plain_finite_tensors", "decodes to NaN or Inf", {}),
    (broken.Strided, "test_every_linear_is_stored_as_plain_finite_tensors", "stores scales with strides", {}),
    (broken.Dice, "test_the_same_seed_gives_the_same_bits", "differ in scales of model.layers.0", {}),
    (broken.ZerosForgotten, "test_what_is_saved_is_loaded_bit_for_bit", "the artifact differs in", {}),
    (broken.ScalesUncounted, "test_stored_bits_are_the_bytes_of_the_file", "bytes are counted", {}),
    (methods.MoreBits, "test_nominal_bits_are_those_of_the_spec", "8 nominal bits", {}),
    (methods.FewerBits, "test_nominal_bits_are_those_of_the_spec", "2 nominal bits", {}),
    (
        methods.FloatKept,
        "test_weights_take_no_more_levels_than_codes_can_tell_apart",
        "more levels a group",
        {},
    ),
    (
        broken.LevelsUncounted,
        "test_float_weights_are_seen_not_to_be_quantized",
        "takes the float weights",
        {},
    ),
    (
        methods.OtherThanStored,
        "test_the_model_computes_with_what_is_stored",
        "other weights than it stores",
        {},
    ),
    (broken.NormScaled, "test_nothing_else_of_the_model_changes", "model.norm.weight was changed", {}),
    (
        broken.WindowsOverwritten,
        "test_what_is_not_quantized_stays_as_it_was",
        "windows were written to",
        {"calibrated": True},
    ),
    (
        broken.SixteenIsEight,
        "test_sixteen_bits_are_refused_or_the_identity",
        "is not the identity",
        {"bits": (3.0, 16.0)},
    ),
    (broken.Float32Only, "test_half_precision_models_are_served", "expected float32", {}),
    (broken.Unguarded, "test_a_damaged_model_is_an_error_or_finite", "decodes to NaN or Inf", {}),
    (
        broken.Undamped,
        "test_a_handful_of_tokens_is_an_error_or_enough",
        "not positive-definite",
        {"calibrated": True},
    ),
    (broken.NoTails, "test_a_model_of_any_shape_is_an_error_or_sound", "invalid for input of size", {}),
    (
        broken.FirstWindowOnly,
        "test_the_order_of_calibration_windows_hardly_matters",
        "moves the weights",
        {"calibrated": True, "calibration_order_free": True},
    ),
    (
        broken.AdapterMissing,
        "test_an_adapter_whose_b_is_zero_changes_nothing",
        "not every Linear",
        {"adapted": True},
    ),
    (broken.WorseAtEight, "test_more_bits_are_not_much_worse", "more bits are worse", ALL_PROMISES),
    (broken.Overwriting, "test_a_layer_of_any_shape_is_an_error_or_sound", "was written to", {}),
    (broken.NoTails, "test_a_layer_of_any_shape_is_an_error_or_sound", "invalid for input of size", {}),
    (broken.NaNPassed, "test_a_weight_that_is_not_finite_is_refused", "is no error", {}),
    (broken.Centred, "test_rows_are_independent", "come out differently", ALL_PROMISES),
    (broken.Floored, "test_results_scale_with_weights", "gives another result", ALL_PROMISES),
    (
        broken.AbsolutelyDamped,
        "test_the_scale_of_the_hessian_does_not_matter",
        "differs in",
        {"calibrated": True, **CALIBRATED_PROMISES},
    ),
    (
        broken.Leaking,
        "test_a_diagonal_hessian_makes_it_its_twin",
        "differs from rtn-w3-g16",
        {"calibrated": True, **CALIBRATED_PROMISES},
    ),
]


@pytest.mark.parametrize(
    ("mutant", "promise", "said", "declared"), MUTANTS, ids=[f"{m[0].__name__}-{m[1]}" for m in MUTANTS]
)
def test_a_broken_method_breaks_the_promise_that_is_about_it(
    mutant: type, promise: str, said: str, declared: dict[str, Any], tmp_path: Path
) -> None:
    contract = contract_of(mutant, **declared)

    with pytest.raises(BaseException, match=re.escape(said)) as caught:
        check(contract, promise, tmp_path)

    assert not isinstance(caught.value, KeyboardInterrupt | SystemExit)


def test_every_promise_is_broken_by_some_mutant() -> None:
    everything = contract_of(Gptq, calibrated=True, adapted=True, **CALIBRATED_PROMISES)
    assert {promise for _, promise, _, _ in MUTANTS} == set(promises_of(everything))


def test_promises_are_collected_where_they_are_made() -> None:
    plain, full = (
        contract_of(Gptq, calibrated=True),
        contract_of(Gptq, calibrated=True, **CALIBRATED_PROMISES),
    )
    made = {
        "test_rows_are_independent",
        "test_results_scale_with_weights",
        "test_more_bits_are_not_much_worse",
        "test_the_order_of_calibration_windows_hardly_matters",
        "test_the_scale_of_the_hessian_does_not_matter",
        "test_a_diagonal_hessian_makes_it_its_twin",
    }
    assert set(promises_of(full)) - set(promises_of(plain)) == made


def test_a_promise_is_made_again_by_a_class_derived_from_one_that_left_it_out() -> None:
    plain = contract_of(Rtn)
    again = type("TestAgain", (plain,), {"rows_independent": True})
    assert set(promises_of(again)) - set(promises_of(plain)) == {"test_rows_are_independent"}


def test_layers_are_asked_about_only_where_a_method_takes_one() -> None:
    contract = contract_of(broken.NotLayerwise)
    missing = set(promises_of(contract_of(Rtn))) - set(promises_of(contract))
    assert missing == {
        "test_a_layer_of_any_shape_is_an_error_or_sound",
        "test_a_weight_that_is_not_finite_is_refused",
    }


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"specs": ()}, "gives no specs; a contract about none would promise nothing"),
        ({"specs": ("mine-w3", "other-w3")}, "is about one method, its specs name mine, other"),
        ({"method": "rtn"}, "is about one method, its specs name mine"),
        ({"method": "rnt", "specs": ("rnt-w3",)}, "unknown method 'rnt'; did you mean 'rtn'"),
        ({"method": Rtn}, "a method that is not given by name needs capabilities"),
        ({"specs": ("mine-w5",)}, "mine-w5: mine supports 2, 3, 4, 8 weight bits, not 5"),
        ({"widths": ("mine-w2", "mine-w16")}, "mine-w16: mine supports 2, 3, 4, 8 weight bits, not 16"),
        ({"row_independent": True}, "unknown promise 'row_independent'; did you mean 'rows_independent'"),
        (
            {"method": broken.NotLayerwise, "rows_independent": True},
            "promises rows_independent, which is about single layers",
        ),
    ],
)
def test_a_contract_that_says_something_impossible_is_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        contract_of(Rtn, **declared)


def test_a_method_that_was_given_as_an_object_is_registered_for_a_call_alone(tmp_path: Path) -> None:
    check(contract_of(Rtn), "test_progress_is_told_of_every_linear_once", tmp_path)
    assert "mine" not in METHODS.names()


CONTRACT = """
    from quantcheck.contracts import MethodContract
    from quantcheck.methods.rtn import Rtn
    from quantcheck.registry import Capabilities

    class Mine(Rtn):
        capabilities = Capabilities(bits=(2, 3, 4))

    class TestMine(MethodContract):
        method = Mine()
        specs = ("mine-w2-g16",)
        rows_independent = True
"""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-p", "no:quantcheck"), id="plain"),
        pytest.param(("-n", "2"), id="xdist", marks=pytest.mark.slow),
    ],
)
def test_a_sound_method_keeps_its_contract_under_any_pytest(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    if "-n" in options:
        pytest.importorskip("xdist")
    pytester.makepyfile(CONTRACT)
    promises = promises_of(contract_of(Rtn, rows_independent=True))

    result = pytester.runpytest("-p", "no:cacheprovider", *options)

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=len(promises) - 1 + len(DAMAGES))


def test_the_contract_of_the_docs_is_kept(pytester: pytest.Pytester, repository: Path) -> None:
    page = (repository / "docs" / "contracts.md").read_text(encoding="utf-8").partition("\n# ")[0]
    [example] = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    pytester.makepyfile(example)

    result = pytester.runpytest("-p", "no:cacheprovider")

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes()["passed"] > 20


def test_every_promise_is_in_the_docs(repository: Path) -> None:
    page = (repository / "docs" / "contracts.md").read_text(encoding="utf-8").partition("\n# ")[0]
    everything = contract_of(Gptq, calibrated=True, adapted=True, **CALIBRATED_PROMISES)
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named == set(promises_of(everything))
