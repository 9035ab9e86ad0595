"""Every parser of users' text is linear or has a stated limit; what a user names that is no file is said in one line.

Each script runs in a process that is stopped after so many seconds of computing. Its inputs took minutes, or for ever,
where a pattern began anew at every repetition.
"""

import os
import resource
import subprocess
import sys

import pytest

from sluicegate_study.app import main

SECONDS = 30

DECK = """
from sluicegate_study.deck.cards import Card, Deck, DeckFile, Head, Tossup
from sluicegate_study.deck.collection import make_deck
from sluicegate_study.deck.exporting import encode_tsv
from sluicegate_study.deck.lint import lint
from sluicegate_study.deck.markdown import read_markdown, write_markdown
n = 24_000
for token in ("[a]", "![a](", "T: a\\n", "\\n", "$", "`", " and", "id: a\\n", "  | ", "a_{", "==a", "```\\n"):
    for form in ("Q: {}\\nA: b\\n", "Q: b\\nA: {}\\n", "C: [b] {}\\n", "{}"):
        file, problems = read_markdown(form.format(token * (n // len(token) * 4)))
        lint(make_deck("d", [file], problems))
        write_markdown(file)
read_markdown("Q: b\\nA: b\\nwhy: x" + " " * 90_000 + "y\\n")
"""
GRAPH = """
from sluicegate_study.deck.cards import Card, DeckFile
from sluicegate_study.deck.collection import make_deck
from sluicegate_study.deck.exporting import encode_tsv
from sluicegate_study.deck.lint import lint
def deck(needs):
    cards = (Card(f"What is thing {i}?", f"It is $x_{{{i}}}$", id=f"k{i}", needs=needs(i)) for i in range(6_000))
    return make_deck("d", [DeckFile(entries=tuple(cards))])
for needs in (lambda i: (f"k{i - 1}",) if i else (), lambda i: (f"k{(i + 1) % 6_000}",), lambda i: (f"none{i}",)):
    made = deck(needs)
    lint(made)
    assert len(encode_tsv(made).splitlines()) == 6_003
    assert all(len(str(problem)) < 1000 for problem in made.problems)
"""
ANKI = """
from sluicegate_study.deck.importing import _cards, strip_html
from sluicegate_study.errors import UserError
tokens = ("{{c1::", "{{c1::a::", "{{c1::a}}", "[sound:", "\\\\(", "\\\\[", "<!--", "<div ", "</div> ", "<script>", "&", "&#", " ")
for token in tokens:
    for end in ("", "a", "]"):
        try:
            _cards([strip_html(token * (200_000 // len(token)) + end), "b"], "n", "t", cloze=True)
        except UserError:
            pass
"""
JUDGE = """
from sluicegate_study.judge.answerline import read_answer_line
from sluicegate_study.judge.judging import judge
tokens = (" ", "**a** ", "__a ", "(accept a)", "accept a, ", "a or ", ", ", "by asking ", "“", "<b><u>", "<i ", "until ")
for token in tokens:
    for form in ("**Bonn** {}", "**Bonn** [accept x{}y]", "**Bonn** [accept {} x", "Bonn {}"):
        read_answer_line(form.format(token * (60_000 // len(token))))
        line = form.format(token * (4_900 // len(token)))
        judge(line, "Bonn")
        judge(line, ("Bonn " + token * 500)[:500])
"""
LECTURE = """
from sluicegate_study.lecture.blank import find_blanks, normalize_formula
from sluicegate_study.lecture.lecture import Claim, read_claims, split_notes
for token in ("a b c d. ", "$", "`", "\\\\[", "\\\\(", "[a](", "<!--", "# #", " ", "> ", "**a** ", "x_{", "It a b. "):
    text = token * (100_000 // len(token))
    split_notes(text)
    split_notes("A b c " + text + " d.")
    for claim in read_claims("[c1] a b " + text, "p"):
        find_blanks(claim)
    normalize_formula(text[:50_000])
"""


@pytest.mark.parametrize("script", [DECK, GRAPH, ANKI, JUDGE, LECTURE], ids=["deck", "graph", "anki", "judge", "lecture"])
def test_no_text_takes_for_ever(script):
    def limit():
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))

    ended = subprocess.run([sys.executable, "-c", script], preexec_fn=limit, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:] or f"stopped after {SECONDS} s"


@pytest.mark.parametrize("verb", ["deck check", "deck stats", "deck review --plain", "lecture", "team", "deck import - o"])
@pytest.mark.parametrize("place", ["zero", "pipe", "é" * 300, "file/below", "nul\0", "loop"])
def test_what_is_no_file_is_said_in_one_line(tmp_path, monkeypatch, capsys, verb, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zero.md").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "loop.md").symlink_to("loop.md")
    (tmp_path / "file").write_text("x")
    name = f"{place}.md" if "deck import" not in verb else f"{place}.json"
    words = [name if word == "-" else word for word in verb.split()]
    assert main(words if name in words else [*words, name]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error:")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "words",
    [
        ["deck", "review", "d", "--plain", "--now", "9999-12-31T23:59:59Z"],
        ["deck", "review", "d", "--plain", "--now", "0001-01-01T00:00:00+14:00"],
        ["deck", "review", "d", "--plain", "--log", "/dev/zero"],
        ["play", "d", "--plain", "--log", "/dev/zero"],
        ["play", "d", "--plain", "--log", "é" * 1000],
        ["deck", "export", "d", "d/x.md/below.tsv"],
        ["deck", "export", "d", "é" * 300 + ".tsv"],
        ["deck", "new", "d/x.md/below"],
        ["deck", "check", "a\0b"],
    ],
)
def test_what_the_system_says_of_a_path_is_one_line(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.md").write_text("Q: one\nA: 1\n\nT: Clue.\nANSWER: x\n")
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("error:")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_name_that_cannot_be_printed_is_written_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.md").write_text("Q: one\nA: 1\n")
    assert main(["deck", "export", "x.md", "a\udc80.tsv"]) == 0
