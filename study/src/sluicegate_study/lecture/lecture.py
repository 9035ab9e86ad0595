"""Notes of a lecture as claims: one step each, in the order in which they build on each other.

The split is a pure function of the text: list items, sentences, display formulas with their lead-in, and lines marked
``claim:``. It is written into a file beside the notes that the reader may edit; from then on that file counts, and the
notes are only looked at.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from sluicegate_study.deck.cards import Card, Problem
from sluicegate_study.deck.graph import Graph
from sluicegate_study.errors import UserError
from sluicegate_study.files import read_text
from sluicegate_study.formatting import replace_spans

HEAD = """\
# Claims of {name}. Yours to edit until you have read them: merge, split, reword, reorder, remove.
# [name] begins a claim. needs: the names of the claims it builds on, or none; without it, the claim before in its section.
# blank: the words to hide in the cold test, if you want to choose them yourself. ## begins a section, and with it a new chain.
"""
_ABBREVIATIONS = r"e\.g|i\.e|cf|vs|etc|et al|resp|approx|Fig|Figs|Eq|Eqs|Sec|Ch|Thm|Dr|Mr|Mrs|Ms|Prof|St|No|Vol|pp|ca"
_KEPT = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$|`[^`\n]+`", re.S)
_END = re.compile(r"(?<=[.!?])[\"'”’)*_]*\s+(?=[\"'“‘(*_\ue000]*[A-Z0-9\ue000])")
_ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+(?:\[[ xX]\]\s+)?(?=\S)")
_LEANS = re.compile(r"(?:It|Its|They|Their|Them|He|His|She|Her|This|That|These|Those|Such|Yes|No|Because)\b")
"""How a sentence begins that says nothing without the one before."""
_WHERE = re.compile(r"(?:where|with|in which|for all|for each|so that)\b")
_MARKED = re.compile(r"\s*(?:[-*+]\s+)?claim:\s*(?=\S)", re.I)
_NAME = re.compile(r"\[([A-Za-z0-9][\w.-]*)\]\s+(?=\S)")


@dataclass(frozen=True)
class Claim:
    """One step of a lecture: its name, its text on one line, the claims it needs, and the title of its section.

    `blank` are the words that the test hides, where the reader chose them."""

    name: str
    text: str
    needs: tuple[str, ...] = ()
    section: str = ""
    blank: str = ""
    line: int = field(default=0, compare=False)

    @property
    def rev(self) -> str:
        """Twelve hexadecimal digits of what is asked; a prediction holds for one rev only."""
        return hashlib.sha256(f"{self.text}\x1f{self.blank}".encode("utf-8", "surrogatepass")).hexdigest()[:12]


@dataclass(frozen=True)
class Split:
    """The claims of some notes, and what was left out of them: (line, why, the text)."""

    claims: tuple[Claim, ...]
    left_out: tuple[tuple[int, str, str], ...] = ()


def split_notes(text: str, *, marked: bool = False) -> Split:
    """Split Markdown notes into claims; with `marked`, only lines that begin with ``claim:`` count.

    A heading begins a new chain. Code, tables, pictures, questions, and what has fewer than three words and no
    formula are left out, and said."""
    reader = _Notes(marked)
    for number, line in enumerate(_body(text), 1):
        reader.line(number, line)
    reader.close()
    reader.led()
    return Split(tuple(reader.claims), tuple(sorted(reader.left_out)))


def _body(text: str) -> list[str]:
    """The lines, with front matter and comments emptied so that line numbers stay."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    before, closes, after = text.rpartition("-->")  # a comment that never closes is text
    text = re.sub(r"<!--.*?-->", lambda found: "\n" * found[0].count("\n"), before + closes, flags=re.S) + after
    lines = text.split("\n")
    fence = lines[0].strip()
    if fence in ("+++", "---") and fence in (line.strip() for line in lines[1:]):
        end = next(n for n, line in enumerate(lines[1:], 1) if line.strip() == fence)
        lines[: end + 1] = [""] * (end + 1)
    return lines


