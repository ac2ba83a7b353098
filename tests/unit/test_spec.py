"""Spec ids: one spelling, read back exactly, legal as file names; models by path or hub id."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.errors import ModelError, SpecError
from quantcheck.registry import NAME, Capabilities
from quantcheck.spec import GRIDS, ModelSpec, OptionValue, QuantSpec, refusal

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,7}", fullmatch=True)
OPTION_NAMES = NAMES.filter(lambda name: name not in GRIDS and not re.fullmatch("g[0-9]*", name))
WIDTHS = st.integers(1, 16) | st.integers(1, 1600).map(lambda hundredths: hundredths / 100)


def reads_as_text(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return value not in {"true", "false"}
    return False


VALUES: st.SearchStrategy[OptionValue] = (
    st.booleans()
    | st.integers(0, 10**9)
    | st.floats(0, 1e9, allow_subnormal=False)
    | st.from_regex(r"[A-Za-z0-9_.]{1,6}", fullmatch=True).filter(reads_as_text)
)
SPECS = st.builds(
    QuantSpec,
    method=NAMES,
    bits=WIDTHS,
    act_bits=st.none() | st.integers(1, 16),
    group_size=st.none() | st.integers(1, 4096),
    grid=st.sampled_from(GRIDS),
    options=st.dictionaries(OPTION_NAMES, VALUES, max_size=3).map(lambda options: tuple(options.items())),
)


@given(SPECS)
def test_what_is_printed_is_read_back(spec: QuantSpec) -> None:
    assert QuantSpec.parse(str(spec)) == spec
    assert str(QuantSpec.parse(str(spec))) == str(spec)


@given(SPECS, st.randoms(use_true_random=False))
def test_the_order_of_the_parts_does_not_matter(spec: QuantSpec, random: Any) -> None:
    head, width, *rest = str(spec).split("-")
    random.shuffle(rest)
    assert str(QuantSpec.parse("-".join([head, width, *rest]))) == str(spec)


@given(SPECS)
def test_ids_are_legal_file_names_on_every_system(spec: QuantSpec) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.=-]+", str(spec))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("rtn-w3", "rtn-w3"),
        ("rtn-w3.0", "rtn-w3"),
        ("rtn-w03-asym", "rtn-w3"),
        ("pbllm-w1.70-g128", "pbllm-w1.7-g128"),
        ("smoothquant-w8a8-symr", "smoothquant-w8a8-symr"),
        ("mine-w16a16", "mine-w16a16"),
        ("mine-w01a01", "mine-w1a1"),
        ("gptq-w4-sym-act_order-g0128", "gptq-w4-g128-sym-act_order"),
        ("gptq-w4-b=2-a=1.50-c=1e2", "gptq-w4-a=1.5-b=2-c=100"),
        ("gptq-w4-act_order=true-static_groups=false", "gptq-w4-act_order-static_groups=false"),
        ("gptq-w4-percdamp=0.00001", "gptq-w4-percdamp=0.00001"),
    ],
)
def test_each_spec_has_one_spelling(text: str, canonical: str) -> None:
    assert str(QuantSpec.parse(text)) == canonical


def test_a_spec_id_says_what_it_means() -> None:
    spec = QuantSpec.parse("gptq-w3.5a8-g64-symr-act_order-mode=fast-percdamp=0.1")
    assert (spec.method, spec.bits, spec.act_bits, spec.group_size, spec.grid) == ("gptq", 3.5, 8, 64, "symr")
    assert dict(spec.options) == {"act_order": True, "mode": "fast", "percdamp": 0.1}
    assert spec.option("mode", "slow") == "fast"
    assert spec.option("block_size", 128) == 128


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no spec id; expected method-wBITS"),
        ("gptq", "no spec id; .* such as gptq-w3-g128"),
        ("gptq-3", "no spec id"),
        ("GPTQ-w3", "no spec id"),
        ("gptq-w3g128", "no spec id"),
        ("gptq-w3\n", "no spec id"),
        ("gptq-w\u0663", "no spec id"),
        ("gptq-w0", "bits must lie above 0 and at most at 16, got 0"),
        ("gptq-w16.5", "bits must lie above 0 and at most at 16, got 16.5"),
        ("gptq-w4a0", "act_bits must lie from 1 to 16, got 0; leave"),
        ("gptq-w4a17", "act_bits must lie from 1 to 16, got 17"),
        ("gptq-w3-g0", "group_size must be 1 or more, got 0; leave"),
        ("gptq-w3-g", "group_size in 'gptq-w3-g' must be 1 or more"),
        ("gptq-w3-g-128", "group_size in 'gptq-w3-g-128' must be 1 or more"),
        ("gptq-w3-g64-g128", "gives two group sizes"),
        ("gptq-w3-sym-symr", "gives two grids"),
        ("gptq-w3-a=1-a=2", "gives option 'a' twice"),
        ("gptq-w3-", "'' in spec 'gptq-w3-' is neither a group size"),
        (
            "gptq-w3-G128",
            r"'G128' .* neither a group size \(g128\), a grid \(asym, sym, symr\) nor an option",
        ),
        ("gptq-w3-a=", "'a=' .* nor an option"),
        ("gptq-w3-percdamp=nan", "option percdamp must be a finite number, got nan"),
        ("gptq-w3-percdamp=inf", "option percdamp must be a finite number, got inf"),
        ("gptq-w3-g=1", "option 'g' would read as a grid or a group size"),
    ],
)
def test_what_is_no_spec_is_refused_with_its_reason(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        QuantSpec.parse(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "my-method"}, "'my-method' is no method name"),
        ({"bits": float("nan")}, "bits must lie above 0"),
        ({"bits": -1}, "bits must lie above 0 and at most at 16, got -1"),
        ({"group_size": -128}, "group_size must be 1 or more, got -128"),
        ({"grid": "nf4"}, "unknown grid 'nf4'; known: asym, sym, symr"),
        ({"options": (("g128", True),)}, "option 'g128' would read as a grid or a group size"),
        ({"options": (("sym", True),)}, "option 'sym' would read as a grid"),
        ({"options": (("mode", "3"),)}, "option mode cannot be '3': in a spec id that reads as 3"),
        ({"options": (("mode", "a-b"),)}, "'mode=a-b' in spec"),
        ({"options": (("shift", -1),)}, "'shift=-1' in spec"),
        ({"options": (("mode", "true"),)}, "option mode cannot be 'true'"),
    ],
)
def test_a_spec_that_could_not_be_read_back_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        QuantSpec(**{"method": "mine", "bits": 3, **changes})


@given(WIDTHS)
def test_whole_bits_are_the_nearest_width_and_at_least_one(bits: float) -> None:
    whole = QuantSpec("mine", bits).whole_bits
    assert 1 <= whole <= 16
    assert abs(whole - bits) <= max(0.5, 1 - bits)


@pytest.mark.parametrize(
    ("bits", "whole"), [(0.1, 1), (1, 1), (1.1, 1), (1.5, 2), (1.7, 2), (2.4, 2), (16, 16)]
)
def test_whole_bits_of_the_fractional_methods(bits: float, whole: int) -> None:
    assert QuantSpec("mine", bits).whole_bits == whole


@pytest.mark.parametrize(("bits", "ultra_low"), [(1.1, True), (4, True), (4.1, False), (8, False)])
def test_four_bits_and_fewer_are_ultra_low(bits: float, ultra_low: bool) -> None:
    assert QuantSpec("mine", bits).ultra_low_bit is ultra_low


MINE = Capabilities(
    bits=(2, 3, 3.5),
    grids=("symr", "asym"),
    grouped=True,
    act_bits=(None, 8),
    options=(("fast", bool), ("damp", float), ("block", int), ("mode", str)),
)


@pytest.mark.parametrize(
    "spec", ["mine-w2", "mine-w3.5a8-g64-symr", "mine-w3-fast-damp=0.5-block=2-mode=slow", "mine-w3-damp=1"]
)
def test_what_the_capabilities_cover_is_served(spec: str) -> None:
    assert refusal(QuantSpec.parse(spec), MINE) is None


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("mine-w4", "mine supports 2, 3, 3.5 weight bits, not 4"),
        ("mine-w2a4", "mine does not support 4 activation bits"),
        ("mine-w2-sym", "mine supports the grids symr, asym, not sym"),
        ("mine-w2-slow", "mine has no option 'slow'; it has block, damp, fast, mode"),
        ("mine-w2-fast=1", "option fast of mine takes a bool, got 1"),
        ("mine-w2-block", "option block of mine takes a int, got True"),
        ("mine-w2-block=1.5", "option block of mine takes a int, got 1.5"),
        ("mine-w2-damp", "option damp of mine takes a float, got True"),
        ("mine-w2-mode=1", "option mode of mine takes a str, got 1"),
    ],
)
def test_what_they_do_not_cover_is_refused_with_its_reason(spec: str, reason: str) -> None:
    assert refusal(QuantSpec.parse(spec), MINE) == reason


def test_a_method_of_whole_rows_and_activations_refuses_the_rest() -> None:
    rows = Capabilities(bits=(8,), grouped=False, act_bits=(8,))
    assert refusal(QuantSpec.parse("rows-w8a8-g64"), rows) == "rows takes no group size"
    assert refusal(QuantSpec.parse("rows-w8"), rows) == "rows does not support 16 activation bits"
    assert refusal(QuantSpec.parse("rows-w8a8-x"), rows) == "rows has no option 'x'; it has none"


def test_a_range_of_widths_and_a_required_group_size() -> None:
    mixed = Capabilities(bits=(2,), between=(1.05, 1.9), group_required=True)
    for width in ("1.05", "1.7", "1.9", "2"):
        assert refusal(QuantSpec.parse(f"mixed-w{width}-g64"), mixed) is None
    message = "mixed supports 2 and all from 1.05 to 1.9 weight bits, not "
    assert refusal(QuantSpec.parse("mixed-w1.04-g64"), mixed) == f"{message}1.04"
    assert refusal(QuantSpec.parse("mixed-w1.95-g64"), mixed) == f"{message}1.95"
    assert refusal(QuantSpec.parse("mixed-w2"), mixed) == "mixed needs a group size, such as -g128"


@pytest.mark.parametrize(
    ("text", "name", "source", "revision"),
    [
        ("builtin-llama", "builtin-llama", "builtin-llama", None),
        ("llama", "llama", "llama", None),
        ("llama/", "llama", "llama", None),
        ("llama@v1", "llama", "llama", "v1"),
        ("./llama/", "llama", "./llama", None),
        ("/models/llama-3", "llama-3", "/models/llama-3", None),
        ("../models/llama_3", "llama_3", "../models/llama_3", None),
        ("~/llama", "llama", "~/llama", None),
        ("/home/me@work/llama", "llama", "/home/me@work/llama", None),
        ("a/b/c", "c", "a/b/c", None),
        ("owner/model", "owner--model", "owner/model", None),
        ("owner/model@v1.0", "owner--model", "owner/model", "v1.0"),
        ("owner/model@refs/pr/1", "owner--model", "owner/model", "refs/pr/1"),
        ("owner/model@", "owner--model", "owner/model", None),
        ("mine=owner/model@main", "mine", "owner/model", "main"),
        ("mine=/models/x=1", "mine", "/models/x=1", None),
        ("root=/", "root", "/", None),
    ],
)
def test_models_are_named_by_their_folder_or_hub_id(
    text: str, name: str, source: str, revision: str | None
) -> None:
    spec = ModelSpec.parse(text)
    assert (spec.name, spec.source, spec.revision) == (name, source, revision)
    assert str(spec) == name
    assert spec.builtin is (source == "builtin-llama")


@pytest.mark.parametrize("text", ["", "@main", "mine=", "mine=@main"])
def test_a_model_without_a_source_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="names no model; expected a folder or a hub id"):
        ModelSpec.parse(text)


@pytest.mark.parametrize(
    "text",
    [".", "..", "/", "=llama", "a b", "llama.", "-x=llama", "nul", "Con.1=llama", "x\n", "/models/x=1"],
)
def test_a_name_that_is_no_folder_name_everywhere_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="cannot be a folder name; give one with NAME="):
        ModelSpec.parse(text)


@given(NAMES.filter(lambda name: not re.fullmatch("con|prn|aux|nul|com[0-9]|lpt[0-9]", name)))
def test_every_name_a_registry_takes_can_stand_in_a_spec(name: str) -> None:
    assert NAME.fullmatch(name)
    assert QuantSpec.parse(f"{name}-w3").method == name
    assert ModelSpec.parse(f"{name}=owner/model").name == name


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("builtin-llama", "builtin-llama"),
        ("meta-llama/Meta-Llama-3-8B@main", "meta-llama/Meta-Llama-3-8B"),
        ("llama3-8b=/data/models/llama", "llama"),
        ("./llama", "llama"),
    ],
)
def test_a_source_is_told_without_the_folders_of_one_machine(text: str, source: str) -> None:
    assert ModelSpec.parse(text).portable_source == source


@pytest.mark.parametrize(("text", "vision"), [("rtn-w4", False), ("rtn-w4-vision", True)])
def test_a_spec_says_whether_the_vision_tower_is_quantized_too(text: str, vision: bool) -> None:
    assert QuantSpec.parse(text).vision is vision
