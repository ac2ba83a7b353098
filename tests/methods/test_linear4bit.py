"""The base that is trained on computes with the very tensors that are stored."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quantcheck.codecs.normal_float import BLOCK_SIZE, in_blocks
from quantcheck.errors import MissingPackageError
from quantcheck.methods.packed.normal_float import NormalFloatWeight
from quantcheck.methods.parts.linear4bit import frozen_linear, import_bitsandbytes


@given(
    out=st.integers(1, 12),
    columns=st.sampled_from([32, 40, 64, 96]),
    double_quant=st.booleans(),
    shifted=st.booleans(),
    bias=st.booleans(),
)
@settings(max_examples=25)
def test_it_multiplies_by_the_decoded_weight(
    out: int, columns: int, double_quant: bool, shifted: bool, bias: bool
) -> None:
    torch.manual_seed(out)
    linear, inputs = nn.Linear(columns, out, bias=bias), torch.randn(5, columns, requires_grad=True)
    weight = linear.weight.detach()
    shifts = in_blocks(weight, BLOCK_SIZE).mean(dim=1) if shifted else None
    packed = NormalFloatWeight.quantize(weight, double_quant=double_quant, shifts=shifts)
    layer = frozen_linear(packed, linear, torch.float32).train()
    outputs = layer(inputs)
    outputs.sum().backward()
    gradient = inputs.grad
    expected = F.linear(inputs, packed.decode(), linear.bias)
    assert torch.allclose(outputs, expected, atol=1e-5)
    assert gradient is not None
    assert torch.allclose(gradient, packed.decode().sum(dim=0).expand_as(gradient), atol=1e-5)
    assert (type(layer) is nn.Linear) == (shifted or columns % BLOCK_SIZE > 0)
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_a_base_without_bitsandbytes_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import_bitsandbytes.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingPackageError, match=r"needs quantcheck\[finetune\], which is not installed"):
        import_bitsandbytes()
