"""What was loaded is told from what it became."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.tiny import tiny_llama
from quantcheck.models.fingerprint import fingerprints

DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])


def module(tensor: torch.Tensor) -> nn.Module:
    holder = nn.Module()
    holder.register_buffer("state", tensor)
    return holder


def test_a_model_left_alone_keeps_its_fingerprints() -> None:
    model = tiny_llama()
    before = fingerprints(model)
    model(torch.arange(8)[None])
    assert fingerprints(model) == before
    assert before.keys() == {name for name, _ in (*model.named_parameters(), *model.named_buffers())}


@settings(max_examples=40)
@given(DTYPES, st.integers(1, 50), st.data())
def test_one_changed_element_and_an_exchange_show(dtype: torch.dtype, size: int, data: st.DataObject) -> None:
    state = (torch.randn(size, generator=torch.Generator().manual_seed(size)) * 9).to(dtype)
    before = fingerprints(module(state))
    at, other = (data.draw(st.integers(0, size - 1)) for _ in range(2))
    changed = state.clone()
    changed.view(-1)[at : at + 1].view(torch.uint8)[0] ^= 1
    assert fingerprints(module(changed)) != before
    swapped = state.clone()
    swapped[[at, other]] = state[[other, at]]
    assert (fingerprints(module(swapped)) == before) == bool(state[at] == state[other])


def test_every_chunk_counts(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("quantcheck.models.fingerprint._CHUNK", 4)
    state = torch.arange(16.0)
    halves = torch.cat([state[8:], state[:8]])
    assert fingerprints(module(state)) != fingerprints(module(halves))
    assert fingerprints(module(torch.zeros(3))) != fingerprints(module(torch.zeros(4)))
