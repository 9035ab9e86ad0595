"""One step of a claim hidden: a term, a content word, or a side of a formula, chosen by a seed; and whether an answer
fills it."""

import hashlib
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sluicegate_study.errors import UserError
from sluicegate_study.judge.judging import judge
from sluicegate_study.judge.spelling import stem
from sluicegate_study.lecture.lecture import Claim

GAP = "[...]"
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.S)
_TERM = re.compile(r"\*\*([^*\n]+)\*\*|(?<![*\w])\*([^*\n]+)\*(?![*\w])|(?<!\w)_([^_\n]+)_(?!\w)|`([^`\n]+)`")
_WORD = re.compile(r"(?:[^\W_]|(?<=[^\W_])[-'’/](?=[^\W_])|(?<=\d)[.,](?=\d))++%?")
"""A word with all that belongs to it: CD8, CTLA-4, 3.5 %. A part of it would be no term."""
_RELATION = re.compile(
    r":=|<=|>=|=|<|>|≤|≥|≈|∝|→|⇒|∈|\\(?:approx|propto|leq?|geq?|ll|gg|sim|to|mapsto|Rightarrow|implies|iff|equiv|in|subset(?:eq)?)(?![a-zA-Z])"
)
_COMMON_WORDS = (
    "about above across after again against all almost along already also although always among and another any anything around because"
    " become becomes been before being below between both but came can cannot case cases come comes could does done down each easy"
    " either else enough even ever every everything exactly example few fewer first follow follows for from gave get gets give given"
    " gives goes gone good had half has have having hence here how however idea into its itself just keep keeps kept kind know known"
    " last least less let like likely long made make makes making many may mean means might more most much must need needed needs never"
    " new next none not nothing now off often once one only onto other others our out over own part parts perhaps place point put quite"
    " rather real really right same say says second see seems seen several shall should show shown shows side simply since small some"
    " something sometimes somewhat soon step still such take taken takes than that the their them then there therefore these they thing"
    " things this those though three through thus together too toward towards turn turns two under unless until upon use used uses using"
    " usually value very want was way ways well were what when where whether which while who whole whose why will with within without"
    " word words would yet you your zero are is it of on or so to in an at by be do as if no nor up we us he she his her him"
)
_COMMON = frozenset(_COMMON_WORDS.split())
"""Words that say little of what a claim is about: never hidden."""


@dataclass(frozen=True)
class Blank:
    """Where a claim's text is hidden, and what stands there. A formula's side is judged as a formula."""

    start: int
    end: int
    answer: str
    formula: bool = False

    def shown(self, text: str) -> str:
        """The claim with its gap."""
        return text[: self.start] + GAP + text[self.end :]


def find_blanks(claim: Claim, seen: frozenset[str] = frozenset()) -> list[Blank]:
    """What could be hidden in a claim: the reader's own choice; else sides of display formulas; else emphasised terms,
    code, and sides of formulas; else whole formulas and content words that stand there once.

    Of those, what is new here goes before what an earlier claim said already (`seen`: stems): the gap must not be
    filled by reading on."""
    text = claim.text
    if claim.blank:
        start = text.index(claim.blank)
        inside = any(found.start() < start < found.end() for found in _FORMULA.finditer(text))
        return [Blank(start, start + len(claim.blank), claim.blank, inside)]
    formulas = list(_FORMULA.finditer(text))
    display = [side for found in formulas if found[1] for side in _sides(found)]
    if display:
        return display
    bare = _FORMULA.sub(lambda found: " " * len(found[0]), text)
    terms = [_group(found) for found in _TERM.finditer(bare)]
    terms = [blank for blank in terms if any(c.isalnum() for c in blank.answer)]
    sides = [side for found in formulas for side in _sides(found)]
    if terms or sides:
        return _new(terms, seen) or sides or terms
    whole = [Blank(found.start(), found.end(), found[0].strip("$ "), True) for found in formulas]
    words = [Blank(found.start(), found.end(), found[0]) for found in _WORD.finditer(bare)]
    counts = [stem(word.answer.casefold()) for word in words]
    often = Counter(counts)
    content = [
        word
        for word, key in zip(words, counts, strict=True)
        if often[key] == 1
        and len(word.answer) > 1
        and word.answer.casefold() not in _COMMON
        and (len(word.answer) > 3 or word.answer[0].isdigit() or word.answer.isupper())
        and not re.search(r"(?:ly|['’]s)$", word.answer.casefold())
    ]
    content = _new(content, seen) or content
    return content or whole or [word for word in words if len(word.answer) > 2 and word.answer.casefold() not in _COMMON]


