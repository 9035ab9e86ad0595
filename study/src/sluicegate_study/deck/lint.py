"""Things to look at in a deck: cards that seem to ask for more than one inferential step, and other habits that make
cards weak.

Surface rules see words, not steps, so a finding is a question to the author and never a score of the deck. Every rule
has an id, and a card waives it with ``allow: RULE``. The principles are those of Wozniak's minimum information,
Matuschak's "focused" and "precise", and Nielsen's "build up from atoms"; the wording and the thresholds are ours.
"""

import functools
import operator
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sluicegate_study.deck.cards import Card, Deck
from sluicegate_study.deck.graph import Graph
from sluicegate_study.deck.symbols import find_names

LONG = 15
SHARED = 4
LEAK = 0.6
MOST_NEEDS = 3
_FEW = r"(?:two|three|four|five|six|\d+)"
_LIST_VERBS = rf"list|identify {_FEW}|(?:name|give) (?:the|all|some|{_FEW})|enumerate|state (?:the|all) {_FEW}"
_PLURALS = (
    "parts|steps|stages|phases|types|kinds|causes|reasons|effects|symptoms|themes|principles|components|members|"
    "differences|terms|features|advantages|elements|branches|properties|rules|factors"
)
_WHOLE = r"explain|describe|compare|contrast|summari[sz]e|discuss|outline|derive|prove"
_WH = r"who|whom|whose|what|when|where|which|why|how"
_LEADS = "which (?:means|leads?|led|causes?|caused|makes?|made|drew|gives?)"
_CHAIN = re.compile(rf"\b(?:because|therefore|thus|hence|consequently|{_LEADS}|and so|so that|so|then|until)\b", re.I)
_YES = re.compile(r"^(?:is|are|was|were|do|does|did|can|could|has|have|had|will|would|should|may|must)\b", re.I)
_PRONOUN = re.compile(r"\b(?:it|its|they|them|their|he|him|his|she|her|this|these|that one|those)\b", re.I)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SMALL = (
    "a an and are as at be but by do does for from had has have in is it its of on or so than that the their to was were which will with"
)
_STOP = frozenset(_SMALL.split())

HINTS: dict[str, str] = {
    "two-questions": "ask one thing: make a card of each question",
    "compound-question": "ask for one thing: make a card of each question word",
    "asks-for-a-set": "sets are hard to hold: ask for one member at a time, or for what they share, or make an overlapping cloze",
    "asks-for-an-account": "ask for one link of the account: what causes what, or what comes next",
    "answer-is-a-list": "ask for one item at a time, each from a cue of its own",
    "long-answer": f"say it in {LONG} words or fewer, or ask for one part of it",
    "multi-sentence-answer": "each sentence may be a card of its own, which needs the one before",
    "chained-answer": "make a card of each link, and let it need the link before",
    "new-symbol": "introduce one symbol a card: give others cards of their own and name those in needs:, or list them as known on top",
    "yes/no": "half of the guesses are right: ask what, which or why",
    "no-referent": "name what it is about: the card will come up alone",
    "answer-leaks": "take the answer's words out of the question",
    "answer-shared": "one answer for many cards is learnt as a habit: ask from the answer's side in some",
    "many-needs": f"more than {MOST_NEEDS} direct needs: put a card in between",
    "one-angle": "add a card on this topic from another angle",
    "unintroduced": "a target formula without smaller cards beneath: add needs: to cards that build it up",
}
MORE_THAN_ONE_STEP = (
    *("two-questions", "compound-question", "asks-for-a-set", "asks-for-an-account", "answer-is-a-list"),
    *("long-answer", "multi-sentence-answer", "chained-answer", "new-symbol"),
)
"""The rules whose finding says that a card may ask for more than one step."""


@dataclass(frozen=True)
class Finding:
    """A rule that a card meets, what in the card met it, and where the card stands."""

    rule: str
    key: str
    seen: str
    path: str = ""
    line: int = 0

    @property
    def hint(self) -> str:
        return HINTS[self.rule]

    @property
    def more_than_one_step(self) -> bool:
        return self.rule in MORE_THAN_ONE_STEP

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.seen}; {self.hint}"


def lint(deck: Deck) -> list[Finding]:
    """All findings of a deck that its cards do not waive, in the order of the deck."""
    found: dict[str, list[tuple[str, str]]] = {card.key: list(check_wording(card)) for card in deck.cards}
    for rule in (_shared_answers, _angles):
        for key, name, seen in rule(deck.cards):
            found[key].append((name, seen))
    graph = Graph(deck.cards)
    for key, name, seen in _graph_rules(deck, graph):
        found[key].append((name, seen))
    return [
        Finding(rule, card.key, seen, card.path, card.line)
        for card in deck.cards
        for rule, seen in found[card.key]
        if rule not in card.allow
    ]


