"""Quantized weights and inputs for kernels, as recipes that print on one line.

A recipe makes a kernel's operand, and beside it ``terms``: in float64, by plain arithmetic on what was drawn,
the addends whose sum each weight is. Nothing of it is read back from packed bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantcheck.codecs import bitstream
from quantcheck.kernels.base import Codebook, Grouped, Planes

INPUTS = ("one-hot", "ones", "normal", "rows apart", "large", "small", "zeros")
"""Kinds of inputs, the simplest first: row m of one-hot inputs reads column m + seed."""
CODES = ("random", "low", "top")
ZERO_POINTS = ("none", "low", "top", "random")
SCALES = ("ones", "random", "some zero", "zero", "small", "large")
LEVELS = ("linear", "random")
MASKS = ("none", "disjoint", "random")
LARGE_INPUTS, SMALL_INPUTS = 2.0**10, 2.0**-17
"""Float16 holds both; the small ones lie about the floor under the peak of rounded activations, 1e-5."""
LARGE_SCALES, SMALL_SCALES = 2.0**17, 2.0**-12
"""The large ones overflow float16."""


@dataclass(frozen=True)
class GroupedRecipe:
    """A weight of integer codes: see `quantcheck.kernels.base.Grouped`.

    Attributes:
        out_features: rows.
        in_features: columns.
        bits: width of a code.
        group_size: columns that share a scale; ``None``: all.
        codes: one of `CODES`.
        zero_points: one of `ZERO_POINTS`.
        scales: one of `SCALES`.
        scale_dtype: their dtype.
        shuffled: whether the groups of the columns are in no order.
        seed: of all that is random.
    """

    out_features: int
    in_features: int
    bits: int = 4
    group_size: int | None = None
    codes: str = "random"
    zero_points: str = "none"
    scales: str = "random"
    scale_dtype: str = "float32"
    shuffled: bool = False
    seed: int = 0

    def operand(self, order: Tensor | None = None) -> Grouped:
        """Make the operand, packed by `quantcheck.codecs.bitstream`; ``order``: of its columns."""
        columns = torch.arange(self.in_features) if order is None else order
        qweight = bitstream.pack(self._codes()[:, columns], self.bits)
        g_idx = self.g_idx()[columns]
        return Grouped(self.bits, self.in_features, qweight, self._scales(), self._zero_points(), g_idx)

    def terms(self) -> Tensor:
        """Make ``scale (code - zero_point)``, which float64 holds exactly."""
        columns = self.g_idx().long()
        zero_points = self._zero_points()
        shift = 2.0 ** (self.bits - 1) if zero_points is None else zero_points.double()[:, columns]
        return (self._scales().double()[:, columns] * (self._codes().double() - shift))[None]

    def g_idx(self) -> Tensor:
        """Make the group of each column, int32 [in]."""
        return _group_index(self.in_features, self.group_size, self.seed, shuffled=self.shuffled)

    def _codes(self) -> Tensor:
        return _codes(self.codes, (self.out_features, self.in_features), self.bits, self.seed)

    def _scales(self) -> Tensor:
        groups = _groups(self.in_features, self.group_size)
        scales = _scales(self.scales, (self.out_features, groups), self.scale_dtype, self.seed + 1)
        return scales if self.scales in ("ones", "large") else scales * 2.0**-self.bits

    def _zero_points(self) -> Tensor | None:
        if self.zero_points == "none":
            return None
        groups = _groups(self.in_features, self.group_size)
        return _codes(self.zero_points, (self.out_features, groups), self.bits, self.seed + 2)


@dataclass(frozen=True)
class CodebookRecipe:
    """A weight of named levels: see `quantcheck.kernels.base.Codebook`.

    Attributes:
        out_features: rows.
        in_features: columns.
        block_size: weights of the flat matrix that share a scale.
        levels: one of `LEVELS`.
        scales: one of `SCALES`.
        seed: of all that is random.
    """

    out_features: int
    in_features: int
    block_size: int = 64
    levels: str = "linear"
    scales: str = "random"
    seed: int = 0

    def operand(self) -> Codebook:
        """Make the operand; its codes are packed by `quantcheck.codecs.bitstream`."""
        qweight = bitstream.pack(self._codes()[None], 4)[0]
        shape = self.out_features, self.in_features
        return Codebook(shape, qweight, self._levels(), self._absmax(), self.block_size)

    def terms(self) -> Tensor:
        """Make ``absmax level``, which float64 holds exactly."""
        levels = self._levels().double()[self._codes().long()]
        blocks = torch.arange(len(levels)) // self.block_size
        return (levels * self._absmax().double()[blocks]).reshape(1, self.out_features, self.in_features)

    def _codes(self) -> Tensor:
        return _codes("random", (self.out_features * self.in_features,), 4, self.seed)

    def _levels(self) -> Tensor:
        if self.levels == "linear":
            return (torch.arange(16.0) - 7) / 8
        return torch.randn(16, generator=_generator(self.seed + 2)).sort().values

    def _absmax(self) -> Tensor:
        blocks = -(-self.out_features * self.in_features // self.block_size)
        return _scales(self.scales, (blocks,), "float32", self.seed + 1)


@dataclass(frozen=True)
class PlanesRecipe:
    """A weight of bit planes: see `quantcheck.kernels.base.Planes`.

    Attributes:
        out_features: rows.
        in_features: columns.
        planes: how many.
        group_size: columns that share a scale; ``None``: all.
        signed: whether a bit is a sign.
        offsets: whether the planes have offsets.
        masks: one of `MASKS`; ``disjoint``: every weight lies in one plane.
        scales: one of `SCALES`.
        scale_dtype: their dtype.
        shuffled: whether the groups of the columns are in no order.
        seed: of all that is random.
    """

    out_features: int
    in_features: int
    planes: int = 2
    group_size: int | None = None
    signed: bool = True
    offsets: bool = False
    masks: str = "none"
    scales: str = "random"
    scale_dtype: str = "float32"
    shuffled: bool = False
    seed: int = 0

    def operand(self, order: Tensor | None = None) -> Planes:
        """Make the operand, packed by `quantcheck.codecs.bitstream`; ``order``: of its columns."""
        columns = torch.arange(self.in_features) if order is None else order
        return Planes(
            self.in_features,
            _packed_planes(self._codes()[:, :, columns]),
            self._scales(self.seed + 1),
            self._scales(self.seed + 2) if self.offsets else None,
            None if self.masks == "none" else _packed_planes(self._masks()[:, :, columns]),
            self.g_idx()[columns],
            self.signed,
        )

    def terms(self) -> Tensor:
        """Make ``mask offset`` and ``mask scale s`` of every plane."""
        columns = self.g_idx().long()
        codes = self._codes().double()
        bits = 2 * codes - 1 if self.signed else codes
        terms = self._scales(self.seed + 1).double()[:, :, columns] * bits
        masks = self._masks().double()
        if not self.offsets:
            return terms * masks
        return torch.cat([self._scales(self.seed + 2).double()[:, :, columns] * masks, terms * masks])

    def g_idx(self) -> Tensor:
        """Make the group of each column, int32 [in]."""
        return _group_index(self.in_features, self.group_size, self.seed, shuffled=self.shuffled)

    def _codes(self) -> Tensor:
        return _codes("random", (self.planes, self.out_features, self.in_features), 1, self.seed)

    def _masks(self) -> Tensor:
        shape = self.planes, self.out_features, self.in_features
        if self.masks == "none":
            return torch.ones(shape, dtype=torch.uint8)
        if self.masks == "random":
            return _codes("random", shape, 1, self.seed + 3)
        owners = torch.randint(0, self.planes, shape[1:], generator=_generator(self.seed + 3))
        return (owners == torch.arange(self.planes)[:, None, None]).to(torch.uint8)

    def _scales(self, seed: int) -> Tensor:
        groups = _groups(self.in_features, self.group_size)
        return _scales(self.scales, (self.planes, self.out_features, groups), self.scale_dtype, seed)


WeightRecipe = GroupedRecipe | CodebookRecipe | PlanesRecipe


@dataclass(frozen=True)
class Product:
    """Inputs times a quantized weight.

    Attributes:
        weight: its recipe.
        tokens: rows of the inputs.
        inputs: one of `INPUTS`.
        dtype: of the inputs.
        act_bits: width that each token is rounded to; ``None``: left as it is.
        spoilt: NaN or Inf, in place of one input; ``None``: none.
        seed: of the inputs.
    """

    weight: WeightRecipe
    tokens: int
    inputs: str = "normal"
    dtype: str = "float32"
    act_bits: int | None = None
    spoilt: float | None = None
    seed: int = 0

    @property
    def spoilt_row(self) -> int:
        """The row that NaN or Inf lies in."""
        return self.seed % self.tokens

    def x(self) -> Tensor:
        """Make the inputs, [tokens, in] in ``dtype``."""
        shape = self.tokens, self.weight.in_features
        x = _inputs(self.inputs, shape, self.seed).to(getattr(torch, self.dtype))
        if self.spoilt is not None:
            x[self.spoilt_row, self.seed % shape[1]] = self.spoilt
        return x


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _groups(in_features: int, group_size: int | None) -> int:
    return 1 if group_size is None else -(-in_features // group_size)


def _group_index(in_features: int, group_size: int | None, seed: int, *, shuffled: bool) -> Tensor:
    index = torch.arange(in_features, dtype=torch.int32) // (group_size or max(in_features, 1))
    return index[torch.randperm(in_features, generator=_generator(seed + 4))] if shuffled else index


def _codes(kind: str, shape: tuple[int, ...], bits: int, seed: int) -> Tensor:
    if kind != "random":
        return torch.full(shape, 0 if kind == "low" else (1 << bits) - 1, dtype=torch.uint8)
    return torch.randint(0, 1 << bits, shape, generator=_generator(seed), dtype=torch.uint8)


def _scales(kind: str, shape: tuple[int, ...], dtype: str, seed: int) -> Tensor:
    generator = _generator(seed)
    match kind:
        case "ones":
            scales = torch.ones(shape)
        case "zero":
            scales = torch.zeros(shape)
        case _:
            scales = torch.randn(shape, generator=generator)
    if kind == "some zero":
        scales *= torch.rand(shape, generator=generator) < 0.5
    factor = {"large": LARGE_SCALES, "small": SMALL_SCALES}.get(kind, 1.0)
    return scales.mul_(factor).to(getattr(torch, dtype))


def _inputs(kind: str, shape: tuple[int, int], seed: int) -> Tensor:
    rows = torch.arange(shape[0])
    match kind:
        case "zeros":
            return torch.zeros(shape)
        case "ones":
            return torch.ones(shape)
        case "one-hot":
            x = torch.zeros(shape)
            if shape[1]:
                x[rows, (rows + seed) % shape[1]] = 1
            return x
    x = torch.randn(shape, generator=_generator(seed))
    if kind == "rows apart":
        return x * 4.0 ** (rows % 8 - 4)[:, None]
    return x * {"large": LARGE_INPUTS, "small": SMALL_INPUTS}.get(kind, 1.0)


def _packed_planes(planes: Tensor) -> Tensor:
    flat = planes.reshape(planes.shape[0] * planes.shape[1], planes.shape[2])
    width = bitstream.packed_width(planes.shape[2], 1)
    return bitstream.pack(flat, 1).reshape(planes.shape[0], planes.shape[1], width)
