"""Decks made by hypothesis: any text that a deck can hold, with a liking for text that looks like the format's own
marks."""

from hypothesis import strategies as st

from sluicegate_study.deck.cards import Bonus, Card, DeckFile, Head, Part, Tossup, find_deletions
from sluicegate_study.errors import UserError

TRAPS = st.sampled_from(
    [
        *("Q:", "A: no", "\\Q: x", "\\\\A:", "C: [x]", "T: t", "B: b", "ANSWER: a", "id: x", "\\id: y", "topic: t", "---", "\\---", "+++"),
        *("[10e] part", "| id: z", "| \\needs: q", " / ANSWER: b", "a  angle: b", "(*)", "|", "\\|", "# head", "```", "$x_i$", "needs:"),
    ]
)
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=20)
PIECE = st.one_of(TRAPS, PLAIN)
LINES = st.lists(PIECE, min_size=1, max_size=5).map("\n".join).map(str.strip).filter(bool)
LINE = st.lists(PIECE, min_size=1, max_size=4).map(lambda parts: " ".join(" ".join(parts).split())).filter(bool)
OPTIONAL = st.one_of(st.just(""), LINE)
ID = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,8}", fullmatch=True)
IDS = st.lists(ID, max_size=3, unique=True).map(tuple)


def has_deletions(text):
    try:
        return bool(find_deletions(text))
    except UserError:
        return False


CLOZE = st.tuples(LINES, LINES).map(
    lambda t: f"{t[0].replace('[', '').replace(']', '')} [x] {t[1].replace('[', '').replace(']', '')}".strip()
)
EXTRAS = dict.fromkeys(("topic", "angle", "why", "accept", "prompt", "reject", "category", "source", "split"), OPTIONAL)
EXTRAS |= {"needs": IDS, "allow": IDS, "id": st.one_of(st.just(""), ID)}
CARDS = st.one_of(
    st.builds(Card, question=LINES, answer=LINES, **EXTRAS),
    st.builds(Card, question=CLOZE.filter(has_deletions), kind=st.just("cloze"), **EXTRAS),
)
COMMON = {"category": OPTIONAL, "source": OPTIONAL, "id": st.one_of(st.just(""), ID)}
CLUES = LINE.filter(lambda text: text.count("(*)") < 2 and Tossup(text, "x").words)
TOSSUPS = st.builds(Tossup, text=CLUES, answer=LINE, cards=IDS, **COMMON)
PARTS = st.builds(Part, text=LINE, answer=LINE, value=st.integers(0, 50), level=st.sampled_from(["", "e", "m", "h"]))
BONUSES = st.builds(Bonus, leadin=OPTIONAL, parts=st.lists(PARTS, min_size=1, max_size=4).map(tuple), **COMMON)
NAMES = st.lists(PLAIN, max_size=2).map(tuple)
HEADS = st.builds(Head, deck=PLAIN, category=PLAIN, source=PLAIN, license=PLAIN, rules=PLAIN, known=NAMES, glossary=NAMES)
FILES = st.builds(DeckFile, head=HEADS, entries=st.lists(st.one_of(CARDS, TOSSUPS, BONUSES), max_size=6).map(tuple))
