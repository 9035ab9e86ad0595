"""Judging a typed answer by an answer line: accept, prompt or reject.

An answer is accepted when every required word is in it and nothing else in it makes it another thing. What else may
stand there: words of the full answer, small words, titles and kinds ("president", "the river"), and, after a comma or a
preposition, more about it. One required word with a stranger next to it is not accepted: Martha Washington is not
George. Signs of mathematics and the order of what they join are part of an answer: 3/4 is not 4/3. An answer that
equals one of the line's is ruled as that one; otherwise reject goes before accept, and accept before prompt.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rapidfuzz.distance import OSA

from sluicegate_study.deck.cards import Question
from sluicegate_study.judge.answerline import BOLD, Answer, AnswerLine, Ruling, read_answer_line
from sluicegate_study.judge.names import GIVEN, SAME, SYMBOLS, unify_names
from sluicegate_study.judge.spelling import STOP, normalize_words, same_word, stem

_BEFORE = (
    "president king queen emperor empress tsar czar prince princess pope saint sir lord lady dame mr mrs ms miss madame dr doctor"
    " professor general captain admiral senator chancellor sultan caliph pharaoh chief count duke earl baron god goddess mount mt"
    " river city town village island isle sea cape port human planet moon asteroid star constellation element isotope gas metal"
    " number letter country nation state province kingdom novel book poem play opera symphony painting film movie song word term"
    " process concept called named some st"
)
_AFTER = (
    "river mountain mountains mt lake city island islands desert planet dynasty empire country nation novel book poem play opera"
    " painting film movie element gas metal atom process concept algorithm answer please one gland bone muscle nerve telescope language"
)
_OF_WORDS = "battle siege republic kingdom city town state province island isle river mount planet concept process term theory"
_OF = frozenset(_OF_WORDS.split())
"""What may stand before "of": the statue of a man is another thing, his battle's place is not."""
_TWO = frozenset(["china", "congo", "korea", "ireland", "macedonia"])
"""Where a republic of that name is another state."""
_DROPPED = frozenset(["gland", "bone", "muscle", "nerve", "telescope", "collider", "group", "disease", "syndrome"])
"""Kinds at the end of a plain answer that need not be said."""
_GENDERS = [set(words.split()) for words in ("der die das", "el la los las", "le la les", "il lo la gli")]
LONGEST, TYPED = 5000, 500
"""Characters of a line and of an answer up to which they are taken apart; what is longer must be equal."""
_SAID_SIGNS = (
    "greater than or equal to:≥, less than or equal to:≤, is greater than:>, is less than:<, greater than:>, less than:<, plus:+, sharp:#,"
    " implies:→, union:∪, intersection:∩, intersect:∩, intersected with:∩, for all:∀, there exists:∃, to the power of:^, to the:^, over:/,"
    " divided by:/, times:×, element of:∈, >=:≥, <=:≤, !=:≠, ->:→, =>:→, ⇒:→, ⟶:→"
)
_SIGN_WORDS = [pair.rsplit(":", 1) for pair in _SAID_SIGNS.split(", ")]
_SIGNS = re.compile(r"[+=<>≤≥≠≈^|∩∪⊂⊆∈∉∀∃→↔¬±×÷√]|(?<=\w)#|(?<=\d)\s?/\s?(?=\d)|(?<=\b[a-zA-Z])/(?=[a-zA-Z]\b)")
_NOT_WORDS = "not non anti un no never without except pseudo quasi post pre neo or either neither jr junior sr"
_NOT = frozenset(_NOT_WORDS.split())
_I_THINK = r"i\s+(?:think|believe|guess|say)(?:\s+(?:it(?:'s| is)|that))?"
_IS_IT = r"it(?:'s| is)|that(?:'s| is)|is (?:it|this|that)|(?:what|who)(?:'s| is| are| was| were)|this is|could it be"
_LEAD = re.compile(
    r"^\s*(?:(?:um+|uh+|er+|so|well|oh|ok(?:ay)?)\b[\s,.]*)*"
    rf"(?:(?:{_I_THINK}|{_IS_IT}|(?:the|my) answer is|maybe|probably|perhaps)\b[\s,:]*)*",
    re.I,
)
_BEFORE_WORDS, _AFTER_WORDS = frozenset(_BEFORE.split()), frozenset(_AFTER.split())
_MORE = re.compile(r",|;|\(|\b(?:by|from|in|of|on|at|during|which|who|that|for|because)\b", re.I)


