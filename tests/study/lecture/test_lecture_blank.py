"""One step hidden: which, by a seed, and whether an answer fills it."""

import pytest

from sluicegate_study.errors import UserError
from sluicegate_study.lecture.blank import Blank, choose_blank, find_blanks, find_stems, judge_blank
from sluicegate_study.lecture.lecture import Claim


def answers(text, seen="", blank=""):
    return [found.answer for found in find_blanks(Claim("a", text, blank=blank), find_stems(seen))]


def test_what_can_be_hidden():
    assert answers("The weights of the weights are usually made by softmax and a matrix.") == ["softmax", "matrix"]
    assert answers("It is **dot product** or `einsum`, a *fast* way, of some_name size.") == ["dot product", "einsum", "fast"]
    assert answers(r"Then $$ a = \frac{b = c}{d} \approx e. $$ where $f=g$ holds") == ["a", r"\frac{b = c}{d}", "e"]
    assert answers(r"The loss is $L = f(x=1)$ here") == ["L", "f(x=1)"]
    assert answers(r"It is $x$.") == ["x"]
    assert answers("It has 12 heads or 3.5% more", blank="heads or 3.5%") == ["heads or 3.5%"]
    assert answers("It has 12 heads") == ["12", "heads"]
    assert answers("It is as it was.") == []


def test_what_was_said_before_is_hidden_only_where_nothing_else_can_be():
    text = "Softmax turns scores to weights"
    assert answers(text) == ["Softmax", "scores", "weights"]
    assert answers(text, seen="The score goes into the softmaxes.") == ["weights"]
    assert answers(text, seen="softmax score weight") == ["Softmax", "scores", "weights"]


def test_the_gap_stands_for_the_answer():
    for text in (r"a **b** c", r"$$x = y_{1}$$", "Heads attend to different places"):
        for blank in find_blanks(Claim("a", text)):
            assert text[blank.start : blank.end] == blank.answer
            assert blank.shown(text) == text[: blank.start] + "[...]" + text[blank.end :]


def test_the_choice_is_the_seeds():
    claims = [Claim("a", f"Heads {n} attend differing places, layers, tokens") for n in range(30)]
    one = [choose_blank(claim, 0).answer for claim in claims]
    assert one == [choose_blank(claim, 0).answer for claim in claims]
    assert one != [choose_blank(claim, 1).answer for claim in claims]
    assert len(set(one)) > 3
    with pytest.raises(UserError, match=r"\[a\] has no word"):
        choose_blank(Claim("a", "It is so"), 0)


@pytest.mark.parametrize(
    ("answer", "given", "ruling"),
    [
        ("softmax", "Softmax", "accept"),
        ("weights", "the weight", "accept"),
        ("scores", "weights", "reject"),
        ("dot product", "", "reject"),
        ("12", "twelve", "accept"),
    ],
)
def test_words_are_judged(answer, given, ruling):
    assert judge_blank(Blank(0, 0, answer), given) == ruling


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        (r"\frac{QK^\top}{\sqrt{d_k}}", "Q K^T / sqrt(d_k)"),
        (r"\mathrm{softmax}\left(s\right)", "softmax(s)"),
        (r"\sigma(\Sigma x)", "σ(Σ x)"),
        ("m c^2", "$mc²$"),
        (r"a \cdot b", "a*b"),
    ],
)
def test_formulas_are_judged_as_they_are_written(answer, given):
    assert judge_blank(Blank(0, 0, answer, True), given) == "accept"


@pytest.mark.parametrize(
    ("answer", "given"),
    [("Q", "q"), ("a+b", "a-b"), ("x_1", "x_2"), ("(a+b)/c", "a+b/c"), (r"\Sigma", r"\sigma"), ("d_k", "dk"), ("x", "$")],
)
def test_other_formulas_are_rejected(answer, given):
    assert judge_blank(Blank(0, 0, answer, True), given) == "reject"


@pytest.mark.parametrize("term", ["CD8", "CTLA-4", "H2O", "3.5", "1,000", "IL-2Rα", "T4/T8"])
def test_a_blank_is_a_whole_term(term):
    found = [blank.answer for blank in find_blanks(Claim("c1", f"The cell binds {term} class I molecules."))]
    assert term in found
    assert all(f" {answer} " in " The cell binds " + term + " class I molecules " for answer in found)
    assert "I" not in found
