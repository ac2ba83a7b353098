"""Products that are summed in another order, as another processor or another size of batch has them.

Float noise has to be measured where it may not show by itself: the kernels of one CPU may give the same bits
at every size of batch, and another machine's do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SummedOtherwise(TorchFunctionMode):
    """Within it, linear layers sum their products in two parts.

    Args:
        share: of a layer's inputs that are in the first part, 0 to 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Sum a linear layer in two parts; leave all else as it is."""
        if func is F.linear:
            return self._linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        first = int(self.share * weight.shape[1])
        head = F.linear(input[..., :first], weight[:, :first])
        both = head + F.linear(input[..., first:], weight[:, first:])
        return both if bias is None else both + bias
