from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcheck.models.builtin import FAMILIES, corpus, tasks
from quantcheck.models.builtin import lexicon as lex
from quantcheck.models.builtin.world import held_out, pair_held_out, pronoun, random_person, the_world

FACTS = list(the_world().all_facts())
ITEMS = tasks.held_out_items()


def test_every_subject_has_each_relation_once() -> None:
    stated = [(fact.subject, fact.relation.name) for fact in FACTS]
    assert len(stated) == len(set(stated)) > 2500


@given(st.sampled_from(FACTS), st.booleans(), st.integers(0, 9))
def test_wrong_answers_are_three_other_values_of_the_type(fact, confusable, seed) -> None:
    wrong = the_world().wrong_answers(fact, random.Random(seed), confusable=confusable)
    assert len({fact.value, *wrong}) == 4
    assert set(wrong) <= set(the_world().pools[fact.relation.value])


def test_confusable_wrong_answers_are_true_of_the_subject_in_another_way() -> None:
    fact = next(fact for fact in FACTS if fact.relation.name == "born_in")
    values = {other.value for other in the_world().facts[fact.subject]}
    assert len(values & set(the_world().wrong_answers(fact, random.Random(0), confusable=True))) == 2


@given(st.floats(0.05, 0.95))
def test_held_out_takes_about_its_share_and_grows_with_it(share) -> None:
    keys = [f"key/{i}" for i in range(2000)]
    chosen = [key for key in keys if held_out(key, share)]
    assert abs(len(chosen) / len(keys) - share) < 0.05
    assert all(held_out(key, min(1.0, share + 0.05)) for key in chosen)


def test_a_pair_is_held_out_in_both_orders() -> None:
    trades = [row[0] for row in lex.TRADES]
    assert all(pair_held_out(a, b) == pair_held_out(b, a) for a in trades for b in trades)


def test_lexicon_names_are_unique_and_genders_apart() -> None:
    things = [thing for names in lex.OBJECTS.values() for thing in names]
    assert len(things) == len(set(things)) == 160
    assert len(set(lex.TOOLS.values())) == len(lex.TOOLS)
    assert not set(lex.SHE_NAMES) & set(lex.HE_NAMES)
    assert (pronoun("Ada Ashley"), pronoun("Adam Ashley")) == ("She", "He")


def test_invented_people_are_nobody_in_the_world() -> None:
    rng = random.Random(3)
    assert all(random_person(rng)[0] not in the_world().facts for _ in range(300))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_a_thousand_items_of_balanced_gold(family) -> None:
    items = [item for task in FAMILIES[family] for item in ITEMS[task]]
    choices = len(items[0].choices)
    golds = [sum(item.gold == position for item in items) for position in range(choices)]
    assert len(items) >= 1000
    assert max(golds) - min(golds) <= len(FAMILIES[family])
    assert len({item.id for item in items}) == len(items)


@pytest.mark.parametrize("task", ITEMS)
def test_items_are_distinct_and_their_choices_differ(task) -> None:
    keys = {(item.context, item.choices, item.continuation) for item in ITEMS[task]}
    assert len(keys) == len(ITEMS[task])
    assert all(len(set(item.choices)) == len(item.choices) for item in ITEMS[task])


@given(st.integers(0, 10**6))
def test_place_gold_keeps_the_answer(seed) -> None:
    rng = random.Random(seed)
    item = tasks.fact_item(rng, rng.choice(FACTS))
    placed = tasks.place_gold(item, rng)
    assert placed.choices[placed.gold] == item.choices[item.gold]
    assert sorted(placed.choices) == sorted(item.choices)


@given(st.integers(0, 10**6), st.sampled_from(range(len(lex.SCENES))))
def test_winogrande_choices_differ_in_the_last_word_alone(seed, scene) -> None:
    item = tasks.winogrande_item(random.Random(seed), scene, "baker", "smith")
    assert {choice.rsplit(" ", 1)[1] for choice in item.choices} == {"baker", "smith"}
    assert len({choice.rsplit(" ", 1)[0] for choice in item.choices}) == 1


def test_corpus_shards_depend_on_seed_and_index_alone() -> None:
    assert corpus.shard(1, 5) == corpus.shard(1, 5)
    assert not set(corpus.shard(1, 5)[:50]) & set(corpus.shard(2, 5)[:50])
