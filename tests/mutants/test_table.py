"""The document says what the mutants do now."""

from __future__ import annotations

from mutants.table import DOCUMENT, TABLES, filled


def test_the_tables_of_the_docs_are_up_to_date() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert filled(text) == text


def test_the_usual_test_is_passed_by_sound_codecs_and_misses_mutants() -> None:
    from mutants.caught_codecs import SOUND
    from mutants.fixed_seed import round_trip_fails

    assert not any(round_trip_fails(sound()) for sound in SOUND)
    for name, table in TABLES.items():
        caught = [table.usual_test(mutant()) for mutant in {each for each, _, _ in table.mutants}]
        assert 0 < sum(caught) < len(caught), f"{name}: the comparison says nothing"
