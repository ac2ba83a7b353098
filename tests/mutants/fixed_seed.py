"""What the contracts are compared with: seeded values at multiples of 32, packed, unpacked and decoded."""

from __future__ import annotations

import torch

from quantcheck.codecs.base import Codec, Field, Shape

SIZES = (32, 64, 128)
GROUP_SIZE = 32


def round_trip_fails(codec: Codec) -> bool:
    """Whether square weights of some size do not come back, or not to what one would compute of them."""
    return any(_fails(codec, Shape(size, size, GROUP_SIZE)) for size in SIZES)


def _fails(codec: Codec, shape: Shape) -> bool:
    torch.manual_seed(0)
    parts = {name: _seeded(name, field, shape) for name, field in codec.parts(shape).items()}
    try:
        unpacked = codec.unpack(codec.pack(parts, shape), shape)
        decoded = codec.weights(unpacked, shape)
        equal = all(torch.equal(unpacked[name], part) for name, part in parts.items())
        return not (equal and torch.allclose(decoded, _expected(parts, shape), atol=1e-2))
    except Exception:
        return True


def _expected(parts: dict[str, torch.Tensor], shape: Shape) -> torch.Tensor:
    codes = parts["codes"].float()
    if "scales" not in parts:
        return codes
    groups = torch.arange(shape.cols) // GROUP_SIZE
    return (codes - parts["zero_points"].float()[:, groups]) * parts["scales"].float()[:, groups]


def _seeded(name: str, field: Field, shape: Shape) -> torch.Tensor:
    if name == "g_idx":
        return torch.arange(shape.cols, dtype=torch.int32) // GROUP_SIZE
    if field.dtype.is_floating_point:
        return torch.rand(field.shape).to(field.dtype)
    assert field.high is not None
    return torch.randint(field.low, field.high + 1, field.shape).to(field.dtype)