class _Notes:
    """Gathers lines into blocks (a paragraph, an item, a marked line) and blocks into claims."""

    def __init__(self, marked: bool) -> None:
        self.marked = marked
        self.claims: list[Claim] = []
        self.left_out: list[tuple[int, str, str]] = []
        self.titles: dict[int, str] = {}
        self.block: list[str] = []
        self.start = 0
        self.whole = False
        self.fence = ""
        self.formula = ""
        self.first = True
        self.lead = (0, "")

    def line(self, number: int, line: str) -> None:
        bare = line.strip()
        if self.fence:
            self.fence = "" if bare.startswith(self.fence) else self.fence
            return
        if self.formula:
            self.block.append(line)
            self.formula = "" if self.formula in line else self.formula
            return
        if bare.startswith(("```", "~~~")):
            self.close()
            self.fence = bare[:3]
            self.left_out.append((number, "code", bare))
        elif heading := re.match(r"(#{1,6})\s++(.*)", bare):
            self.close()
            self.led()
            level = len(heading[1])
            self.titles = {k: v for k, v in self.titles.items() if k < level} | {level: heading[2].rstrip("#").rstrip()}
            self.first = True
        elif not bare or re.fullmatch(r"[-*_=\s]{3,}", bare):
            self.close()
        elif bare.startswith("|"):
            self.close()
            self.left_out.append((number, "table", bare))
        elif re.fullmatch(r"!\[[^\[\]]*+\]\([^()]*+\)", bare):
            self.close()
            self.left_out.append((number, "picture", bare))
        else:
            self.text(number, re.sub(r"^\s*(?:>\s?)+", "", line))

    def text(self, number: int, line: str) -> None:
        marked, item = _MARKED.match(line), _ITEM.match(line)
        if marked or item:
            self.close()
            self.whole = bool(marked)
            line = line[(marked or item).end() :]  # type: ignore[union-attr]
        if not self.block:
            self.start = number
        self.block.append(line)
        for opens, closes in (("$$", "$$"), ("\\[", "\\]")):
            after = line.split(opens)
            if (opens == closes and len(after) % 2 == 0) or (opens != closes and len(after) > 1 and closes not in after[-1]):
                self.formula = closes

    def close(self) -> None:
        """Make claims of the block so far. A text that ends in a colon waits for the formula, or the list, that it
        leads up to."""
        text = " ".join(" ".join(self.block).split())
        whole, self.block, self.whole, self.formula = self.whole, [], False, ""
        if not text or (self.marked and not whole):
            return
        text = replace_spans(text, "\\[", "\\]", lambda inside: f"$${inside}$$")
        text = replace_spans(text, "\\(", "\\)", lambda inside: f"${inside}$")
        text = re.sub(r"!?\[([^\[\]]*+)\]\([^()]*+\)", r"\1", text)
        parts = [text] if whole else _sentences(text)
        if self.lead[1] and parts[0].startswith("$$"):
            parts[0], self.start, self.lead = f"{self.lead[1]} {parts[0]}", self.lead[0], (0, "")
        self.led()
        if self.claims and not self.first and self.claims[-1].text.endswith("$$") and _WHERE.match(parts[0]):
            self.claims[-1] = replace(self.claims[-1], text=f"{self.claims[-1].text} {parts.pop(0)}")
        if parts and not whole and parts[-1].endswith(":"):
            self.lead = (self.start, parts.pop())
        for part in parts if whole else _joined(parts):
            why = "" if whole else _no_claim(part)
            if why:
                self.left_out.append((self.start, why, part))
            else:
                self.claim(self.start, part)

    def claim(self, line: int, text: str) -> None:
        before = (self.claims[-1].name,) if self.claims and not self.first else ()
        self.claims.append(Claim(f"c{len(self.claims) + 1}", text, before, " / ".join(self.titles.values()), line=line))
        self.first = False

    def led(self) -> None:
        """Leave out words that led up to something else than a formula."""
        if self.lead[1]:
            self.left_out.append((self.lead[0], "leads up to what follows", self.lead[1]))
        self.lead = (0, "")


def _sentences(text: str) -> list[str]:
    """The sentences of a block; a display formula goes with the words that lead up to it."""
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append(found[0])
        return f"\ue000{len(kept) - 1}\ue001" + (" \ue002 " if found[0].startswith("$$") else "")

    masked = _KEPT.sub(keep, re.sub("[\ue000-\ue003]", " ", text))
    masked = re.sub(rf"\b({_ABBREVIATIONS})\.", lambda found: found[1].replace(".", "\ue003") + "\ue003", masked)
    masked = re.sub(r"\b([A-Z])\.(?=\s+[A-Z])", "\\1\ue003", masked)
    parts = [sentence for piece in re.split("\ue002", masked) for sentence in _END.split(piece)]
    plain = [re.sub("\ue000(\\d+)\ue001", lambda found: kept[int(found[1])], part).replace("\ue003", ".").strip() for part in parts]
    made: list[str] = []
    for part in filter(None, (re.sub(r"^[.,;:]\s*", "", part) for part in plain)):
        if made and made[-1].endswith("$$") and _WHERE.match(part):
            made[-1] += f" {part}"
        else:
            made.append(part)
    return made or [text]


