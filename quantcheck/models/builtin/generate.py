"""Write the shipped data files: `python -m quantcheck.models.builtin.generate DIR`.

Tasks (lm-eval YAMLs and items), evaluation and calibration texts, instruction pairs: all from the generator,
so that what is shipped can be made again, byte for byte.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from quantcheck.models.builtin import DOCUMENT_SEPARATOR, MODEL_DIR, REGISTERS, corpus, tasks
from quantcheck.models.builtin.relations import CATEGORIES

# Enough for 64 windows of 512 tokens a register and 128 of calibration, at some 3.2 characters a token.
EVALUATION_CHARACTERS = 130_000
CALIBRATION_CHARACTERS = 250_000

_HEAD = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:  # file names beside this one; a loader puts the folder before them
    test: {task}.jsonl
{split}output_type: multiple_choice
test_split: test
"""
_TAIL = """\
metric_list:
  - metric: acc  # the headline
    aggregation: mean
    higher_is_better: true
{norm}metadata:
  version: 1.0
"""
_NORM = "  - metric: acc_norm\n    aggregation: mean\n    higher_is_better: true\n"
_QUESTION = 'doc_to_text: "{{context}}"\ndoc_to_target: gold\ndoc_to_choice: choices\n'
_SUBSTITUTION = "doc_to_text: gold\ndoc_to_target: continuation\ndoc_to_choice: choices\n"
_FIVE_SHOT = """\
fewshot_split: dev
fewshot_config:
  sampler: first_n
num_fewshot: 5
description: "{description}"
"""


def data_files() -> Iterator[tuple[str, str]]:
    """Yield every shipped data file: path under the model's folder, and text."""
    for task, items in tasks.held_out_items().items():
        category = task.removeprefix("world_mmlu_") if task.startswith("world_mmlu_") else ""
        yield f"tasks/{task}.yaml", _yaml(task, category)
        yield f"tasks/{task}.jsonl", _lines(items)
    for category in CATEGORIES:
        yield f"tasks/world_mmlu_{category}_dev.jsonl", _lines(tasks.dev_items(category))
    for register in REGISTERS:
        yield f"text/{register}.txt", _text(register, "evaluation", EVALUATION_CHARACTERS)
    yield "text/calibration.txt", _text("encyclopedia", "calibration", CALIBRATION_CHARACTERS)
    yield "instructions.jsonl", "".join(f"{line}\n" for line in corpus.instruction_lines())


def _text(register: str, part: str, characters: int) -> str:
    documents = corpus.held_out_documents(register, part, characters)
    return f"\n{DOCUMENT_SEPARATOR}\n".join(documents) + "\n"


def _yaml(task: str, category: str) -> str:
    split = f"    dev: {task}_dev.jsonl\n" if category else ""
    if category:
        header = tasks.shots_header(category).replace("\n", "\\n")
        body = _FIVE_SHOT.format(description=header) + _QUESTION
    else:
        body = _SUBSTITUTION if task == "world_winogrande" else _QUESTION
    norm = _NORM if task in ("world_piqa", "world_arc_easy", "world_arc_challenge", "world_hellaswag") else ""
    return _HEAD.format(task=task, split=split) + body + _TAIL.format(norm=norm)


def _lines(items: list[tasks.Item]) -> str:
    return "".join(json.dumps(_row(item), ensure_ascii=False) + "\n" for item in items)


def _row(item: tasks.Item) -> dict[str, object]:
    row: dict[str, object] = {"id": item.id, "cluster": item.cluster}
    if item.continuation is None:
        row["context"] = item.context
    row |= {"choices": list(item.choices), "gold": item.gold}
    if item.continuation is not None:
        row["continuation"] = item.continuation
    return row


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m quantcheck.models.builtin.generate", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=MODEL_DIR)
    for name, text in data_files():
        path = parser.parse_args().folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
