"""Text to distil on, written by the full-precision model itself, so that no data are needed.

Liu et al., "LLM-QAT: Data-Free Quantization Aware Training for Large Language Models", Findings of ACL 2024:
a random token of the vocabulary first, the likeliest token for the next few, so that the text
takes a direction that the model knows, and tokens sampled from its predictions from there on. Sampling keeps
the whole distribution, rare tokens too, which the likeliest tokens alone would not.

Left out: stopping where a text ends. The model goes on with another, as in the packed windows that it was
trained on.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from quantcheck.errors import ModelError

GREEDY = 4
AT_ONCE = 64


@torch.no_grad()
def generate(model: LlamaForCausalLM, count: int, length: int) -> Tensor:
    """Let ``model`` write windows of text, in its own dtype and on its device; random numbers are torch's.

    Args:
        model: the full-precision model.
        count: windows to write; `AT_ONCE` of them at a time.
        length: tokens a window.

    Returns:
        int64 tokens [count, length].

    Raises:
        ModelError: the model's predictions are NaN or Inf.
    """
    sizes = [min(AT_ONCE, count - done) for done in range(0, count, AT_ONCE)]
    return torch.cat([_write(model, size, length) for size in sizes])


def _write(model: LlamaForCausalLM, count: int, length: int) -> Tensor:
    tokens = torch.randint(model.config.get_text_config().vocab_size, (count, 1), device=model.device)
    written, cache = [tokens], None
    while len(written) < length:
        outputs = model(input_ids=tokens, past_key_values=cache, use_cache=True)
        cache, logits = outputs.past_key_values, outputs.logits[:, -1].float()
        if not torch.isfinite(logits).all():
            raise ModelError(
                "the full-precision model predicts NaN or Inf on text of its own, so nothing can be "
                "distilled from it; check the checkpoint, or load it in float32"
            )
        greedy = len(written) <= GREEDY
        tokens = logits.argmax(-1, keepdim=True) if greedy else torch.multinomial(logits.softmax(-1), 1)
        written.append(tokens)
    return torch.cat(written, dim=1)