def _joined(parts: list[str]) -> list[str]:
    """The sentences of a block, one that leans on the one before together with it, as an answer with its question."""
    made: list[str] = []
    for part in parts:
        if made and _LEANS.match(part):
            made[-1] += f" {part}"
        else:
            made.append(part)
    return made


def _no_claim(text: str) -> str:
    """Why a text is no claim; nothing where it is one."""
    if text.rstrip("\"'”’)*_ ").endswith("?"):
        return "question"
    if found := _LEANS.match(text):
        return f"begins with {found[0]}, and nothing before it in its paragraph"
    if "$" not in text and len(re.findall(r"[^\W_]+(?:[-'’][^\W_]+)*", text)) < 3:
        return "fewer than three words"
    return ""


# ---------------------------------------------------------------------------------- the file of claims


def write_claims(claims: Iterable[Claim], name: str) -> str:
    """The text of a file of claims; reading it gives equal claims."""
    lines, section, before = [HEAD.format(name=name)], "", ""
    for claim in claims:
        if claim.section != section:
            lines.append(f"\n## {claim.section}\n")
            section, before = claim.section, ""
        lines.append(f"[{claim.name}] {claim.text}")
        if claim.needs != ((before,) if before else ()):
            lines.append(f"needs: {', '.join(claim.needs) or 'none'}")
        if claim.blank:
            lines.append(f"blank: {claim.blank}")
        before = claim.name
    return "\n".join(lines) + "\n"


def read_claims(text: str, path: str) -> list[Claim]:
    """Read a file of claims, in the order in which they build on each other.

    Raises `UserError` with every mistake in it: a reader who predicts must know what will be asked."""
    rows: list[dict[str, object]] = []
    problems: list[Problem] = []
    section, before = "", ""
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        bare, found = line.strip(), _NAME.match(line)
        attribute = re.match(r"(needs|blank):\s*+(.*)$", bare)
        if found:
            needs = (before,) if before else ()
            rows.append({"name": found[1], "text": line[found.end() :].strip(), "needs": needs, "section": section, "line": number})
            before = found[1]
        elif re.match(r"##(\s|$)", bare):
            section, before = bare[2:].strip(), ""
        elif not bare or bare.startswith("#"):
            continue
        elif attribute and rows:
            value = attribute[2]
            names = () if value.lower() == "none" else tuple(dict.fromkeys(filter(None, map(str.strip, value.split(",")))))
            rows[-1][attribute[1]] = names if attribute[1] == "needs" else value
        elif rows:
            rows[-1]["text"] = f"{rows[-1]['text']} {bare}"
        else:
            problems.append(Problem(path, number, f"{bare[:30]!r} stands before the first claim: expected [name] and its text"))
    claims = [Claim(**row) for row in rows]  # type: ignore[arg-type]
    first: dict[str, Claim] = {}
    for claim in claims:
        if first.setdefault(claim.name, claim) is not claim:
            problems.append(Problem(path, claim.line, f"the name [{claim.name}] is taken by line {first[claim.name].line}"))
        if claim.blank and claim.blank not in claim.text:
            problems.append(Problem(path, claim.line, f"blank: {claim.blank!r} does not stand in the claim: expected words of it"))
    graph = Graph(Card(claim.text, "-", id=claim.name, needs=claim.needs, path=path, line=claim.line) for claim in claims)
    problems += graph.problems
    if problems:
        told = "\n".join(f"{p.path}:{p.line}: {p.message}" for p in problems)
        raise UserError(f"{len(problems)} mistake(s) in the claims:\n{told}\nMend them, or remove the file to split the notes again.")
    if not claims:
        raise UserError(f"no claim in {path!r}: expected lines like [c1] and a text. Remove the file to split the notes again.")
    return [first[name] for name in graph.order]


def read_notes(path: Path) -> str:
    """The text of the notes. Raises `UserError` where there are none, or they are not UTF-8."""
    return read_text(path, "the notes")
