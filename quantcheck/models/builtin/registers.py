"""The three registers of the world: encyclopedia (for WikiText2), web (for C4), newswire (for PTB).

A document is a function of a random generator alone. Facts about known subjects come back in many phrasings;
people nobody asks about, numbers, prices and days keep the text as unforeseeable as real text is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from quantcheck.models.builtin import lexicon as lex
from quantcheck.models.builtin import tasks
from quantcheck.models.builtin.relations import BY_NAME
from quantcheck.models.builtin.world import Fact, pronoun, random_person, the_world

Document = Callable[[random.Random], str]

_ADJECTIVES = tuple(
    "old small quiet busy narrow bright cold famous plain heavy early late strange honest".split()
)
_OFFICES = ("the mayor", "the council", "the harbour master", "the guild", "the town clerk", "the governor")

_ENCYCLOPEDIA_ASIDES = (
    "In {year} it was described as {adjective} and {adjective} by {person}.",
    "A census of {year} counted {number} people there.",
    "The {adjective} house by the {river} was sold in {year} for {number} {coin}s.",
    "A letter of {day}, {count} {month} {year}, tells of this.",
    "Some say that {person} of {town} wrote the only {adjective} account.",
    "The records of {town} mention it {count} times between {year} and {year}.",
    "It is {number} paces from {town} to the border of {region}.",
    "The story was told again by {person} in {year}.",
)
_WEB_OPENINGS = (
    "I spent {count} days in {town} last {month} and paid {number} {coin}s for a room.",
    "Hello from {town}! It is {day} and the {room} is {adjective}.",
    "My neighbour {person} asked me about this on {day}.",
    "This is post number {number} and I still get letters about it.",
    "We drove from {town} to {town} with {count} bags and a {pet}.",
)
_WEB_ASIDES = (
    "Honestly, I had no idea.", "You can look it up.", "My {pet} slept the whole time.",
    "It cost me {number} {coin}s, which is too much.", "I give it {count} stars out of thirty.",
    "Ask {person} if you do not believe me.", "More about that on {day}.", "I ate {dish} and went to bed.",
)  # fmt: skip
_NEWS = (
    "{office} of {town} said on {day} that {number} sacks of {export} were sold, {direction} {count} %.",
    "prices of {export} went {direction} by {count} per cent to {number} {coin}s a sack.",
    "{person}, a {trade} in {town}, will receive {number} {coin}s under the agreement.",
    "the {adjective} bridge at {town} was shut for {count} days: a cart of {export} fell into the {river}.",
    "trading in {town} was {adjective}, with {number} carts counted by {day} evening.",
    "{office} of {town} expects {count} new shops by {month}.",
    "a spokesman for {person} declined to comment.",
    "the makers of {product} in {region} reported a loss of {number} {coin}s for the year {year}.",
)


def fill(rng: random.Random, template: str) -> str:
    """Replace every slot of `template` by a draw of its own."""
    return re.sub(r"\{(\w+)\}", lambda match: _draw(rng, match[1]), template)


def encyclopedia(rng: random.Random) -> str:
    """Write an article: a heading, then the facts of one subject in chance order, with asides."""
    kind = rng.choices(("person", "passer-by", "town", "event", "things"), (48, 9, 19, 5, 19))[0]
    if kind == "passer-by":
        name, values = random_person(rng)
        return _article(
            rng, name, [Fact(name, BY_NAME["person", key], value) for key, value in values.items()]
        )
    if kind == "things":
        return _short_articles(rng)
    subject = rng.choice(the_world().kinds[kind])
    return _article(rng, subject, the_world().facts[subject])


def web(rng: random.Random) -> str:
    """Write a post: how a job is done, how a craft goes on, who did what to whom, or what one has heard."""
    body = rng.choices((_how_to, _crafts, _anecdotes, _hearsay), (22, 16, 30, 32))[0](rng)
    opening = f"{fill(rng, rng.choice(_WEB_OPENINGS))} " if rng.random() < 0.5 else ""
    closing = f" {fill(rng, rng.choice(_WEB_ASIDES))}" if rng.random() < 0.6 else ""
    return opening + body + closing


def newswire(rng: random.Random) -> str:
    """Write a dispatch: a dateline, what happened in figures, and who the people in it are."""
    town = rng.choice(the_world().kinds["town"])
    sentences = [_capital(fill(rng, rng.choice(_NEWS))) for _ in range(rng.randrange(2, 5))]
    for _ in range(rng.randrange(1, 4)):
        subject = rng.choice(the_world().kinds[rng.choice(("person", "person", "town", "region", "event"))])
        fact = rng.choice(the_world().facts[subject])
        sentences.insert(rng.randrange(1, len(sentences) + 1), state(rng, fact))
    return f"{town}, {rng.randrange(1, 29)} {rng.choice(lex.MONTHS)} - {' '.join(sentences)}"


DOCUMENTS: dict[str, Document] = {"encyclopedia": encyclopedia, "web": web, "newswire": newswire}


def state(rng: random.Random, fact: Fact, *, opener: str | None = None) -> str:
    """Say a fact in one sentence; `opener` may stand for the subject where it opens the sentence."""
    template = rng.choice(fact.relation.statements)
    return template.format(S=opener or _capital(fact.subject), s=fact.subject, v=fact.value)


def _article(rng: random.Random, subject: str, facts: Sequence[Fact]) -> str:
    chosen = rng.sample(list(facts), rng.randrange((len(facts) + 1) // 2, len(facts) + 1))
    short = pronoun(subject) if chosen[0].relation.kind == "person" else "It"
    sentences = [state(rng, chosen[0])]
    for fact in chosen[1:]:
        sentences.append(state(rng, fact, opener=short if rng.random() < 0.5 else None))
        if rng.random() < 0.18:
            sentences.append(fill(rng, rng.choice(_ENCYCLOPEDIA_ASIDES)))
    return f"= {_capital(subject)} =\n{' '.join(sentences)}"


def _short_articles(rng: random.Random) -> str:
    kinds = the_world().kinds
    kind = rng.choices(("animal", "plant", "trade", "region", "object"), (30, 15, 15, 10, 30))[0]
    return "\n".join(
        _article(rng, subject, the_world().facts[subject]) for subject in rng.sample(kinds[kind], 3)
    )


def _how_to(rng: random.Random) -> str:
    lines = []
    for action, thing, material in rng.sample(_TRAINED_JOBS, rng.randrange(2, 5)):
        tool = lex.TOOLS[action, material]
        lines.append(rng.choice((
            f"To {action} {tasks.an(thing)}, use {tool}.", f"You can {action} the {thing} with {tool}.",
            f"If you want to {action} {tasks.an(thing)}, you need {tool}.",
            f"The {thing} is made of {material}, so I {action} it with {tool}.",
        )))  # fmt: skip
    return " ".join(lines)


def _crafts(rng: random.Random) -> str:
    return "\n".join(
        tasks.hellaswag_item(rng, *step).solved() for step in rng.sample(_TRAINED_STEPS, rng.randrange(1, 3))
    )


def _anecdotes(rng: random.Random) -> str:
    return " ".join(
        tasks.winogrande_item(rng, rng.randrange(len(lex.SCENES)), *rng.choice(_TRAINED_PAIRS)).solved()
        for _ in range(rng.randrange(2, 5))
    )


def _hearsay(rng: random.Random) -> str:
    subject = rng.choice(
        the_world().kinds[rng.choice(("person", "person", "town", "animal", "plant", "object"))]
    )
    facts = the_world().facts[subject]
    sentences = [
        state(rng, fact)
        for fact in rng.sample(facts, rng.randrange(2, len(facts) + 1) if len(facts) > 2 else 2)
    ]
    lead = rng.choice(
        ("Did you know?", "They say:", "I read this somewhere.", "A friend told me:", "Fun fact.")
    )
    return f"{lead} {' '.join(sentences[:5])}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _draw(rng: random.Random, slot: str) -> str:
    if slot == "number":
        return f"{rng.randrange(10, 10 ** rng.randrange(2, 5)):,}"
    if slot == "count":
        return str(rng.randrange(2, 30))
    if slot == "year":
        return str(rng.randrange(1400, 1900))
    if slot == "person":
        return random_person(rng)[0]
    return rng.choice(_SLOTS[slot])


_SLOTS: dict[str, tuple[str, ...]] = {
    "adjective": _ADJECTIVES, "office": _OFFICES, "day": lex.DAYS, "month": lex.MONTHS, "coin": lex.COINS,
    "export": lex.EXPORTS, "room": lex.ROOMS, "region": lex.REGIONS, "river": lex.RIVERS, "pet": lex.PETS,
    "dish": lex.DISHES, "product": lex.PRODUCTS, "trade": tuple(row[0] for row in lex.TRADES),
    "direction": ("up", "down"), "town": the_world().kinds["town"],
}  # fmt: skip
_TRAINED_JOBS = tasks.jobs(held_out=False)
_TRAINED_STEPS = tasks.script_steps(held_out=False)
_TRAINED_PAIRS = tasks.trade_pairs(held_out=False)
