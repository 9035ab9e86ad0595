from collections import Counter
from itertools import pairwise

import pytest

from sluicegate.engine.models import load, load_tokenizer
from sluicegate.errors import UserError
from sluicegate.tasks import read
from sluicegate_papers.tasks.biographies import CITIES, CLAUSES, FIRST, LAST, VALUES, biographies, people, tokenizer, vocabulary
from sluicegate_study.deck.graph import Graph


@pytest.fixture(scope="module")
def split():
    return biographies().split()


def said(item):
    """What a row says of whom, read from its words alone: (name, attribute, value), or a riddle's values."""
    words = item.text.split()
    names = [f"{a} {b}" for a, b in pairwise(words) if a in FIRST and b in LAST]
    values = {attribute: value for attribute, known in VALUES.items() for value in known if value in words}
    return names, values


def test_every_row_is_true(split):
    known = {p.name: p for p in people()}
    for item in split.forget + split.retain + split.unlabelled:
        names, values = said(item)
        if names:
            [name] = names
            assert values
            assert all(known[name].values[a] == v for a, v in values.items()), item
        elif item.fact:
            assert values["city"] in CITIES[values["country"]]


def test_people_differ_and_values_are_even():
    everybody = people()
    assert len({p.name for p in everybody}) == len({p.key for p in everybody}) == 72
    assert sum(p.forgotten for p in everybody) == 24
    for attribute in ("job", "city", "year", "pet"):
        assert set(Counter(p.values[attribute] for p in everybody).values()) == {6}
    assert len({tuple(p.values.values()) for p in everybody}) == 72


def test_a_name_gives_no_side_away():
    for place in (0, 1):
        sides = Counter((p.name.split()[place], p.forgotten) for p in people())
        assert all(sides[name, True] == 2 and sides[name, False] == 4 for name in (FIRST, LAST)[place])


def test_the_sides_share_no_row_and_no_person(split):
    assert not {i.text for i in split.forget} & {i.text for i in split.retain}
    assert {i.fact for i in split.forget} == {p.key for p in people() if p.forgotten}
    assert not {i.fact for i in split.forget} & {i.fact for i in split.retain}


def test_the_fourth_phrasing_is_never_shown_of_some(split):
    """Neither in the groups nor in the pool, of the people to be forgotten and of half of the others."""
    for item in split.forget + split.retain + split.unlabelled:
        names, _ = said(item)
        if names and any(word in item.text.split() for word in ("trade", "meet", "saw", "beside", "votes")):
            [person] = [p for p in people() if p.name == names[0]]
            assert "d" in person.angles
            assert not person.forgotten
    shown = Counter(p.angles for p in people() if not p.forgotten)
    assert set(shown) == {"abc", "abcd"}
    assert len(biographies().angle("d")) == 24 * 5


@pytest.mark.parametrize("count", [2, 6, 12, 24, 48])
def test_more_or_fewer_people_are_forgotten(split, count):
    """The rows are the same for every count, and so is the pool: only the sides differ."""
    task = biographies(count=count)
    other = task.split()
    assert {p.key for p in task.lost()} == {i.fact for i in other.forget}
    assert len(task.lost()) == count
    assert not {i.fact for i in other.forget} & {i.fact for i in other.retain}
    assert Counter(other.forget + other.retain) == Counter(split.forget + split.retain)
    assert other.unlabelled == split.unlabelled
    assert all(p.angles == "abc" for p in task.lost())  # phrasing d stays an angle that was never shown of them


def test_fewer_are_among_more_and_a_third_is_the_usual():
    sizes = [{p.number for p in biographies(count=count).lost()} for count in (2, 6, 12, 24, 48)]
    assert all(one < other for one, other in pairwise(sizes))
    assert sizes[3] == {p.number for p in people() if p.forgotten}


