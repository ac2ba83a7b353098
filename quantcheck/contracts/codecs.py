"""What a codec promises about packing: nothing is lost, and every bit lies where it should."""

from __future__ import annotations

import safetensors.torch
from hypothesis import strategies as st

from quantcheck.codecs.base import Codec
from quantcheck.contracts.bits import VIEWS, Layout, copies, difference, poisoned, viewed, words
from quantcheck.contracts.codec_subjects import CodecTests, assert_round_trip, where
from quantcheck.strategies.codecs import WORD, Parts, filled, packed, shapes_of, smallest

MOST_CODES = 1100
"""Of a weight whose layout is followed value by value."""


def placed(codec: Codec) -> bool:
    """Whether a codec says where its codes lie."""
    return bool(codec.place("codes", smallest(codec), (0, 0)))


class StoragePromises(CodecTests):
    """The tests on packing and unpacking; see `quantcheck.contracts.CodecContract`."""

    def test_what_is_packed_is_unpacked_bit_for_bit(self, codec: Codec) -> None:
        """Every part, at every shape that the format holds: none, one, odd sizes, tails, multiples."""

        def promise(parts: Parts) -> None:
            assert_round_trip(codec, parts)

        self.hold(promise, packed(codec))

    def test_the_top_code_survives_in_every_place_of_a_word(self, codec: Codec) -> None:
        """Top values among low ones, along rows and along columns; a word's sign bit included."""
        shapes = shapes_of(codec)
        wide = (shape for shape in shapes if min(shape.rows, shape.cols) >= WORD)
        shape = next(wide, shapes[-1])
        for kind in ("diagonal", "top", "low", "ramp"):
            assert_round_trip(codec, filled(codec, shape, kind, "ones"))

    @where(placed)
    def test_every_value_lies_where_its_place_says(self, codec: Codec) -> None:
        """The stored words, built value by value, are those that are packed; unused bits are zero."""
        small = [shape for shape in shapes_of(codec) if shape.rows * shape.cols <= MOST_CODES]

        def promise(parts: Parts) -> None:
            tensors = parts.build(codec)
            stored = codec.pack(tensors, parts.shape)
            for name, expected in Layout(codec, tensors, parts.shape).words.items():
                got = words(stored[name])
                assert len(got) == len(expected), f"{codec.id}: {parts}: {name} has {len(got)} words"
                wrong = next((each for each, word in enumerate(expected) if got[each] != word), None)
                assert wrong is None, (
                    f"{codec.id}: {parts}: word {wrong} of {name} is {got[wrong]:#x}, its values make "
                    f"{expected[wrong]:#x}"
                )

        self.hold(promise, packed(codec, small or [smallest(codec)], floats=("zeros",)), cost=2)

    def test_stored_tensors_are_as_declared(self, codec: Codec) -> None:
        """Dtypes and shapes; contiguous; and their bits add up to ``stored_bits``."""

        def promise(parts: Parts) -> None:
            stored = codec.pack(parts.build(codec), parts.shape)
            case, fields = f"{codec.id}: {parts}", codec.stored(parts.shape)
            assert stored.keys() == fields.keys(), (
                f"{case} stores {', '.join(stored)}, not {', '.join(fields)}"
            )
            for name, field in fields.items():
                made = stored[name].dtype, tuple(stored[name].shape)
                assert made == (field.dtype, field.shape), f"{case} stores {name} as {made}, not as {field}"
                assert stored[name].is_contiguous(), (
                    f"{case} stores {name} with strides {stored[name].stride()}"
                )
            bits = sum(8 * tensor.nbytes for tensor in stored.values())
            claimed = codec.stored_bits(parts.shape)
            assert bits == claimed, f"{case} stores {bits} bits and claims {claimed}"

        self.hold(promise, packed(codec), cost=2)

    def test_views_pack_like_their_copies(self, codec: Codec) -> None:
        """Transposed, strided, expanded, and at an odd offset of another tensor."""

        def promise(parts: Parts, view: str) -> None:
            tensors, shape = parts.build(codec), parts.shape
            stored = codec.pack(tensors, shape)
            wrong = difference(stored, codec.pack(viewed(tensors, view), shape))
            assert not wrong, f"{codec.id}: {parts}: {view} parts are packed otherwise than copies: {wrong}"
            wrong = difference(tensors, codec.unpack(viewed(stored, view), shape))
            assert not wrong, f"{codec.id}: {parts}: {view} tensors are unpacked otherwise: {wrong}"

        self.hold(promise, packed(codec), st.sampled_from(sorted(VIEWS)))

    def test_inputs_are_not_written_to(self, codec: Codec) -> None:
        """Neither parts nor stored tensors, whoever reads them."""

        def promise(parts: Parts) -> None:
            tensors = parts.build(codec)
            stored = codec.pack(tensors, parts.shape)
            kept = copies(stored)
            wrong = difference(parts.build(codec), tensors)
            assert not wrong, f"{codec.id}: {parts}: pack writes to its parts: {wrong}"
            codec.weights(codec.unpack(stored, parts.shape), parts.shape)
            wrong = difference(kept, stored)
            assert not wrong, f"{codec.id}: {parts}: unpack writes to what is stored: {wrong}"

        self.hold(promise, packed(codec, floats=("ones", "powers")), cost=2)

    def test_nothing_depends_on_uninitialized_memory(self, codec: Codec) -> None:
        """With poison in what torch allocates, packing and unpacking give the same bits."""

        def promise(parts: Parts) -> None:
            tensors = parts.build(codec)
            plain = codec.pack(tensors, parts.shape)
            with poisoned():
                stored = codec.pack(tensors, parts.shape)
                unpacked = codec.unpack(plain, parts.shape)
            wrong = difference(plain, stored) or difference(tensors, unpacked)
            assert not wrong, f"{codec.id}: {parts}: memory that was not written to is read: {wrong}"

        self.hold(promise, packed(codec))

    def test_what_is_saved_is_loaded_bit_for_bit(self, codec: Codec) -> None:
        """By safetensors, which takes contiguous tensors that share no memory."""

        def promise(parts: Parts) -> None:
            stored = codec.pack(parts.build(codec), parts.shape)
            loaded = safetensors.torch.load(safetensors.torch.save(dict(stored)))
            wrong = difference(stored, {name: loaded[name] for name in stored})
            assert not wrong, f"{codec.id}: {parts}: saved and loaded, {wrong}"

        self.hold(promise, packed(codec), cost=2)
