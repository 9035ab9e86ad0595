"""The decks that come with the package: found by name, whole, without a finding, and fair."""

import json
import re
from collections import Counter, defaultdict
from itertools import permutations
from pathlib import Path

import pytest

from sluicegate_study.app import main
from sluicegate_study.deck import shipped
from sluicegate_study.deck.collection import load_deck
from sluicegate_study.deck.graph import Graph
from sluicegate_study.deck.lint import lint
from sluicegate_study.errors import UserError
from sluicegate_study.judge.answerline import BOLD, read_answer_line
from sluicegate_study.judge.judging import judge, judge_card
from sluicegate_study.judge.spelling import normalize_words, same_word
from sluicegate_study.review.sitting import Sitting

ATTENTION, TOSSUPS = load_deck("attention"), load_deck("tossups")
LINES = [(tossup.key, tossup.answer) for tossup in TOSSUPS.tossups] + [
    (f"{bonus.key}, {part.level}", part.answer) for bonus in TOSSUPS.bonuses for part in bonus.parts
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A working folder without decks, and a home of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


def required(answer):
    """The words of an answer line's main answer that are required."""
    text = read_answer_line(answer).answers[0].text
    return [word for part in (BOLD.findall(text) or [text]) for word in normalize_words(part)]


# ------------------------------------------------------------------------------------------- where they are


def test_names_and_paths():
    assert shipped.list_decks() == ["attention", "tossups"]
    assert all(shipped.path(name).is_dir() for name in shipped.list_decks())
    with pytest.raises(UserError, match=r"expected one of .*tossups"):
        shipped.path("tosups")


def test_what_is_in_the_working_folder_goes_first(elsewhere):
    assert shipped.find_deck("attention") == shipped.path("attention")
    assert shipped.find_deck("elsewhere") == Path("elsewhere")
    (elsewhere / "attention").mkdir()
    assert shipped.find_deck("attention") == Path("attention")
    (elsewhere / "attention" / "own.md").write_text("Q: own?\nA: yes, own\n")
    assert len(load_deck("attention").cards) == 1
    assert shipped.find_log("attention") == Path("attention/log.jsonl")


def test_their_log_is_the_users(elsewhere, monkeypatch):
    own = elsewhere / "data" / "sluicegate" / "decks" / "attention" / "log.jsonl"
    assert shipped.find_log("attention") == shipped.find_log(shipped.path("attention")) == own
    assert shipped.find_log(shipped.path("attention") / "1-scores.md") == own
    monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(elsewhere))
    assert shipped.find_log("tossups") == elsewhere / ".local/share/sluicegate/decks/tossups/log.jsonl"


def test_an_unknown_deck_names_those_that_ship(capsys):
    assert main(["deck", "check", "atention"]) == 2
    assert "attention, tossups" in " ".join(capsys.readouterr().err.split())


