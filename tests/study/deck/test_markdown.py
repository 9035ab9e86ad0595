"""Decks as text: what is written is read again, hashcards decks mean what they meant, and mistakes are named where they
are."""

import pytest
from hypothesis import HealthCheck, given, settings

from sluicegate_study.deck.cards import Card, Deck, DeckFile, find_deletions
from sluicegate_study.deck.collection import load_deck, make_deck, save_file
from sluicegate_study.deck.markdown import read_markdown, write_markdown
from sluicegate_study.errors import UserError
from study_decks import FILES

WHOLE = """+++
deck = "attention"
category = "Science/CS"
+++
Words outside of cards are left alone.

Q: What does the score of a query and a key measure?
A: How similar the two vectors are.
id: att-score
topic: attention      angle: meaning
needs: dot-product
accept: **similar**ity; dot product | prompt: match by asking "by what measure?"

Q: What is a dot product?
A:

$$
u \\cdot v = \\sum_i u_i v_i
$$
id: dot-product

C: The weights of [one query] sum to [1].
id: att-sum
---
This is no part of the card.

T: It flows without friction. | It climbs walls (*) and carries
   second sound. | For 10 points, name this state of helium.
ANSWER: **superfluid**ity [accept **superfluid**s]
id: tu-superfluid
category: Science/Physics
cards: att-score

B: About helium, for 10 points each:
[10e] Its symbol. / ANSWER: **He**
[10m] Its atomic number.
ANSWER: **2** [or **two**]
[10h] Who first made it liquid?
ANSWER: Heike **Kamerlingh Onnes**
"""


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(FILES)
def test_a_written_file_is_read_as_it_was(file):
    again, problems = read_markdown(write_markdown(file))
    assert again == file
    assert [p for p in problems if p.severity == "error"] == []
    assert Deck.from_json(Deck("d", (file,)).to_json()) == Deck("d", (file,))


def test_everything_in_one_file():
    file, problems = read_markdown(WHOLE, "x.md")
    assert [(p.line, p.severity, "after ---" in p.message) for p in problems] == [(25, "warning", True)]
    score, product, weights, tossup, bonus = file.entries
    assert (file.head.deck, score.id, score.topic, score.angle, score.needs) == (
        "attention",
        "att-score",
        "attention",
        "meaning",
        ("dot-product",),
    )
    assert (score.accept, score.prompt) == ("**similar**ity; dot product", 'match by asking "by what measure?"')
    assert product.answer.startswith("$$\n")
    assert product.answer.endswith("\n$$")
    assert [(q.key, q.prompt, q.answer) for q in weights.questions()] == [
        ("att-sum", "The weights of [...] sum to 1.", "one query"),
        ("att-sum#2", "The weights of one query sum to [...].", "1"),
    ]
    assert tossup.clues[1] == "It climbs walls and carries second sound."
    assert tossup.words[tossup.power - 1] == "walls"
    assert tossup.cards == ("att-score",)
    assert [(p.value, p.level, p.text, p.answer) for p in bonus.parts][:2] == [
        (10, "e", "Its symbol.", "**He**"),
        (10, "m", "Its atomic number.", "**2** [or **two**]"),
    ]
    assert read_markdown(write_markdown(file), "x.md")[0] == file


def test_a_hashcards_deck_means_what_it_meant():
    text = "---\nname = 'Medicine'\n---\n\nQ: List the\nPGM minerals.\nA:\n\n- ruthenium\n- rhodium\nT: temperature\n\n"
    text += "C:\nBetter is\n\n— [Ecclesiastes] [6]:[9]\n"
    file, problems = read_markdown(text)
    assert problems == []
    assert file.head.deck == "Medicine"
    basic, cloze = file.entries
    assert (basic.question, basic.answer) == ("List the\nPGM minerals.", "- ruthenium\n- rhodium\nT: temperature")
    assert [q.answer for q in cloze.questions()] == ["Ecclesiastes", "6", "9"]
    assert cloze.questions()[1].prompt.endswith("— Ecclesiastes [...]:9")


