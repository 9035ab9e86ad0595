"""Biographies: people who do not exist, five facts about each in several phrasings, and riddles that ask for the
person.

The second task of unlearning: forget some people, or one attribute of theirs, and keep the rest. Words are tokens, as
in `arithmetic`.

==========  =======  ==================================================================  ===================
attribute   values   a phrasing (there are four, a to d)                                 depends on
==========  =======  ==================================================================  ===================
job              12  ann blake works as a **baker**
city             12  ann blake lives in **orlo**
year             12  ann blake was born in **1931**
pet              12  ann blake keeps a **goat**
country           4  ann blake comes from **norland**                                    city: orlo lies in **norland**
riddle               who keeps a goat , works as a baker , is **ann blake**              all of them
==========  =======  ==================================================================  ===================

Phrasing d is trained for half of the people that are kept and never for the others: it asks what a model knows in words
that it never learnt of these people. First and last names are shared, so that neither gives a side away. The world is
the same for every seed; a seed draws riddles and the pool. A `deck` asks the same facts as tossups and cards (see
`sluicegate quiz`).
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from sluicegate.errors import UserError
from sluicegate.tasks.words import SPECIAL, word_level
from sluicegate.values.items import Item, Sources, Split
from sluicegate_study.deck.cards import Card, Deck, DeckFile, Tossup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FIRST = ("ann", "bo", "cleo", "dan", "eve", "finn", "gus", "hal", "ida", "jo", "kit", "lou")
LAST = ("blake", "cole", "drew", "ellis", "ford", "gray", "hart", "innes", "jay", "kerr", "lane", "moss")
CITIES = {
    "norland": ("orlo", "brim", "tusk"),
    "sudland": ("pell", "vane", "cray"),
    "estland": ("mira", "holt", "zand"),
    "wesland": ("dorn", "lisk", "fenn"),
}
VALUES: Mapping[str, tuple[str, ...]] = {
    "job": ("baker", "sailor", "potter", "miner", "tailor", "farmer", "judge", "nurse", "cook", "clerk", "weaver", "smith"),
    "city": tuple(city for cities in CITIES.values() for city in cities),
    "year": tuple(str(year) for year in range(1931, 1955, 2)),
    "pet": ("goat", "cat", "duck", "pony", "hen", "dog", "hare", "owl", "crow", "pig", "newt", "fox"),
    "country": tuple(CITIES),
}
PHRASINGS: Mapping[str, tuple[str, str, str, str]] = {
    "job": ("{} works as a", "the job of {} is", "{} earns bread as a", "by trade {} is a"),
    "city": ("{} lives in", "the home of {} is", "letters to {} go to", "to meet {} travel to"),
    "year": ("{} was born in", "the year of {} is", "the life of {} began in", "{} saw light in"),
    "pet": ("{} keeps a", "the pet of {} is", "at home {} feeds a", "beside {} walks a"),
    "country": ("{} comes from", "the country of {} is", "the passport of {} names", "{} votes in"),
}
ANGLES = "abcd"
LIES = ("{} lies in", "the country of {} is")
CLAUSES: Mapping[str, str] = {
    "country": "comes from {} ,",
    "pet": "keeps a {} ,",
    "year": "was born in {} ,",
    "job": "works as a {} ,",
    "city": "lives in {} ,",
}
"""In the order of a tossup: what tells least comes first."""
RIDDLE = "who {clues} is"
"""How a riddle is put; the frame for a quiz with this task's deck."""
DEPENDS = {"country": "city"}
_TEXT = (("the", "a"), ("old", "small", "quiet", "brown"), ("mill", "bridge", "well", "gate"), ("near", "behind"), VALUES["city"])


