"""What a codec promises to refuse, and to say: values, dtypes, shapes and names that it does not take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from quantcheck.codecs import CodecError
from quantcheck.codecs.base import Codec, Field, Shape, Tensors
from quantcheck.contracts.codec_subjects import FEW, CodecTests, where
from quantcheck.strategies.codecs import SEEDS, Parts, filled, packed, shapes_of, smallest

DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)

Call = Callable[[Tensors, Shape], object]


def strays(field: Field) -> list[int]:
    """List values next to a field's range and far out of it that its dtype can hold."""
    if field.dtype.is_floating_point or field.high is None:
        return []
    facts = torch.iinfo(field.dtype)
    tried = {max(field.low - 1, facts.min), min(field.high + 1, facts.max), facts.min, facts.max}
    return sorted(each for each in tried if not field.low <= each <= field.high)


def bounded(codec: Codec) -> bool:
    """Whether a part can hold a value out of its range."""
    return any(map(strays, codec.parts(smallest(codec)).values()))


class RefusalPromises(CodecTests):
    """The tests on what is refused; see `quantcheck.contracts.CodecContract`."""

    @where(bounded)
    def test_values_out_of_range_are_refused(self, codec: Codec) -> None:
        """One below, one above, and the ends of the dtype, among values in range: never wrapped."""
        shapes = [shape for shape in shapes_of(codec) if shape.rows * shape.cols]

        def promise(parts: Parts, place: int) -> None:
            tensors = parts.build(codec)
            for name, field in codec.parts(parts.shape).items():
                for value in strays(field) if tensors[name].numel() else ():
                    wrong = tensors[name].clone()
                    wrong.view(-1)[place % wrong.numel()] = value
                    case = f"{codec.id}: {parts} with {value} among {name}"
                    given = {**tensors, name: wrong}
                    named = value, field.high, wrong.dtype, wrong.shape
                    refused(case, named, codec.pack, given, parts.shape)

        simple = packed(codec, shapes, floats=("ones",))
        self.hold(promise, simple, st.integers(0, SEEDS), cost=FEW)

    def test_other_dtypes_are_refused(self, codec: Codec) -> None:
        """For every part and every stored tensor, without rows, too."""
        for shape, call, tensors in _given(codec):
            for (name, tensor), dtype in product(tensors.items(), DTYPES):
                if dtype != tensor.dtype:
                    case = f"{codec.id}: {name} in {dtype} of {shape}"
                    given = {**tensors, name: tensor.to(dtype)}
                    refused(case, (dtype, tensor.dtype, tensor.shape), call, given, shape)

    def test_other_shapes_are_refused(self, codec: Codec) -> None:
        """One more and one less in each direction, another number of dimensions, transposed."""
        for shape, call, tensors in _given(codec):
            for name, tensor in tensors.items():
                for wrong in _misshapen(tensor):
                    case = f"{codec.id}: {name} as {tuple(wrong.shape)} for {shape}"
                    given = {**tensors, name: wrong}
                    refused(case, (wrong.shape, tensor.shape, tensor.dtype), call, given, shape)

    def test_missing_and_unknown_tensors_are_refused(self, codec: Codec) -> None:
        """By their names."""
        for shape, call, tensors in _given(codec):
            for name in tensors:
                less = {other: tensor for other, tensor in tensors.items() if other != name}
                refused(f"{codec.id}: {shape} without {name}", (name,), call, less, shape)
            more = {**tensors, "unheard_of": torch.zeros(1)}
            refused(f"{codec.id}: {shape} with one more", ("unheard_of",), call, more, shape)

    def test_shapes_that_do_not_fit_are_refused(self, codec: Codec) -> None:
        """By the reason that ``refusal`` gives; never rounded, cut or padded."""
        fitting = smallest(codec)
        parts = filled(codec, fitting, "low", "ones").build(codec)
        stored = codec.pack(parts, fitting)
        for shape in _impossible(codec):
            reason = codec.refusal(shape)
            assert reason, f"{codec.id} does not refuse {shape}"
            for call, tensors in ((codec.pack, parts), (codec.unpack, stored)):
                refused(f"{codec.id}: {shape}", (reason,), call, tensors, shape)


def refused(case: str, named: tuple[object, ...], call: Call, tensors: Tensors, shape: Shape) -> None:
    """Fail unless ``call`` ends in a `CodecError` that names all of ``named``."""
    try:
        call(tensors, shape)
    except CodecError as error:
        missing = [str(word) for word in named if not _names(str(error), word)]
        assert not missing, f"{case}: the error does not name {', '.join(missing)}: {error}"
    except Exception as error:
        raise AssertionError(f"{case} ends in {type(error).__name__}, no CodecError: {error}") from error
    else:
        pytest.fail(f"{case} is no error")


def _given(codec: Codec) -> Iterator[tuple[Shape, Call, dict[str, Tensor]]]:
    """Yield what both directions take, for the smallest shape with weights and for one without rows."""
    fitting = smallest(codec)
    for shape in (fitting, Shape(0, fitting.cols, fitting.group_size)):
        parts = filled(codec, shape, "low", "ones").build(codec)
        yield shape, codec.pack, parts
        yield shape, codec.unpack, codec.pack(parts, shape)


def _misshapen(tensor: Tensor) -> Iterator[Tensor]:
    yield tensor[None]
    if tensor.ndim > 1 and tensor.shape != tensor.mT.shape:
        yield tensor.mT.contiguous()
    for axis, size in enumerate(tensor.shape):
        yield (
            torch.cat((tensor, tensor.narrow(axis, 0, 1)), dim=axis)
            if size
            else tensor.new_zeros([*tensor.shape[:axis], 1, *tensor.shape[axis + 1 :]])
        )
        if size:
            yield tensor.narrow(axis, 0, size - 1)


def _impossible(codec: Codec) -> list[Shape]:
    """List shapes that are none, that miss a declared multiple, and what else ``refusal`` refuses."""
    fits = smallest(codec)
    rows, cols, size = fits.rows, fits.cols, fits.group_size
    wrong = [Shape(-rows, cols, size), Shape(rows, -cols, size), Shape(rows, cols, 0), Shape(rows, cols, -8)]
    if codec.rows_multiple > 1:
        wrong.append(Shape(rows + 1, cols, size))
    if codec.cols_multiple > 1:
        wrong.append(Shape(rows, cols + 1, size))
    tried = product((rows, rows + 1), (cols, cols + 1, 3 * cols), (None, 1, 2, 5, 7, 32, 48))
    return wrong + [shape for shape in (Shape(*each) for each in tried) if codec.refusal(shape)]


def _names(message: str, word: object) -> bool:
    if isinstance(word, torch.Size):
        return str(tuple(word)) in message or str(list(word)) in message
    return str(word).removeprefix("torch.") in message