@pytest.mark.parametrize(
    ("text", "line", "said", "kept"),
    [
        ("Q: one\nQ: two\nA: 2\n", 1, "expected A:", 1),
        ("A: 1\nQ: two\nA: 2\n", 1, "expected Q:", 1),
        ("Q: one\nA: 1\nA: 2\n\nQ: two\nA: 2", 3, "second A:", 2),
        ("Q: one\nA:\n\nQ: two\nA: 2", 1, "A: is empty", 1),
        ("Q: one", 1, "expected A:", 0),
        ("C: no deletion\n\nQ: two\nA: 2", 1, "[deletion]", 1),
        ("C: an [open one\n", 1, "no ] after", 0),
        ("C: shut] one\n", 1, "without its [", 0),
        ("C: [a [b] c]\n", 1, "a [ within", 0),
        ("C: an [] empty one\n", 1, "empty deletion", 0),
        ("\n\nT: a clue.\n\nQ: two\nA: 2", 3, "ANSWER:", 1),
        ("T: a (*) clue (*).\nANSWER: x", 1, "power marks", 0),
        ("T: a clue\nANSWER:\n", 1, "ANSWER: is empty", 0),
        ("B: lead\nQ: two\nA: 2", 1, "[10]", 1),
        ("B: lead\nANSWER: x\n[10] a\nANSWER: b", 1, "before the first part", 0),
        ("B: lead\n[10e] text\n[10m] other\nANSWER: b", 1, "[10e]", 0),
        ("ANSWER: x\nQ: two\nA: 2", 1, "expected T: or B:", 1),
        ("+++\ndeck = 1\n+++\nQ: two\nA: 2", 1, "expected a text", 1),
        ("+++\na\ndeck = \n+++\nQ: two\nA: 2", 2, "not TOML", 1),
        ("+++\nQ: two\nA: 2", 1, "second line +++", 1),
        ("Q: two\nA: 2\nid: a b\n", 3, "without spaces", 1),
    ],
)
def test_a_mistake_is_named_and_the_rest_is_read(text, line, said, kept):
    file, problems = read_markdown(text, "deck.md")
    errors = [p for p in problems if p.severity == "error"]
    assert [(p.path, p.line) for p in errors] == [("deck.md", line)]
    assert said in errors[0].message
    assert len(file.entries) == kept


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("Q: two\nA: 2\ntopik: x\n", 3, "expected topic:"),
        ("Q: two\nA: 2\nid: x\nmore\n", 3, "after all other lines"),
        ("Q: two\nA: 2\nid: x\nid: y\n", 4, "second id:"),
        ("T: x\nANSWER: y\ntopic: x\n", 3, "nothing on a tossup"),
        ("question: two\nQ: two\nA: 2\n", 1, "expected Q:"),
        ("+++\ncolour = 'x'\n+++\n", 1, "colour"),
        ("Q: two\nA: 2\nT: x\nANSWER: y", 1, "a blank line"),
        ("Q: two\nA: 2\ntags: x\n", 3, "read as text"),
        ("C: [two]\ndeck: x\n", 2, "read as text"),
        ("Q: two\nid: x\nA: 2\n", 2, "after all other lines"),
        ("Q: two\nA: 2\nq: three\n", 3, "begin something new"),
        ("Q: two\nA: 2\nQ : three\n", 3, "begin something new"),
        ("Q: two\nA: 2\n\nanswer: three\n", 4, "begin something new"),
        ("Q: two\nA: 2\n---\n\nlost\nlost\n\nQ: three\nA: 3", 5, "belongs to no entry"),
        ("Q: two\nA:\n```\ncode\n\nQ: three\nA: 3", 3, "never closes"),
        ("Q: two\nA:\n```\nQ: three\n```\n", 4, "in a code fence"),
        ("What is a cell::basic unit of life\n", 1, "outside of an entry"),
        ("Multi\n?\nline\n", 2, "outside of an entry"),
        ("The ==mitochondrion== makes ATP\n", 1, "outside of an entry"),
    ],
)
def test_what_may_be_meant_otherwise_is_warned_of(text, line, said):
    _, problems = read_markdown(text)
    assert [(p.line, p.severity) for p in problems] == [(line, "warning")]
    assert said in problems[0].message


def test_escapes_and_pictures_in_a_cloze_text_are_no_deletions():
    text = "![alt](x.png) \\[a\\] [b]"
    assert [text[start : end + 1] for start, end in find_deletions(text)] == ["[b]"]


def test_a_folder_is_a_deck(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "z.md").write_text("Q: z\nA: z\n")
    (tmp_path / "a.md").write_bytes(b"Q: one\nA: 1\nid: a\nneeds: b, nothing\n\nQ: caf\xe9\nA: bar\n")
    (tmp_path / "sub" / "b.md").write_text(
        "Q: two\nA: 2\nid: b\nneeds: a\n\nQ: three\nA: 3\nid: a\n\nQ: two\nA: 2\nid: c\n\nQ: 4\nA: 4\n\nQ: 4\nA: 4\n"
    )
    deck = load_deck(tmp_path)
    assert [card.key for card in deck.cards if card.id] == ["a", "b", "c"]
    said = "\n".join(map(str, deck.problems))
    assert "a.md:1: error: card 'a' needs 'nothing'" in said
    assert "a -> b -> a" in said
    assert "a.md:6: error: byte 0xe9" in said
    assert "b.md:6: error: the id 'a' is taken by" in said
    assert "b.md:17: warning: the same text" in said
    assert len(deck.problems) == 5


