"""The grammar of answer lines: what is accepted, what is asked back, what is wrong although it looks right.

    George **Washington** [accept first president; prompt on general by asking "which one?"; reject Martha Washington]

A line is a main answer and sections in brackets. A section is clauses divided by semicolons; a clause is a directive
and answers divided by ``or`` and commas; in the main answer a comma divides nothing. Words in ``**bold**`` (or
``<b><u>bold</u></b>``) are required; without any, all words of an answer are. A line is read in time that grows as it
does: spaces stand alone, bold never lies within bold, and a bracket or quote that never closes is looked for once.
"""

import html
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

from sluicegate_study.judge.names import unify_names
from sluicegate_study.judge.spelling import normalize_words

Ruling = Literal["accept", "prompt", "reject"]

BOLD = re.compile(r"\x02(.+?)\x03", re.S)
_DIRECTIVES: tuple[tuple[str, Ruling], ...] = (
    (r"(?:do not|don't|never) (?:accept|take|prompt)(?:,? (?:or|nor|and) (?:do not )?(?:accept|prompt)(?: on)?)?(?: on)?", "reject"),
    (r"reject", "reject"),
    (r"anti-?\s?prompt(?: on)?", "prompt"),
    (r"(?:also )?prompt(?: on)?", "prompt"),
    (r"(?:also |and |or )?(?:accept|take)", "accept"),
    (r"or", "accept"),
    (r"also", "accept"),
)
_START = "|".join(pattern for pattern, _ in _DIRECTIVES)
_OPENS = re.compile(rf"\s*(?:{_START})\b", re.I)
_ASKING = re.compile(
    r"\b(?:by asking|asking|with|and ask)\b[:,]?(?:\s+\w+)?\s*[\"“”'‘](.+?)[\"“”’']?\s*(?=$|\x00|;|[\"“”]\s*(?:[,;]|$))", re.I
)
_SAID = r"(?:read|mention(?:ed)?|given|said|buzz\w*|asked|revealed|end)"
_UNTIL = re.compile(
    rf"(?:,\s*)?\b(?:(?:until|before|after|prior to|once|when|if)\b.{{0,80}}?\b{_SAID}\b|in either order|in any order).*$", re.I | re.S
)
_EMPTY = re.compile(
    r"(?:(?:any|all|other|obvious|clear(?:-knowledge)?|clear knowledge|logical|reasonable|equivalent|similar|close|synonymous|specific) )*"
    r"(?:equivalents?(?: answers?)?|word[- ]forms?|synonyms?|descriptions?|translations?|variants?|variations?|spellings?|answers?|forms?)"
    r"(?: (?:of|for|such as|like) .*)?",
    re.I,
)
_PART = re.compile(
    r"(?:either|any|one)(?: (?:one|part|of the))*(?: (?:underlined|bold(?:ed)?|required))?"
    r"(?: (?:part|portion|answer|word|name|half|piece)s?)?(?: alone| only)?",
    re.I,
)
_PARTIAL = re.compile(
    r"(?:on )?(?:a |the |just (?:a |the )?)?(?:(?:partial|incomplete)(?: answers?| names?)?|(?:first|given) names?(?: only| alone)?)", re.I
)
_LIKE = re.compile(r"[\w -]*?\b(?:equivalents?|answers?|synonyms?|variants?|translations?) (?:like|such as|including) (.+)", re.I)
_ABOUT = re.compile(r"(?:the )?(?:study|idea|concept|act|process|notion|use|practice) (?:of|that) ", re.I)
_KINDS = "law principle rule theorem effect equation paradox disease syndrome conjecture method process cycle reaction"
_OTHER_KIND = re.compile(rf"(?:{_KINDS.replace(' ', '|')})")
_MENTION = re.compile(
    r"^(?:(?:any|all|an)\s+)?(?:answers?|responses?|descriptions?|anything|things)\s+(?:that\s+)?"
    r"(?:mention(?:s|ing)?|indicat(?:es?|ing)|involv(?:es?|ing)|includ(?:es?|ing)|contain(?:s|ing)?|about|like|such as|describ(?:es?|ing)"
    r"|express(?:es|ing)?(?: the idea that)?|referr?(?:s|ing)? to)\s+",
    re.I,
)


