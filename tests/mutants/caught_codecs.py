"""Which promise catches each broken codec, and what it says."""

from __future__ import annotations

from mutants.codecs import (
    V1,
    V2,
    Broadcast,
    Cast,
    Dense,
    EveryShape,
    FirstBlockLow,
    GroupsOffByOne,
    HalfProducts,
    HalfWeights,
    HighPlaneDropped,
    Hqq4,
    MaskForgotten,
    NamesIgnored,
    NaNSwallowed,
    NeverConverted,
    NibblesSwapped,
    OrderForgotten,
    OrderNotRead,
    PaddedForDense,
    PaddingNotZero,
    Planar5,
    SaturationForgotten,
    ScalesInFloat32,
    SignOffsetForgotten,
    StorageRead,
    StoredOverwritten,
    Stream3,
    Stream4,
    Strided,
    TailDropped,
    TailUninitialized,
    TenCodesAWord,
    Transposed,
    Wrapped,
    ZerosBorrow,
    ZerosInPlainOrder,
    ZerosLessOneAgain,
    ZerosLessTwo,
    ZerosOverwritten,
)
from quantcheck.codecs.awq_gemm import AwqGemm

SOUND = (V1, V2, Stream3, Stream4, Hqq4, Planar5, Dense, AwqGemm)

_ROUND_TRIP = "test_what_is_packed_is_unpacked_bit_for_bit"
_TOP = "test_the_top_code_survives_in_every_place_of_a_word"
_LAYOUT = "test_every_value_lies_where_its_place_says"
_DECLARED = "test_stored_tensors_are_as_declared"
_OWN_GROUP = "test_a_value_reaches_the_weights_of_its_own_group_alone"

# What is broken, the promise that must notice, and what it says.
MUTANTS: list[tuple[type, str, str]] = [
    (NibblesSwapped, _LAYOUT, "of packed is 0x"),
    (MaskForgotten, _TOP, "is 255, not 15"),
    (ZerosBorrow, _LAYOUT, "of qzeros is 0x"),
    (ZerosLessTwo, _LAYOUT, "of qzeros is 0x"),
    (TailDropped, _ROUND_TRIP, "codes[0, 0] is 0, not"),
    (TailUninitialized, "test_nothing_depends_on_uninitialized_memory", "is 255, not"),
    (PaddingNotZero, _LAYOUT, "of packed is 0x"),
    (FirstBlockLow, _LAYOUT, "of W_q is 0x"),
    (TenCodesAWord, _DECLARED, "stores qweight as"),
    (PaddedForDense, _LAYOUT, "of weight_packed is 0x"),
    (SignOffsetForgotten, _LAYOUT, "of weight_packed is 0x4, its values make 0x0"),
    (Transposed, _LAYOUT, "of packed is 0x"),
    (ZerosInPlainOrder, _LAYOUT, "of qzeros is 0x"),
    (HighPlaneDropped, _TOP, "is 15, not 31"),
    (Wrapped, "test_values_out_of_range_are_refused", "with 16 among codes is no error"),
    (Cast, "test_other_dtypes_are_refused", "codes in torch.bool of"),
    (Broadcast, "test_other_shapes_are_refused", "is no error"),
    (NamesIgnored, "test_missing_and_unknown_tensors_are_refused", "KeyError, no CodecError"),
    (EveryShape, "test_shapes_that_do_not_fit_are_refused", "does not refuse Shape(rows=-8"),
    (StorageRead, "test_views_pack_like_their_copies", "are packed otherwise than copies"),
    (ZerosOverwritten, "test_inputs_are_not_written_to", "pack writes to its parts: zero_points"),
    (StoredOverwritten, "test_inputs_are_not_written_to", "unpack writes to what is stored: qzeros"),
    (ScalesInFloat32, _DECLARED, "stores scales as (torch.float32"),
    (Strided, _DECLARED, "stores scales with strides"),
    (Strided, "test_what_is_saved_is_loaded_bit_for_bit", "non contiguous tensor"),
    (OrderForgotten, _ROUND_TRIP, "g_idx["),
    (OrderNotRead, "test_columns_and_their_groups_move_together", "are other weights"),
    (OrderNotRead, _OWN_GROUP, "changes the weight at"),
    (GroupsOffByOne, _OWN_GROUP, "changes the weight at"),
    (HalfProducts, "test_affine_weights_are_rounded_once", "is inf, not"),
    (HalfWeights, "test_weights_are_float32_and_come_out_the_same_twice", "decodes to torch.float16"),
    (NaNSwallowed, _ROUND_TRIP, "not nan"),
    (SaturationForgotten, "test_weights_beyond_the_range_saturate", "of weights that are one step above"),
    (ZerosLessOneAgain, "test_conversions_decode_to_the_same_weights", "decodes to other weights"),
    (NeverConverted, "test_some_conversion_succeeds", "no conversion succeeds"),
]