def choose_blank(claim: Claim, seed: int, seen: frozenset[str] = frozenset()) -> Blank:
    """The one that the cold test hides: a pure function of the seed and of the claims' texts. Raises `UserError` where
    there is none."""
    found = find_blanks(claim, seen)
    if not found:
        raise UserError(f"claim [{claim.name}] has no word that could be hidden: give it a line blank: with words of it, or remove it.")
    return shuffle(found, f"{seed}/{claim.rev}")[0]


def shuffle(items: Sequence[Blank], key: str) -> list[Blank]:
    """In an order that depends on the key only; the same on every machine."""
    made = list(items)
    random.Random(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")).shuffle(made)
    return made


def find_stems(text: str) -> frozenset[str]:
    """The stems of all words in a text."""
    return frozenset(stem(found[0].casefold()) for found in _WORD.finditer(text))


def judge_blank(blank: Blank, given: str) -> str:
    """Judge a typed answer: accept, prompt (near, but not it) or reject. Formulas count as equal when they are written
    alike."""
    if not given.strip():
        return "reject"
    if normalize_formula(given) == normalize_formula(blank.answer) != "":
        return "accept"
    if blank.formula:
        return "reject"
    return judge(re.sub(r"[\[\];]", " ", blank.answer), given).ruling


def normalize_formula(text: str) -> str:
    """A formula without what does not change it: spaces, dollars, sizes, multiplication signs, needless brackets,
    fonts.

    Capitals count: $Q$ is not $q$."""
    text = unicodedata.normalize("NFKC", re.sub(r"(?<=[\w)}])[²³]", lambda f: "^" + {"²": "2", "³": "3"}[f[0]], text))
    text = re.sub(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits|quad|qquad|[,;:! ])", "", text.replace("$", ""))
    text = re.sub(r"\\(?:mathrm|mathbf|mathit|mathsf|text|operatorname\*?|mathbb|mathcal)\s*(?=\{)", "", text)
    for _ in range(8):
        text, count = re.subn(r"\\[dt]?frac\s*\{((?:[^{}]|\{[^{}]*\})*)\}\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r"{\1}/{\2}", text)
        if not count:
            break
    text = re.sub(r"\\(?:top|intercal)(?![a-zA-Z])|\^\s*\{\s*T\s*\}", "T", text).replace("^T", "T").replace("{T}", "T")
    text = re.sub(r"\\(?:cdot|times)(?![a-zA-Z])|[*·×⋅]", "", text).replace("√", "sqrt").replace("−", "-")
    for greek in set(re.findall("[α-ωΑ-Ω]", text)):
        name = unicodedata.name(greek).split()[-1].lower().replace("lamda", "lambda")
        text = text.replace(greek, name.capitalize() if greek.isupper() else name)
    text = re.sub(r"[\\\s]", "", text).replace("{", "(").replace("}", ")").replace("[", "(").replace("]", ")")
    for _ in range(8):
        text, count = re.subn(r"\((\w+)\)", r"\1", text)
        if not count:
            break
    return text.rstrip(".,;")


def _sides(found: "re.Match[str]") -> list[Blank]:
    """The sides of a formula's relations, outside of braces; nothing where it has none."""
    group = 1 if found[1] is not None else 2
    body, begin = found[group], found.start(group)
    cuts, depth = [(0, 0)], 0
    spans = {m.start(): m.end() for m in _RELATION.finditer(body)}
    for place, character in enumerate(body):
        depth += (character in "{(") - (character in "})")
        if depth == 0 and place in spans and body[place - 1 : place] != "\\":
            cuts.append((place, spans[place]))
    cuts.append((len(body), len(body)))
    if len(cuts) < 3:
        return []
    made = []
    for (_, left), (right, _) in pairwise(cuts):
        part = body[left:right]
        inner = part.strip().rstrip(".,;").rstrip()
        if any(c.isalnum() for c in inner):
            start = begin + left + part.index(inner)
            made.append(Blank(start, start + len(inner), inner, True))
    return made


def _group(found: "re.Match[str]") -> Blank:
    group = next(n for n in (1, 2, 3, 4) if found[n] is not None)
    return Blank(found.start(group), found.end(group), found[group])


def _new(found: list[Blank], seen: frozenset[str]) -> list[Blank]:
    return [blank for blank in found if not all(stem(word[0].casefold()) in seen for word in _WORD.finditer(blank.answer))]