def test_review_of_a_shipped_deck(elsewhere, monkeypatch, capsys):
    import io

    before = sorted(shipped.path("attention").iterdir())
    monkeypatch.setattr("sys.stdin", io.StringIO("multiply and add\n3\nq\n"))
    assert main(["deck", "review", "attention", "--learner", "person:t", "--json"]) == 0
    log = Path(json.loads(capsys.readouterr().out.splitlines()[-1])["log"])
    assert log == shipped.find_log("attention")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["kind"] for event in events] == ["seen", "card"]
    assert events[0]["file"] == "1-scores.md"  # not where this machine keeps the package
    assert sorted(shipped.path("attention").iterdir()) == before
    assert main(["deck", "stats", "attention", "--learner", "person:t", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["progress"]["reviewed"] == 1


def test_a_log_tells_files_from_the_decks_folder_however_it_is_named(elsewhere):
    assert Sitting(ATTENTION, elsewhere / "l", "person:t", root="attention").root == str(shipped.path("attention"))


# ------------------------------------------------------------------------------------------- what they hold


@pytest.mark.parametrize("deck", [ATTENTION, TOSSUPS], ids=lambda deck: deck.name)
def test_whole_and_without_a_finding(deck, capsys):
    assert deck.problems == ()
    assert [str(finding) for finding in lint(deck)] == []
    assert {(file.head.deck, file.head.license) for file in deck.files} == {(deck.name, "MIT")}
    assert all(file.head.source for file in deck.files)
    assert main(["deck", "check", deck.name]) == 0


def test_waivers_are_few_and_say_why():
    waived = [card for deck in (ATTENTION, TOSSUPS) for card in deck.cards if card.allow]
    assert len(waived) <= 1
    assert all("waiver" in card.why for card in waived)


def test_attention_builds_up_from_few_roots():
    graph = Graph(ATTENTION.cards)
    assert len(ATTENTION.cards) >= 40
    assert all(card.id and card.topic and card.angle for card in ATTENTION.cards)
    assert graph.cycles() == []
    roots = {key for key in graph.cards if not graph.needs[key]}
    assert len(roots) <= 4
    # Connected: every card leads to a root by its needs, and the roots' groups hang together.
    groups = [{key} | set(graph.ancestors(key)) for key in graph.cards]
    reached = {"dot-rule"}
    while more := [group for group in groups if group & reached and not group <= reached]:
        reached.update(*more)
    assert reached == set(graph.cards)
    assert {"dot-rule", "softmax-exp", "query", "mask"} <= set(graph.ancestors("cache-mask"))
    assert {"variance-dot", "softmax-scale"} <= set(graph.ancestors("scale-failure"))
    angles = defaultdict(set)
    for card in ATTENTION.cards:
        angles[card.topic].add(card.angle)
    assert len(angles) >= 12
    assert min(map(len, angles.values())) >= 2


@pytest.mark.parametrize("deck", [ATTENTION, TOSSUPS], ids=lambda deck: deck.name)
def test_cards_accept_their_own_answers_and_no_others_of_their_topic(deck):
    answers = {q.key: q.answer.replace("**", "").replace("$", "") for q in deck.questions()}
    for question in deck.questions():
        accepted = read_answer_line(f"x [accept {question.card.accept}]").answers[1:] if question.card.accept else ()
        for given in [answers[question.key], *(answer.plain for answer in accepted)]:
            assert judge_card(question, given).ruling == "accept", (question.key, given)
    for one, other in permutations(deck.questions(), 2):
        alike = any(same_word(a, b) for a in normalize_words(answers[one.key]) for b in normalize_words(answers[other.key]))
        if one.card.topic == other.card.topic and not alike:
            assert judge_card(one, answers[other.key]).ruling != "accept", (one.key, answers[other.key])


def test_how_many():
    of = Counter(TOSSUPS.head_of(tossup).category for tossup in TOSSUPS.tossups)
    assert len(TOSSUPS.tossups) >= 64
    assert len(of) >= 8
    assert set(of.values()) == {8}
    assert len(TOSSUPS.bonuses) >= 24
    for bonus in TOSSUPS.bonuses:
        assert [(part.value, part.level) for part in bonus.parts] == [(10, "e"), (10, "m"), (10, "h")]
        assert bonus.category
    assert all(entry.id for entry in TOSSUPS.entries)


@pytest.mark.parametrize("tossup", TOSSUPS.tossups, ids=lambda tossup: tossup.key)
def test_a_tossup_is_a_pyramid(tossup):
    clues = tossup.clues
    assert 5 <= len(clues) <= 6
    assert min(len(clue.split()) for clue in clues) >= 4
    assert 0.55 <= tossup.power / len(tossup.words) <= 0.66
    assert [clue.startswith("For 10 points, name this") for clue in clues] == [False] * (len(clues) - 1) + [True]
    assert "this" in normalize_words(clues[0]), "what is asked for must be in the first"
    said = normalize_words(" ".join(clues))
    small = {"the", "and", "of", "i", "1"}
    for word in set(required(tossup.answer)) - small:
        assert word not in said, f"{word!r} of the answer is in a clue"
        if len(word) > 4:
            assert not [other for other in said if other.startswith(word)]


def test_no_clue_and_no_answer_twice():
    clues = Counter(" ".join(normalize_words(clue)) for tossup in TOSSUPS.tossups for clue in tossup.clues)
    assert max(clues.values()) == 1
    mains = Counter(" ".join(normalize_words(read_answer_line(answer).shown)) for _, answer in LINES)
    assert max(mains.values()) == 1


@pytest.mark.parametrize(("key", "line"), LINES, ids=[key for key, _ in LINES])
def test_answer_lines_accept_their_own_and_nobody_elses(key, line):
    read = read_answer_line(line)
    for answer in read.answers:
        plain = re.sub(r"\s+before it is read$", "", answer.plain)
        assert judge(line, plain).ruling == answer.ruling, plain
        if answer.ruling == "accept" and answer.bold:
            assert judge(line, " ".join(BOLD.findall(answer.text))).ruling == "accept"
    for other, foreign in LINES:
        if other != key:
            for answer in read_answer_line(foreign).answers:
                if answer.ruling == "accept":
                    assert judge(line, answer.plain).ruling == "reject", f"{answer.plain!r} of {other}"


def test_every_card_behind_a_tossup_is_there():
    behind = [key for tossup in TOSSUPS.tossups for key in tossup.cards]
    assert len(behind) >= 5
    assert set(behind) <= {card.key for card in TOSSUPS.cards}
