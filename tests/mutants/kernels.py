"""Kernels with one bug each that kernels have been shipped with, and the promise that each breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mutants.sound_kernels import Sound, SoundCodebook, SoundPlanes
from quantcheck.kernels import KernelError
from quantcheck.kernels.base import Codebook, Grouped, Kernel, Operand, Planes


class HalfSums(Sound):
    """Keeps sums in float16, and says float32."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        total = torch.zeros(len(x), len(weight), dtype=torch.float16)
        for column in range(x.shape[1]):
            total = total + (x[:, column, None] * weight[:, column]).half()
        return total.float()


class HalfWeights(Sound):
    """Decodes to bfloat16 for float32 inputs, too."""

    def weights(self, weight: Grouped) -> Tensor:
        return super().weights(weight).bfloat16().float()


class TailOfColumnsDropped(Sound):
    """Multiplies whole blocks of 16 columns."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        whole = x.shape[1] // 16 * 16
        return super().product(x[:, :whole], weight[:, :whole])


class LastRowMissed(Sound):
    """Stops a row of the weight early where they are odd."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        whole = len(weight) // 2 * 2
        return torch.nn.functional.pad(super().product(x, weight[:whole]), (0, len(weight) - whole))


class TailNotWritten(Sound):
    """Writes whole blocks of 8 rows of the weight into memory that it did not clear."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        whole = len(weight) // 8 * 8
        y = torch.empty(len(x), len(weight))
        y[:, :whole] = super().product(x, weight[:whole])
        return y


class GroupsOffByOne(Sound):
    """Takes the group of the next column."""

    def columns(self, weight: Grouped) -> Tensor:
        following = (torch.arange(weight.in_features) + 1).clamp(max=max(weight.in_features - 1, 0))
        return super().columns(weight)[following]


class OrderIgnored(Sound):
    """Takes groups for consecutive columns, whatever g_idx says."""

    def columns(self, weight: Grouped) -> Tensor:
        return super().columns(weight).sort().values


class ScalesTransposed(Sound):
    """Reads scales [out, groups] as [groups, out]."""

    def scales(self, weight: Grouped) -> Tensor:
        scales = super().scales(weight)
        return scales.T.reshape(scales.shape)


class ScalesInHalf(Sound):
    """Keeps scales in float16, where they overflow."""

    def scales(self, weight: Grouped) -> Tensor:
        return super().scales(weight).half().float()


class ScalesNormalized(Sound):
    """Divides the scales by their largest one, and multiplies by it at the end."""

    def scales(self, weight: Grouped) -> Tensor:
        scales = super().scales(weight)
        largest = scales.abs().max() if scales.numel() else 1
        return scales / largest * largest


class ZeroPointTwice(Sound):
    """Subtracts the scaled zero point from weights that are without it already."""

    def weights(self, weight: Grouped) -> Tensor:
        shift = (self.scales(weight) * self.zero_points(weight))[:, self.columns(weight)]
        return super().weights(weight) - shift


class ZeroPointWrapped(Sound):
    """Stores a zero point less one in four bits and reads it plus one: 0 comes back as 16."""

    def zero_points(self, weight: Grouped) -> Tensor:
        stored = (super().zero_points(weight).int() - 1) & 15
        return (stored + 1).float()


class SignedCodes(Sound):
    """Takes the top bit of a code for a sign."""

    def codes(self, weight: Grouped) -> Tensor:
        codes = super().codes(weight)
        return torch.where(codes >= 8, codes - 16, codes)


class NaNSwallowed(Sound):
    """Clears NaN and Inf from its results."""

    def answer(self, y: Tensor, inputs: Tensor) -> Tensor:
        return super().answer(y.nan_to_num(), inputs)


class NaNSpread(Sound):
    """Masks by multiplying with zero, and lets the tokens of a block share the sum."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return super().product(x, weight) + 0 * x.sum()


class PeakOfTensor(Sound):
    """Rounds all tokens to the grid of the largest."""

    def peak(self, x: Tensor) -> Tensor:
        return x.abs().max() if x.numel() else x


