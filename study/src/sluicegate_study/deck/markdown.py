"""Markdown decks: from text to entries and back.

An entry starts at the beginning of a line with ``Q:`` (then ``A:``), ``C:``, ``T:`` or ``B:`` (then ``ANSWER:``) and
goes on to the next one or to a line ``---``. Its last lines may be attributes, ``key: value``. All that hashcards reads
is read here and means the same, its terms (``T:``, then ``D:``) too. Text that only looks like a tag, an attribute or a
``---`` has a backslash before it, or stands in a code fence. Every line is looked at once, whatever it holds.
"""

import dataclasses
import re
import tomllib
import unicodedata
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

import tomli_w

from sluicegate_study.deck.cards import LONGEST, MARK, Bonus, Card, DeckFile, Entry, Head, Part, Problem, Tossup, find_deletions
from sluicegate_study.errors import UserError

KEYS: dict[str, tuple[str, ...]] = {
    "card": ("id", "topic", "angle", "needs", "why", "accept", "prompt", "reject", "category", "source", "split", "allow"),
    "tossup": ("id", "category", "source", "cards"),
    "bonus": ("id", "category", "source"),
}
LISTS = ("needs", "allow", "cards")
_ANY = "|".join(sorted({key for keys in KEYS.values() for key in keys}))
_TAG = re.compile(r"(Q|A|C|T|B|D|ANSWER):")
_ATTRIBUTE = re.compile(rf"({_ANY}):(?:\s|$)")
_LEVEL = re.compile(r"\[(\d+)([emh]?)\]")
_SPECIAL = rf"(?:Q|A|C|T|B|ANSWER):|(?:{_ANY}):(?:\s|$)|---\s*$|\[\d+[emh]?\]"
_NEXT = rf"(?:{_ANY}):(?:\s|$)"
_ID = re.compile(r"[A-Za-z0-9][\w.:/-]*")
_TYPO = re.compile(r"\s*(?:(q|question|cloze|tossup|bonus)|a|c|t|b|answer)\s*[:;]", re.IGNORECASE)
_KEY = re.compile(r"([A-Za-z][A-Za-z_-]*):\s")
_FENCE = re.compile(r"```|~~~")
_FOREIGN = re.compile(r"[^\s:]\s*:{2,3}\s*[^\s:]|^\?{1,2}$|==\S.*==|<!--SR:")
"""Cards as Obsidian's plug-in writes them: question::answer, a question mark on a line, ==highlights==, its dates."""


@dataclass
class _Section:
    """A tag and the lines that belong to it; the first is what follows the tag on its own line."""

    tag: str
    line: int
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        rest = [re.sub(rf"^\\(\\*)(?={_SPECIAL}|{_FENCE.pattern})", r"\1", line) for line in self.lines[1:]]
        return "\n".join([self.lines[0], *rest]).strip()

    @property
    def end(self) -> int:
        return self.line + len(self.lines)


