"""What methods are calibrated on: windows of a text, or pictures with texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantcheck.errors import DataError
from quantcheck.models.image_text import ImageTexts, ImageTextSource, image_texts
from quantcheck.models.text import (
    TextSource,
    Windows,
    calibration_windows,
    other_calibration_windows,
    shared_windows,
)

if TYPE_CHECKING:
    from torch import Tensor

CalibrationSource = TextSource | ImageTextSource
CalibrationData = Windows | ImageTexts


@dataclass(frozen=True)
class Draw:
    """Which data of a source to take: 0 those that figures are accepted with, 1, 2 .. others; their seed."""

    number: int = 0
    seed: int = 0


def read_calibration(
    source: CalibrationSource,
    reader: Any,
    context_length: int,
    draw: Draw,
    evaluations: Sequence[Windows],
) -> CalibrationData:
    """Read calibration data.

    Args:
        source: of windows, or of pictures with texts.
        reader: the model's tokenizer, or its processor where there are pictures.
        context_length: of the model, in tokens.
        draw: which data.
        evaluations: the texts that are measured on, which calibration windows must not be from.

    Raises:
        DataError: there are too few data, an item cannot be used, or windows are shared.
    """
    if isinstance(source, ImageTextSource):
        return image_texts(source, reader, context_length, draw.number, draw.seed)
    if draw.number:
        windows = other_calibration_windows(source, reader, context_length, draw.number, draw.seed)
    else:
        windows = calibration_windows(source, reader, context_length)
    for evaluation in evaluations:
        if shared := shared_windows(windows, evaluation):
            raise DataError(
                f"{len(shared)} calibration windows of {source.path.name} occur in the text "
                f"{evaluation.name}, window {shared[0]} first: a model calibrated on what it is measured on "
                "looks better than it is; use another calibration text"
            )
    return windows


def inputs_of(data: CalibrationData, device: str) -> Tensor | Sequence[Mapping[str, Tensor]]:
    """What a method is given: the tokens of windows, int64 [n, length], or prepared examples."""
    import torch

    if isinstance(data, ImageTexts):
        return data.inputs
    return torch.from_numpy(data.inputs.copy()).to(device)
