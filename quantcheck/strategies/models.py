"""Layers and tiny models, some of them blemished or damaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from quantcheck.methods.parts.hessian import Hessian

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

VOCABULARY = 64
BLEMISHES = ("zero row", "constant row", "zero column", "dead channel", "outlier channel", "tiny", "all zero")
"""What is wrong with a layer: of its weight, or, a dead or outlier channel, of its inputs."""

DAMAGES = (
    "zero layer",
    "constant layer",
    "zero and constant rows",
    "dead channels",
    "vanishing weights",
    "runaway weights",
    "runaway activations",
)
"""What `damaged` can do to a model; the last two overflow float16, or float32 when squared."""


@dataclass(frozen=True)
class Layer:
    """A Linear and what it was calibrated on: normal weights, inputs of correlated channels.

    Attributes:
        out_features: rows of the weight.
        in_features: its columns.
        seed: of weight and inputs.
        blemishes: some of `BLEMISHES`, each planted at a place that the seed decides.
    """

    out_features: int
    in_features: int
    seed: int = 0
    blemishes: tuple[str, ...] = ()

    def weight(self) -> Tensor:
        """Make the weight, float32 [out, in]."""
        generator = torch.Generator().manual_seed(self.seed)
        weight = torch.randn(self.out_features, self.in_features, generator=generator)
        row, column = self.seed % self.out_features, self.seed % self.in_features
        if "zero row" in self.blemishes:
            weight[row] = 0
        if "constant row" in self.blemishes:
            weight[row - 1] = 0.7
        if "zero column" in self.blemishes:
            weight[:, column] = 0
        if "tiny" in self.blemishes:
            weight.mul_(2.0**-20)
        return weight.zero_() if "all zero" in self.blemishes else weight

    def inputs(self) -> Tensor:
        """Make three inputs a column, float32 [tokens, in]."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        noise = torch.randn(self.in_features, self.in_features, generator=generator)
        mix = torch.eye(self.in_features) + noise / (2 * self.in_features**0.5)
        inputs = torch.randn(3 * self.in_features, self.in_features, generator=generator).matmul(mix)
        column = self.seed % self.in_features
        if "outlier channel" in self.blemishes:
            inputs[:, column - 1] *= 30
        if "dead channel" in self.blemishes:
            inputs[:, column] = 0
        return inputs

    def hessian(self) -> Tensor:
        """Make the Hessian of the inputs, float32 [in, in]."""
        hessian = Hessian()
        hessian.update(self.inputs())
        return hessian.value()


@dataclass(frozen=True)
class TinyLlama:
    """A LLaMA with random weights and grouped-query attention, made in milliseconds.

    Attributes:
        hidden_size: a multiple of 8; in-features of all Linears but one.
        intermediate_size: in-features of ``down_proj``.
        blocks: decoder blocks.
        seed: of the weights and of the calibration windows.
    """

    hidden_size: int = 32
    intermediate_size: int = 48
    blocks: int = 2
    seed: int = 0

    def build(self, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
        """Make the model, in eval mode; the ambient random state stays as it was."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.blocks,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model: nn.Module = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
        return cast("LlamaForCausalLM", model.to(dtype).eval())

    def windows(self) -> Tensor:
        """Make eight windows of 32 tokens, int64 [8, 32]."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randint(0, VOCABULARY, (8, 32), generator=generator)


@dataclass(frozen=True)
class TinyInstructions:
    """Sixteen pairs of prompt and response to fine-tune a `TinyLlama` on.

    Attributes:
        seed: of the tokens.
    """

    seed: int = 0

    @property
    def pairs(self) -> list[tuple[list[int], list[int]]]:
        """Eight tokens of prompt and four of response each."""
        generator = torch.Generator().manual_seed(self.seed)
        tokens = torch.randint(0, VOCABULARY, (16, 12), generator=generator).tolist()
        return [(row[:8], row[8:]) for row in tokens]

    @property
    def digest(self) -> str:
        """The recipe itself."""
        return repr(self)

    def trained(self, spec: str) -> None:
        """Find nothing: no adapter was trained on them before."""


def seeds() -> st.SearchStrategy[int]:
    """Draw a seed."""
    return st.integers(0, 2**16)


@st.composite
def layers(
    draw: st.DrawFn,
    in_features: st.SearchStrategy[int],
    *,
    out_features: st.SearchStrategy[int] | None = None,
    blemishes: tuple[str, ...] = BLEMISHES,
) -> Layer:
    """Draw a `Layer` with up to three blemishes.

    Args:
        draw: hypothesis'.
        in_features: what to draw its in-features from.
        out_features: what to draw its out-features from; left out: 1 to 24.
        blemishes: what may be wrong with it.
    """
    chosen = draw(st.sets(st.sampled_from(blemishes), max_size=3)) if blemishes else set()
    return Layer(
        draw(st.integers(1, 24) if out_features is None else out_features),
        draw(in_features),
        draw(seeds()),
        tuple(sorted(chosen)),
    )


def odd_models() -> st.SearchStrategy[TinyLlama]:
    """Draw a model of one block whose sizes fit no group: tails, primes, fewer columns than a group."""
    return st.builds(
        TinyLlama,
        hidden_size=st.sampled_from([8, 24, 40]),
        intermediate_size=st.sampled_from([5, 31, 66]),
        blocks=st.just(1),
        seed=seeds(),
    )


def damaged(recipe: TinyLlama, kind: str) -> LlamaForCausalLM:
    """Build a model and do one thing to its first block that real checkpoints come with.

    Args:
        recipe: of the model.
        kind: one of `DAMAGES`.
    """
    model = recipe.build()
    block = model.model.layers[0]
    attention, mlp = block.self_attn, block.mlp
    with torch.no_grad():
        match kind:
            case "zero layer":
                mlp.up_proj.weight.zero_()
            case "constant layer":
                attention.v_proj.weight.fill_(0.25)
            case "zero and constant rows":
                attention.q_proj.weight[1] = 0
                mlp.down_proj.weight[2] = -0.5
            case "dead channels":
                block.input_layernorm.weight[::3] = 0
                mlp.up_proj.weight[5:9] = 0
            case "vanishing weights":
                attention.o_proj.weight.mul_(1e-12)
            case "runaway weights":
                mlp.gate_proj.weight.mul_(1e7)
            case "runaway activations":
                block.input_layernorm.weight.mul_(1e25)
            case _:
                raise ValueError(f"unknown damage {kind!r}")
    return model
