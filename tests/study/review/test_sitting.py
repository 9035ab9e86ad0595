"""What is asked when, and that a sitting keeps in step with its log."""

from datetime import UTC, datetime, timedelta

import pytest

from sluicegate_study.deck.cards import Card, DeckFile
from sluicegate_study.deck.collection import make_deck
from sluicegate_study.deck.log import Event, append, read_log
from sluicegate_study.deck.shipped import find_log
from sluicegate_study.errors import UserError
from sluicegate_study.review.sitting import Sitting

START = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def deck(**needs):
    cards = [Card(f"What is {key}?", f"It is {key}", id=key, needs=tuple(value.split())) for key, value in needs.items()]
    return make_deck("d", [DeckFile(entries=tuple(cards))])


def sit(tmp_path, of, **options):
    return Sitting(of, tmp_path / "log.jsonl", "person:ada", **options)


def ask(sitting, now, grade):
    asked = sitting.next(now)
    if asked is None:
        return None
    sitting.answer(asked.question, grade, now)
    return asked.question.key, asked.reason


def test_a_card_is_introduced_when_what_it_needs_is_known(tmp_path):
    sitting = sit(tmp_path, deck(c="b", b="a", a=""))
    now = START
    assert ask(sitting, now, 1) == ("a", "new")
    # Not known yet: nothing else is new, and a comes again although it is not due.
    assert ask(sitting, now, 3) == ("a", "soon")
    assert ask(sitting, now, 3) == ("b", "new")
    assert ask(sitting, now, 4) == ("c", "new")


def test_a_card_whose_needs_are_forgotten_waits(tmp_path):
    sitting = sit(tmp_path, deck(a="", b="a"))
    append(tmp_path / "log.jsonl", [Event(START, "person:ada", "a", "card", {"grade": 3})])
    assert sitting.next(START + timedelta(seconds=1)).question.key == "b"
    late = START + 200 * DAY
    assert not sitting.queue.introducible("b", late)
    assert sitting.next(late).question.key == "a"


def test_the_weakest_ancestor_is_asked_once_after_a_lapse(tmp_path):
    of = deck(a="", b="", c="a b", d="c")
    past = [Event(START + n * DAY, "person:ada", key, "card", {"grade": 4}) for n, key in enumerate("bacd")]
    append(tmp_path / "log.jsonl", past)
    sitting = sit(tmp_path, of, new=0)
    now = START + 30 * DAY
    weakest = min("abc", key=lambda key: sitting.queue.memory.recall(key, now))
    assert weakest == "b"
    question = sitting.queue.questions["d"]
    sitting.answer(question, 1, now)
    asked = sitting.next(now)
    assert (asked.question.key, asked.reason) == ("b", "ancestor")
    sitting.answer(asked.question, 3, now)
    assert sitting.next(now) is None or sitting.next(now).reason != "ancestor"
    # No lapse, no ancestor.
    sitting.answer(sitting.queue.questions["c"], 2, now)
    assert sitting.queue.pending == []


def test_at_most_so_many_new_ones_a_day(tmp_path):
    sitting = sit(tmp_path, deck(a="", b="", c=""), new=2)
    now = datetime(2026, 11, 22, 12).astimezone()
    assert [ask(sitting, now, 4) for _ in range(3)] == [("a", "new"), ("b", "new"), None]
    assert ask(sitting, now + DAY, 4) == ("c", "new")


def test_deletions_of_one_text_are_introduced_in_turn(tmp_path):
    of = make_deck("d", [DeckFile(entries=(Card("[one] and [two]", id="x", kind="cloze"), Card("Q?", "A", id="y", needs=("x",))))])
    sitting = sit(tmp_path, of)
    assert [ask(sitting, START, 4)[0] for _ in range(3)] == ["x", "x#2", "y"]


def test_the_log_is_the_truth(tmp_path):
    of = deck(a="", b="", c="")
    sitting = sit(tmp_path, of)
    for _ in range(8):
        ask(sitting, START, 3)
    again = sit(tmp_path, of)
    assert {k: vars(v) for k, v in again.queue.memory.states.items()} == {k: vars(v) for k, v in sitting.queue.memory.states.items()}
    assert sum(e.kind == "seen" for e in read_log(tmp_path / "log.jsonl").events) == 3


def test_two_sittings_at_once_see_each_other(tmp_path):
    of = deck(a="", b="")
    one, other = sit(tmp_path, of), sit(tmp_path, of)
    assert ask(one, START, 4) == ("a", "new")
    assert ask(other, START, 4) == ("b", "new")
    assert one.next(START) is None


def test_a_suspended_card_is_not_asked_and_holds_up_nobody(tmp_path):
    sitting = sit(tmp_path, deck(a="", b="a"))
    sitting.suspend(sitting.next(START).question, START)
    assert ask(sitting, START, 4) == ("b", "new")
    assert sit(tmp_path, deck(a="", b="a")).next(START + DAY) is None


def test_an_edited_card_goes_on(tmp_path):
    def of(text):
        return make_deck("d", [DeckFile(entries=(Card(text, "The variance of a score"),))])

    sitting = sit(tmp_path, of("What does dividing by the root keep in cheque?"))
    ask(sitting, START, 4)
    edited = sit(tmp_path, of("What does dividing by the root keep in check?"))
    (link,) = edited.relink(START)
    assert edited.next(START) is None
    assert edited.unlink(link.new, START) == [link.old]
    assert edited.next(START).reason == "new"
    assert edited.relink(START) == []
    with pytest.raises(UserError, match="nothing is linked"):
        edited.unlink("x", START)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="--new"):
        sit(tmp_path, deck(a=""), new=-1)
    with pytest.raises(UserError, match="no name"):
        Sitting(deck(a=""), tmp_path / "x", " ")
    sitting = sit(tmp_path, deck(a=""))
    with pytest.raises(UserError, match="grade"):
        sitting.answer(sitting.next(START).question, 5, START)
    assert not (tmp_path / "log.jsonl").exists()


def test_the_log_lies_with_the_deck(tmp_path):
    assert find_log(tmp_path) == find_log(tmp_path / "x.md") == tmp_path / "log.jsonl"
