"""A tiny LLaMA with random weights and a byte-level tokenizer: loads in milliseconds, knows nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
CONTEXT = 96


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and two special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)


def tiny_config(**changes: Any) -> LlamaConfig:
    """The config of `tiny_llama`, with changes."""
    sizes = {
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
        "bos_token_id": 256,
        "eos_token_id": 257,
    }
    return LlamaConfig(**{**sizes, **changes})


def tiny_llama(seed: int = 0, *, tied: bool = False) -> LlamaForCausalLM:
    """Two layers, hidden size 32, grouped-query attention; weights wide enough that its choices differ."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(tiny_config(tie_word_embeddings=tied)).eval()


def save_tiny_llama(
    folder: Path, *, dtype: torch.dtype = torch.float32, seed: int = 0, tied: bool = False
) -> Path:
    """Write the tiny model and its tokenizer as a checkpoint of transformers."""
    tiny_llama(seed, tied=tied).to(dtype).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