class _Reader:
    """Reads one file; problems are gathered, never raised."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.problems: list[Problem] = []
        self.sections: list[_Section] = []
        self.fence = ""  # what opened the code that the line stands in
        self.closes: dict[str, int] = {}  # the last line that could close such code
        self.ended = False  # by a line ---

    def problem(self, line: int, message: str, severity: Literal["error", "warning"] = "error") -> None:
        self.problems.append(Problem(self.path, line, message, severity))

    def read(self, text: str) -> DeckFile:
        lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
        head, start = self.head(lines)
        self.closes = {line.rstrip(): number for number, line in enumerate(lines, 1) if _FENCE.fullmatch(line.rstrip())}
        before = ""
        for number, line in enumerate(lines[start:], start + 1):
            self.line(number, line, before)
            before = line
        self.close()
        return DeckFile(head, tuple(self.entries), self.path)

    def head(self, lines: list[str]) -> tuple[Head, int]:
        """The front matter, and how many lines it takes."""
        fence = lines[0].strip()
        if fence not in ("+++", "---"):
            return Head(), 0
        end = next((n for n, line in enumerate(lines[1:], 1) if line.strip() == fence), 0)
        if not end:
            self.problem(1, f"the front matter opens with {fence} and never closes: expected a second line {fence}")
            return Head(), 1
        try:
            content = tomllib.loads("\n".join(lines[1:end]))
        except tomllib.TOMLDecodeError as error:
            at = re.search(r"at line (\d+)", str(error))
            self.problem(1 + int(at[1]) if at else 1, f'the front matter is not TOML ({error}): expected lines like deck = "name"')
            return Head(), end + 1
        return self.known_head(content), end + 1

    def known_head(self, content: dict[str, Any]) -> Head:
        if "name" in content:  # what hashcards calls it
            content.setdefault("deck", content.pop("name"))
        values: dict[str, Any] = {}
        for option in dataclasses.fields(Head):
            value = content.pop(option.name, option.default)
            listed = isinstance(option.default, tuple)
            if listed and isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
                values[option.name] = tuple(value)
            elif not listed and isinstance(value, str):
                values[option.name] = value
            else:
                self.problem(1, f"{option.name} in the front matter is {value!r}: expected {'a list of texts' if listed else 'a text'}")
        for name in content:
            allowed = ", ".join(option.name for option in dataclasses.fields(Head))
            self.problem(1, f"unknown setting {name!r} in the front matter: expected one of {allowed}", "warning")
        return Head(**values)

    def line(self, number: int, line: str, before: str) -> None:
        first = self.sections[0].tag if self.sections else ""
        found = _TAG.match(line)
        tag = found[1] if found else ""
        if self.fence:
            self.sections[-1].lines.append(line)
            if tag in ("Q", "C", "T", "B"):
                self.problem(
                    number, f"{tag}: stands in a code fence and is read as code: expected a line {self.fence} before it", "warning"
                )
            self.fence = "" if line.rstrip() == self.fence else self.fence
            return
        if line.rstrip() == "---":
            self.close()
            self.ended = bool(first)
            return
        if tag == "D" and (first != "T" or len(self.sections) > 1):
            tag = ""
        if tag in ("T", "B") and first in ("Q", "C") and before.strip():
            tag = ""  # in the middle of a card's text: hashcards knows no such tags
        if tag == "ANSWER" and first in ("Q", "C"):
            tag = ""
        if tag in ("Q", "C", "T", "B"):
            self.close()
            self.sections = [_Section(tag, number, [line[2:]])]
        elif tag == "A" and first != "Q":
            self.problem(number, f"A: {'in a ' + first + ': entry' if first else 'without a question'}: expected Q: before it")
            self.close()
        elif tag == "A" and len(self.sections) > 1:
            self.problem(number, "a second A: for one Q:: expected one answer; text that begins with A: is written \\A:")
            self.close()
        elif tag == "ANSWER" and not first:
            self.problem(number, "ANSWER: without a tossup or bonus: expected T: or B: before it")
        elif tag in ("A", "D", "ANSWER"):
            self.sections.append(_Section(tag, number, [line[len(tag) + 1 :]]))
        elif first == "B" and _LEVEL.match(line):
            self.sections.append(_Section("[", number, [line]))
        elif self.sections:
            self.sections[-1].lines.append(line)
            typo = _TYPO.match(line)
            if typo and not found and (typo[1] or not before.strip() or _TYPO.match(before)):
                self.problem(
                    number, f"{line.strip()[:30]!r} is read as text: expected Q:, A:, C:, T: or B: to begin something new", "warning"
                )
        elif _TYPO.match(line) or _FOREIGN.search(line):
            self.problem(
                number, f"{line.strip()[:30]!r} stands outside of an entry: expected Q:, C:, T: or B: at the start of a line", "warning"
            )
        elif self.ended and line.strip():
            self.problem(number, f"{line.strip()[:30]!r} stands after --- and belongs to no entry: expected Q:, C:, T: or B:", "warning")
            self.ended = False
        if self.sections and (self.sections[0].tag in ("Q", "C") or self.sections[-1].tag == "D"):
            self.open_fence(number, line[len(tag) + 1 :].lstrip() if tag else line)

    def open_fence(self, number: int, text: str) -> None:
        """Begin code where a fence opens that closes: in it tags and --- are text."""
        mark = text[:3] if _FENCE.match(text) and text[:3] not in text[3:] else ""
        if mark and self.closes.get(mark, 0) > number:
            self.fence = mark
        elif mark:
            self.problem(number, f"a code fence {mark} that never closes: expected a line {mark} after the code", "warning")

    def close(self) -> None:
        """Make an entry of the sections so far."""
        sections, self.sections = self.sections, []
        if not sections:
            return
        self.ended = False
        tag, line = sections[0].tag, sections[0].line
        if (size := sum(len(text) for section in sections for text in section.lines)) > LONGEST:
            self.problem(line, f"an entry of {size:,} characters: expected {LONGEST:,} at most. Make several of it.")
            return
        term = tag == "T" and sections[-1].tag == "D"
        kind = "card" if term else {"T": "tossup", "B": "bonus"}.get(tag, "card")
        for section in sections[:-1]:
            self.almost(section, kind)
        values = self.attributes(sections[-1], kind)
        place: dict[str, Any] = {"path": self.path, "line": line}
        try:
            if tag == "C":
                find_deletions(sections[0].text)
                self.entries.append(Card(sections[0].text, kind="cloze", **values, **place))
            elif term:  # asked both ways
                card = self.basic(sections, values, place)
                self.entries += [
                    card,
                    dataclasses.replace(card, question=card.answer, answer=card.question, id=card.id and f"{card.id}-term"),
                ]
            elif tag == "Q":
                self.entries.append(self.basic(sections, values, place))
            elif tag == "T":
                self.entries.append(_tossup(sections, values, place))
            else:
                self.entries.append(_bonus(sections, values, place))
        except UserError as error:
            self.problem(line, str(error))

    def basic(self, sections: list[_Section], values: dict[str, Any], place: dict[str, Any]) -> Card:
        if len(sections) < 2:
            raise UserError("Q: without an answer: expected A: before the next entry")
        question, answer = (section.text for section in sections)
        if not question or not answer:
            raise UserError(f"{sections[bool(question)].tag}: is empty: expected text after it")
        begins = re.search(r"(?m)^(T|B): ", question)
        if re.search(r"(?m)^ANSWER:", answer) or (begins and re.search(r"(?m)^ANSWER:", question[begins.end() :])):
            self.problem(place["line"], "ANSWER: within a card is read as text: expected a blank line or --- before T: or B:", "warning")
        return Card(question, answer, **values, **place)

    def attributes(self, section: _Section, kind: str) -> dict[str, Any]:
        """Take the attribute lines off the end of a section."""
        lines, values = section.lines, dict[str, Any]()
        cut = len(lines)
        while cut > 1 and (not lines[cut - 1].strip() or _ATTRIBUTE.match(lines[cut - 1])):
            cut -= 1
        for number, line in enumerate(lines[cut:], section.line + cut):
            for key, value in _pairs(line) if line.strip() else ():
                if key == "id" or key in LISTS:  # one letter may be written in two ways
                    value = unicodedata.normalize("NFC", value)
                if key not in KEYS[kind]:
                    self.problem(number, f"{key}: means nothing on a {kind}: expected one of {', '.join(KEYS[kind])}", "warning")
                elif key in values:
                    self.problem(number, f"a second {key}: on one {kind}, left out: expected one line for each key", "warning")
                elif key == "id" and value and not _ID.fullmatch(value):
                    self.problem(number, f"id {value!r} is left out: expected letters, digits and . _ : / - only, without spaces")
                elif value:
                    values[key] = tuple(dict.fromkeys(filter(None, map(str.strip, value.split(","))))) if key in LISTS else value
        del lines[cut:]
        self.almost(section, kind)
        return values

    def almost(self, section: _Section, kind: str) -> None:
        """Warn of lines that look like attributes and are text."""
        last = len(section.lines) - 1
        for number, line in enumerate(section.lines[1:], 1):
            if _ATTRIBUTE.match(line):
                self.problem(
                    section.line + number,
                    f"{line[:30]!r} is read as text: expected attributes after all other lines of a {kind}",
                    "warning",
                )
            elif section.tag == "ANSWER" and (found := re.match(r"([A-Za-z]+):\s", line)):
                allowed = ", ".join(KEYS[kind])
                self.problem(
                    section.line + number, f"{found[1]}: is read as a part of the answer line: expected one of {allowed}", "warning"
                )
            elif number == last and section.tag in ("A", "C", "D") and (found := _KEY.match(line)) and not _TYPO.match(line):
                near = get_close_matches(found[1].lower()[:20], KEYS[kind], n=1, cutoff=0.75)
                if near or found[1].islower():
                    meant = f"{near[0]}:" if near else f"one of {', '.join(KEYS[kind])}"
                    self.problem(
                        section.line + number,
                        f"{found[1][:30]}: is read as text: expected {meant} if it is meant as an attribute",
                        "warning",
                    )


def _pairs(line: str) -> list[tuple[str, str]]:
    """The key: value pairs of one line, divided by two spaces or more, or by a bar."""
    pairs = []
    for part in re.split(rf"(?<!\s)(?:\s{{2,}}+|\s*+\|\s++)(?={_NEXT})", line.strip()):
        key, _, value = part.partition(":")
        pairs.append((key.strip(), re.sub(rf"(?<=\| )\\(\\*)(?={_NEXT})", r"\1", " ".join(value.split()))))
    return pairs


def _answer(sections: list[_Section], what: str) -> str:
    answers = [section for section in sections if section.tag == "ANSWER"]
    if len(answers) != 1:
        raise UserError(f"{what} with {len(answers)} ANSWER: lines: expected one, after its text")
    answer = " ".join(answers[0].text.split())
    if not answer:
        raise UserError("ANSWER: is empty: expected an answer line after it")
    return answer


def _tossup(sections: list[_Section], values: dict[str, Any], place: dict[str, Any]) -> Tossup:
    text = " ".join(sections[0].text.split())
    if text.count(MARK) > 1:
        raise UserError(f"a tossup with {text.count(MARK)} power marks (*): expected one at most")
    made = Tossup(text, _answer(sections, "a tossup"), **values, **place)
    if not made.words:
        raise UserError("T: is empty: expected clues after it")
    return made


def _bonus(sections: list[_Section], values: dict[str, Any], place: dict[str, Any]) -> Bonus:
    leadin = " ".join(sections[0].text.split())
    groups: list[list[_Section]] = []
    for section in sections[1:]:
        if section.tag == "[":
            groups.append([section])
        elif groups:
            groups[-1].append(section)
        else:
            raise UserError("ANSWER: before the first part of a bonus: expected [10] (or [10e], [10m], [10h]) and the part's text")
    if not groups:
        raise UserError("a bonus without parts: expected lines that begin with [10], [10e], [10m] or [10h]")
    return Bonus(leadin, tuple(map(_part, groups)), **values, **place)


def _part(group: list[_Section]) -> Part:
    found = _LEVEL.match(group[0].lines[0])
    assert found
    text = " ".join([group[0].lines[0][found.end() :], *group[0].text.split("\n")[1:]]).strip()
    inline = re.search(r"\s/\s+ANSWER:", text)
    if inline:
        text, answer = text[: inline.start()], " ".join(text[inline.end() :].split())
        if len(group) > 1 or not answer:
            raise UserError(f"the part [{found[1]}{found[2]}] needs one ANSWER: with text after it")
    else:
        answer = _answer(group, f"the part [{found[1]}{found[2]}]")
    text = re.sub(r"(?<=/ )\\(\\*)(?=ANSWER:)", r"\1", " ".join(text.split()))
    if not text:
        raise UserError(f"the part [{found[1]}{found[2]}] is empty: expected its text after the bracket")
    level: Any = found[2]
    return Part(text, answer, int(found[1]), level)


def read_markdown(text: str, path: str = "") -> tuple[DeckFile, list[Problem]]:
    """Read the text of one file. Problems name `path`, line and what was expected; whatever else the file holds is
    read."""
    reader = _Reader(path)
    file = reader.read(text)
    return file, sorted(reader.problems, key=lambda problem: problem.line)


# ------------------------------------------------------------------------------------ writing


def write_markdown(file: DeckFile) -> str:
    """The text of one file; reading it gives an equal file."""
    head = {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(file.head).items() if v}
    front = f"+++\n{tomli_w.dumps(head)}+++\n\n" if head else ""
    return front + "\n\n".join(map(_entry, file.entries)) + ("\n" if file.entries else "")


def _entry(entry: Entry) -> str:
    if isinstance(entry, Card):
        body = [f"C: {_text(entry.question)}"] if entry.kind == "cloze" else [f"Q: {_text(entry.question)}", f"A: {_text(entry.answer)}"]
        kind = "card"
    elif isinstance(entry, Tossup):
        body, kind = [f"T: {_flat(entry.text)}", f"ANSWER: {_flat(entry.answer)}"], "tossup"
    else:
        body, kind = [f"B: {_flat(entry.leadin)}"], "bonus"
        for part in entry.parts:
            text = re.sub(r"(?<=/ )(\\*)(?=ANSWER:)", r"\\\1", _flat(part.text))
            body += [f"[{part.value}{part.level}] {text}", f"ANSWER: {_flat(part.answer)}"]
    for key in KEYS[kind]:
        value = getattr(entry, key)
        value = ", ".join(value) if isinstance(value, tuple) else _flat(value)
        if value:
            body.append(f"{key}: " + re.sub(rf"(?<=\| )(\\*)(?={_NEXT})", r"\\\1", value))
    return "\n".join(body)


def _text(text: str) -> str:
    """Text of several lines, those that would be read as something else with a backslash before them."""
    lines = text.strip().split("\n")
    special = _SPECIAL
    open_fence = ""
    for line in lines:
        if open_fence:
            open_fence = "" if line.rstrip() == open_fence else open_fence
        elif _FENCE.match(line) and line[:3] not in line[3:]:
            open_fence = line[:3]
    if open_fence:  # it would go on into the next entry
        special = f"{_SPECIAL}|{_FENCE.pattern}"
        lines = ["", *lines] if _FENCE.match(lines[0]) else lines
    first, *rest = lines
    return "\n".join([first, *(re.sub(rf"^(\\*)(?={special})|^(\\+)(?={_FENCE.pattern})", r"\\\1\2", line) for line in rest)])


def _flat(text: str) -> str:
    return " ".join(text.split())
