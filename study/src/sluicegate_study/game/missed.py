"""A missed tossup becomes a card: its last clue that was heard in full, asked for the tossup's answer, added to a
Markdown deck."""

import re
from collections import Counter
from pathlib import Path

from sluicegate_study.deck.cards import Card, Deck, Entry, Head, Tossup
from sluicegate_study.deck.collection import add_cards
from sluicegate_study.errors import UserError
from sluicegate_study.judge.answerline import BOLD, Answer, read_answer_line

_POINTS = re.compile(r"\bfor (?:10|ten) points,?\s*", re.I)
_ASKS = re.compile(r"\b(?:name|identify|give|what|which) (?:this|these|is|are)\b", re.I)
_THIS = re.compile(r"\b(this|these) ([a-z][\w-]*)", re.I)


def missed_card(tossup: Tossup, heard: int, category: str = "", needs: tuple[str, ...] = ()) -> Card:
    """The card of a tossup of which `heard` words were read: the last clue heard in full (the first, if none was).

    `needs` are ids of cards of the same deck. The answer is judged as the tossup's is."""
    clues = tossup.clues
    ends, number = 0, 1
    for place, clue in enumerate(clues, 1):
        ends += len(clue.split())
        if ends <= heard:
            number = place
    line = read_answer_line(tossup.answer)
    bold = [answer for answer in line.answers if not answer.main or answer.bold]
    accept = [_clause(answer) for answer in bold if answer.ruling == "accept"]
    prompt = [_clause(answer) for answer in bold if answer.ruling == "prompt"]
    if line.any_part:
        accept += [f"**{part}**" for answer in line.answers if answer.main for part in BOLD.findall(answer.text)]
    if line.forms:
        accept.append("word forms")
    if line.partial:
        prompt.append("partial answer" + _asking(line.partial_ask))
    behind = [card for card in tossup.cards if card not in needs]
    return Card(
        _question(clues[number - 1], tossup),
        " ".join(line.shown.split()) or tossup.answer,
        id=f"missed-{tossup.key}-{number}",
        needs=needs,
        accept="; accept ".join(accept),
        prompt="; prompt on ".join(prompt),
        reject="; reject ".join(_clause(answer) for answer in bold if answer.ruling == "reject"),
        category=" ".join(category.split()),
        source=f"clue {number} of the tossup {tossup.key}" + (f"; see the cards {', '.join(behind)}" if behind else ""),
    )


def add_card(card: Card, path: Path, deck: Deck | None = None) -> bool:
    """Add a card to the end of a deck file; False where it, or one with its question, is there already, or in
    `deck`."""
    check_file(path)

    def choose(there: list[Entry]) -> list[Card]:
        others = [*there, *(deck.cards if deck else ())]
        known = any(other.key == card.key or (isinstance(other, Card) and other.question == card.question) for other in others)
        return [] if known else [card]

    return add_cards(path, Head(deck=path.stem), choose) > 0


def check_file(path: Path) -> None:
    """Raise `UserError` where a deck file cannot be at `path`."""
    if path.suffix != ".md" or path.is_dir():
        raise UserError(f"the file for missed tossups is {str(path)!r}: expected a Markdown file, there or not, as missed.md.")


def _question(clue: str, tossup: Tossup) -> str:
    """The clue, and what is asked for: most clues say "this river", some only "it"."""
    clue = _POINTS.sub("", clue)
    clue = clue[:1].upper() + clue[1:]
    if _ASKS.search(clue):
        return clue
    named = Counter((this.lower(), noun.lower()) for this, noun in _THIS.findall(" ".join(tossup.clues)))
    asked = "Name {} {}.".format(*named.most_common(1)[0][0]) if named else "What is it?"
    return f"{clue} {asked}" if clue[-1:] in ".!?" else f"{clue}: {asked}"


def _clause(answer: Answer) -> str:
    text = answer.text.replace("\x02", "**").replace("\x03", "**")
    return ("answers mentioning " if answer.loose else "") + _flat(text) + _asking(answer.ask)


def _asking(question: str) -> str:
    return f' by asking "{_flat(question)}"' if question else ""


def _flat(text: str) -> str:
    return " ".join(re.sub(r'[\[\];"“”]', " ", text).split())