class FloorForgotten(Sound):
    """Divides a token of zeros by its peak."""

    def rounded(self, x: Tensor, act_bits: int) -> Tensor:
        step = self.peak(x) / (2 ** (act_bits - 1) - 1)
        return (x / step).round() * step


class ActivationsWrapped(Sound):
    """Scales the peak to 128, which int8 wraps to -128, as nothing clamps it."""

    def rounded(self, x: Tensor, act_bits: int) -> Tensor:
        step = self.peak(x).clamp(min=1e-5) / 128
        return ((x / step).round().int() + 128).remainder(256).sub(128) * step


class InputsOverwritten(Sound):
    """Rounds the caller's activations in place."""

    def rounded(self, x: Tensor, act_bits: int) -> Tensor:
        return x.copy_(super().rounded(x, act_bits))


class CodesOverwritten(Sound):
    """Clears the caller's codes after use."""

    def codes(self, weight: Grouped) -> Tensor:
        codes = super().codes(weight)
        weight.qweight.zero_()
        return codes


class StridesIgnored(Sound):
    """Reads inputs as if they were contiguous."""

    def matmul(self, inputs: Tensor, prepared: Any, *, act_bits: int | None = None) -> Tensor:
        flat = inputs.as_strided(inputs.shape, (inputs.shape[-1], 1)) if inputs.ndim == 2 else inputs
        return super().matmul(flat, prepared, act_bits=act_bits)


class AnswersInFloat32(Sound):
    """Leaves results in the dtype that it adds up in."""

    def answer(self, y: Tensor, inputs: Tensor) -> Tensor:
        return y


class Dice(Sound):
    """Adds up in an order that another call changes."""

    calls: ClassVar[int] = 0

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        type(self).calls += 1
        return super().product(*((x, weight) if self.calls % 2 else (x.flip(1), weight.flip(1))))


class BatchDependent(Sound):
    """Splits sums another way where more than one token comes."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        half = x.shape[1] // 2 if len(x) > 1 else 0
        return super().product(x[:, :half], weight[:, :half]) + super().product(x[:, half:], weight[:, half:])


class FirstTokenAlone(Sound):
    """Takes a batch of one for a vector, and its weight for one of whole blocks; declares no invariance."""

    capabilities = replace(Sound.capabilities, batch_invariant=False)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        whole = x.shape[1] // 8 * 8 if len(x) == 1 else x.shape[1]
        return super().product(x[:, :whole], weight[:, :whole])


class NothingCrashes(Sound):
    """Reshapes to blocks of columns, also where there is none."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return super().product(x.reshape(len(x), -1), weight.reshape(len(weight), -1))


class GradientTransposed(Sound):
    """Multiplies gradients by rows of the weight in their reverse order."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        passed = x - x.detach()
        return super().product(x.detach(), weight) + super().product(passed, weight.flip(0))


class GradientLost(Sound):
    """Promises gradients, and works on detached inputs."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return super().product(x.detach(), weight)


class Obliging(Sound):
    """Takes what it does not support for what it does."""

    def refuse(self, weight: Operand, dtype: torch.dtype) -> None:
        pass


class Curt(Sound):
    """Refuses, and does not say what it would take."""

    def refuse(self, weight: Operand, dtype: torch.dtype) -> None:
        try:
            super().refuse(weight, dtype)
        except KernelError:
            raise KernelError("unsupported") from None


class InputsFlattened(Sound):
    """Takes leading dimensions of inputs for tokens."""

    def matmul(self, inputs: Tensor, prepared: Any, *, act_bits: int | None = None) -> Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        return super().matmul(flat, prepared, act_bits=act_bits)


class SecondPlaneDropped(SoundPlanes):
    """Decodes the first plane alone."""

    def plane(self, weight: Planes, index: int) -> Tensor:
        return super().plane(weight, index) if index == 0 else torch.zeros(weight.shape)


class MasksIgnored(SoundPlanes):
    """Lets every plane hold everywhere."""

    def mask(self, weight: Planes, index: int) -> Tensor:
        return torch.ones(weight.shape)