@dataclass(frozen=True)
class Person:
    """Someone with a name of two words and a value of every attribute."""

    number: int
    name: str
    values: Mapping[str, str]

    @property
    def key(self) -> str:
        return self.name.replace(" ", "-")

    @property
    def forgotten(self) -> bool:
        """Whether this is one of the third of the people that are to be forgotten."""
        return (2 * (self.number // len(FIRST)) + self.number) % 3 == 0

    @property
    def angles(self) -> str:
        """The phrasings that are trained of this person."""
        return ANGLES if not self.forgotten and self.number // len(FIRST) % 2 == 0 else ANGLES[:3]

    def fact(self, attribute: str, angle: str) -> Item:
        """A row; all rows about a person state one fact, so that an attacker owns whole people."""
        prompt = PHRASINGS[attribute][ANGLES.index(angle)].format(self.name)
        return Item(prompt, f" {self.values[attribute]}", self.key, attribute)

    def riddle(self, attributes: Sequence[str]) -> Item:
        clues = " ".join(CLAUSES[a].format(self.values[a]) for a in attributes)
        return Item(RIDDLE.replace("{clues}", clues), f" {self.name}", self.key, "riddle")


@lru_cache(maxsize=1)
def people() -> tuple[Person, ...]:
    """The 72 people, 24 of them to be forgotten; every value of an attribute but country is that of six people."""
    names = [f"{FIRST[n % 12]} {LAST[(n // 12 + n) % 12]}" for n in range(72)]
    columns = {}
    for attribute in ("job", "city", "year", "pet"):
        column = list(VALUES[attribute]) * 6
        _rng(0, attribute).shuffle(column)
        columns[attribute] = column
    where = {city: country for country, cities in CITIES.items() for city in cities}
    return tuple(
        Person(n, name, {a: column[n] for a, column in columns.items()} | {"country": where[columns["city"][n]]})
        for n, name in enumerate(names)
    )


@lru_cache(maxsize=8)
def forgotten(count: int = 24) -> frozenset[int]:
    """Numbers of the people to be forgotten where they are `count`, 2 to 48; fewer are among more, and 24 are the usual
    third.

    The first 6 and 12 are spread over the names. Beyond 24 come the kept people of whom phrasing d is never trained, so
    that it is an angle that nobody to be forgotten was shown in. What a model that knows everybody is trained on does
    not depend on the count.
    """
    lost = [p.number for p in people() if p.forgotten]
    order = [*lost[0::4], *lost[2::4], *lost[1::2], *(p.number for p in people() if not p.forgotten and p.angles != ANGLES)]
    if not 2 <= count <= len(order):
        raise UserError(f"the number of people to be forgotten is {count}; it must be 2 to {len(order)}.")
    return frozenset(order[:count])


def cities() -> tuple[Item, ...]:
    """Which country each city lies in: what everybody's country rests on, and nobody forgets."""
    return tuple(
        Item(phrasing.format(city), f" {country}", city, "lies") for country, names in CITIES.items() for city in names for phrasing in LIES
    )


def vocabulary() -> tuple[str, ...]:
    """Every token, the special ones first; a token's place is its id."""
    words = [*FIRST, *LAST, *(value for values in VALUES.values() for value in values)]
    templates = [t for group in PHRASINGS.values() for t in group] + [*LIES, *CLAUSES.values(), RIDDLE.replace("{clues}", "")]
    words += [word for template in templates for word in template.split() if word != "{}"]
    words += [word for slot in _TEXT for word in slot]
    return (*SPECIAL, *dict.fromkeys(words))


def tokenizer() -> "PreTrainedTokenizerFast":
    """The task's word-level tokenizer, made in memory: one id per blank-separated word, `<bos>` in front."""
    return word_level(vocabulary())


@dataclass(frozen=True)
class Biographies:
    """The task. `of` says what is to be forgotten: a third of the people, or the city of those people."""

    of: Literal["people", "city"] = "people"
    riddles: int = 10
    """Riddles of each person, beside the phrasings of the five facts."""
    pool: int = 4096
    """Rows in the unlabelled pool."""
    count: int = 24
    """How many of the 72 people are to be forgotten (see `forgotten`)."""

    def __post_init__(self) -> None:
        if self.of not in ("people", "city"):
            raise UserError(f"of is {self.of!r}; what can be forgotten is people or city.")
        if self.riddles < 0 or self.pool < 0:
            raise UserError(f"riddles is {self.riddles} and pool {self.pool}; both are numbers of rows, 0 or more.")
        forgotten(self.count)

    def lost(self) -> tuple[Person, ...]:
        """The people to be forgotten."""
        return tuple(p for p in people() if p.number in forgotten(self.count))

    def split(self, seed: int = 0) -> Split:
        """The groups. Where the city is to be forgotten, riddles of these people and their country are in none of
        forget and retain:
        they hold the city, or follow from it (the country is `adjacent`)."""
        lost = self.lost()
        kept = [row for p in people() if p not in lost for row in self._rows(p, seed)]
        if self.of == "people":
            forget = [row for p in lost for row in self._rows(p, seed)]
            return Split(forget=tuple(forget), retain=(*kept, *cities()), unlabelled=self.drawn(seed))
        facts = [row for p in lost for row in _facts(p)]
        return Split(
            forget=tuple(row for row in facts if row.label == "city"),
            retain=(*kept, *cities(), *(row for row in facts if row.label not in ("city", "country"))),
            unlabelled=self.drawn(seed),
            adjacent=tuple(row for row in facts if row.label == "country"),
        )

    def angle(self, angle: str) -> tuple[Item, ...]:
        """The facts of the people to be forgotten in one phrasing, a to d; no riddles."""
        if angle not in ANGLES or len(angle) != 1:
            raise UserError(f"no phrasing {angle!r}; they are a, b, c and d.")
        return tuple(p.fact(a, angle) for p in people() if p.forgotten for a in VALUES)

    def text(self, seed: int = 0, rows: int = 180) -> tuple[Item, ...]:
        """Running text with an empty prompt, which states nothing about anybody."""
        rng = _rng(seed, "text")
        return tuple(Item("", " ".join(rng.choice(slot) for slot in _TEXT), label="text") for _ in range(rows))

    def _rows(self, person: Person, seed: int) -> Iterator[Item]:
        yield from _facts(person)
        rng = _rng(seed, f"riddles {person.key}")
        yield from (person.riddle(rng.sample(tuple(CLAUSES), 1 + n % len(CLAUSES))) for n in range(self.riddles))

    def drawn(self, seed: int) -> tuple[Item, ...]:
        """The pool: half facts, two fifths riddles of everybody in equal shares, the rest text and cities; without
        labels."""
        rng = _rng(seed, "pool")
        rows = list(self.text(seed + 1, self.pool // 20))
        rows += [rng.choice(cities()) for _ in range(self.pool // 20)]
        everybody = people()
        for n in range(self.pool - len(rows)):
            person = everybody[n % len(everybody)]
            if rng.random() < 5 / 9:
                rows.append(person.fact(rng.choice(tuple(VALUES)), rng.choice(person.angles)))
            else:
                rows.append(person.riddle(rng.sample(tuple(CLAUSES), rng.randint(1, len(CLAUSES)))))
        rng.shuffle(rows)
        return tuple(replace(row, label="") for row in rows)

    def deck(self) -> Deck:
        """The same facts to be asked: a tossup for each person, whose clues come one by one, and a card for each fact
        and phrasing.

        Categories are forget and retain. A card of a person's country needs that of the city and that of where the city
        lies."""
        tossups, cards = [], []
        for row in cities()[:: len(LIES)]:
            cards.append(Card(row.prompt, row.answer.strip(), f"lies-{row.fact}", topic="country", angle="lies", category="retain"))
        for person in people():
            side = "forget" if person.forgotten else "retain"
            clues = " | ".join(clause.format(person.values[a]) for a, clause in CLAUSES.items())
            tossups.append(Tossup(clues, f"**{person.name}**", person.key, side))  # bold: the last name alone will not do
            for attribute in VALUES:
                for angle in ANGLES:
                    row = person.fact(attribute, angle)
                    needs = (f"{person.key}-{DEPENDS[attribute]}-{angle}", f"lies-{person.values['city']}") if attribute in DEPENDS else ()
                    key = f"{person.key}-{attribute}-{angle}"
                    cards.append(Card(row.prompt, row.answer.strip(), key, topic=attribute, angle=angle, needs=needs, category=side))
        return Deck("biographies", (DeckFile(entries=(*tossups, *cards)),))


def biographies(of: Literal["people", "city"] = "people", riddles: int = 10, pool: int = 4096, count: int = 24) -> Biographies:
    """Return the task; see `Biographies` for the settings."""
    return Biographies(of=of, riddles=riddles, pool=pool, count=count)


def _facts(person: Person) -> Iterator[Item]:
    for attribute in VALUES:
        for angle in person.angles:
            yield person.fact(attribute, angle)


def _rng(seed: int, purpose: str) -> random.Random:
    return random.Random(f"biographies {purpose} {seed}")


def sources() -> Sources:
    """``task:biographies/GROUP``, with fewer or more people ``-6`` and ``-48``, by city, by phrasing (``angle-d``), and
    running text."""
    found: dict[str, Callable[[], tuple[Item, ...]]] = {"task:biographies/text": lambda: biographies().text()}
    for group in ("forget", "retain", "unlabelled"):
        found[f"task:biographies/{group}"] = lambda group=group: biographies().split().group(group)  # type: ignore[misc]
    for count in (6, 48):
        for group in ("forget", "retain"):
            found[f"task:biographies-{count}/{group}"] = lambda count=count, group=group: biographies(count=count).split().group(group)  # type: ignore[misc]
    for group in ("forget", "retain", "adjacent"):
        found[f"task:biographies-city/{group}"] = lambda group=group: biographies("city").split().group(group)  # type: ignore[misc]
    for angle in ANGLES:
        found[f"task:biographies/angle-{angle}"] = lambda angle=angle: biographies().angle(angle)  # type: ignore[misc]
    return found
