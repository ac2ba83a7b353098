"""The matrix: tiers nest, nothing is left out uncounted, names and globs mean what they say."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.errors import SpecError
from quantcheck.methods import METHODS
from quantcheck.plan import TIERS, Cell, Matrix, candidates, cells, exact_spec, matrix
from quantcheck.registry import Capabilities, Registry, Rows
from quantcheck.spec import GRIDS, ModelSpec, QuantSpec, refusal

CAPABILITIES = st.builds(
    Capabilities,
    bits=st.lists(st.sampled_from([1, 1.1, 1.7, 2, 2.5, 3, 4, 5, 6, 7, 8, 16]), unique=True, max_size=6).map(
        tuple
    ),
    grids=st.permutations(GRIDS).flatmap(lambda grids: st.integers(1, 3).map(lambda n: tuple(grids[:n]))),
    grouped=st.booleans(),
    act_bits=st.sampled_from([(None,), (8,), (None, 8)]),
    options=st.sampled_from([(), (("fast", bool),), (("fast", bool), ("damp", float))]),
)


@pytest.fixture
def methods() -> Registry[Any, Any]:
    registry: Registry[Any, Any] = Registry("method")
    registry.register("rtn", object(), Capabilities(bits=tuple(range(1, 9)), grids=GRIDS), origin="here")
    registry.register("mixed", object(), Capabilities(bits=(1.1, 1.7), grouped=False), origin="here")
    return registry


def ids(found: Matrix) -> list[str]:
    return [str(spec) for spec in found.specs]


@given(CAPABILITIES)
def test_tiers_nest(capabilities: Capabilities) -> None:
    smoke, standard, full = (set(candidates("mine", capabilities, tier)) for tier in TIERS)
    assert smoke < standard < full


@given(CAPABILITIES, st.sampled_from(TIERS))
def test_rows_are_distinct_in_one_order_and_refused_only_with_a_reason(
    capabilities: Capabilities, tier: str
) -> None:
    rows = list(candidates("mine", capabilities, tier))
    assert rows == list(candidates("mine", capabilities, tier))
    assert len({str(spec) for spec, _ in rows}) == len(rows)
    assert all(why == refusal(spec, capabilities) for spec, why in rows)


@given(CAPABILITIES, st.sampled_from(TIERS))
def test_every_width_up_to_eight_bits_that_a_method_has_is_in_the_standard_tier(
    capabilities: Capabilities, tier: str
) -> None:
    served = {spec.bits for spec, why in candidates("mine", capabilities, tier) if why is None}
    smoke = {bits for bits in capabilities.bits if bits in {2, 3, 4, 8} or bits != int(bits)}
    assert served == (smoke if tier == "smoke" else {bits for bits in capabilities.bits if bits <= 8})


@given(CAPABILITIES, st.sampled_from(TIERS))
def test_a_method_with_eight_bits_has_one_canary(capabilities: Capabilities, tier: str) -> None:
    model = ModelSpec.parse("builtin-llama")
    served = [spec for spec, why in candidates("mine", capabilities, tier) if why is None]
    canaries = [spec for spec in served if "canary" in Cell(model, spec, "bpw").marks]
    expected = capabilities.act_bits[:1] if 8 in capabilities.bits else ()
    assert [(spec.bits, spec.group_size, spec.options, spec.act_bits) for spec in canaries] == [
        (8, None, (), act_bits) for act_bits in expected
    ]


def test_rows_of_a_methods_own_come_after_the_uniform_ones_or_alone(methods: Registry[Any, Any]) -> None:
    rows = Rows(smoke=("own-w2-g128",), standard=("own-w2-g64", "own-w2-g128"), full=("own-w2-fast",))
    own = Capabilities(bits=(2,), options=(("fast", bool),), uniform=False, rows=rows)
    methods.register("own", object(), own, origin="here")
    assert ids(matrix(methods, "smoke", [], ["own"])) == ["own-w2-g128"]
    assert ids(matrix(methods, "standard", [], ["own"])) == ["own-w2-g128", "own-w2-g64"]
    assert ids(matrix(methods, "full", [], ["own"])) == ["own-w2-g128", "own-w2-g64", "own-w2-fast"]
    methods.register(
        "both", object(), replace(own, uniform=True, rows=Rows(smoke=("both-w2-g16",))), origin="here"
    )
    assert ids(matrix(methods, "smoke", [], ["both"])) == ["both-w2", "both-w2-g128", "both-w2-g16"]


STUDY = {
    "rtn gptq awq": "w2-g128 w3-g128 w4-g128 w2 w3 w4 w8",
    "slimllm": "w2-g128 w3-g128 w4-g128",
    "quip": "w2 w3 w4",
    "dbllm": "w2-g128",
    "pbllm": "w1.7-g128 w2-g128",
    "billm": "w1.1-g128",
    "smoothquant": "w8a8 w6a6 w4a4",
    "nf4 qlora irqlora": "w4",
}
ROWS = [f"{name}-{row}" for names, rows in STUDY.items() for name in names.split() for row in rows.split()]


def test_every_row_of_the_study_is_in_the_standard_tier_and_those_up_to_four_bits_in_smoke() -> None:
    standard, smoke = (ids(matrix(METHODS, tier, [], [])) for tier in ("standard", "smoke"))
    assert set(ROWS) <= set(standard)
    assert {row for row in ROWS if QuantSpec.parse(row).ultra_low_bit} <= set(smoke)


def test_the_built_in_methods_serve_every_row_that_they_name() -> None:
    for name in METHODS.names():
        capabilities = METHODS.entry(name).capabilities
        for row in capabilities.rows.of("full"):
            spec = QuantSpec.parse(row)
            assert (str(spec), spec.method, refusal(spec, capabilities)) == (row, name, None)
        assert len(set(capabilities.rows.of("full"))) == len(capabilities.rows.of("full"))


def test_the_smoke_tier_of_rtn() -> None:
    found = matrix(METHODS, "smoke", [], ["rtn"])
    assert ids(found) == ["rtn-w2", "rtn-w2-g128", "rtn-w3", "rtn-w3-g128", "rtn-w4", "rtn-w4-g128", "rtn-w8"]
    assert found.unsupported == 0


def test_the_full_tier_adds_sizes_grids_and_options() -> None:
    full, standard = (set(ids(matrix(METHODS, tier, [], ["gptq"]))) for tier in ("full", "standard"))
    assert {
        "gptq-w3-g32",
        "gptq-w3-g64",
        "gptq-w2-symr",
        "gptq-w4-g128-sym",
        "gptq-w3-act_order",
    } <= full - standard
    assert "gptq-w1" in standard
    assert not any("percdamp" in spec for spec in full)


def test_what_a_method_declines_is_left_out_and_counted(methods: Registry[Any, Any]) -> None:
    found = matrix(methods, "smoke", [], ["mixed"])
    assert ids(found) == ["mixed-w1.1", "mixed-w1.7"]
    # two fractional widths, 2, 3 and 4 bits with and without groups, and the canary, less the two served
    assert found.unsupported == 5 * 2 + 1 - 2
    every = sum(
        len(list(candidates(name, methods.entry(name).capabilities, "smoke"))) for name in methods.names()
    )
    both = matrix(methods, "smoke", [], [])
    assert len(both.specs) + both.unsupported == every


def test_fractional_widths_come_first_and_in_every_tier(methods: Registry[Any, Any]) -> None:
    for tier in TIERS:
        assert ids(matrix(methods, tier, [], ["mixed"]))[:2] == ["mixed-w1.1", "mixed-w1.7"]


def test_globs_narrow_the_matrix_in_their_order(methods: Registry[Any, Any]) -> None:
    assert ids(matrix(methods, "smoke", ["rtn-w4*", "*-w2"], [])) == ["rtn-w4", "rtn-w4-g128", "rtn-w2"]
    assert ids(matrix(methods, "smoke", ["*-w1.?"], [])) == ["mixed-w1.1", "mixed-w1.7"]
    assert ids(matrix(methods, "smoke", ["rtn-w[23]", "rtn-w3*"], [])) == ["rtn-w2", "rtn-w3", "rtn-w3-g128"]
    assert ids(matrix(methods, "smoke", [], ["m*"])) == ["mixed-w1.1", "mixed-w1.7"]


def test_an_exact_spec_is_added_although_the_tier_leaves_it_out(methods: Registry[Any, Any]) -> None:
    assert ids(matrix(methods, "smoke", ["rtn-w5-g32-symr"], [])) == ["rtn-w5-g32-symr"]
    assert ids(matrix(methods, "smoke", ["rtn-w2*", "rtn-w2"], [])) == ["rtn-w2", "rtn-w2-g128"]


@pytest.mark.parametrize(
    ("specs", "method_globs", "message"),
    [
        (["rtn-w3", "rtn-w3.0"], [], "two specs with one id: 'rtn-w3' and 'rtn-w3.0' are both rtn-w3"),
        (["rtn-w3", "rtn-*", "rtn-w03"], [], "two specs with one id: 'rtn-w3' and 'rtn-w03'"),
        (["rtn-w9*"], [], r"no spec of this tier matches 'rtn-w9\*'"),
        (["rnt-w4-g128*"], [], "did you mean 'rtn-w4-g128'"),
        (["rtn-w9"], [], "rtn-w9: rtn supports 1, 2, 3, 4, 5, 6, 7, 8 weight bits, not 9"),
        (["rnt-w3"], [], "unknown method 'rnt'; did you mean 'rtn'"),
        (["rtn-3"], [], "'rtn-3' is no spec id"),
        (["mixed-w1.7-g128"], [], "mixed-w1.7-g128: mixed takes no group size"),
        ([], ["rnt"], "no method matches 'rnt'; did you mean 'rtn'"),
        ([], ["rtn", "q*"], r"no method matches 'q\*'; known: mixed, rtn"),
        (["mixed-w1.7"], ["rtn"], "'mixed-w1.7' is asked for, but --quantcheck-methods leaves mixed out"),
    ],
)
def test_what_cannot_be_gated_is_refused_before_any_work(
    methods: Registry[Any, Any], specs: list[str], method_globs: list[str], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        matrix(methods, "smoke", specs, method_globs)


def test_a_glob_may_name_a_codec_or_a_kernel_instead(methods: Registry[Any, Any]) -> None:
    others = ["gptq_v1-w3", "cpu_grouped-w4"]
    assert ids(matrix(methods, "smoke", ["gptq_v1-*", "rtn-w2"], [], others)) == ["rtn-w2"]
    assert ids(matrix(methods, "smoke", ["gptq_v1-w3", "cpu*"], [], others)) == []
    with pytest.raises(SpecError, match=r"no spec of this tier matches 'gpu\*'"):
        matrix(methods, "smoke", ["cpu*", "gpu*"], [], others)


def test_an_empty_matrix_is_refused() -> None:
    registry: Registry[Any, Any] = Registry("method")
    registry.register("wide", object(), Capabilities(bits=(16,)), origin="here")
    message = "the matrix is empty: no method of wide supports a row of the smoke tier; name specs with"
    with pytest.raises(SpecError, match=message):
        matrix(registry, "smoke", [], [])
    assert ids(matrix(registry, "smoke", ["wide-w16"], [])) == ["wide-w16"]


def test_an_exact_spec_is_checked_against_its_method(methods: Registry[Any, Any]) -> None:
    assert exact_spec(methods, "rtn-w3.0") == QuantSpec("rtn", 3)
    with pytest.raises(SpecError, match="rtn-w3-fast: rtn has no option 'fast'; it has none"):
        exact_spec(methods, "rtn-w3-fast")


def test_cells_are_every_model_by_every_spec_by_each_models_metrics() -> None:
    models = [ModelSpec.parse("builtin-llama"), ModelSpec.parse("mine=/models/mine")]
    specs = [QuantSpec("rtn", 3), QuantSpec("gptq", 3)]
    metrics = {"builtin-llama": ["bpw", "ppl/web"], "mine": ["ppl/news"]}
    found = cells(models, iter(specs), metrics)
    assert [cell.id for cell in found] == [
        f"{model}/{spec}/{metric}"
        for model, spec in itertools.product(models, specs)
        for metric in metrics[model.name]
    ]
    assert found[-1].id == "mine/gptq-w3/ppl/news"


@pytest.mark.parametrize(
    ("spec", "marks"),
    [
        ("rtn-w1.7", ("quantcheck", "ultra_low_bit")),
        ("rtn-w4-g128", ("quantcheck", "ultra_low_bit")),
        ("rtn-w5", ("quantcheck",)),
        ("rtn-w8", ("quantcheck", "canary")),
        ("rtn-w8-symr", ("quantcheck", "canary")),
        ("rtn-w8-g128", ("quantcheck",)),
        ("gptq-w8-act_order", ("quantcheck",)),
    ],
)
def test_marks_follow_from_the_spec(spec: str, marks: tuple[str, ...]) -> None:
    assert Cell(ModelSpec.parse("builtin-llama"), QuantSpec.parse(spec), "bpw").marks == marks


def test_an_ordering_is_measured_by_both_of_its_specs() -> None:
    model = ModelSpec.parse("builtin-llama")
    better, worse = QuantSpec.parse("gptq-w3"), QuantSpec.parse("rtn-w3")
    cell = Cell(model, better, "ppl/web", worse)
    assert cell.id == "builtin-llama/gptq-w3-over-rtn-w3/ppl/web"
    assert cell.marks == ("quantcheck", "ultra_low_bit")
    assert cell.measured == (Cell(model, better, "ppl/web"), Cell(model, worse, "ppl/web"))
    assert cell.measured[0].measured == cell.measured[:1]