@dataclass(frozen=True)
class Verdict:
    """What an answer is, what to ask back where it is a prompt, and the answer of the line that decided (nothing: none
    did)."""

    ruling: Ruling
    ask: str = ""
    by: str = ""


def judge(line: str | AnswerLine, given: str) -> Verdict:
    """Judge a typed answer. Nothing typed is rejected; so is more than one answer at once."""
    if isinstance(line, str) and (len(line) > LONGEST or len(given) > TYPED):
        same = normalize_words(line) == normalize_words(given) != []
        return Verdict("accept", by=line) if same else Verdict("reject")
    read = _read(line) if isinstance(line, str) else line
    raw = given.strip().rstrip("?!. ")
    ruled = [_rule(read, said) for said in dict.fromkeys((raw, _LEAD.sub("", raw).strip() or raw))]
    # "Is it X?" is X, unless the line itself says "it is": the words as given may be what is meant.
    return min(ruled, key=lambda verdict: ("accept", "prompt", "reject").index(verdict.ruling) if not _refused(verdict) else -1)


def _refused(verdict: Verdict) -> bool:
    return verdict.ruling == "reject" and bool(verdict.by)


def _rule(read: AnswerLine, said: str) -> Verdict:
    tokens = unify_names(normalize_words(said))
    if not tokens:
        return Verdict("reject")
    symbol = SYMBOLS.get(said)
    if symbol and any(symbol == " ".join(unify_names(normalize_words(a.plain))) for a in read.answers if a.ruling == "accept"):
        return Verdict("accept", by=symbol)
    found = [(*_match(answer, read, said, tokens), answer) for answer in read.answers]
    met = [(level, answer) for level, ok, answer in found if ok]
    # What equals an answer of the line is that answer; only then does the order of the rulings count.
    for wanted in (3, 2, 1):
        for ruling in ("reject", "accept", "prompt"):
            for level, answer in met:
                if answer.ruling == ruling and level == wanted and (level > 1 or not _nearer_to_wrong(answer, read, tokens)):
                    return Verdict(answer.ruling, answer.ask if ruling == "prompt" else "", answer.plain)
    if read.partial and _partial(read, tokens):
        return Verdict("prompt", read.partial_ask, read.shown)
    if not read.formatted and _partial(read, tokens):
        return Verdict("prompt", "", read.shown)
    full, required = read.answers[0].words, _required(read.answers[0], read.answers[0].words)
    if len(tokens) > 1 and set(tokens) <= set(full).difference(*required):  # given names without the one that is required
        return Verdict("prompt", "", read.shown)
    return Verdict("reject")


def judge_card(question: Question, given: str) -> Verdict:
    """Judge a typed answer to a card by its answer and its attributes accept, prompt and reject."""
    card = question.card
    clauses = [f"{name} {text}" for name, text in (("accept", card.accept), ("prompt on", card.prompt), ("reject", card.reject)) if text]
    main = re.sub(r"[\[\];]", " ", question.answer)
    return judge(f"{main} [{'; '.join(clauses)}]" if clauses else main, given)


@lru_cache(maxsize=2048)
def _read(line: str) -> AnswerLine:
    return read_answer_line(line)