@dataclass(frozen=True)
class Answer:
    """One answer of a line: how it is ruled, its text (required words between \\x02 and \\x03), what to ask back, and
    how it is meant.

    `loose` answers may stand among any other words ("accept answers mentioning ..."); `main` is the line's first."""

    ruling: Ruling
    text: str
    ask: str = ""
    loose: bool = False
    main: bool = False

    @property
    def plain(self) -> str:
        return self.text.replace("\x02", "").replace("\x03", "")

    @cached_property
    def words(self) -> list[str]:
        """Its words in normal form."""
        return unify_names(normalize_words(self.plain))

    @property
    def bold(self) -> bool:
        """Whether some of its words are marked as required."""
        return "\x02" in self.text


@dataclass(frozen=True)
class AnswerLine:
    """A line, read: its answers, and whether any required part will do, partial answers are asked back, and word forms
    count."""

    answers: tuple[Answer, ...]
    any_part: bool = False
    partial: bool = False
    partial_ask: str = ""
    forms: bool = False

    @property
    def formatted(self) -> bool:
        """Whether the line marks required words anywhere in its main answers."""
        return any(answer.bold for answer in self.answers if answer.ruling == "accept")

    @property
    def shown(self) -> str:
        """The main answer, as one would read it out."""
        return self.answers[0].plain if self.answers else ""


def read_answer_line(line: str) -> AnswerLine:
    """Read a line; whatever it is, the result has a main answer (of no words where there are none)."""
    text = mark_required(line)
    main, sections = _sections(text)
    answers = [Answer("accept", part, main=True) for part in _alternatives(main, commas=False)]
    answers = answers or [Answer("accept", main.strip(), main=True)]
    any_part = partial = forms = False
    partial_ask = ""
    for section in sections:
        for ruling, clause, ask in _clauses(section):
            if re.search(r"\bword[- ]forms?\b", clause, re.I) and ruling == "accept":
                forms = True
            for part in _alternatives(_UNTIL.sub("", clause)):
                plain = part.replace("\x02", "").replace("\x03", "").strip()
                if _PART.fullmatch(plain) and ruling == "accept":
                    any_part = True
                elif _PARTIAL.fullmatch(plain) and ruling == "prompt":
                    partial, partial_ask = True, ask
                elif _EMPTY.fullmatch(plain):
                    if like := _LIKE.fullmatch(plain):
                        answers.append(Answer(ruling, like[1].strip("\"“”'‘’ "), ask))
                elif plain:
                    loose = bool(_MENTION.match(plain))
                    kept = _ABOUT.sub("", _MENTION.sub("", part)) if loose else part
                    kept = re.sub(r"^(?:just|only)\s+|\s+(?:alone|only|by itself)$", "", kept)
                    answers.append(Answer(ruling, kept.strip(), ask, loose))
    return AnswerLine(tuple(answers), any_part, partial, partial_ask, forms)


def mark_required(line: str) -> str:
    """The line with required words between \\x02 and \\x03, without any other markup."""
    text = " ".join(re.sub("[\x00\x02\x03]", "", line).split())
    text = re.sub(r"<\s*(?:b|u|strong)\s*>\s*<\s*(?:b|u|strong)\s*>|<\s*(?:b|u|strong)\s*>", "\x02", text, flags=re.I)
    text = re.sub(r"<\s*/\s*(?:b|u|strong)\s*>\s*<\s*/\s*(?:b|u|strong)\s*>|<\s*/\s*(?:b|u|strong)\s*>", "\x03", text, flags=re.I)
    text = re.sub(r"</?(?:i|em|sup|sub|span|p|br)\b[^<>]*>", "", text, flags=re.I)
    text = html.unescape(text)
    text = re.sub(r"\*\*(.+?)\*\*", "\x02\\1\x03", text)
    text = re.sub(r"(?<![\w\\])__((?:[^_]|_(?!_))++)__(?!\w)", "\x02\\1\x03", text)
    text = re.sub(r"<(?=\w)[^<>]*\w>", " ", text)  # an editor's note
    text = re.sub(r"(?<!\w)[*_](?=\S)([^*_]+?)[*_](?!\w)", r"\1", text)  # a title in italics
    text = text if " " in text else re.sub(r"(?<=[^\W\d_])_(?=[^\W\d_]{2})", " ", text)  # the title of a page
    text = _pair_up(" ".join(text.split()))
    text = re.sub("\x03([\\s-]*)\x02", r"\1", text)  # bold words side by side are one required text
    return re.sub(r"^\s*ANSWER\s*:\s*", "", text, flags=re.I).strip()


