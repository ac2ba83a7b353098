"""What a kernel promises about its results: those of float64 within a derived bound, whatever it is given.

The float64 results are made from what was drawn and not from the packed bytes; `quantcheck.contracts.bounds`
derives how far off a kernel may be. The product that fails is a recipe (`quantcheck.strategies.Product`) that
prints on one line and can be pasted into a test.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product as combinations

import torch
from torch import Tensor

from quantcheck.contracts.bits import VIEWS, copies, difference, pattern, poisoned
from quantcheck.contracts.bounds import Expected, dequantized, gradient, multiplied
from quantcheck.contracts.kernel_subjects import KernelTests, Subject, altered, dtype_of, tensors_of, where
from quantcheck.strategies.kernels import plain_weight, products, widest
from quantcheck.strategies.operands import CodebookRecipe, GroupedRecipe, PlanesRecipe, Product

MOST_READ = 96
"""The most columns that are read by one-hot inputs, a token each."""
LAID_OUT = {name: view for name, view in VIEWS.items() if name != "expanded"}
"""Views that hold what their tensor does."""
LIVELY = ("normal", "rows apart", "large", "small")
"""Inputs that every rounding leaves a trace in."""


class KernelPromises(KernelTests):
    """The tests on what a kernel computes; see `quantcheck.contracts.KernelContract`."""

    def test_weights_are_rounded_once(self, kernel: Subject) -> None:
        """From float32 to the dtype asked for."""

        def promise(product: Product) -> None:
            _hold_weights(kernel, product)

        self.hold(promise, products(kernel.can, kernel.bits))

    def test_products_are_within_their_bound(self, kernel: Subject) -> None:
        """Of the float64 product: any size, with tails, any inputs, in the inputs' dtype."""

        def promise(product: Product) -> None:
            _hold(kernel, product, kernel.multiply(product), multiplied(product, kernel.accumulates))

        self.hold(promise, products(kernel.can, kernel.bits, kernel.act_bits))

    def test_one_hot_inputs_read_every_weight(self, kernel: Subject) -> None:
        """A token for each column: no sum hides a wrong code."""

        def promise(product: Product) -> None:
            tokens = min(product.weight.in_features, MOST_READ)
            reading = replace(product, tokens=tokens)
            _hold(kernel, reading, kernel.multiply(reading), multiplied(reading, kernel.accumulates))

        self.hold(promise, products(kernel.can, kernel.bits, kernel.act_bits, inputs=("one-hot",), least=1))

    def test_nothing_times_nothing_is_zero_of_the_right_shape(self, kernel: Subject) -> None:
        """No tokens, no rows, no columns, in every combination; gradients, too, where they are promised."""
        can = kernel.can
        for tokens, rows, cols in combinations((0, 1), (0, can.out_multiple), (0, can.in_multiple)):
            product = Product(plain_weight(can, kernel.bits, rows, cols), tokens, "ones", can.dtypes[0])
            product = replace(product, act_bits=kernel.act_bits)
            _hold_weights(kernel, product)
            _hold(kernel, product, kernel.multiply(product), multiplied(product, kernel.accumulates))
            if can.gradients and kernel.act_bits is None:
                _hold_gradient(kernel, product)

    def test_nan_and_inf_reach_their_row_and_no_other(self, kernel: Subject) -> None:
        """One input is NaN or Inf: its token's results are not finite where the product is not."""

        def promise(product: Product) -> None:
            _hold(kernel, product, kernel.multiply(product), multiplied(product, kernel.accumulates))

        spoilt = (math.nan, math.inf, -math.inf)
        self.hold(promise, products(kernel.can, kernel.bits, kernel.act_bits, spoilt=spoilt, least=1))

    def test_zero_scales_give_zeros(self, kernel: Subject) -> None:
        """Exactly, whatever the codes are."""

        def promise(product: Product) -> None:
            zero = replace(product, weight=replace(product.weight, scales="zero"))
            weight = kernel.dequantize(zero.weight, dtype_of(zero.dtype))
            assert bool((weight == 0).all()), f"{kernel.id}: a weight is not 0, for {zero}"
            assert bool((kernel.multiply(zero) == 0).all()), f"{kernel.id}: y is not 0, for {zero}"

        self.hold(promise, products(kernel.can, kernel.bits, kernel.act_bits))

    def test_scales_keep_their_range(self, kernel: Subject) -> None:
        """Beyond the largest number of float16, and in its subnormal range."""

        def promise(product: Product) -> None:
            for scales in ("large", "small"):
                weight = replace(product.weight, scales=scales)
                if not isinstance(weight, CodebookRecipe):
                    weight = replace(weight, scale_dtype="float32")
                extreme = replace(product, weight=weight, dtype=widest(kernel.can))
                _hold_weights(kernel, extreme)
                _hold(kernel, extreme, kernel.multiply(extreme), multiplied(extreme, kernel.accumulates))

        self.hold(promise, products(kernel.can, kernel.bits, kernel.act_bits, inputs=LIVELY, least=1))

    @where(lambda kernel: kernel.can.weights == "grouped" and kernel.can.zero_points)
    def test_zero_points_lie_at_both_ends(self, kernel: Subject) -> None:
        """0 and the top code, with codes at both ends, too."""

        def promise(product: Product) -> None:
            assert isinstance(product.weight, GroupedRecipe)
            for zero_points, codes in combinations(("low", "top"), ("low", "top")):
                weight = replace(product.weight, zero_points=zero_points, codes=codes)
                ends = replace(product, weight=weight)
                _hold_weights(kernel, ends)
                _hold(kernel, ends, kernel.multiply(ends), multiplied(ends, kernel.accumulates))

        self.hold(promise, products(kernel.can, kernel.bits, kernel.act_bits))

    @where(lambda kernel: kernel.can.weights != "codebook" and kernel.can.g_idx)
    def test_g_idx_is_an_order_of_columns(self, kernel: Subject) -> None:
        """Groups out of order are the same weights, bit for bit, as columns put in the groups' order."""

        def promise(product: Product) -> None:
            assert isinstance(product.weight, GroupedRecipe | PlanesRecipe)
            recipe = replace(product.weight, shuffled=True)
            shuffled = replace(product, weight=recipe)
            order = recipe.g_idx().argsort(stable=True)
            operand, dtype = recipe.operand(order), dtype_of(product.dtype)
            weights = (
                kernel.dequantize(recipe, dtype).cpu()[:, order],
                kernel.dequantize(recipe, dtype, operand),
            )
            _hold_same(kernel, shuffled, "the weight in the groups' order", *weights)
            expected = multiplied(shuffled, kernel.accumulates)
            _hold(kernel, shuffled, kernel.multiply(shuffled), expected)
            _hold(kernel, shuffled, kernel.multiply(shuffled, shuffled.x()[:, order], operand), expected)

        self.hold(promise, products(kernel.can, kernel.bits, kernel.act_bits))

    @where(lambda kernel: kernel.act_bits is not None)
    def test_every_token_has_its_own_grid(self, kernel: Subject) -> None:
        """Tokens of magnitudes far apart, near the floor of the peak, and of zeros."""

        def promise(product: Product) -> None:
            _hold(kernel, product, kernel.multiply(product), multiplied(product, kernel.accumulates))

        inputs = ("rows apart", "small", "zeros")
        self.hold(promise, products(kernel.can, kernel.bits, kernel.act_bits, inputs=inputs, least=1))

    def test_every_element_is_written(self, kernel: Subject) -> None:
        """Nothing depends on what lay in memory before: it is filled with NaN here."""

        def promise(product: Product) -> None:
            with poisoned():
                weight, y = (
                    kernel.dequantize(product.weight, dtype_of(product.dtype)),
                    kernel.multiply(product),
                )
            _hold(kernel, product, weight, dequantized(product.weight, weight.dtype), "a weight")
            _hold(kernel, product, y, multiplied(product, kernel.accumulates))

        self.hold(promise, products(kernel.can, kernel.bits, kernel.act_bits, inputs=LIVELY, least=1))

    def test_operands_are_not_written_to(self, kernel: Subject) -> None:
        """Neither the inputs nor any tensor of the weight."""

        def promise(drawn: Product) -> None:
            for product in _in_each_dtype(kernel, drawn):
                operand, x = product.weight.operand(), product.x()
                before = {**copies(tensors_of(operand)), "x": x.clone()}
                kernel.dequantize(product.weight, x.dtype, operand)
                kernel.multiply(product, x, operand)
                changed = difference(before, {**tensors_of(operand), "x": x})
                assert not changed, f"{kernel.id} writes to its operands: {changed}, for {product}"

        self.hold(promise, products(kernel.can, kernel.bits, kernel.act_bits, inputs=LIVELY, least=1))

    def test_views_count_as_their_copies(self, kernel: Subject) -> None:
        """Transposed, strided and offset tensors, of inputs and weight."""

        def promise(product: Product) -> None:
            expected, operand = multiplied(product, kernel.accumulates), product.weight.operand()
            for name, view in LAID_OUT.items():
                y = kernel.multiply(product, view(product.x()), altered(operand, view))
                _hold(kernel, product, y, expected, f"y of {name} operands")

        self.hold(promise, products(kernel.can, kernel.bits, kernel.act_bits, inputs=LIVELY, least=1))

    def test_results_are_where_the_inputs_are(self, kernel: Subject) -> None:
        """In each dtype that the kernel takes: that dtype, and the inputs' device."""
        weight = plain_weight(
            kernel.can, kernel.bits, 2 * kernel.can.out_multiple, 2 * kernel.can.in_multiple
        )
        for dtype in kernel.can.dtypes:
            product = Product(weight, 3, dtype=dtype, act_bits=kernel.act_bits)
            for y in (kernel.multiply(product), kernel.dequantize(weight, dtype_of(dtype))):
                assert y.dtype == dtype_of(dtype), f"{kernel.id} answers {dtype} in {y.dtype}, for {product}"
                assert y.device.type == kernel.device, f"{kernel.id} answers on {y.device}, for {product}"

    def test_two_runs_give_the_same_bits(self, kernel: Subject) -> None:
        """Of the decoded weight and of the product."""

        def promise(drawn: Product) -> None:
            for product in _in_each_dtype(kernel, drawn):
                _hold_same(
                    kernel, product, "y of two runs", kernel.multiply(product), kernel.multiply(product)
                )
                weights = (kernel.dequantize(product.weight, dtype_of(product.dtype)) for _ in range(2))
                _hold_same(kernel, product, "the weight of two runs", *weights)

        self.hold(promise, products(kernel.can, kernel.bits, kernel.act_bits, inputs=LIVELY, least=1))

    @where(lambda kernel: kernel.can.batch_invariant)
    def test_a_row_is_the_same_bits_in_any_batch(self, kernel: Subject) -> None:
        """Alone, and in half of the batch."""

        def promise(drawn: Product) -> None:
            for product in _in_each_dtype(kernel, replace(drawn, tokens=drawn.tokens + 1)):
                x, together = product.x(), kernel.multiply(product).cpu()
                for rows in _parts(product):
                    y = kernel.multiply(product, x[rows])
                    _hold_same(kernel, product, f"y of tokens {rows.tolist()} alone", together[rows], y)

        self.hold(promise, products(kernel.can, kernel.bits, kernel.act_bits, inputs=LIVELY, least=1))

    @where(lambda kernel: not kernel.can.batch_invariant)
    def test_a_row_depends_little_on_its_batch(
        self, kernel: Subject, record_property: Callable[[str, object], None]
    ) -> None:
        """Within the bound; how often bit for bit is reported, at the end and as a property of the test."""
        same: list[bool] = []

        def promise(drawn: Product) -> None:
            product = replace(drawn, tokens=drawn.tokens + 1)
            x, together = product.x(), kernel.multiply(product).cpu()
            expected = multiplied(product, kernel.accumulates)
            _hold(kernel, product, together, expected)
            for rows in _parts(product):
                y = kernel.multiply(product, x[rows])
                _hold(kernel, product, y, expected.of(rows), f"y of tokens {rows.tolist()} alone")
                same.append(torch.equal(pattern(together[rows]), pattern(y)))

        self.hold(promise, products(kernel.can, kernel.bits, kernel.act_bits, inputs=LIVELY, least=1))
        record_property("quantcheck_batch_invariant", [kernel.name, sum(same), len(same)])

    @where(lambda kernel: kernel.can.gradients and kernel.act_bits is None)
    def test_gradients_reach_the_inputs(self, kernel: Subject) -> None:
        """The gradient of the result times the weight, within its bound."""

        def promise(product: Product) -> None:
            _hold_gradient(kernel, product)

        self.hold(promise, products(kernel.can, kernel.bits))