def _match(answer: Answer, line: AnswerLine, said: str, tokens: Sequence[str]) -> tuple[int, bool]:
    """How well a given answer meets one of the line's: (3 where it equals it, 2 but for small words, else 1; whether it
    meets it)."""
    full = answer.words
    if not full:
        return 0, False
    if re.search("[./]", answer.plain + said) and (number := _value(answer.plain)) and (other := _value(said)):
        return (3, True) if number == other else (0, False)
    if signs := _signs(answer.plain):
        said = _with_signs(said)
        full = unify_names(normalize_words(_with_signs(answer.plain)))
        tokens = unify_names(normalize_words(said))
    if signs != _signs(said):
        return 0, False
    if tokens == full:
        return 3, True
    if any(full[0] in genders and tokens[0] in genders and full[0] != tokens[0] for genders in _GENDERS):
        return 0, False  # an article that says the gender
    if (bounds := _RANGE.fullmatch(answer.plain)) and len(tokens) == 1 and tokens[0].isdecimal():
        return (2, True) if int(bounds[1]) <= int(tokens[0]) <= int(bounds[2]) else (0, False)
    if signs and [t for t in tokens if t in full] != full:
        return 0, False
    figures = iter([t for t in full if t.isdigit()])
    if not all(t in figures for t in tokens if t.isdigit() and t in full):
        return 0, False  # 5 - 3 is not 3 - 5
    tokens = _spell_initials(tokens, full)
    parts = _required(answer, full)
    if answer.ruling == "reject":  # nothing but this very answer, slips and all
        core = [t for t in tokens if t not in STOP] or list(tokens)
        meant = [[t for t in full if t not in STOP] or full]
        meant += [list(part) for part in parts if answer.bold]
        exact = any(core == part for part in meant)
        return (2 if exact else 1), exact or any(len(core) == len(part) and all(map(_strict, core, part)) for part in meant)
    if answer.loose:
        return 1, any(_cover(part, tokens, answer, line) is not None for part in parts)
    if line.any_part and answer.main and len(parts) == 1:
        parts = [[word] for word in parts[0]]
    options = parts if line.any_part and answer.main else [[t for part in parts for t in part]]
    best = 0
    for required in options:
        if not answer.bold and (surname := _surname(answer, full)) and len(tokens) == 1 and tokens[0] == surname:
            return 1, True
        used = _cover(required, tokens, answer, line)
        if used is None or _turned_round(answer, said):
            if used is None and (_joined(required, tokens) or _joined(full, tokens)):
                best = max(best, 1)
            continue
        if len(used) == len([t for t in tokens if t not in STOP]) and [tokens[n] for n in sorted(used)] == list(required):
            best = 2
        elif _extras_do_no_harm(required, full, said, tokens, used, line) or _joined(full, tokens):
            best = max(best, 1)
    return best, best > 0


def _nearer_to_wrong(answer: Answer, line: AnswerLine, tokens: Sequence[str]) -> bool:
    """Whether a slip that was taken for this answer is as near to one that the line rejects, or nearer."""
    core = [t for t in tokens if t not in STOP]

    def slips(other: Answer) -> int:
        """Errors between the words given and those of an answer, where they are as many."""
        full = other.words
        options = [[t for t in full if t not in STOP], *_required(other, full)]
        return min((sum(map(OSA.distance, core, part)) for part in options if len(part) == len(core)), default=99)

    own = slips(answer)
    return answer.ruling != "reject" and 0 < own < 99 and any(slips(other) <= own for other in line.answers if other.ruling == "reject")


def _required(answer: Answer, full: list[str]) -> list[list[str]]:
    """The required words, a list for each bold part; without bold, all words but the small ones. Single bold letters
    are an initialism."""
    spans = [found[1] for found in BOLD.finditer(answer.text)]
    if spans and len(spans) > 1 and all(len(span.strip(" .")) == 1 for span in spans):
        return [["".join(span.strip(" .").casefold() for span in spans)]]
    lists = [unify_names(normalize_words(span)) for span in spans] or [full]
    kept = [[t for t in part if t not in STOP] or part for part in lists]
    kept = [part[1:] if len(part) > 1 and part[0] == "battle" else part for part in kept]  # a place name is enough
    while not spans and len(kept[0]) > 1 and kept[0][-1] in _DROPPED:
        kept[0].pop()
    return [part for part in kept if part] or [full]


def _cover(required: Sequence[str], tokens: Sequence[str], answer: Answer, line: AnswerLine) -> set[int] | None:
    """The places of the given words that stand for the required ones, each once; None where one is missing."""
    used: set[int] = set()
    whole = _whole_words(answer)
    forms = line.forms or answer.ruling == "prompt"  # what is only asked back may come in any form
    initials = set(re.findall(r"\b([a-z])\. ", answer.plain.casefold()))
    lower = answer.bold and len(required) == 1 and required[0] in answer.plain

    def stands(token: str, word: str) -> bool:
        """Also for short: a given name, an initial of the line's; a decade's year; what is done, for a plain word."""
        if len(required) > 1 and ({token, word} in SAME or (word in initials and token.startswith(word))):
            return True
        return (word == f"{token}s" and token.isdigit()) or (lower and len(word) > 3 and token in (f"{word}ing", f"{word[:-1]}ing"))

    for word in required:
        place = next((n for n, token in enumerate(tokens) if n not in used and token == word), None)
        if place is None:
            place = next(
                (n for n, token in enumerate(tokens) if n not in used and (stands(token, word) or _stands_for(token, word, whole, forms))),
                None,
            )
        if place is None:
            return None
        used.add(place)
    return used