def check_wording(card: Card) -> Iterator[tuple[str, str]]:
    """What can be seen on one card alone, as (rule, what was seen). A cloze text is judged by its deletions only."""
    if card.kind == "cloze":
        for hidden in card.questions():
            if len(words := _WORD.findall(hidden.answer)) > LONG:
                yield "long-answer", f"a deletion of {len(words)} words"
        return
    question, answer = _prose(card.question), _prose(card.answer)
    for rule in _SURFACE:
        yield from rule(question, answer)


Rule = Callable[[str, str], Iterator[tuple[str, str]]]


def _two_questions(question: str, answer: str) -> Iterator[tuple[str, str]]:
    if (marks := question.count("?")) > 1:
        yield "two-questions", f"{marks} question marks"


def _compound_question(question: str, answer: str) -> Iterator[tuple[str, str]]:
    first = re.search(rf"\b({_WH})\b", question, re.I)
    if not first:
        return
    rest = question[first.end() :]
    for found in re.finditer(
        rf"(,\s+(?:and |or )?|\b(?:and|or)\s+)(?:(?:in|on|at|by|from|to|of|for) )?({_WH}|can|could|does|do|is)\b(\s*[,?])?", rest, re.I
    ):
        joined = re.search(r"and|or", found[1])
        # A comma and then "who", "which", ... is a relative clause, unless the word stands alone.
        if joined or found[3] or found[2].lower() not in ("who", "whose", "whom", "which", "where", "when"):
            yield "compound-question", f"{first[1].lower()} ... and {found[2].lower()}"
            return


def _asks_for_a_set(question: str, answer: str) -> Iterator[tuple[str, str]]:
    patterns = (
        rf"^(?:{_LIST_VERBS})\b",
        rf"\b(?:what|which|who) (?:are|were) (?:the |some )?(?:\w+ ){{0,3}}?(?:{_PLURALS}|two|three|four|five|six|seven|first \w+)\b",
        r"^(?:what|who) (?:are|were) the (?:main |most |major )?(?:[\w-]+ )?[\w-]*[^s\W]s\??$",
        r"^which [\w-]+(?<![aius])s (?:have|are|were|do|did)\b",
    )
    for pattern in patterns:
        if found := re.search(pattern, question, re.I):
            yield "asks-for-a-set", f"{found[0]!r}"
            return


def _asks_for_an_account(question: str, answer: str) -> Iterator[tuple[str, str]]:
    if found := re.search(rf"^(?:{_WHOLE})\b", question, re.I):
        yield "asks-for-an-account", f"{found[0]!r}"


def _answer_is_a_list(question: str, answer: str) -> Iterator[tuple[str, str]]:
    items = _items(answer)
    if items >= 3:
        yield "answer-is-a-list", f"{items} items"
    elif re.search(r";\s+\S", answer) and answer.count(";") >= 1 and len(_WORD.findall(answer)) > 3:
        yield "answer-is-a-list", f"{answer.count(';') + 1} parts divided by semicolons"


def _long_answer(question: str, answer: str) -> Iterator[tuple[str, str]]:
    if (count := len(_WORD.findall(answer))) > LONG:
        yield "long-answer", f"{count} words"


def _multi_sentence(question: str, answer: str) -> Iterator[tuple[str, str]]:
    sentences = [part for part in re.split(r"(?<=[a-z\d)][.!?])\s+(?=[A-Z])", answer) if len(part.split()) > 1]
    if len(sentences) > 1:
        yield "multi-sentence-answer", f"{len(sentences)} sentences"


def _chained_answer(question: str, answer: str) -> Iterator[tuple[str, str]]:
    links = _CHAIN.findall(re.sub(r"^(?:because|so that)\b", "", answer.strip(), flags=re.I))
    if len(links) >= 2 or (links and answer.count(",") and re.match(r"^(?:why|how)\b", question, re.I)):
        yield "chained-answer", " ... ".join(link.lower() for link in links)


def _yes_no(question: str, answer: str) -> Iterator[tuple[str, str]]:
    if (_YES.match(question.strip()) and not re.search(r"\bor\b", question)) or re.match(r"^(?:yes|no|true|false)\b", answer.strip(), re.I):
        yield "yes/no", "the answer can be guessed half of the time"


def _no_referent(question: str, answer: str) -> Iterator[tuple[str, str]]:
    found = _PRONOUN.search(question)
    if not found:
        return
    words = _WORD.findall(question[: found.start()])
    named = [w for w in words if w.lower() not in _STOP and not re.fullmatch(_WH, w, re.I) and not _YES.match(w)]
    after = [w for w in _WORD.findall(question[found.end() :])[:1] if found[0].lower() in ("this", "these", "their", "his", "her", "its")]
    if not named and not (after and found[0].lower() in ("this", "these") and len(_WORD.findall(question)) > 8):
        yield "no-referent", f"{found[0]!r} with nothing before it that it could stand for"