def _pair_up(text: str) -> str:
    """The text with each beginning of bold followed by its end: bold within bold goes on, what never ends ends last."""
    depth = 0

    def mark(found: re.Match[str]) -> str:
        nonlocal depth
        before, depth = depth, max(0, depth + (1 if found[0] == "\x02" else -1))
        return found[0] if {before, depth} == {0, 1} else ""

    return re.sub("[\x02\x03]", mark, text) + ("\x03" if depth else "")


def _sections(text: str) -> tuple[str, list[str]]:
    """The main answer, and the contents of brackets; parentheses are sections where they begin with a directive, else
    they are left out."""
    main, sections, depth, start, opening = "", [], 0, 0, ""
    attached = 0  # brackets that belong to a formula or a name: f(x), iron(II)
    for place, character in enumerate(text):
        if not depth and (attached or (character == "(" and text[place - 1 : place].isalnum())):
            attached += (character == "(") - (character == ")")
            main += character
        elif character in "[(" and (depth == 0):
            depth, start, opening = 1, place + 1, character
        elif depth and character == opening:
            depth += 1
        elif depth and character == {"[": "]", "(": ")"}[opening]:
            depth -= 1
            if depth == 0:
                inside = text[start:place]
                if opening == "[" or _OPENS.match(inside.replace("\x02", "")):
                    sections.append(inside)
                else:
                    main += " "
        elif not depth:
            main += character
    if depth:
        sections.append(text[start:])  # never closed: read to the end
    head = re.match(rf"(.*?)[;,]\s*((?:{_START.replace('|or|', '|')})\b.*)$", main, re.I | re.S)
    if head and head[1].strip():  # a line without brackets: main; accept ...
        main, sections = head[1], [head[2], *sections]
    return main, sections


def _clauses(section: str) -> list[tuple[Ruling, str, str]]:
    """The clauses of a section as (ruling, answers, question to ask back). A clause without a directive has the one
    before's."""
    found: list[tuple[Ruling, str, str]] = []
    ruling: Ruling = "accept"
    for part in _split(section, r"\s*;\s*"):
        # "accept X, but prompt on Y": a directive after a comma begins a clause too
        for piece in _split(
            part, rf"\s*(?:,|\.)\s*(?:but |and )?(?=(?:{_START.replace('|or|', '|')})\b)|\s+but\s+(?=(?:{_START.replace('|or|', '|')})\b)"
        ):
            head = piece.strip().strip(".").strip()
            for pattern, meaning in _DIRECTIVES:
                if match := re.match(rf"(?:{pattern})\b:?\s*", head, re.I):
                    ruling, head = meaning, head[match.end() :]
                    break
            asked = _ASKING.search(head)  # the first that asks
            ask = asked[1].strip(" \"“”.,'") if asked else ""
            if asked:
                head = (head[: asked.start()].rstrip(", ") + head[asked.end() :]).strip(' "“”')
            found.append((ruling, head, ask))
    return found


def _alternatives(text: str, commas: bool = True) -> list[str]:
    """Answers divided by or, slashes between words, and commas; never within bold or quotes.

    Without `commas` these divide nothing; but of parts of which one alone is bold, it is the answer."""
    parts = _split(text, r" ?,? (?:or|OR) | ?, (?!(?:jr|sr|and)\b)| / (?=\w\w)" if commas else r" ?,? (?:or|OR) | / (?=\w\w)")
    if not commas:
        divided = [[piece for piece in _split(part, r" ?, ") if "\x02" in piece] for part in parts]
        parts = [bold[0] if len(bold) == 1 else part for part, bold in zip(parts, divided, strict=True)]
    for n, (before, part) in enumerate(pairwise(parts), 1):
        if _OTHER_KIND.fullmatch(part.strip(" .")) and " " in before.strip():  # Joule's rule or law
            parts[n] = f"{before.strip().rpartition(' ')[0]} {part}"
    kept = [re.sub(r"^(?:or|and|the answer)\s+(?=\S)", "", part.strip(" .,")).strip().strip('"“”').strip() for part in parts]
    return [part for part in kept if part.replace("\x02", "").replace("\x03", "").strip()]


def _split(text: str, pattern: str) -> list[str]:
    """Split at a pattern outside of bold and quotes."""
    held: list[str] = []

    def hold(found: re.Match[str]) -> str:
        held.append(found[0])
        return f"\x00{len(held) - 1}\x00"

    hidden = re.sub(r"\x02[^\x03]*\x03|\"[^\"]*\"|“[^“”]*”", hold, text)
    parts = re.split(pattern, hidden, flags=re.I)
    return [re.sub(r"\x00(\d+)\x00", lambda found: held[int(found[1])], part) for part in parts if part]
