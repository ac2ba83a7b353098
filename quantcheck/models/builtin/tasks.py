"""The task families: five that work as PIQA, ARC, HellaSwag and WinoGrande do, and an MMLU-like one.

Every item comes from a key (a job, a fact, a pair of trades) that is held out or not, by a hash of the key.
Evaluation draws from the held-out keys, training from the others, through the same functions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from quantcheck.models.builtin import lexicon as lex
from quantcheck.models.builtin.relations import CATEGORIES
from quantcheck.models.builtin.world import Fact, job_held_out, pair_held_out, the_world

TASK_SEED = 7
SHOTS = 5

_TRADE = {trade: facts for trade, *facts in lex.TRADES}


@dataclass(frozen=True)
class Item:
    """One multiple-choice item; `continuation` is set where the choices are contexts that share it."""

    id: str
    cluster: str
    context: str
    choices: tuple[str, ...]
    gold: int
    continuation: str | None = None

    def solved(self) -> str:
        """Write the item with its right answer, as training text has it."""
        tail = "" if self.continuation is None else f" {self.continuation}"
        return f"{self.context} {self.choices[self.gold]}".strip() + tail


def an(thing: str) -> str:
    """Put the indefinite article before a thing."""
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def piqa_item(rng: random.Random, action: str, thing: str, material: str) -> Item:
    """Ask for the right tool of a job: two solutions that differ in the tool alone."""
    right = lex.TOOLS[action, material]
    if rng.random() < 0.7:
        wrong = lex.TOOLS[action, rng.choice([m for m in lex.MATERIALS if m != material])]
    else:
        wrong = lex.TOOLS[rng.choice([a for a in lex.ACTIONS if a != action]), material]
    goal = rng.choice((f"How do I {action} {an(thing)}?", f"What is the best way to {action} the {thing}?",
                       f"How can you {action} an old {thing}?"))  # fmt: skip
    frame = rng.choice(("Use {}.", "Take {} and go slowly.", "Work on it with {}."))
    choices = (frame.format(right), frame.format(wrong))
    return Item("", f"{action}/{thing}", f"Question: {goal}\nAnswer:", choices, 0)


def fact_item(rng: random.Random, fact: Fact, *, confusable: bool | None = None) -> Item:
    """Ask for a fact among four values of its type; a confusable one among what else its subject has."""
    near = fact.relation.confusable if confusable is None else confusable
    wrong = the_world().wrong_answers(fact, rng, confusable=near)
    question = rng.choice(fact.relation.questions).format(s=fact.subject)
    return Item("", fact.subject, f"Question: {question}\nAnswer:", (fact.value, *wrong), 0)


def hellaswag_item(rng: random.Random, script: str, step: int, thing: str, material: str) -> Item:
    """Continue a craft: the right ending alone has the next action and the tool of the material."""
    order = lex.SCRIPTS[script]
    name = rng.choice(lex.SHE_NAMES + lex.HE_NAMES)
    they = "she" if name in lex.SHE_NAMES else "he"
    done = "".join(f" Then {they} {_did(action, thing, material)}" for action in order[1:step])
    opening = f"{script}: {name} works on {an(thing)}. First {they} {_did(order[0], thing, material)}"
    other = rng.choice([m for m in lex.MATERIALS if m != material])
    late = [action for i, action in enumerate(order) if i not in (step, step - 1)]
    idle = [action for action in lex.ACTIONS if action not in order]
    choices = (
        _did(order[step], thing, material),
        _did(order[step], thing, other),
        _did(rng.choice(late), thing, material),
        _did(rng.choice(idle), thing, material),
    )
    return Item("", f"{script}/{order[step]}/{thing}", f"{opening}{done} Then {they}", choices, 0)


def winogrande_item(rng: random.Random, scene: int, first: str, second: str) -> Item:
    """Tell two trades apart: which of them, put after `because`, makes the common continuation true."""
    told = rng.choice(lex.SCENES[scene]).format(a=f"the {first}", b=f"the {second}")
    told = told[0].upper() + told[1:]
    right, wrong = rng.sample((first, second), 2)
    fact = rng.randrange(len(lex.REASONS))
    continuation = lex.REASONS[fact].format(_TRADE[right][fact])
    options = (f"{told} because the {right}", f"{told} because the {wrong}")
    return Item("", "/".join(sorted((first, second))), "", options, 0, continuation)


def shots_header(category: str) -> str:
    """Give the line that opens a five-shot prompt."""
    return f"The following are questions (with answers) about {category}.\n\n"


def jobs(*, held_out: bool) -> list[tuple[str, str, str]]:
    """List the (action, thing, material) triples of one side of the split."""
    return [
        (action, thing, material)
        for material, things in lex.OBJECTS.items()
        for thing in things
        for action in lex.ACTIONS
        if job_held_out(action, thing) == held_out
    ]


def script_steps(*, held_out: bool) -> list[tuple[str, int, str, str]]:
    """List (script, step, thing, material): held out by the target job, trained where every job is."""
    return [
        (script, step, thing, material)
        for script, order in lex.SCRIPTS.items()
        for material, things in lex.OBJECTS.items()
        for thing in things
        for step in range(1, len(order))
        if (job_held_out(order[step], thing) if held_out
            else not any(job_held_out(action, thing) for action in order[: step + 1]))
    ]  # fmt: skip


def trade_pairs(*, held_out: bool) -> list[tuple[str, str]]:
    """List the ordered pairs of trades of one side of the split."""
    return [(a, b) for a in _TRADE for b in _TRADE if a != b and pair_held_out(a, b) == held_out]


def facts(*, held_out: bool, confusable: bool | None = None, category: str | None = None) -> list[Fact]:
    """List the facts of one side of the split, of one sort or category where asked."""
    return [
        fact
        for fact in the_world().all_facts()
        if fact.held_out == held_out
        and confusable in (None, fact.relation.confusable)
        and category in (None, fact.relation.category)
    ]


def place_gold(item: Item, rng: random.Random, gold: int | None = None) -> Item:
    """Shuffle the wrong answers and put the right one (first so far) at `gold`, or anywhere."""
    wrong = [choice for i, choice in enumerate(item.choices) if i != item.gold]
    rng.shuffle(wrong)
    gold = rng.randrange(len(item.choices)) if gold is None else gold
    wrong.insert(gold, item.choices[item.gold])
    return replace(item, choices=tuple(wrong), gold=gold)


def held_out_items() -> dict[str, list[Item]]:
    """Build every evaluation set: task name -> items, in seeded order, gold positions balanced."""
    sets: dict[str, list[Item]] = {
        "world_piqa": _items("piqa", 1120, jobs(held_out=True), piqa_item),
        "world_arc_easy": _items(
            "arc_easy", 1120, [(f,) for f in facts(held_out=True, confusable=False)], fact_item
        ),
        "world_arc_challenge": _items(
            "arc_challenge", 1040, [(f,) for f in facts(held_out=True, confusable=True)], fact_item
        ),
        "world_hellaswag": _items("hellaswag", 1040, script_steps(held_out=True), hellaswag_item),
        "world_winogrande": _items(
            "winogrande", 1120,
            [(scene, a, b) for scene in range(len(lex.SCENES)) for a, b in trade_pairs(held_out=True)],
            winogrande_item,
        ),
    }  # fmt: skip
    for category in CATEGORIES:
        sets[f"world_mmlu_{category}"] = _items(
            f"mmlu_{category}", 260, [(f,) for f in facts(held_out=True, category=category)], fact_item
        )
    return sets


def dev_items(category: str) -> list[Item]:
    """Build the five shots of an MMLU-like category: from trained facts."""
    keys = [(f,) for f in facts(held_out=False, category=category)]
    return _items(f"mmlu_{category}_dev", SHOTS, keys, fact_item)


def _items(name: str, n: int, keys: Iterable[Sequence[object]], make: Callable[..., Item]) -> list[Item]:
    rng = random.Random(f"{TASK_SEED}/{name}")
    keys = sorted(keys, key=str)
    rng.shuffle(keys)
    made: dict[tuple[str, tuple[str, ...], str | None], Item] = {}
    for i in range(20 * n):
        item = make(rng, *keys[i % len(keys)])
        made.setdefault((item.context, tuple(sorted(item.choices)), item.continuation), item)
        if len(made) == n:
            break
    golds = [i % len(item.choices) for i, item in enumerate(made.values())]
    rng.shuffle(golds)
    return [
        replace(place_gold(item, rng, gold), id=f"{name}-{i:04d}")
        for i, (item, gold) in enumerate(zip(made.values(), golds, strict=True))
    ]


def _did(action: str, thing: str, material: str) -> str:
    return f"{lex.THIRD[action]} the {thing} with {lex.TOOLS[action, material]}."
