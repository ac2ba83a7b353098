"""The small world: its people, places, creatures, things and events, and the facts about them.

One world, whatever the training seed: every text, task and model speaks of the same facts. `held_out` says,
from a key alone, which questions training never sees.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from quantcheck.models.builtin import lexicon as lex
from quantcheck.models.builtin.relations import BY_NAME, RELATIONS, Relation

WORLD_SEED = 20
PEOPLE, TOWNS, EVENTS = 120, 60, 40
HELD_OUT_FACTS, HELD_OUT_JOBS, HELD_OUT_PAIRS = 0.5, 0.22, 0.25


@dataclass(frozen=True)
class Fact:
    """One true statement: `subject` stands in `relation` to `value`."""

    subject: str
    relation: Relation
    value: str

    @property
    def held_out(self) -> bool:
        """Whether no question about this fact may occur in training (its plain statement may)."""
        return held_out(f"fact/{self.subject}/{self.relation.name}", HELD_OUT_FACTS)


@dataclass(frozen=True)
class World:
    """All facts, by subject, and the pools wrong answers are drawn from, by value type."""

    facts: dict[str, tuple[Fact, ...]]
    kinds: dict[str, tuple[str, ...]]
    pools: dict[str, tuple[str, ...]]

    def wrong_answers(
        self, fact: Fact, rng: random.Random, *, n: int = 3, confusable: bool = False
    ) -> list[str]:
        """Draw `n` wrong values of one type; `confusable` prefers what else is true of the subject."""
        others = [f.value for f in self.facts[fact.subject] if f.relation.value == fact.relation.value]
        near = sorted({value for value in others if value != fact.value})
        pool = [v for v in self.pools[fact.relation.value] if v != fact.value and v not in near]
        chosen = rng.sample(near, min(n, len(near))) if confusable else []
        return chosen + rng.sample(pool, n - len(chosen))

    def all_facts(self) -> Iterator[Fact]:
        """Yield every fact, in the order of the world."""
        for facts in self.facts.values():
            yield from facts


def held_out(key: str, share: float) -> bool:
    """Say whether `key` is of the held-out `share`: a hash decides, whatever the order or the seed."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def job_held_out(action: str, thing: str) -> bool:
    """Say whether doing `action` to `thing` is held out: then no training text names the two together."""
    return held_out(f"job/{action}/{thing}", HELD_OUT_JOBS)


def pair_held_out(first: str, second: str) -> bool:
    """Say whether two role names are held out as a pair, in either order."""
    return held_out("pair/" + "/".join(sorted((first, second))), HELD_OUT_PAIRS)


@cache
def the_world() -> World:
    """Build the world; the same on every machine and in every run."""
    rng = random.Random(WORLD_SEED)
    towns = _combine(rng, lex.TOWN_HEADS, lex.TOWN_TAILS, TOWNS, "")
    people = _people(rng)
    events = [f"the {name}" for name in _combine(rng, lex.EVENT_HEADS, lex.EVENT_TAILS, EVENTS, " ")]
    values: dict[tuple[str, str], dict[str, str]] = {}
    for subject in people:
        values["person", subject] = _person(rng, subject, people, towns)
    for subject in towns:
        values["town", subject] = _town(rng, subject, towns)
    columns = (lex.REGIONS, lex.CLIMATES, lex.COINS, lex.LANGUAGES, lex.EXPORTS, lex.COLOURS)
    for region, *values_of in zip(*(_shuffled(rng, column) for column in columns), strict=True):
        values["region", region] = dict(
            zip(("climate", "coin", "language", "export", "flag"), values_of, strict=True)
        )
    for kind, table, names in (("animal", lex.ANIMALS, ("home", "food", "class", "active", "young")),
                               ("plant", lex.PLANTS, ("soil", "colour", "season", "use")),
                               ("trade", lex.TRADES, ("place", "gear", "makes"))):  # fmt: skip
        for row in table:
            values[kind, f"the {row[0]}"] = dict(zip(names, row[1:], strict=True))
    for material, things in lex.OBJECTS.items():
        for thing in things:
            values["object", f"the {thing}"] = {"material": material, "room": rng.choice(lex.ROOMS)}
    for subject in events:
        values["event", subject] = {
            "year": _year(rng),
            "town": rng.choice(towns),
            "cause": rng.choice(lex.CAUSES),
        }
    return _assemble(values)


def random_person(rng: random.Random) -> tuple[str, dict[str, str]]:
    """Invent one of the countless people nobody asks about: a name and the values of each relation."""
    world = the_world()
    while (name := _name(rng)) in world.facts:
        pass
    return name, _person(rng, name, world.kinds["person"], world.kinds["town"])


def pronoun(name: str) -> str:
    """Give the pronoun of a person by first name."""
    return "She" if name.split(maxsplit=1)[0] in lex.SHE_NAMES else "He"


def _assemble(values: dict[tuple[str, str], dict[str, str]]) -> World:
    facts, kinds = {}, dict[str, list[str]]()
    for (kind, subject), row in values.items():
        facts[subject] = tuple(Fact(subject, BY_NAME[kind, name], value) for name, value in row.items())
        kinds.setdefault(kind, []).append(subject)
    pools: dict[str, set[str]] = {relation.value: set() for relation in RELATIONS}
    for fact in (fact for of_subject in facts.values() for fact in of_subject):
        pools[fact.relation.value].add(fact.value)
    return World(
        facts, {k: tuple(v) for k, v in kinds.items()}, {k: tuple(sorted(v)) for k, v in pools.items()}
    )


def _people(rng: random.Random) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < PEOPLE:
        names[_name(rng)] = None
    return list(names)


def _name(rng: random.Random) -> str:
    first = rng.choice(lex.SHE_NAMES + lex.HE_NAMES)
    return f"{first} {rng.choice(lex.SURNAME_HEADS)}{rng.choice(lex.SURNAME_TAILS)}"


def _person(rng: random.Random, name: str, people: Sequence[str], towns: Sequence[str]) -> dict[str, str]:
    born_in, studied_in, works_in = rng.sample(list(towns), 3)
    teacher, friend, rival = rng.sample([other for other in people if other != name], 3)
    return {
        "trade": rng.choice(lex.TRADES)[0], "born_on": _year(rng), "born_in": born_in,
        "studied_in": studied_in, "works_in": works_in, "teacher": teacher, "friend": friend, "rival": rival,
        "plays": rng.choice(lex.INSTRUMENTS), "pet": rng.choice(lex.PETS), "dish": rng.choice(lex.DISHES),
    }  # fmt: skip


def _town(rng: random.Random, name: str, towns: Sequence[str]) -> dict[str, str]:
    north, south, twin, market = rng.sample([other for other in towns if other != name], 4)
    return {
        "region": rng.choice(lex.REGIONS), "river": rng.choice(lex.RIVERS),
        "product": rng.choice(lex.PRODUCTS), "founded": _year(rng), "festival": rng.choice(lex.MONTHS),
        "north": north, "south": south, "twin": twin, "market": market,
    }  # fmt: skip


def _year(rng: random.Random) -> str:
    return str(rng.randrange(1400, 1900))


def _combine(rng: random.Random, heads: Sequence[str], tails: Sequence[str], n: int, glue: str) -> list[str]:
    return rng.sample([head + glue + tail for head in heads for tail in tails], n)


def _shuffled(rng: random.Random, words: Sequence[str]) -> list[str]:
    return rng.sample(list(words), len(words))