def test_six_share_names_with_some_and_not_with_others():
    taken = {name for p in biographies(count=6).lost() for name in p.name.split()}
    shares = Counter(bool(set(p.name.split()) & taken) for p in people() if p not in biographies(count=6).lost())
    assert min(shares.values()) > 20


def test_forgetting_the_city_leaves_what_rests_on_it_aside():
    whole = biographies("city").split()
    assert {i.label for i in whole.forget} == {"city"}
    assert {i.label for i in whole.adjacent} == {"country"}
    assert len(whole.forget) == len(whole.adjacent) == 24 * 3
    lost = {p.key: p for p in people() if p.forgotten}
    for item in whole.retain:
        if item.fact in lost:
            person = lost[item.fact]
            assert person.values["city"] not in item.text.split()
            assert person.values["country"] not in item.text.split()


def test_seeds_draw_riddles_and_the_pool_but_not_the_world():
    one, same, other = (biographies(pool=200).split(seed) for seed in (0, 0, 1))
    assert one == same
    assert one.unlabelled != other.unlabelled
    facts = [{i for i in s.forget if i.label != "riddle"} for s in (one, other)]
    assert facts[0] == facts[1]
    assert one.forget != other.forget


def test_the_pool_holds_everybody_equally_and_no_labels(split):
    counts = Counter(name for item in split.unlabelled for name in said(item)[0])
    assert len(counts) == 72
    assert max(counts.values()) - min(counts.values()) <= 1
    assert {item.label for item in split.unlabelled} == {""}


def test_the_packaged_tokenizer_is_the_tasks():
    packaged, made = load_tokenizer("biographies-tiny"), tokenizer()
    assert packaged.get_vocab() == made.get_vocab()
    model, _ = load("biographies-tiny")
    assert model.config.vocab_size == len(vocabulary())


def test_every_row_and_answer_is_in_the_vocabulary_and_fits(split):
    known = set(vocabulary())
    rows = (*split.forget, *split.retain, *split.unlabelled, *biographies().text(), *biographies().angle("d"))
    assert all(set(item.text.split()) <= known for item in rows)
    model, _ = load("biographies-tiny")
    assert max(len(item.text.split()) for item in rows) + 1 <= model.config.max_position_embeddings


def test_the_deck_asks_the_same_facts():
    deck = biographies().deck()
    assert len(deck.tossups) == 72
    assert len({c.key for c in deck.cards}) == len(deck.cards) == 12 + 72 * 5 * 4
    assert Counter(t.category for t in deck.tossups) == {"forget": 24, "retain": 48}
    assert Graph(deck.cards).problems == []
    assert {len(t.clues) for t in deck.tossups} == {len(CLAUSES)}
    by_key = {p.key: p for p in people()}
    for tossup in deck.tossups:
        assert all(by_key[tossup.key].values[a] in clue for a, clue in zip(CLAUSES, tossup.clues, strict=True))
    country = next(c for c in deck.cards if c.topic == "country" and c.angle == "a")
    assert country.needs[0].endswith("-city-a")
    assert country.needs[1].startswith("lies-")


def test_the_names_that_stand_for_files():
    assert read("task:biographies/forget") == biographies().split().forget
    assert read("task:biographies-6/forget") == biographies(count=6).split().forget
    assert read("task:biographies-48/retain") == biographies(count=48).split().retain
    assert read("task:biographies-city/adjacent") == biographies("city").split().adjacent
    assert {i.text for i in read("task:biographies/angle-a")} <= {i.text for i in read("task:biographies/forget")}
    assert all(not item.prompt for item in read("task:biographies/text"))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"of": "pets"}, "people or city"), ({"riddles": -1}, "riddles"), ({"pool": -1}, "pool"), ({"count": 49}, "2 to 48")],
)
def test_mistakes(options, said):
    with pytest.raises(UserError, match=said):
        biographies(**options)
    with pytest.raises(UserError, match="a, b, c and d"):
        biographies().angle("e")