def _stands_for(token: str, word: str, whole: dict[str, str], forms: bool) -> bool:
    if same_word(token, word):
        return True
    if forms and len(stem(word)) > 3 and same_word(stem(token), stem(word)):
        return True
    longer = whole.get(word)  # only the beginning of a word is required: **superfluid**ity
    return longer is not None and (
        same_word(token, longer) or (len(word) >= 4 and token.startswith(word) and len(token) <= len(longer) + 2)
    )


def _turned_round(answer: Answer, said: str) -> bool:
    """Whether one bold text of two things joined by "and", as titles are, has them the other way round: Peace and
    War."""
    given = normalize_words(said)
    for span in BOLD.findall(answer.text) or [answer.plain]:
        part = normalize_words(span)
        if "and" in part[1:-1] and "and" in given[1:-1]:
            head, tail = part[: part.index("and")], part[part.index("and") + 1 :]
            if same_word(given[given.index("and") - 1], tail[-1]) and not same_word(head[-1], tail[-1]):
                return True
    return False


def _whole_words(answer: Answer) -> dict[str, str]:
    """For each required beginning of a word, the whole word."""
    cut = re.findall(r"\x02([^\x03]*)\x03([^\W\d_]+)", answer.text)
    made = {}
    for start, rest in cut:
        if start and start[-1].isalnum() and (head := normalize_words(start)) and (both := normalize_words(start + rest)):
            made[head[-1]] = both[-1]
    return made


def _extras_do_no_harm(
    required: Sequence[str], full: Sequence[str], said: str, tokens: Sequence[str], used: set[int], line: AnswerLine
) -> bool:
    """Whether the words that are given beyond the required ones leave the answer what it is."""
    known = {word for answer in line.answers if answer.ruling != "reject" for word in answer.words}
    first, last = min(used), max(used)
    kinds = [word for word in full if word in _BEFORE_WORDS | _AFTER_WORDS]
    initials = "".join(word[0] for word in full)
    strange = []
    for place, token in enumerate(tokens):
        if place in used or token in STOP:
            continue
        if token in _NOT:
            return False
        if place < first and tokens[place + 1] == "of" and token not in full:
            if token not in _OF or (token == "republic" and _TWO & set(full)):
                return False
            continue
        if token in known or (len(token) == 1 and token.isalpha() and place < first and len(full) == len(required)):
            continue
        if token in ("ad", "ce") and tokens[place - 1].isdigit() and not {"bc", "bce"} & set(full):
            continue
        if any(_says(token, other) for other in full) or (1 < len(token) < 4 and token in initials):
            continue
        if (place < first and token in _BEFORE_WORDS) or (place > last and token in _AFTER_WORDS):
            if kinds:
                return False  # another kind of thing: Lake Victoria is not the queen
            continue
        strange.append(place)
    if not strange:
        return True
    if any(first < place < last for place in strange) and [tokens[n] for n in sorted(used)] != list(required):
        return False
    plain = normalize_words(said)
    if "or" in plain or ("and" in plain and "and" not in full):
        return False  # more than one answer
    after = said[_end_of(required[-1], said) :].strip()
    if len(required) == 1 and re.match(r"of\s+[a-z]", after):
        return False  # a train of thought is no train
    apposition = re.match(r",\s*(?:the|an?)\s", after) and not any(tokens[place] in _BEFORE_WORDS | _AFTER_WORDS for place in strange)
    if min(strange) > last and (more := _MORE.match(after)) and (more[0] != "," or len(full) == len(required) or apposition):
        years = [tokens[place] for place in strange if tokens[place].isdigit()]
        return all(
            len(year) >= 3 for year in years
        )  # Paris, France; Hamlet by Shakespeare; but not Washington, D.C., where a first name is known
    numbers = any(tokens[place].isdigit() for place in strange)
    if max(strange) > last:
        return False  # the last word of a name is what it is: a binary search tree is no binary search
    return not numbers and len([t for t in required if not t.isdigit()]) >= 2 and len(strange) <= 2


def _says(token: str, other: str) -> bool:
    """Whether a further word is one of the answer's: itself, its initial, or the same name in another language or for
    short."""
    short = len(token) == 1 and other.startswith(token)
    return (
        same_word(token, other)
        or short
        or {token, other} in SAME
        or _for_short(token, other)
        or (len(stem(other)) > 3 and stem(token) == stem(other))
    )


