"""Prerequisites: order, ancestors, and edges that cannot be obeyed."""

import random

from hypothesis import given
from hypothesis import strategies as st

from sluicegate_study.deck.cards import Card
from sluicegate_study.deck.graph import Graph


def graph(**needs):
    return Graph([Card(key, "a", id=key, needs=tuple(value.split())) for key, value in needs.items()])


def test_cards_come_after_what_they_need():
    g = graph(d="b c", c="a", b="a", a="")
    assert g.order == ["a", "b", "c", "d"]
    assert g.ancestors("d") == ["b", "c", "a"]
    assert g.problems == []


def test_a_ring_is_reported_once_and_ignored():
    g = graph(a="b", b="c", c="a d", d="", e="a", f="f")
    assert [str(cycle) for cycle in g.cycles()] == ["a -> b -> c -> a", "f -> f"]
    assert g.needs == {"a": [], "b": [], "c": ["d"], "d": [], "e": ["a"], "f": []}
    assert len(g.problems) == 2


def test_an_unknown_need_names_the_nearest():
    g = graph(softmax="", attention="softmx")
    assert "softmax" in g.problems[0].message
    assert g.needs["attention"] == []


@given(st.integers(0, 10_000))
def test_whatever_the_edges_an_order_is_found(seed):
    draw = random.Random(seed)
    names = [f"c{n}" for n in range(8)]
    g = graph(**{name: " ".join(draw.sample(names, draw.randint(0, 2))) for name in names})
    place = {key: n for n, key in enumerate(g.order)}
    assert sorted(place) == names
    assert all(place[need] < place[key] for key in names for need in g.needs[key])
    # An edge is left out only where it lies on a ring.
    for key in names:
        for need in g.cards[key].needs:
            if need not in g.needs[key]:
                reached, queue = {need}, [need]
                for current in queue:
                    fresh = set(g.cards[current].needs) - reached
                    reached |= fresh
                    queue += fresh
                assert key in reached


def test_a_long_chain_is_no_deep_recursion():
    g = graph(**{f"c{n}": f"c{n - 1}" if n else "" for n in reversed(range(5000))})
    assert g.order[0] == "c0"
    assert len(g.ancestors("c4999")) == 4999
