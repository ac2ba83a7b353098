"""A LLaVA of the user's own, end to end: gated on texts by its language model, calibrated on pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.tiny_llava import IMAGE, save_tiny_llava
from PIL import Image
from torch import nn

from plugin.project import GATES, Project, all_ended, matched, refused, said
from quantcheck.methods.base import Quantized
from quantcheck.methods.rtn import Rtn


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("checkpoint") / "llava")


@dataclass(frozen=True)
class LlavaProject(Project):
    """A project that gates a LLaVA, calibrated on pictures unless other options say otherwise."""

    @property
    def options(self) -> list[str]:
        kept = [option for option in super().options if "calibration" not in option]
        return [*kept, "--quantcheck-window=96", "--quantcheck-calibration-images=pairs.jsonl"]


@pytest.fixture
def llava(project: Project, checkpoint: Path) -> LlavaProject:
    made = np.random.default_rng(0)
    rows = []
    for name, (width, height) in {"a": (40, 21), "b": (16, 16), "c": (20, 50)}.items():
        pixels = made.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert("RGBA" if name == "b" else "RGB").save(project.path / f"{name}.png")
        rows.append({"id": name, "image": f"{name}.png", "text": f"{IMAGE}\nWhat is it?"})
    text = "\n".join(map(json.dumps, rows))
    (project.path / "pairs.jsonl").write_text(text, encoding="utf-8")
    return LlavaProject(project.pytester, checkpoint, project.cache)


def test_a_llava_calibrated_on_pictures_is_accepted_and_stays_green(llava: LlavaProject) -> None:
    llava.accept(specs="gptq-w4-vision")
    result = llava.run(specs="gptq-w4-vision")
    assert result.ret == pytest.ExitCode.OK, said(result)
    matched(result, all_ended("PASS"))
    note = "item b: its picture was converted from RGBA to RGB"
    assert all(note in gate["notes"] for gate in llava.gates().values())


class Meddling(Rtn):
    """Rounds the language model, and touches the projector on the way."""

    def quantize(self, model: nn.Module, *args: Any, **kwargs: Any) -> Quantized:
        name = "model.multi_modal_projector.linear_1.weight"
        changed = {name: model.get_parameter(name).detach() + torch.finfo(torch.float32).eps}
        return replace(super().quantize(model, *args, **kwargs), parameters=changed)


def test_a_method_that_touches_the_projector_is_red(llava: LlavaProject) -> None:
    result = llava.run("--snapshot-update", specs="meddling-w4", methods={"meddling": Meddling})
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    matched(
        result,
        "model.multi_modal_projector.linear_1.weight, first of 1, is not the full-precision model's",
        f"{len(GATES)} gates: {len(GATES)} NOT_QUANTIZED",
    )
    assert not llava.baseline("meddling-w4").exists()


def test_half_of_the_pictures_missing_is_refused(llava: LlavaProject) -> None:
    for name in "bc":
        (llava.path / f"{name}.png").unlink()
    refused(
        llava.run("--snapshot-update", specs="gptq-w4"),
        "2 of 3 pictures are not there, that of item b first",
        "download the whole folder again",
    )


def test_one_broken_picture_ends_the_run_before_any_gate(llava: LlavaProject) -> None:
    (llava.path / "c.png").write_bytes(b"<html>")
    refused(llava.run("--snapshot-update", specs="gptq-w4"), "item c: its picture cannot be decoded")


def test_a_tower_is_not_calibrated_on_texts(llava: LlavaProject) -> None:
    options = [option for option in llava.options if "calibration" not in option]
    result = llava.pytester.runpytest_inprocess(
        *options, "--quantcheck-calibration=calibration.txt", "--quantcheck-specs=gptq-w4-vision"
    )
    refused(result, "gptq-w4-vision on tiny calibrates its vision tower", "--quantcheck-calibration-images")


def test_texts_and_pictures_at_once_are_refused(llava: LlavaProject) -> None:
    refused(llava.run("--quantcheck-calibration=calibration.txt"), "are both given", "leave one out")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--quantcheck-calibration-images=eval.txt", "--quantcheck-specs=rtn-w8"), "is for LLaVA models"),
        (("--quantcheck-specs=rtn-w8-vision",), "rtn-w8-vision: tiny has no vision tower; leave the option"),
    ],
)
def test_a_model_of_texts_takes_no_pictures(project: Project, options: tuple[str, ...], says: str) -> None:
    given = [option for option in project.options if "calibration" not in option]
    refused(project.pytester.runpytest_inprocess(*given, *options), says)
