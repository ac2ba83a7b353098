"""The codecs' contract is worth what it catches: each broken codec breaks the promise that is about it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from mutants import codecs as broken
from mutants.caught_codecs import MUTANTS, SOUND
from mutants.codecs import V1, V2
from quantcheck.codecs.base import Codec
from quantcheck.codecs.hqq import Hqq
from quantcheck.contracts import CodecContract
from quantcheck.contracts.codec_subjects import is_affine
from quantcheck.errors import SpecError


def contract_of(*codecs: Codec, **declared: Any) -> type[CodecContract]:
    return type("TestMine", (CodecContract,), {"codecs": codecs} | declared)


def promises_of(contract: type[CodecContract]) -> set[str]:
    return {name for name in dir(contract) if name.startswith("test_") and callable(getattr(contract, name))}


def check(codec: Codec, promise: str, **declared: Any) -> None:
    """Run one promise's test as pytest would; what is about others, of sound codecs beside it, too."""
    codecs = (codec, V1(), Hqq(4))
    contract = contract_of(*codecs, **declared)
    test = getattr(contract(), promise)
    if "others" not in inspect.signature(test).parameters:
        test(codec)
        return
    for each in codecs if is_affine(codec) else ():
        test(each, contract.partners(each, codecs))


@pytest.mark.parametrize(
    ("mutant", "promise", "said"), MUTANTS, ids=[f"{m[0].__name__}-{m[1]}" for m in MUTANTS]
)
def test_a_broken_codec_breaks_the_promise_that_is_about_it(
    mutant: type[Codec], promise: str, said: str
) -> None:
    with pytest.raises(BaseException, match=re.escape(said)) as caught:
        check(mutant(), promise)

    assert not isinstance(caught.value, KeyboardInterrupt | SystemExit)
    assert "Shape(" in "".join([str(caught.value), *getattr(caught.value, "__notes__", ())])


@pytest.mark.parametrize("sound", SOUND, ids=lambda each: each.__name__)
def test_a_sound_codec_keeps_every_promise(sound: type[Codec]) -> None:
    for promise in promises_of(contract_of(sound())):
        check(sound(), promise, examples=8)


def test_every_promise_is_broken_by_some_mutant() -> None:
    assert {promise for _, promise, _ in MUTANTS} == promises_of(contract_of(V2()))


def test_promises_are_collected_where_they_are_made() -> None:
    stream, everything = promises_of(contract_of(broken.Stream3())), promises_of(contract_of(V2()))
    assert everything - stream == {
        "test_affine_weights_are_rounded_once",
        "test_columns_and_their_groups_move_together",
        "test_conversions_decode_to_the_same_weights",
        "test_some_conversion_succeeds",
        "test_weights_beyond_the_range_saturate",
    }


def test_a_promise_is_made_again_by_a_class_derived_from_one_that_left_it_out() -> None:
    again = type("TestAgain", (contract_of(broken.Stream3()),), {"codecs": (V2(),)})
    assert promises_of(again) == promises_of(contract_of(V2()))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"codecs": ()}, "gives no codecs; a contract about none would promise nothing"),
        ({"codecs": (V2,)}, "is no codec; give objects, made at a width"),
        ({"codec": V2()}, "unknown attribute 'codec'; did you mean 'codecs'"),
        ({"example": 3}, "unknown attribute 'example'; did you mean 'examples'"),
    ],
)
def test_a_contract_that_says_something_impossible_is_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        type("TestMine", (CodecContract,), {"codecs": (V2(),)} | declared)


CONTRACT = """
    from quantcheck.codecs.gptq import v1, v2
    from quantcheck.contracts import CodecContract

    class TestMine(CodecContract):
        codecs = (v1(4), v2(4))
        examples = 4
"""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-p", "no:quantcheck"), id="plain"),
        pytest.param(("-n", "2"), id="xdist", marks=pytest.mark.slow),
    ],
)
def test_a_sound_codec_keeps_its_contract_under_any_pytest(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    if "-n" in options:
        pytest.importorskip("xdist")
    pytester.makepyfile(CONTRACT)

    result = pytester.runpytest("-p", "no:cacheprovider", *options)

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2 * len(promises_of(contract_of(V2()))))


def codecs_of_the_docs(repository: Path) -> str:
    page = (repository / "docs" / "contracts.md").read_text(encoding="utf-8")
    return page.partition("\n# Codecs")[2].partition("\n# ")[0]


def test_the_contract_of_the_docs_is_kept(pytester: pytest.Pytester, repository: Path) -> None:
    part = codecs_of_the_docs(repository)
    [example] = re.findall(r"^```python\n(.*?)^```", part, flags=re.MULTILINE | re.DOTALL)
    pytester.makepyfile(example)

    result = pytester.runpytest("-p", "no:cacheprovider")

    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes()["passed"] > 12


def test_every_promise_is_in_the_docs(repository: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", codecs_of_the_docs(repository)))
    assert named == promises_of(contract_of(V2()))