class BlocksOfRows(SoundCodebook):
    """Starts a block at every row, where the format's run across."""

    def blocks(self, weight: Codebook) -> Tensor:
        rows, cols = weight.shape
        each = -(-cols // weight.block_size)
        index = torch.arange(rows)[:, None] * each + torch.arange(cols) // weight.block_size
        return index.reshape(-1).clamp(max=max(len(weight.absmax) - 1, 0))


# What is broken, the promise that must notice, and what it says.
MUTANTS: list[tuple[type[Kernel], str, str]] = [
    (HalfWeights, "test_weights_are_rounded_once", "a weight is"),
    (GroupsOffByOne, "test_weights_are_rounded_once", "a weight is"),
    (ScalesTransposed, "test_weights_are_rounded_once", "a weight is"),
    (ZeroPointTwice, "test_weights_are_rounded_once", "a weight is"),
    (SecondPlaneDropped, "test_weights_are_rounded_once", "a weight is"),
    (MasksIgnored, "test_weights_are_rounded_once", "a weight is"),
    (BlocksOfRows, "test_weights_are_rounded_once", "a weight is"),
    (HalfSums, "test_products_are_within_their_bound", "y is"),
    (ScalesInHalf, "test_scales_keep_their_range", "inf at"),
    (TailOfColumnsDropped, "test_products_are_within_their_bound", "y is 0 at"),
    (LastRowMissed, "test_products_are_within_their_bound", "y is 0 at"),
    (SignedCodes, "test_one_hot_inputs_read_every_weight", "y is"),
    (NothingCrashes, "test_nothing_times_nothing_is_zero_of_the_right_shape", "cannot reshape"),
    (NaNSwallowed, "test_nan_and_inf_reach_their_row_and_no_other", "expected nan"),
    (NaNSpread, "test_nan_and_inf_reach_their_row_and_no_other", "y is nan"),
    (ScalesNormalized, "test_zero_scales_give_zeros", "a weight is not 0"),
    (ZeroPointWrapped, "test_zero_points_lie_at_both_ends", "zero_points='low'"),
    (OrderIgnored, "test_g_idx_is_an_order_of_columns", "in the groups' order is not bit-equal"),
    (PeakOfTensor, "test_every_token_has_its_own_grid", "inputs='rows apart'"),
    (FloorForgotten, "test_every_token_has_its_own_grid", "inputs='small'"),
    (ActivationsWrapped, "test_every_token_has_its_own_grid", "y is"),
    (TailNotWritten, "test_every_element_is_written", "y is nan"),
    (InputsOverwritten, "test_operands_are_not_written_to", "writes to its operands: x["),
    (CodesOverwritten, "test_operands_are_not_written_to", "writes to its operands: qweight["),
    (StridesIgnored, "test_views_count_as_their_copies", "operands is"),
    (AnswersInFloat32, "test_results_are_where_the_inputs_are", "answers float16 in torch.float32"),
    (Dice, "test_two_runs_give_the_same_bits", "y of two runs is not bit-equal"),
    (BatchDependent, "test_a_row_is_the_same_bits_in_any_batch", "alone is not bit-equal"),
    (FirstTokenAlone, "test_a_row_depends_little_on_its_batch", "alone is"),
    (GradientTransposed, "test_gradients_reach_the_inputs", "the gradient is"),
    (GradientLost, "test_gradients_reach_the_inputs", "no gradient reaches the inputs"),
    (Obliging, "test_weights_that_are_not_supported_are_refused", "takes a weight of the codebook"),
    (Obliging, "test_weights_whose_tensors_do_not_fit_are_refused", "qweight one shorter"),
    (Obliging, "test_dtypes_that_are_not_supported_are_refused", "takes float64, and declares"),
    (Curt, "test_weights_that_are_not_supported_are_refused", "and does not name Grouped"),
    (InputsFlattened, "test_inputs_that_do_not_fit_are_refused", "takes inputs of one dimension"),
]