def _hold_same(kernel: Subject, product: Product, what: str, one: Tensor, other: Tensor) -> None:
    """Fail unless two results are the same bits."""
    unlike = difference({"it": one}, {"it": other})
    assert not unlike, f"{kernel.id}: {what} is not bit-equal: {unlike}, for {product}"


def _hold(kernel: Subject, product: Product, got: Tensor, expected: Expected, what: str = "y") -> None:
    wrong = expected.wrong(got)
    assert not wrong, f"{kernel.id}: {what} {wrong}, for {product}"


def _hold_weights(kernel: Subject, product: Product) -> None:
    dtype = dtype_of(product.dtype)
    got, expected = kernel.dequantize(product.weight, dtype), dequantized(product.weight, dtype)
    _hold(kernel, product, got, expected, "a weight")


def _hold_gradient(kernel: Subject, product: Product) -> None:
    x = product.x().requires_grad_()
    y = kernel.multiply(product, x)
    assert y.requires_grad, f"{kernel.id}: no gradient reaches the inputs, for {product}"
    outer = torch.randn(y.shape, generator=torch.Generator().manual_seed(product.seed)).to(y.dtype)
    torch.autograd.backward(y, outer.to(y.device))
    assert x.grad is not None, f"{kernel.id}: no gradient reaches the inputs, for {product}"
    _hold(kernel, product, x.grad, gradient(product, outer, kernel.accumulates), "the gradient")


def _in_each_dtype(kernel: Subject, product: Product) -> list[Product]:
    return [replace(product, dtype=dtype) for dtype in kernel.can.dtypes]


def _parts(product: Product) -> tuple[Tensor, ...]:
    """List batches of fewer tokens: the first, the last, every other one."""
    last = product.tokens - 1
    return torch.tensor([0]), torch.tensor([last]), torch.arange(0, product.tokens, 2)
