"""The judge on answers labelled by hand, the grammar piece by piece, and spellings that are and are not one word."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate_study.deck.cards import Card
from sluicegate_study.judge.answerline import read_answer_line
from sluicegate_study.judge.judging import judge, judge_card
from sluicegate_study.judge.spelling import normalize_words, same_word

RULINGS = {"a": "accept", "p": "prompt", "r": "reject"}


def rows(file):
    line = ""
    for text in (Path(__file__).parent / file).read_text(encoding="utf-8").splitlines():
        if text.startswith("= "):
            line = text[2:]
        elif text[1:2] == "\t":
            yield RULINGS[text[0]], line, text[2:]


# The second file was written after the judge, which had .957 right of it, and no false accept, when it first saw it.
@pytest.mark.parametrize(
    ("file", "least"),
    [("judged_answers.txt", 200), ("judged_answers_fresh.txt", 100), ("judged_answers_walk.txt", 250), ("judged_answers_plain.txt", 165)],
)
def test_answers_labelled_by_hand(file, least):
    ruled = [(expected, judge(line, said).ruling) for expected, line, said in rows(file)]
    assert len(ruled) >= least
    right = sum(expected == ruling for expected, ruling in ruled) / len(ruled)
    wrong = sum(ruling == "accept" != expected for expected, ruling in ruled)
    assert right >= 0.95
    assert wrong / sum(expected != "accept" for expected, _ in ruled) <= 0.02


KINDS = [line.split("\t") for line in (Path(__file__).parent / "judged_kinds.tsv").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("line", "said", "expected"), [row for row in KINDS if len(row) == 3])
def test_each_kind_of_answer(line, said, expected):
    ruling = judge(line, said).ruling
    assert ruling == expected if expected != "no" else ruling != "accept"


@pytest.mark.parametrize("line", ["**Bonn** [accept " + "a or " * 2000 + "y]", "Bonn " + "(accept a)" * 600])
def test_what_is_too_long_must_be_equal(line):
    assert judge(line, line).ruling == "accept"
    assert judge(line, "Bonn").ruling == "reject"
    assert judge("**Bonn**", "Bonn " * 200).ruling == "reject"


@pytest.mark.parametrize("line", ["9" * 5000 + " million", "²" * 9 + " million", "&#" + "9" * 4900])
def test_strange_numbers_are_words(line):
    assert judge(line, line).ruling == "accept"


def test_the_grammar():
    text = '**Paris**, France [accept **Lutetia** until "Roman" is read; prompt on France by asking "which city?"; reject London]'
    line = read_answer_line(text)
    assert [(a.ruling, a.plain, a.ask) for a in line.answers if a.plain != "France" or a.ruling == "prompt"] == [
        ("accept", "Paris", ""),
        ("accept", "Lutetia", ""),
        ("prompt", "France", "which city?"),
        ("reject", "London", ""),
    ]


@pytest.mark.parametrize(
    ("line", "said", "ruling", "ask"),
    [
        ("**Bonn** [prompt on Germany, asking “which city?”]", "Germany", "prompt", "which city?"),
        ("**Bonn** (prompt on Germany)", "Germany", "prompt", ""),
        ("**Bonn** (on the Rhine)", "Bonn on the Rhine", "accept", ""),
        ("**Bonn**; accept **Bad Godesberg**; prompt on Germany", "bad godesberg", "accept", ""),
        ("**A** or **B** [accept either]", "B", "accept", ""),
        ("**Watson** and **Crick** [accept either underlined part]", "Crick", "accept", ""),
        ("**Watson** and **Crick** [prompt on partial answer by asking “who else?”]", "Crick", "prompt", "who else?"),
        ("**Watson** and **Crick**", "Crick", "reject", ""),
        ("<b><u>Trial or Error</u></b> or <u>Chance</u>", "trial or error", "accept", ""),
        ("**d**eoxyribo**n**ucleic **a**cid", "DNA", "accept", ""),
        ("**light** [accept answers mentioning **photon**s]", "it is a stream of photons I suppose", "accept", ""),
        ("**Bonn** [never closed; prompt on Germany", "Germany", "prompt", ""),
        ("**Bonn** [accept equivalents; or word forms]", "equivalents", "reject", ""),
        ("**Bonn**", "Bonn or Berlin", "reject", ""),
        ("**Bonn**", "not Bonn", "reject", ""),
        ("**Bonn**", "", "reject", ""),
        ("**Bonn**", "?!", "reject", ""),
        ("The **Who**", "the who", "accept", ""),
        ("Isaac Newton", "newton", "accept", ""),
        ("How similar two vectors are", "how similar the vectors are", "prompt", ""),
        ("How similar two vectors are", "how similar two vectors are", "accept", ""),
    ],
)
def test_lines_of_every_kind(line, said, ruling, ask):
    verdict = judge(line, said)
    assert (verdict.ruling, verdict.ask) == (ruling, ask)


def test_a_card_is_judged_by_its_attributes():
    (question,) = Card("Which?", "The score [of a pair]", accept="**similar**ity", prompt="number", reject="weight").questions()
    assert [judge_card(question, said).ruling for said in ("similarity", "number", "weight", "the score of a pair")] == [
        "accept",
        "prompt",
        "reject",
        "accept",
    ]


@pytest.mark.parametrize(
    "pair", ["gandhi ghandi", "nietzsche neitzsche", "tchaikovsky chaikovsky", "color colour", "mice mouse", "galileo galelio"]
)
def test_one_word_in_two_spellings(pair):
    assert same_word(*pair.split())
    assert same_word(*reversed(pair.split()))


@pytest.mark.parametrize(
    "pair",
    [
        "monet manet",
        "sulfate sulfite",
        "iran iraq",
        "1914 1918",
        "methane methene",
        "austria australia",
        "lactose lactase",
        "slovakia slovenia",
        "mali malta",
        "h he",
    ],
)
def test_two_words_that_look_alike(pair):
    assert not same_word(*pair.split())


def test_a_sentence_is_no_slip_of_a_word():
    assert judge("length [accept magnitude]", "Multiply the components in pairs and add up the products").ruling == "reject"
    assert not same_word("x" * 40, "x" * 33 + "abcdefg")


def test_normal_forms():
    assert normalize_words("Henry the VIIIth's") == normalize_words("henry the 8th") == ["henry", "the", "8"]
    assert normalize_words("Nineteen Eighty-Four") == normalize_words("1984")
    assert normalize_words("one hundred") == normalize_words("100")
    assert normalize_words("U.S.A. & Brontë") == ["usa", "and", "bronte"]


@given(st.text(max_size=60), st.text(max_size=20))
def test_any_line_and_any_answer_are_ruled(line, said):
    assert judge(line, said).ruling in RULINGS.values()


@given(
    st.lists(
        st.sampled_from(
            ["**", "[", "]", "or ", "accept ", "prompt on ", ";", "Bonn ", '"', "by asking ", "reject ", ",", "(", ")", "<b>", "</b>"]
        ),
        max_size=15,
    )
)
def test_any_heap_of_the_grammars_own_words_is_ruled(parts):
    assert judge("".join(parts), "Bonn").ruling in RULINGS.values()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("neutron", "neutrino"),
        ("iceland", "ireland"),
        ("adsorption", "absorption"),
        ("nucleotide", "nucleoside"),
        ("hyperthyroidism", "hypothyroidism"),
        ("intercellular", "intracellular"),
        ("macroeconomics", "microeconomics"),
        ("alexander", "alexandra"),
    ],
)
def test_words_that_look_like_slips_and_are_others(one, other):
    assert not same_word(one, other)
    assert not same_word(other, one)


def test_a_title_is_not_turned_round_but_a_pair_of_people_may_be():
    assert judge("**War and Peace**", "peace and war").ruling == "reject"
    assert judge("**Lewis** and **Clark**", "clark and lewis").ruling == "accept"


def test_signs_and_decimals_are_part_of_a_number():
    assert judge("**-1**", "1").ruling == "reject" == judge("**1**", "-1").ruling
    assert judge("**-1**", "minus one").ruling == "accept" == judge("**0.5**", ".5").ruling
    assert judge("**5**", ".5").ruling == "reject"