def _for_short(token: str, other: str) -> bool:
    """Whether a given name is another's short form: Charlie and Charles, Anton and Antonín; but not Paul and Paula."""
    short = re.sub(r"(?:ie|y)$", "", token)
    return len(short) >= 4 and other.startswith(short) and short != other and not other.endswith(("a", "e"))


def _end_of(word: str, said: str) -> int:
    """Where the last word of `said` that stands for `word` ends."""

    def stands(text: str) -> bool:
        return any(same_word(w, word) or w.startswith(word) for w in normalize_words(text))

    ends = [found.end() for found in re.finditer(r"[\w'’.-]+", said) if stands(found[0])]
    return ends[-1] if ends else len(said)


def _joined(required: Sequence[str], tokens: Sequence[str]) -> bool:
    """Whether the words are the same but for where they are divided: steam boat and steamboat."""
    core = [t for t in tokens if t not in STOP]
    one, other = "".join(required), "".join(core)
    if one != other and min(map(len, [*required, *core]), default=0) < 2:
        return False  # a letter on its own is no slip
    return len(required) != len(core) and len(one) >= 5 and (one == other or (len(one) >= 7 and same_word(one, other)))


def _strict(one: str, other: str) -> bool:
    """Whether a given word is a wrong answer's, and not rather a slip of another: the same but for a plural."""
    return one == other or (len(one) > 3 and one.rstrip("s") == other.rstrip("s"))


def _partial(line: AnswerLine, tokens: Sequence[str]) -> bool:
    """Whether every given word is one of an accepted answer's, and at least one of them counts."""
    given = [t for t in tokens if t not in STOP and t != "a."]
    for answer in line.answers:
        full = answer.words
        required = set(full) if line.partial else {t for part in _required(answer, full) for t in part}
        inside = all(any(same_word(t, other) for other in full) for t in given)
        if answer.ruling == "accept" and inside and any(same_word(t, other) for t in given for other in required):
            return True
    return False


def _signs(text: str) -> list[str]:
    """The signs of mathematics in a text, in their order."""
    return [sign.strip() for sign in _SIGNS.findall(_with_signs(text, words=False))]


def _with_signs(text: str, words: bool = True) -> str:
    """The text with signs for what is written in several characters, or in words."""
    text = re.sub(r"(?<=\b\w) x (?=\w\b)", "×", text)
    for word, sign in _SIGN_WORDS:
        if word in text:
            text = text.replace(word, sign) if not word[0].isalpha() else re.sub(rf"\s?\b{word}\b\s?", sign, text) if words else text
    return text


_RANGE = re.compile(
    r"(?:any )?(?:years?|numbers?|values?|answers?)? ?(?:from |between |in )?(\d{1,9}) ?(?:to|through|and|-|–) ?(\d{1,9})", re.I
)
_NUMBER = re.compile(r"([-−]?)(\d[\d,]{0,20}(?:\.\d{1,20})?|\.\d{1,20})(?: ?/ ?(\d{1,20}))?(?: ?([^\d/^]*))")


def _value(text: str) -> tuple[Fraction, str] | None:
    """A number written as a fraction or with a point, and its unit; None for other texts."""
    found = _NUMBER.fullmatch(text.strip())
    if not found or (found[3] and not int(found[3])) or not re.search(r"\d", found[2]):
        return None
    value = Fraction(found[2].replace(",", "")) / int(found[3] or 1)
    return (-value if found[1] else value), " ".join(unify_names(normalize_words(found[4])))


def _spell_initials(tokens: Sequence[str], full: Sequence[str]) -> list[str]:
    """The words given, one that is made of the initials of words of an answer written out: CPE Bach, SBA."""
    made: list[str] = []
    core = [word for word in full if word not in STOP]
    initials = "".join(word[0] for word in core)
    for token in tokens:
        place = initials.find(token) if 1 < len(token) < 8 and token not in full else -1
        whole = len(token) == len(core)
        made += core[place : place + len(token)] if place >= 0 and (len(token) > 2 or not whole) and (whole or len(tokens) > 1) else [token]
    return made


def _surname(answer: Answer, full: Sequence[str]) -> str:
    """The last of two or three capitalised words of a plain answer whose first is a common given name; else nothing."""
    written = answer.plain.split()
    if 2 <= len(written) <= 4 and len(full) == len(written) and all(word[:1].isupper() for word in written) and full[0] in GIVEN:
        return full[-1] if not full[-1].isdigit() else ""
    return ""