def _answer_leaks(question: str, answer: str) -> Iterator[tuple[str, str]]:
    asked = {w.lower() for w in _WORD.findall(question)}
    words = [w.lower() for w in _WORD.findall(answer) if w.lower() not in _STOP]
    inside = sum(w in asked for w in words)
    choice = re.search(r"\bor\b", question, re.I)
    if words and inside / len(words) > LEAK and not choice:
        yield "answer-leaks", f"{inside} of the answer's {len(words)} words are in the question"


_SURFACE: tuple[Rule, ...] = (
    *(_two_questions, _compound_question, _asks_for_a_set, _asks_for_an_account, _answer_is_a_list, _long_answer),
    *(_multi_sentence, _chained_answer, _yes_no, _no_referent, _answer_leaks),
)


def _items(answer: str) -> int:
    """How many things an answer lists: bullets, or a row divided by commas (the last by and)."""
    bullets = re.findall(r"(?m)^[^\S\n]*+(?:[-*+]|\d+[.)])\s+\S", answer)
    if len(bullets) >= 2:
        return len(bullets)
    parts = [part for part in re.split(r", (?:and |or )?| and | or ", " ".join(answer.split()).rstrip(".")) if part.strip()]
    return len(parts) if answer.count(",") >= 1 and len(parts) >= 3 else 1


def _prose(text: str) -> str:
    """The text without code, formulas and pictures, whose commas and semicolons are no lists."""
    return re.sub(r"```.*?```|\$\$.*?\$\$|`[^`]*`|\$[^$\n]*\$|!\[[^\[\]]*+\]\([^()]*+\)", "\ufffc", text, flags=re.S).strip()


def _shared_answers(cards: Iterable[Card]) -> Iterator[tuple[str, str, str]]:
    same: dict[str, list[str]] = defaultdict(list)
    for card in cards:
        if card.kind == "basic":
            same[" ".join(w.lower() for w in _WORD.findall(card.answer))].append(card.key)
    for answer, keys in same.items():
        if answer and len(keys) >= SHARED:
            for key in keys:
                yield key, "answer-shared", f"{len(keys)} cards have this answer"


def _angles(cards: Iterable[Card]) -> Iterator[tuple[str, str, str]]:
    topics: dict[str, list[Card]] = defaultdict(list)
    for card in cards:
        if card.topic:
            topics[card.topic].append(card)
    for topic, group in topics.items():
        if len({card.angle for card in group}) == 1:
            yield group[0].key, "one-angle", f"topic {topic!r} has {len(group)} card{'s' if len(group) > 1 else ''} and one angle"


def _graph_rules(deck: Deck, graph: Graph) -> Iterator[tuple[str, str, str]]:
    known: dict[str, frozenset[str]] = {}
    glossaries: dict[str, tuple[str, ...]] = {}
    for file in deck.files:
        for entry in file.entries:
            if isinstance(entry, Card):
                known[entry.key] = frozenset(file.head.known)
                glossaries[entry.key] = file.head.glossary
    glossary = sorted({term for terms in glossaries.values() for term in terms})
    names = {key: find_names(_text_of(card), glossary) for key, card in graph.cards.items()}
    # What the cards beneath a card introduce, a bit for each name: a long chain costs no more than its links.
    bit = {name: 1 << place for place, name in enumerate(dict.fromkeys(name for found in names.values() for name in found))}
    own = {key: sum(map(bit.__getitem__, found)) for key, found in names.items()}
    beneath: dict[str, int] = {}
    for key in graph.order:
        beneath[key] = functools.reduce(operator.or_, (beneath[need] | own[need] for need in graph.needs[key]), 0)
    needed = {need for needs in graph.needs.values() for need in needs}
    for key, card in graph.cards.items():
        if len(card.needs) > MOST_NEEDS:
            yield key, "many-needs", f"{len(card.needs)} needs"
        new = [name for name in names[key] if not beneath[key] & bit[name] and name not in known[key]]
        if len(new) > 1:
            yield key, "new-symbol", f"{len(new)} that no card beneath introduces: {', '.join(new)}"
        if not graph.needs[key] and key not in needed and len(names[key]) >= 4 and "$" in card.answer:
            yield key, "unintroduced", f"a formula of {len(names[key])} symbols"


def _text_of(card: Card) -> str:
    if card.kind == "basic":
        return f"{card.question}\n{card.answer}"
    first = card.questions()[0]
    return first.prompt.replace("[...]", first.answer, 1)
