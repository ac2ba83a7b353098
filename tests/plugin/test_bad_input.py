"""Bad models and texts end as one usage error that says what to do, before any gate runs."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from plugin.project import Project, files, refused


@pytest.fixture
def broken(project: Project) -> Callable[..., Project]:
    """A project whose model is a copy, broken by a function of its folder."""

    def make(damage: Callable[[Path], Any]) -> Project:
        copy = Path(shutil.copytree(project.model, project.path / "broken"))
        damage(copy)
        return Project(project.pytester, copy, project.cache)

    return make


def configured(**changes: Any) -> Callable[[Path], Any]:
    """Change the model's config."""

    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))

    return damage


def poisoned(value: float) -> Callable[[Path], Any]:
    """Put a value into one weight."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


MODELS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), ("no config.json",)),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), ("no model.safetensors",)),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), ("neither tokenizer.json",)),
    "truncated": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 40),
        ("model.safetensors",),
    ),
    "another family": (configured(model_type="gpt2"), ("model_type 'gpt2' is not of the LLaMA family",)),
    "a classifier": (configured(architectures=["LlamaForSequenceClassification"]), ("is no language model",)),
    "already quantized": (
        configured(quantization_config={"quant_method": "gptq"}),
        ("already quantized by gptq", "pass the full-precision checkpoint"),
    ),
    "NaN": (poisoned(float("nan")), ("1 of", "model.layers.1.mlp.up_proj.weight are NaN or Inf")),
    "Inf": (poisoned(float("inf")), ("1 of", "model.layers.1.mlp.up_proj.weight are NaN or Inf")),
}


@pytest.mark.parametrize("damage", MODELS)
def test_a_model_that_cannot_be_gated_is_refused(
    project: Project, broken: Callable[..., Project], damage: str
) -> None:
    change, patterns = MODELS[damage]
    bad = broken(change)

    refused(bad.run("--snapshot-update"), *patterns)

    assert files(bad.baselines).keys() == {"policy.toml"}


def test_a_model_that_is_not_there_is_refused(project: Project) -> None:
    refused(Project(project.pytester, project.path / "nowhere", project.cache).run(), "no such folder")


def test_a_model_that_is_a_file_is_refused(project: Project) -> None:
    refused(Project(project.pytester, project.path / "eval.txt", project.cache).run(), "is a file")


TEXTS: dict[str, tuple[bytes | None, tuple[str, ...]]] = {
    "absent": (None, ("cannot read", "No such file")),
    "empty": (b"", ("is empty",)),
    "blank": (b" \n\t\n", ("is empty",)),
    "not UTF-8": (b"a fox \xff runs", ("is not UTF-8 at byte 6", "iconv")),
    "shorter than a window": (
        b"a fox",
        ("one window of 96 needs 97", "give a longer text or a shorter window"),
    ),
}


@pytest.mark.parametrize("damage", TEXTS)
def test_a_text_that_cannot_be_measured_is_refused(project: Project, damage: str) -> None:
    content, patterns = TEXTS[damage]
    path = project.path / "eval.txt"
    path.unlink()
    if content is not None:
        path.write_bytes(content)

    refused(project.run(), "text eval: ", str(path), *patterns)


@pytest.mark.parametrize("damage", [name for name in TEXTS if name != "shorter than a window"])
def test_a_calibration_text_that_cannot_be_read_is_refused(project: Project, damage: str) -> None:
    content, patterns = TEXTS[damage]
    path = project.path / "calibration.txt"
    path.unlink()
    if content is not None:
        path.write_bytes(content)

    refused(project.run(specs="gptq-w8"), "text calibration: ", str(path), *patterns)


def test_a_calibration_text_is_not_asked_for_where_nothing_calibrates(project: Project) -> None:
    options = [option for option in project.options if "calibration" not in option]

    result = project.pytester.runpytest_inprocess(*options, "--quantcheck-specs=rtn-w8", "--snapshot-update")

    assert result.ret == pytest.ExitCode.OK
    assert "rtn-w8/artifact/outputs" not in project.gates()


def test_a_calibration_set_shorter_than_asked_is_refused(project: Project) -> None:
    result = project.run("--quantcheck-calibration-windows=500", specs="gptq-w8")

    refused(result, "500 windows of 96 asked for", "calibration.txt make ", "ask for fewer windows")


def test_a_calibration_set_that_shares_windows_with_the_text_is_refused(project: Project) -> None:
    result = project.run("--quantcheck-calibration=eval.txt", specs="gptq-w8")

    refused(
        result, "4 calibration windows of eval.txt occur in the text eval", "use another calibration text"
    )


def test_a_method_that_calibrates_without_a_text_is_refused(project: Project) -> None:
    options = [option for option in project.options if "calibration" not in option]

    result = project.pytester.runpytest_inprocess(*options, "--quantcheck-specs=gptq-w8")

    refused(result, "gptq-w8 on tiny calibrates", "--quantcheck-calibration FILE", "--quantcheck-methods")


def test_windows_beyond_the_models_context_are_refused(project: Project) -> None:
    refused(project.run("--quantcheck-window=97"), "windows of 97 tokens exceed the model's context of 96")


def test_more_windows_than_the_text_makes_are_refused(project: Project) -> None:
    refused(project.run("--quantcheck-windows=5000"), "5000 windows of 96 asked for")


def test_two_texts_with_one_name_are_refused(project: Project) -> None:
    (project.path / "more").mkdir()
    shutil.copy(project.path / "eval.txt", project.path / "more")

    refused(project.run("--quantcheck-text=more/eval.txt"), "two texts are called eval")


def test_a_users_model_without_a_text_is_refused(project: Project) -> None:
    result = project.pytester.runpytest_inprocess(f"--quantcheck-model={project.model}", *project.folders)

    refused(result, "has no text to be measured on", "--quantcheck-text FILE")


@pytest.mark.parametrize(
    "option",
    [
        "text=eval.txt",
        "text-separator=x",
        "windows=2",
        "window=32",
        "calibration=eval.txt",
        "calibration-images=pairs.jsonl",
        "calibration-windows=2",
        "instructions=eval.txt",
    ],
)
def test_text_options_without_a_model_of_ones_own_are_refused(project: Project, option: str) -> None:
    result = project.pytester.runpytest_inprocess(f"--quantcheck-{option}", *project.folders)

    refused(
        result, f"--quantcheck-{option.partition('=')[0]} is for models of your own", "--quantcheck-model"
    )


def test_a_missing_extra_is_named_before_anything_runs(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "lm_eval" else find_spec(name, *rest)
    )

    result = project.pytester.runpytest_inprocess("--quantcheck-specs=rtn-w8", *project.folders)

    refused(result, "zero-shot accuracy needs lm-eval, which is not installed: pip install 'lm-eval'")
