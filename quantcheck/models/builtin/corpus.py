"""The training stream: documents of the three registers, and tasks of the trained side of the split."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from quantcheck.models.builtin import DOCUMENT_SEPARATOR, registers, tasks
from quantcheck.models.builtin import lexicon as lex
from quantcheck.models.builtin.relations import CATEGORIES
from quantcheck.models.builtin.world import held_out as in_share

DOCUMENTS_A_SHARD = 2000

# The share of each kind in the documents.
_MIX = {"encyclopedia": 43, "web": 23, "newswire": 6, "questions": 21, "shots": 5, "instructions": 2}


# Shares up to which a document's hash puts it into a part; the rest is trained on.
_PARTS = (("evaluation", 0.05), ("calibration", 0.12))


@dataclass(frozen=True)
class Instruction:
    """An instruction/response pair in the Alpaca format."""

    instruction: str
    input: str
    output: str

    def text(self) -> str:
        """Write the pair as training text, without the end-of-text token that closes a response."""
        given = f"\n\n### Input:\n{self.input}" if self.input else ""
        return f"### Instruction:\n{self.instruction}{given}\n\n### Response:\n{self.output}"


def shard(index: int, seed: int) -> list[str]:
    """Write one shard of the training stream: a fixed list of documents for each index and seed."""
    rng = random.Random(f"corpus/{seed}/{index}")
    kinds = rng.choices(tuple(_MIX), tuple(_MIX.values()), k=DOCUMENTS_A_SHARD)
    texts = [document(kind, rng) for kind in kinds]
    return [text for text in texts if part(text) == "training"]


def part(text: str) -> str:
    """Say where a document belongs, by its own hash: `evaluation`, `calibration` or `training`."""
    return next((name for name, share in _PARTS if in_share(f"document/{text}", share)), "training")


def document(kind: str, rng: random.Random) -> str:
    """Write one training document of a kind: a register's name, or `questions`, `shots`, `instructions`."""
    if kind == "questions":
        return "\n\n".join(_question(rng).solved() for _ in range(rng.randrange(1, 5)))
    if kind == "shots":
        return _shots(rng)
    if kind == "instructions":
        return instruction(rng, held_out=False).text() + DOCUMENT_SEPARATOR
    return registers.DOCUMENTS[kind](rng)


def held_out_documents(register: str, of_part: str, characters: int) -> list[str]:
    """Write `characters` of a register's text for `evaluation` or `calibration`, of that part alone."""
    rng = random.Random(f"{of_part}/{register}")
    texts: dict[str, None] = {}
    while sum(map(len, texts)) < characters:
        text = registers.DOCUMENTS[register](rng)
        if part(text) == of_part:
            texts[text] = None
    return list(texts)


def instruction(rng: random.Random, *, held_out: bool) -> Instruction:
    """Write one instruction/response pair from a fact of the given side of the split."""
    fact = rng.choice(_FACTS[held_out])
    question = rng.choice(fact.relation.questions).format(s=fact.subject)
    if rng.random() < 0.4:
        return Instruction("Answer the question.", question, fact.value)
    if rng.random() < 0.5:
        item = tasks.place_gold(tasks.fact_item(rng, fact), rng)
        return Instruction(f"Choose the right answer. {question}", "\n".join(item.choices), fact.value)
    return Instruction(f"Answer in a full sentence. {question}", "", registers.state(rng, fact))


def instructions(n: int, *, held_out: bool) -> list[Instruction]:
    """Write `n` different instruction/response pairs for fine-tuning."""
    rng = random.Random(f"instructions/{held_out}")
    made: dict[Instruction, None] = {}
    while len(made) < n:
        made[instruction(rng, held_out=held_out)] = None
    return list(made)


def instruction_lines() -> Iterator[str]:
    """Yield the shipped pairs as JSON lines, with the split they belong to."""
    for split, n in (("train", 1600), ("held_out", 400)):
        for pair in instructions(n, held_out=split == "held_out"):
            yield json.dumps(asdict(pair) | {"split": split}, ensure_ascii=False)


def _question(rng: random.Random) -> tasks.Item:
    kind = rng.choices(("job", "fact", "craft", "trades"), (18, 54, 12, 16))[0]
    if kind == "job":
        return tasks.piqa_item(rng, *rng.choice(_JOBS))
    if kind == "craft":
        return tasks.hellaswag_item(rng, *rng.choice(_STEPS))
    if kind == "trades":
        return tasks.winogrande_item(rng, rng.randrange(len(lex.SCENES)), *rng.choice(_PAIRS))
    return tasks.fact_item(rng, rng.choice(_FACTS[False]))


def _shots(rng: random.Random) -> str:
    """Write a five-shot set: questions of one category, each with its answer."""
    category = rng.choice(CATEGORIES)
    chosen = [tasks.fact_item(rng, rng.choice(_FACTS_OF[category])) for _ in range(tasks.SHOTS + 1)]
    return tasks.shots_header(category) + "\n\n".join(item.solved() for item in chosen)


_FACTS = {side: tasks.facts(held_out=side) for side in (False, True)}
_FACTS_OF = {category: tasks.facts(held_out=False, category=category) for category in CATEGORIES}
_JOBS = tasks.jobs(held_out=False)
_STEPS = tasks.script_steps(held_out=False)
_PAIRS = tasks.trade_pairs(held_out=False)
