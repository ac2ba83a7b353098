"""The faults that the noise benchmark plants are the ones that it names."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from quantcheck.artifact_facts import WEIGHTS, ArtifactFacts, LayerFacts

WEIGHT = 0.25 * torch.randint(-8, 8, (6, 64), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def program(repository: Path) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository)
        yield importlib.import_module("benchmarks.noise")


def test_faults_change_what_they_say(program: ModuleType) -> None:
    made = {fault: change(WEIGHT) - WEIGHT for fault, change in program.FAULTS.items()}
    scaled, flipped, shifted = made.values()
    assert torch.allclose(scaled, 0.02 * WEIGHT)
    assert flipped.count_nonzero() == 1 and flipped.sum() == 0.25
    assert shifted.count_nonzero() == 64 and shifted[3].eq(0.25).all()


def test_a_weight_without_levels_has_no_step(program: ModuleType) -> None:
    assert math.isnan(program.step(torch.randn(6, 64)))
    assert torch.equal(program.Dense.from_tensors(program.Dense(WEIGHT).tensors(), {}).decode(), WEIGHT)


def test_the_largest_rise_counts_whichever_its_sign(program: ModuleType) -> None:
    def found(*errors: float) -> ArtifactFacts:
        layers = (LayerFacts(str(at), 1, 1, 4.0, True, True, True) for at in range(len(errors)))
        named = zip(layers, errors, strict=True)
        return ArtifactFacts((), tuple(program.replace(layer, weight_error=error) for layer, error in named))

    faulty = [found(1.0, math.e**-3), found(math.e, 1.0), found(math.e**2, 1.0)]
    assert program.rises(found(1.0, 1.0), faulty, WEIGHTS) == "1 (-3 to 2)"
