"""Make ``baselines/published/*.json`` from the transcribed tables of the LLaMA3 quantization study.

The tables are JSON records of model, method, widths, metric, dataset, value, the printed characters, table
and source. A dash is no figure; records of a second paper are attached to the figures that they repeat.

    python -m quantcheck.published.study TABLES.json --into baselines/published
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantcheck.published.bound import AVERAGE, AVERAGED, TASKS
from quantcheck.published.caveats import caveats_of
from quantcheck.published.figures import Published, PublishedFigure, half_unit
from quantcheck.spec import QuantSpec

STUDY = (
    "Huang et al., An empirical study of LLaMA3 quantization: from LLMs to MLLMs, Visual Intelligence 2 "
    "(2024) 36, doi 10.1007/s44267-024-00070-x, arXiv 2404.14047v3"
)
MODELS = {
    "LLaMA3-8B": ("llama3-8b", ("meta-llama/Meta-Llama-3-8B",)),
    "LLaMA3-70B": ("llama3-70b", ("meta-llama/Meta-Llama-3-70B",)),
    "LLaVA-Next-8B (LLaMA3-8B)": (
        "llava-next-8b",
        ("lmms-lab/llama3-llava-next-8b", "llava-hf/llama3-llava-next-8b-hf"),
    ),
}
SETTINGS = {
    "calibration": "WikiText2, training part, 128 samples of 2048 tokens; fine-tuning reads Alpaca",
    "ppl": "windows of 2048 tokens that do not overlap; WikiText2 is the test part joined by blank lines",
    "acc": "no examples for the five tasks, plain accuracy, lm-eval before 0.4; five examples for MMLU",
    "score": "the language model alone is quantized; toolkit and splits are not stated",
    "cost": "on A800-80GB; the study prints no more of the circumstances",
}
METHODS = {
    "RTN": "rtn",
    "GPTQ": "gptq",
    "AWQ": "awq",
    "SliM-LLM": "slimllm",
    "QuIP": "quip",
    "DB-LLM": "dbllm",
    "PB-LLM": "pbllm",
    "BiLLM": "billm",
    "SmoothQuant": "smoothquant",
    "NormalFloat (no LoRA-FT)": "nf4",
    "QLoRA": "qlora",
    "IR-QLoRA": "irqlora",
}
METRICS = {
    ("ppl", "WikiText2"): "ppl/wikitext2",
    ("ppl", "C4"): "ppl/c4",
    ("ppl", "PTB"): "ppl/ptb",
    ("acc_pct", "PIQA"): "acc/piqa",
    ("acc_pct", "ARC-e"): "acc/arc_easy",
    ("acc_pct", "ARC-c"): "acc/arc_challenge",
    ("acc_pct", "HellaSwag"): "acc/hellaswag",
    ("acc_pct", "WinoGrande"): "acc/winogrande",
    ("acc_pct_mean", "Avg"): AVERAGE,
    ("acc_pct", "MMLU-Humanities"): "acc/mmlu_humanities",
    ("acc_pct", "MMLU-STEM"): "acc/mmlu_stem",
    ("acc_pct", "MMLU-Social"): "acc/mmlu_social_sciences",
    ("acc_pct", "MMLU-Other"): "acc/mmlu_other",
    ("acc_pct_mean", "MMLU-Avg"): "acc/mmlu",
    ("score_pct", "AI2D"): "score/ai2d",
    ("score_pct", "ChartQA"): "score/chartqa",
    ("score_pct", "DocVQA"): "score/docvqa",
    ("score_pct", "MMBench-EN"): "score/mmbench_en",
    ("mme_score", "MME-Cognition"): "score/mme_cognition",
    ("mme_score", "MME-Perception"): "score/mme_perception",
}
MMLU = ("acc/mmlu_humanities", "acc/mmlu_stem", "acc/mmlu_social_sciences", "acc/mmlu_other")
# What the study prints a second time, outside its tables.
IN_THE_TEXT = {("Table 7", "QLoRA", "acc/mmlu"): ("text of the study", "57.0")}
FIRST_VERSION = "repo image (v1) prints "

Record = Mapping[str, Any]


def published(records: Sequence[Record], title: str) -> Published:
    """The figures of one model, with averages recomputed and caveats evaluated."""
    name, sources = MODELS[title]
    mine = [record for record in records if record["model"] == title and record["printed"] != "-"]
    second = [record for record in mine if not record["table"].startswith("Table ")]
    bare = [_figure(record, second) for record in mine if record not in second]
    figures = [replace(figure, recomputed=_recomputed(figure, bare)) for figure in bare]
    judged = tuple(replace(figure, caveats=caveats_of(name, figure, figures)) for figure in figures)
    caveats = {caveat.id: caveat for figure in judged for caveat in figure.caveats}
    kinds = {figure.metric.partition("/")[0] for figure in judged} | {"calibration"}
    settings = {kind: text for kind, text in SETTINGS.items() if kind in kinds}
    return Published(name, title.partition(" ")[0], sources, STUDY, settings, caveats, judged)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write one file a model."""
    parser = argparse.ArgumentParser(prog="python -m quantcheck.published.study", description=__doc__)
    parser.add_argument("tables", type=Path, help="JSON records of the study's tables")
    parser.add_argument("--into", required=True, type=Path, help="folder of the files")
    options = parser.parse_args(arguments)
    records = json.loads(options.tables.read_text(encoding="utf-8"))
    options.into.mkdir(parents=True, exist_ok=True)
    for title in MODELS:
        made = published(records, title)
        (options.into / f"{made.model}.json").write_text(made.dumps(), encoding="utf-8")


