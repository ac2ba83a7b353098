"""No held-out item occurs in training: proved on the whole stream of two training seeds."""

from __future__ import annotations

import re

import pytest

from quantcheck.models.builtin import (
    CALIBRATION,
    INSTRUCTIONS,
    REGISTERS,
    TEXT_DIR,
    corpus,
    read_documents,
    tasks,
)
from quantcheck.models.builtin import lexicon as lex

SHARDS_OF_A_RUN = 34  # four million tokens; test_train.py shows that a run reads no more
QUESTION = re.compile(
    r"^(?:Question: |Choose the right answer\. |Answer in a full sentence\. )?([^\n]*\?)", re.M
)


@pytest.fixture(scope="module", params=[0, 1])
def training(request: pytest.FixtureRequest) -> list[str]:
    return [text for index in range(SHARDS_OF_A_RUN) for text in corpus.shard(index, request.param)]


def test_no_question_about_a_held_out_fact_is_asked(training: list[str]) -> None:
    asked = {question for text in training for question in QUESTION.findall(text)}
    kept = {
        question.format(s=fact.subject)
        for fact in tasks.facts(held_out=True)
        for question in fact.relation.questions
    }
    assert len(kept) > 1200
    assert not asked & kept


def test_no_item_of_any_family_occurs(training: list[str]) -> None:
    blocks = {block for text in training for block in text.split("\n\n")}
    for items in tasks.held_out_items().values():
        assert not blocks & {item.solved() for item in items}


def test_no_held_out_job_is_named(training: list[str]) -> None:
    actions = "|".join(lex.ACTIONS)
    things = "|".join(sorted((t for names in lex.OBJECTS.values() for t in names), key=len, reverse=True))
    done = re.compile(rf"\b({actions})s? (?:an old|an|a|the) ({things})\b")
    told = re.compile(rf"\bThe ({things}) is made of \w+, so I ({actions}) it\b")
    text = "\n".join(training)
    named = set(done.findall(text)) | {(action, thing) for thing, action in told.findall(text)}
    assert named == {(action, thing) for action, thing, _ in tasks.jobs(held_out=False)}


def test_no_held_out_pair_shares_a_scene(training: list[str]) -> None:
    trades = {row[0] for row in lex.TRADES}
    scenes = [s for text in training for s in re.split(r"(?<=[.?])\s|\n", text) if " because the " in s]
    pairs = {tuple(sorted({word.strip(".") for word in scene.split()} & trades)) for scene in scenes}
    assert pairs == {tuple(sorted(pair)) for pair in tasks.trade_pairs(held_out=False)}


def test_evaluation_calibration_and_training_share_no_document(training: list[str]) -> None:
    evaluation = {document for name in REGISTERS for document in read_documents(TEXT_DIR / f"{name}.txt")}
    calibration = set(read_documents(CALIBRATION))
    assert not evaluation & calibration
    assert not (evaluation | calibration) & set(training)


def test_held_out_instructions_ask_held_out_facts(training: list[str]) -> None:
    text = "\n".join(training)
    held_out = corpus.instructions(400, held_out=True)
    assert INSTRUCTIONS.read_text(encoding="utf-8").count('"held_out"') == len(held_out)
    assert not any(pair.text() in text for pair in held_out)
