"""Notes become claims, the same ones every time, in a file that reads back as it was written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate_study.errors import UserError
from sluicegate_study.lecture.lecture import read_claims, read_notes, split_notes, write_claims

NOTES = r"""---
title: left alone. Both lines.
---
# Attention
A query says what a position looks for, e.g. a subject. A key says what it offers!  Why both?
The score of the two is their dot product:

\[ s = q k^\top \]

where $k$ is the key of Dr. Smith et al. and costs 3.5 a piece.

- Scores are divided by $\sqrt{d_k}$
  so that softmax does not saturate.
  1. Nested items are claims too. So is their second sentence.

```python
x = "Not a claim."
```
| a | table |
![Picture](x.png)
<!-- A comment is
no claim. -->
## Heads
claim: Eight heads attend to different things. They are cheap.

It has two effects:

- So!
> A quoted line counts, says [the paper](http://x).
"""


def texts(text, **options):
    return [claim.text for claim in split_notes(text, **options).claims]


def test_what_is_a_claim():
    assert texts(NOTES) == [
        "A query says what a position looks for, e.g. a subject.",
        "A key says what it offers!",
        r"The score of the two is their dot product: $$ s = q k^\top $$ where $k$ is the key of Dr. Smith et al. and costs 3.5 a piece.",
        r"Scores are divided by $\sqrt{d_k}$ so that softmax does not saturate.",
        "Nested items are claims too.",
        "So is their second sentence.",
        "Eight heads attend to different things. They are cheap.",
        "A quoted line counts, says the paper.",
    ]
    assert texts(NOTES, marked=True) == ["Eight heads attend to different things. They are cheap."]


def test_what_is_left_out_is_said_with_its_line_and_why():
    left = {(line, why) for line, why, _ in split_notes(NOTES).left_out}
    assert left == {
        (5, "question"),
        (16, "code"),
        (19, "table"),
        (20, "picture"),
        (26, "leads up to what follows"),
        (28, "fewer than three words"),
    }


def test_a_heading_begins_a_chain():
    claims = split_notes(NOTES).claims
    assert [claim.needs for claim in claims] == [(), ("c1",), ("c2",), ("c3",), ("c4",), ("c5",), (), ("c7",)]
    assert [claim.section for claim in claims] == ["Attention"] * 6 + ["Attention / Heads"] * 2


LINE = st.sampled_from(
    ["# Head", "## Sub", "- item one two", "claim: x y z", "$$", "a = b", "$$x = y$$", "\\[", "\\]", "```", "[x] a b c", "---"]
)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(LINE, ANY), max_size=12).map("\n".join))
def test_the_file_reads_back(text):
    claims = split_notes(text).claims
    assert split_notes(text).claims == claims
    assert all("\n" not in claim.text and claim.text == claim.text.strip() for claim in claims)
    if claims:
        assert tuple(read_claims(write_claims(claims, "n.md"), "n.claims.txt")) == claims


EDITED = """\
# a comment
[a] The first claim
goes on here.
[c] needs both
needs: a, b
[b] The second
needs: none
blank: second
## Other
[d] A chain of its own
"""


def test_an_edited_file():
    claims = read_claims(EDITED, "x")
    assert [(c.name, c.needs, c.section, c.blank) for c in claims] == [
        ("a", (), "", ""),
        ("b", (), "", "second"),
        ("c", ("a", "b"), "", ""),
        ("d", (), "Other", ""),
    ]
    assert claims[0].text == "The first claim goes on here."
    assert claims[0].rev != read_claims(EDITED.replace("first", "1st"), "x")[0].rev


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a] x y\n[a] z", "x:2: the name .a. is taken by line 1"),
        ("[a] x\nneeds: b", "x:1: .*needs 'b'"),
        ("[a] x\nneeds: b\n[b] y", "in a ring"),
        ("[a] x\nblank: y", "blank: 'y' does not stand"),
        ("x\n[a] y", "x:1: 'x' stands before"),
        ("# nothing", "no claim in 'x'"),
    ],
)
def test_mistakes_in_the_file(text, said):
    with pytest.raises(UserError, match=said):
        read_claims(text, "x")


def test_notes_that_cannot_be_read(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff")
    for path, said in ((tmp_path / "no", "no notes"), (tmp_path, "folder"), (tmp_path / "x", "UTF-8")):
        with pytest.raises(UserError, match=said):
            read_notes(path)


def test_what_leans_on_the_sentence_before_stays_with_it():
    text = "What does CTLA-4 do? It outcompetes CD28 for B7. AIRE lets cells express proteins.\n\n- It begins a list.\n"
    split = split_notes(text)
    assert [claim.text for claim in split.claims] == [
        "What does CTLA-4 do? It outcompetes CD28 for B7.",
        "AIRE lets cells express proteins.",
    ]
    assert [(line, why.startswith("begins with It")) for line, why, _ in split.left_out] == [(3, True)]