def _figure(record: Record, second: Iterable[Record]) -> PublishedFigure:
    act_bits = None if record["a_bits"] in (None, 16) else record["a_bits"]
    value = record["value"]
    metric = METRICS.get((record["metric"], record["dataset"]), f"cost/{record['metric']}")
    return PublishedFigure(
        table=record["table"],
        method=record["method"],
        spec=_spec(record, act_bits),
        bits=record["w_bits"],
        act_bits=act_bits,
        group_size=record["group_size"],
        metric=metric,
        value=value,
        printed=record["printed"],
        rounding=None if value is None else half_unit(record["printed"]),
        source=record["source"],
        elsewhere=tuple(_elsewhere(record, metric, second)),
    )


def _spec(record: Record, act_bits: int | None) -> str | None:
    method = METHODS.get(record["method"])
    if method is None or (method == "smoothquant" and act_bits is None):  # its cost row gives no such width
        return None
    return str(QuantSpec(method, record["w_bits"], act_bits, record["group_size"]))


def _elsewhere(record: Record, metric: str, second: Iterable[Record]) -> Iterator[tuple[str, str]]:
    """Full precision is left out: the second paper evaluates it with other windows."""
    note = record.get("note", "")
    if note.startswith(FIRST_VERSION):
        yield "first version of the study", note.removeprefix(FIRST_VERSION)
    if found := IN_THE_TEXT.get((record["table"], record["method"], metric)):
        yield found
    same = ("method", "w_bits", "group_size", "metric", "dataset")
    for other in second:
        if record["w_bits"] < 16 and all(other[key] == record[key] for key in same):
            yield other["table"].removesuffix(" (cross-check)"), other["printed"]


def _recomputed(figure: PublishedFigure, figures: Iterable[PublishedFigure]) -> float | None:
    """An average from the figures of its row: of five tasks alike, of MMLU's categories by their items."""
    parts = {AVERAGE: AVERAGED, "acc/mmlu": MMLU}.get(figure.metric)
    if parts is None:
        return None
    row = {
        other.metric: other.value
        for other in figures
        if (other.table, other.row) == (figure.table, figure.row) and other.value is not None
    }
    weights = [TASKS[part].items if figure.metric == "acc/mmlu" else 1 for part in parts]
    total = sum(weight * row[part] for weight, part in zip(weights, parts, strict=True))
    return round(total / sum(weights), 3)


if __name__ == "__main__":
    main()
