"""How facts are said and asked: one row a relation, shared by every text and task."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """A kind of fact: who has it, what its value is, how it is stated and asked.

    In `statements`, `{S}` opens a sentence and may become a pronoun, `{s}` is always the full subject,
    `{v}` is the value. A `confusable` relation shares its value type with others of the same subject,
    so that its wrong answers can be taken from them (the ARC-Challenge-like family).
    """

    name: str
    kind: str
    value: str
    category: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    confusable: bool = False


def _relation(key: str, value: str, category: str, statements: str, questions: str) -> Relation:
    kind, name = key.rstrip("*").split(".")
    return Relation(
        name,
        kind,
        value,
        category,
        tuple(statements.split(" | ")),
        tuple(questions.split(" | ")),
        key.endswith("*"),
    )


RELATIONS = tuple(
    _relation(*row)
    for row in (
        ("person.born_in*", "town", "humanities",
         "{S} was born in {v}. | {S} first saw the light in {v}. | The birthplace of {s} is {v}.",
         "Where was {s} born? | What is the birthplace of {s}?"),
        ("person.studied_in*", "town", "humanities",
         "{S} studied in {v}. | {S} went to school in {v}. | The school of {s} stood in {v}.",
         "Where did {s} study? | In which town did {s} go to school?"),
        ("person.works_in*", "town", "social",
         "{S} works in {v}. | {S} earns a living in {v}. | The work of {s} is in {v}.",
         "Where does {s} work? | In which town does {s} earn a living?"),
        ("person.teacher*", "person", "humanities",
         "{S} was taught by {v}. | {S} learned from {v}. | The teacher of {s} was {v}.",
         "Who taught {s}? | Who was the teacher of {s}?"),
        ("person.friend*", "person", "humanities",
         "{S} is a friend of {v}. | {S} trusts {v}. | The best friend of {s} is {v}.",
         "Who is the best friend of {s}? | Whom does {s} trust?"),
        ("person.rival*", "person", "humanities",
         "{S} is a rival of {v}. | {S} fears {v}. | The old rival of {s} is {v}.",
         "Who is the rival of {s}? | Whom does {s} fear?"),
        ("person.trade", "trade", "social",
         "{S} is a {v} by trade. | {S} makes a living as a {v}. | The trade of {s} is that of a {v}.",
         "What is the trade of {s}? | What does {s} do for a living?"),
        ("person.born_on", "year", "humanities",
         "{S} was born in the year {v}. | The year of birth of {s} is {v}.",
         "In which year was {s} born? | What is the year of birth of {s}?"),
        ("person.plays", "instrument", "humanities",
         "{S} plays the {v}. | {S} is known for playing the {v}.",
         "Which instrument does {s} play?"),
        ("person.pet", "pet", "other",
         "{S} keeps a {v}. | The pet of {s} is a {v}.",
         "Which pet does {s} keep? | What is the pet of {s}?"),
        ("person.dish", "dish", "other",
         "{S} likes {v} best. | The favourite dish of {s} is {v}.",
         "Which dish does {s} like best? | What is the favourite dish of {s}?"),
        ("town.region", "region", "social",
         "{S} lies in {v}. | {S} is a town of {v}.",
         "In which region does {s} lie?"),
        ("town.river", "river", "social",
         "{S} stands on the river {v}. | The river at {s} is the {v}.",
         "On which river does {s} stand? | Which river is at {s}?"),
        ("town.product", "product", "social",
         "{S} is famous for its {v}. | The makers of {s} sell {v}.",
         "What is {s} famous for? | What do the makers of {s} sell?"),
        ("town.founded", "year", "humanities",
         "{S} was founded in {v}. | The first houses of {s} date from {v}.",
         "When was {s} founded?"),
        ("town.festival", "month", "social",
         "{S} holds its festival in {v}. | The festival of {s} is in {v}.",
         "When is the festival of {s}? | In which month does {s} hold its festival?"),
        ("town.north*", "town", "social",
         "North of {s} lies {v}. | The road north from {s} leads to {v}.",
         "Which town lies north of {s}? | Where does the road north from {s} lead?"),
        ("town.south*", "town", "social",
         "South of {s} lies {v}. | The road south from {s} leads to {v}.",
         "Which town lies south of {s}? | Where does the road south from {s} lead?"),
        ("town.twin*", "town", "social",
         "{S} is twinned with {v}. | The twin town of {s} is {v}.",
         "What is the twin town of {s}? | Which town is {s} twinned with?"),
        ("town.market*", "town", "social",
         "{S} sells its goods in {v}. | The market of {s} is held in {v}.",
         "Where does {s} sell its goods? | Where is the market of {s} held?"),
        ("region.climate", "climate", "stem",
         "The weather in {s} is {v}. | {S} has weather that is {v}.", "What is the weather like in {s}?"),
        ("region.coin", "coin", "social",
         "People in {s} pay with the {v}. | The coin of {s} is the {v}.",
         "Which coin do people in {s} pay with?"),
        ("region.language", "language", "humanities",
         "People in {s} speak {v}. | The language of {s} is {v}.", "Which language do people in {s} speak?"),
        ("region.export", "export", "social",
         "{S} sells {v} abroad. | The chief export of {s} is {v}.", "What does {s} sell abroad?"),
        ("region.flag", "colour", "humanities",
         "The flag of {s} is {v}. | {S} flies a flag of {v}.", "What colour is the flag of {s}?"),
        ("animal.home", "habitat", "stem",
         "{S} lives in {v}. | The home of {s} is {v}.", "Where does {s} live? | What is the home of {s}?"),
        ("animal.food", "prey", "stem",
         "{S} eats {v}. | The food of {s} is {v}.", "What does {s} eat? | What is the food of {s}?"),
        ("animal.class", "class", "stem",
         "{S} is a kind of {v}. | {S} belongs with every other {v}.", "What kind of animal is {s}?"),
        ("animal.active", "time", "stem",
         "{S} goes out at {v}. | {S} is awake at {v}.", "When does {s} go out? | When is {s} awake?"),
        ("animal.young", "young", "stem",
         "The young of {s} is called {v}. | {S} was once {v}.", "What is the young of {s} called?"),
        ("plant.soil", "soil", "stem",
         "{S} grows best on {v}. | The right soil for {s} is {v}.", "What does {s} grow best on?"),
        ("plant.colour", "colour", "stem",
         "The ripe head of {s} is {v}. | {S} turns {v} when ripe.", "What colour does {s} turn when ripe?"),
        ("plant.season", "season", "stem",
         "{S} is gathered in {v}. | The season of {s} is {v}.",
         "When is {s} gathered? | What is the season of {s}?"),
        ("plant.use", "use", "other",
         "{S} is used for {v}. | People grow {s} for {v}.", "What is {s} used for?"),
        ("trade.place", "workplace", "other",
         "{S} works at {v}. | The place of {s} is {v}.", "Where does {s} work? | What is the place of {s}?"),
        ("trade.gear", "gear", "other",
         "{S} uses {v}. | The mark of {s} is {v}.", "What does {s} use? | What is the mark of {s}?"),
        ("trade.makes", "work", "other",
         "{S} is paid for {v}. | The work of {s} is {v}.",
         "What is {s} paid for? | What is the work of {s}?"),
        ("object.material", "material", "stem",
         "{S} is made of {v}. | The stuff of {s} is {v}.", "What is {s} made of?"),
        ("object.room", "room", "other",
         "{S} is kept in the {v}. | The right place for {s} is the {v}.",
         "Where is {s} kept? | What is the right place for {s}?"),
        ("event.year", "year", "humanities",
         "{S} took place in {v}. | The year of {s} was {v}.",
         "When did {s} take place? | What was the year of {s}?"),
        ("event.town", "town", "humanities",
         "{S} took place near {v}. | People remember {s} in {v}.", "Near which town did {s} take place?"),
        ("event.cause", "cause", "humanities",
         "{S} began with {v}. | The cause of {s} was {v}.",
         "What did {s} begin with? | What was the cause of {s}?"),
    )
)  # fmt: skip
BY_NAME = {(relation.kind, relation.name): relation for relation in RELATIONS}
CATEGORIES = ("humanities", "stem", "social", "other")
