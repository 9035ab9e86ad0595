"""The lint: each rule on a card that meets it and on one that does not, and the whole on cards labelled by hand."""

from pathlib import Path

import pytest

from sluicegate_study.deck.cards import Card, DeckFile, Head
from sluicegate_study.deck.collection import make_deck
from sluicegate_study.deck.lint import HINTS, MORE_THAN_ONE_STEP, check_wording, lint
from sluicegate_study.deck.symbols import find_names


def deck(*cards, **head):
    return make_deck("d", [DeckFile(Head(**head), cards)])


def rules(*cards, **head):
    return [(found.key, found.rule) for found in lint(deck(*cards, **head))]


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        ("two-questions", ("What is a monad? Why use it?", "x"), ("What is a monad?", "x")),
        (
            "compound-question",
            ("Who was Ada and when was she born?", "x"),
            ("Which mathematician, who was Byron's daughter, wrote it?", "x"),
        ),
        ("asks-for-a-set", ("List the noble gases", "x"), ("Which gas is in a listed lamp?", "x")),
        ("asks-for-an-account", ("Explain attention.", "x"), ("What does attention explain?", "x")),
        ("answer-is-a-list", ("x?", "Red, green and blue"), ("x?", "Paris, in France")),
        ("answer-is-a-list", ("x?", "- red\n- green\n- blue"), ("x?", "$f(a, b, c)$")),
        ("long-answer", ("x?", "word " * 16), ("x?", "word " * 15)),
        ("multi-sentence-answer", ("x?", "It is red. It is round."), ("x?", "J. S. Bach")),
        ("chained-answer", ("x?", "Rain fell, therefore it flooded, which led to war"), ("Why?", "Because it flooded")),
        ("yes/no", ("Is water wet?", "Yes"), ("Is water an acid or a base?", "Neither")),
        ("no-referent", ("When was it built?", "1889"), ("When was the tower built, and by its architect?", "1889")),
        ("answer-leaks", ("What is the Eiffel Tower in Paris?", "The Eiffel Tower"), ("What stands in Paris?", "The Eiffel Tower")),
    ],
)
def test_a_rule_meets_what_it_is_for(rule, bad, good):
    assert rule in [name for name, _ in check_wording(Card(*bad))]
    assert rule not in [name for name, _ in check_wording(Card(*good))]


def measured(file):
    rows = [line.split("\t") for line in (Path(__file__).parent / file).read_text(encoding="utf-8").splitlines()]
    flagged = [label for label, q, a in rows if any(rule in MORE_THAN_ONE_STEP for rule, _ in check_wording(Card(q, a)))]
    hits = flagged.count("more")
    return hits / len(flagged), hits / [row[0] for row in rows].count("more")


# The second file was written after the rules and has never been used to change them.
@pytest.mark.parametrize("file", ["labelled_cards.tsv", "labelled_cards_fresh.tsv"])
def test_precision_and_recall_on_labelled_cards(file):
    precision, recall = measured(file)
    assert precision >= 0.8
    assert recall >= 0.6


def test_symbols_of_a_formula():
    assert find_names("the softmax of $\\frac{q \\cdot k}{\\sqrt{d_k}}$") == ["q", "k", "d_k"]
    assert find_names("$\\sum_{i=1}^n x_i y_i$") == ["x", "y"]
    assert find_names("$Q K^T$ and $\\alpha_{ij}$ and $\\mathrm{softmax}(z)$") == ["Q", "K", "\\alpha", "softmax", "z"]
    assert find_names("five dollars: 5$ and a") == []
    assert find_names("keys and a Query; monkeys", ["key", "query"]) == ["key", "query"]


def test_more_than_one_new_symbol_is_more_than_one_step():
    dot = Card("How long is $q$?", "5", id="dot")
    score = Card("What is $s$, of $q$ and $k$?", "$q \\cdot k$", id="score", needs=("dot",))
    assert rules(dot, score) == [("score", "new-symbol")]
    key = Card("What does $k$ stand for?", "a key", id="key")
    assert rules(dot, key, Card(score.question, score.answer, id="score", needs=("dot", "key"))) == []
    assert rules(dot, score, known=("k",)) == []
    # An ancestor further up counts, a card that is no ancestor does not.
    middle = Card("Which is longer?", "neither", id="m", needs=("dot", "key"))
    assert rules(dot, key, middle, Card(score.question, score.answer, id="score", needs=("m",))) == []
    assert rules(dot, key, score) == [("score", "new-symbol")]


def test_terms_of_the_glossary_count_as_symbols():
    card = Card("What does a query match?", "a key", id="c")
    assert rules(card) == []
    assert rules(card, glossary=("query", "key")) == [("c", "new-symbol")]


def test_rules_on_the_whole_deck():
    shared = [Card(f"Who wrote number {n}?", "Bach", id=f"s{n}") for n in range(4)]
    assert rules(*shared) == [(f"s{n}", "answer-shared") for n in range(4)]
    assert rules(*shared[:3]) == []
    one = [Card("What is first?", "a", id="a", topic="t", angle="x"), Card("What is second?", "b", id="b", topic="t", angle="x")]
    assert rules(*one) == [("a", "one-angle")]
    assert rules(one[0], Card("What is second?", "b", id="b", topic="t", angle="y")) == []
    four = [Card(f"What is thing {n}?", f"w{n}", id=f"n{n}") for n in range(4)]
    assert rules(*four, Card("What now?", "z", id="z", needs=("n0", "n1", "n2", "n3"))) == [("z", "many-needs")]
    assert rules(Card("What is it called?", "$a = b c d$", id="f")) == [("f", "no-referent"), ("f", "new-symbol"), ("f", "unintroduced")]


def test_a_waived_rule_is_silent():
    assert rules(Card("Is water wet?", "Very", id="w", allow=("yes/no",))) == []
    assert rules(Card("Is water wet?", "Very", id="w")) == [("w", "yes/no")]


def test_every_rule_has_a_hint_and_a_finding_says_it():
    assert set(MORE_THAN_ONE_STEP) < set(HINTS)
    found = lint(deck(Card("Is water wet?", "Very", id="w", path="x.md", line=3)))[0]
    assert str(found).startswith("x.md:3: yes/no: ")
    assert found.hint in str(found)
    assert not found.more_than_one_step