def test_a_place_without_a_deck_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"Markdown files \(\*\.md\)"):
        load_deck(tmp_path)
    with pytest.raises(UserError, match="no deck"):
        load_deck(tmp_path / "nowhere")


def test_a_file_is_never_written_over(tmp_path):
    file, _ = read_markdown(WHOLE)
    save_file(file, tmp_path / "x.md")
    assert make_deck("x", [read_markdown((tmp_path / "x.md").read_text())[0]]).files[0] == file
    with pytest.raises(UserError, match="left as it is"):
        save_file(file, tmp_path / "x.md")


def test_lines_for_training():
    import json

    deck = make_deck("x", [read_markdown(WHOLE)[0]])
    rows = [json.loads(line) for line in deck.to_jsonl()]
    assert rows[0] == {
        "prompt": "What does the score of a query and a key measure?",
        "answer": "How similar the two vectors are.",
        "topic": "attention",
        "angle": "meaning",
        "split": "",
        "id": "att-score",
    }
    assert len(rows) == 4


def test_a_deck_from_strange_json_is_refused():
    with pytest.raises(UserError, match="not a deck"):
        Deck.from_json({"name": "x", "files": [{"entries": []}]})


def test_a_misspelt_attribute_beneath_an_answer_line_is_named():
    file, problems = read_markdown("T: A clue. | For 10 points.\nANSWER: **x**\nkategory: y\n")
    assert [(p.line, p.severity) for p in problems] == [(3, "warning")]
    assert "kategory" in problems[0].message
    assert len(file.entries) == 1


def test_code_in_a_card_may_hold_what_looks_like_a_tag():
    text = "Q: What does it print?\nA: Three lines:\n```\na\n---\nB: x\n```\nid: x\n\nC: In Python, [`x[0]`] is [first]."
    file, problems = read_markdown(text)
    assert [(p.line, p.severity) for p in problems] == [(6, "warning")]
    card, cloze = file.entries
    assert card.answer == "Three lines:\n```\na\n---\nB: x\n```"
    assert card.id == "x"
    assert [(q.prompt, q.answer) for q in cloze.questions()] == [
        ("In Python, [...] is first.", "`x[0]`"),
        ("In Python, `x[0]` is [...].", "first"),
    ]


@pytest.mark.parametrize("answer", ["```\nopen", "x\n```\nopen", "```\na\n---\n```", "```", "~~~\n```\n~~~", "a\n\\```", "`````"])
def test_a_fence_that_never_closes_ends_with_its_card(answer):
    file = DeckFile(entries=(Card("q", answer, id="a"), Card("r", answer, id="b"), Card("s", "```\ncode\n```")))
    assert read_markdown(write_markdown(file))[0] == file


def test_terms_of_hashcards_are_asked_both_ways():
    text = "T: gneiss\nD: A banded rock.\nid: g\n\nT: lithification\nD: Sediment turned\ninto rock.\n\nQ: next?\nA: yes it is\n"
    file, problems = read_markdown(text)
    assert problems == []
    assert [(card.id, card.question) for card in file.entries] == [
        ("g", "gneiss"),
        ("g-term", "A banded rock."),
        ("", "lithification"),
        ("", "Sediment turned\ninto rock."),
        ("", "next?"),
    ]
    assert file.entries[1].answer == "gneiss"
    assert read_markdown("T: gneiss\nD:\n")[1][0].message.startswith("D: is empty")


def test_a_letter_in_two_forms_is_one_letter():
    deck = make_deck("d", [read_markdown("Q: one\nA: 1\nid: cafe\u0301\n\nQ: two\nA: 2\nneeds: caf\u00e9\n")[0]])
    assert deck.problems == ()
    assert deck.cards[1].needs == ("caf\u00e9",)


def test_a_file_of_another_kind_says_what_was_expected(tmp_path):
    (tmp_path / "x.md").write_text("# Notes\n\nOnly prose.\n")
    assert ["expected lines that begin with Q:" in p.message for p in load_deck(tmp_path).problems] == [True]


def test_limits_are_said():
    (problem,) = read_markdown("C: " + "[a]" * 501)[1]
    assert "501 deletions in one text: expected 500" in problem.message
    assert len(make_deck("d", [read_markdown("C: " + "[a]" * 500)[0]]).questions()) == 500
    assert "100,000 at most" in read_markdown("Q: x\nA: " + "x" * 100_000)[1][0].message


def test_a_cloze_text_is_asked_with_plain_brackets_and_pictures_kept():
    (card,) = read_markdown("C: \\[a\\] ![x](y.png) [b\\[1\\]] and [c] ![[z.png]]")[0].entries
    assert [(q.prompt, q.answer) for q in card.questions()] == [
        ("[a] ![x](y.png) [...] and c ![[z.png]]", "b[1]"),
        ("[a] ![x](y.png) b[1] and [...] ![[z.png]]", "c"),
    ]
