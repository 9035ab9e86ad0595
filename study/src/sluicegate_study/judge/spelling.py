"""Words in normal form, numbers as digits, and whether two spellings are one word by letters or by sound."""

import re
import unicodedata
from functools import lru_cache

from rapidfuzz.distance import OSA

from sluicegate_study.judge.lookalikes import are_two_words

_LETTER_PAIRS = "ß:ss æ:ae Æ:ae ø:o Ø:o œ:oe Œ:oe ł:l Ł:l đ:d Đ:d ð:d þ:th ı:i"
_LETTERS = str.maketrans(dict(pair.split(":") for pair in _LETTER_PAIRS.split()))
_UNIT_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_UNITS = _UNIT_WORDS.split()
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ORDINAL_WORDS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth"
_ORDINALS = _ORDINAL_WORDS.split()
_NUMBERS = (
    {word: n for n, word in enumerate(_UNITS)}
    | {word: 10 * n for n, word in enumerate(_TENS, 2)}
    | {word: n for n, word in enumerate(_ORDINALS)}
)
_NUMBERS |= {"sixteenth": 16, "seventeenth": 17, "eighteenth": 18, "nineteenth": 19, "twentieth": 20, "thirtieth": 30}
_POWERS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_ROMAN = re.compile(r"(?=[ivxl])(?:xl|l?x{0,3})(?:ix|iv|v?i{0,3})")
_ENDINGS = "ate ite ide, ane ene yne, ose ase, ine ide, ous ic, ist ism, al ol, or ee"
_PAIRS = [endings.split() for endings in _ENDINGS.split(",")]
"""Endings that make other words of one stem: a sulfate is no sulfite."""
MOST = 4
"""Errors that one word may have, however long it is."""
STOP = frozenset(
    ("the", "a", "an", "of", "and", "de", "la", "le", "el", "der", "die", "das", "to", "in", "on", "for", "by", "from", "with", "at")
)


def normalize_words(text: str) -> list[str]:
    """The words of a text in normal form: no case, accents, possessives or punctuation; numbers, ordinals and roman
    numerals as digits."""
    text = re.sub(r"(?<=[\w)])[⁰¹²³⁴⁵⁶⁷⁸⁹]", r"^\g<0>", text)
    text = re.sub(r"(?<![α-ωΑ-Ω])[α-ωΑ-ΩϵµΩ](?![α-ωΑ-Ω])", lambda found: f" {_greek(found[0])} ", text)
    plain = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    plain = "".join(c for c in plain if not unicodedata.combining(c)).casefold()
    plain = re.sub(r"[’‘`´ʻʼ]", "'", plain).replace("·", ".")
    plain = re.sub(r"\b(\d+0)'s\b", r"\1s", plain)
    plain = re.sub(r"(\w)'s\b", r"\1", plain)
    plain = re.sub(r"(?<=[a-z])_\{?(\d+)\}?", r"\1", plain)  # H_2O
    plain = re.sub(r" squared\b", "^2", re.sub(r" cubed\b", "^3", plain))
    plain = re.sub(r"(?<=\w)'(?=\w)|(?<=\w)'(?!\w)", "", plain)
    plain = re.sub(r"\b((?:[a-z]\.)+[a-z]\b\.?)", lambda found: found[1].replace(".", ""), plain)  # U.S.A.
    plain = re.sub(r"(?<![\w.])\.(?=\d)", "0.", plain)
    plain = re.sub(r"(?<=\d)\s?[-−–]\s?(?=\d)", " ", plain)
    plain = re.sub(r"(?<![\w.])[-−–]\s?(?=\d)|\bnegative (?=\w)", "minus ", plain)  # minus one is not one
    plain = re.sub(r"(\d)\.0+\b(?!\.)", r"\1", plain)
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", plain).replace("&", " and ").replace("%", " percent ")
    words = _numbered(re.findall(r"\d+0s\b|\d+(?:\.\d+)?(?:st|nd|rd|th)?|[^\W\d_]+(?:\d+)?", plain))
    return [*words[:-1], "a."] if words[-1:] == ["a"] else words  # vitamin A: what stands last is no article


def _greek(letter: str) -> str:
    *_, before, last = unicodedata.name(letter).split()
    name = {"SIGN": before, "SYMBOL": before}.get(last, last)
    return {"MICRO": "mu", "OHM": "omega", "LAMDA": "lambda"}.get(name, name.lower())


def _numbered(found: list[str]) -> list[str]:
    made: list[str] = []
    before = ""
    for word in found:
        number = _number(word)
        if before in _TENS and word in _NUMBERS and 0 < _NUMBERS[word] < 10 and made[-1].endswith("0"):
            made[-1] = str(int(made[-1]) + _NUMBERS[word])
        elif _is_year(before, word):
            made[-1] += f"{_NUMBERS[word]:02d}"
        elif word in _POWERS:
            if made and made[-1].isdecimal() and len(made[-1]) < 18 and int(made[-1]) < _POWERS[word]:
                made[-1] = str(int(made[-1]) * _POWERS[word])
            else:
                made.append(str(_POWERS[word]))
        else:
            made.append(word if number is None else str(number))
        before = word
    return made


def _is_year(before: str, word: str) -> bool:
    """Whether two number words are one year: nineteen eighty(-four)."""
    return before in [*_UNITS[10:20], "twenty"] and word in _UNITS[10:20] + _TENS


def _number(word: str) -> int | None:
    if word in _NUMBERS:
        return _NUMBERS[word]
    if found := re.fullmatch(r"(\d+)(?:st|nd|rd|th)?", word):
        return int(found[1]) if len(found[1]) < 18 else None
    word = re.sub(r"(?<=[ivx][ivx])(?:st|nd|rd|th)$", "", word)
    if _ROMAN.fullmatch(word):
        values = {"i": 1, "v": 5, "x": 10, "l": 50}
        digits = [values[c] for c in word]
        return sum(-d if d < max(digits[n:]) else d for n, d in enumerate(digits)) if word != "l" else None
    return None


@lru_cache(maxsize=20_000)
def same_word(one: str, other: str) -> bool:
    """Whether two words in normal form are one, given or taken a slip: up to one error in seven letters, fewer errors
    in short words, and only such as the ear forgives. Numbers, other endings of one stem, and words of four letters or
    fewer must be equal."""
    if one == other:
        return True
    if any(c.isdigit() for c in one + other):
        return False
    short = min(len(one), len(other))
    if are_two_words(one, other):
        return False
    if (_plural(one) == _plural(other) and short > 3) or (short == 3 and f"{one}s" == other) or (short == 3 and one == f"{other}s"):
        return True
    if _umlaut(one) == _umlaut(other) and short > 3:
        return True
    if short >= 6 and _transliterated(one) and _transliterated(one) == _transliterated(other) and not _other_ending(one, other):
        return True
    if short < 4 or _start(one) != _start(other) or _other_ending(one, other):
        return False
    if reduce_to_sounds(one) == reduce_to_sounds(other) or _plural(reduce_to_sounds(one)) == _plural(reduce_to_sounds(other)):
        return True
    errors = OSA.distance(one, other, score_cutoff=MOST)
    if errors > MOST:
        return False  # five and more are all told as one more than the cutoff
    if errors * 7 <= max(len(one), len(other)):
        return True
    if short == 4 and one[:2] == other[:2] and one[2:] == other[:1:-1] and _start(one) == _start(other):
        return True  # the last two letters changed places
    if short >= 14 and errors <= 3 and one[:6] == other[:6] and one[-2:] == other[-2:]:
        return True
    if sorted(one) == sorted(other) and ((short >= 5 and errors == 1) or (short >= 8 and errors == 2)):
        return True  # two letters changed places
    if short >= 5 and f"{min(one, other, key=len)}e" == max(one, other, key=len):
        return True  # a silent e
    vowels_only = re.sub("[aeiouy]", "", one) == re.sub("[aeiouy]", "", other)
    if short == 6 and errors == 1 and vowels_only and one[:2] == other[:2]:
        return True
    return short >= 7 and errors <= 2 and vowels_only and len(re.sub("[aeiouy]", "", one)) >= 3 and abs(len(one) - len(other)) <= 1


_SOUND_PAIRS = "tsch:c sch:s tch:c ch:c cz:c k:c q:c ph:f ps:s x:s z:s ts:s sh:s pn:n kn:n gn:n wr:r j:g"
_FIRST_SOUNDS = dict(pair.split(":") for pair in _SOUND_PAIRS.split())


def _start(word: str) -> str:
    """The first sound: the letters that begin a word may be written in several ways."""
    found = re.match(r"tsch|sch|tch|ch|cz|ph|ps|pn|kn|gn|wr|ts|sh|[kqxzj]", word)
    return _FIRST_SOUNDS[found[0]] if found else word[0]


def reduce_to_sounds(word: str) -> str:
    """The word as it sounds, roughly: doubled letters once, no h but at the start, one letter a sound; vowels stay."""
    word = re.sub("^ts?ch", "ch", word).replace("sch", "sh")
    sound = word[0] + word[1:].replace("ph", "f").replace("h", "")
    for pair in ("ck:k", "c:k", "q:k", "y:i", "x:ks", "z:s", "ae:e", "oe:e", "w:v", "our:or", "tre:ter"):
        letters, one = pair.split(":")
        sound = sound[0] + sound[1:].replace(letters, one)
    return re.sub(r"(.)\1+", r"\1", sound)


_SCRIPTS = "tch:ch zh:j kh:k gh:k ck:k q:k dh:d th:t w:v y:i ei:ai ou:u oo:u ee:i o:u e:a"


def _transliterated(word: str) -> str:
    """A name from another script as its spellings agree: Qaddafi, Gadhafi; nothing for a word without a mark of such a
    spelling."""
    if not re.search(r"q|[kgd]h|zh|([bdfmnst])\1", word):
        word = ""
    sound = re.sub("^(?:kh|gh|q|g(?=[ah]))", "k", word)
    for pair in _SCRIPTS.split():
        letters, one = pair.split(":")
        sound = sound.replace(letters, one)
    return re.sub(r"(.)\1+", r"\1", sound[:1] + sound[1:].replace("h", ""))


def _umlaut(word: str) -> str:
    """The word with ae, oe and ue, as German is written without dots, like the bare letters that accents were taken
    from."""
    return re.sub(r"(?<=[^aeiou])([aou])e(?=[^aeiou])", r"\1", word)


def stem(word: str) -> str:
    """The word without the endings that only change its form."""
    return (
        re.sub(r"(?:ations?|ings?|ions?|isms?|ists?|ized?|ises?|izes?|ally|ed|er|ers|ly|al|ic|ity|ies|es|s|e|y)$", "", word)
        if len(word) > 4
        else word
    )


_IRREGULAR = (
    "mice mouse, men man, women woman, children child, feet foot, teeth tooth, geese goose, people person, oxen ox, wolves wolf,"
    " leaves leaf, lives life, knives knife, matrices matrix, vertices vertex, indices index, criteria criterion, phenomena phenomenon,"
    " mitochondria mitochondrion, bacteria bacterium, nuclei nucleus, fungi fungus, larvae larva, genera genus, crises crisis,"
    " flagella flagellum, bacilli bacillus, cacti cactus, ova ovum, spectra spectrum, strata stratum, loci locus, foci focus, radii radius,"
    " stimuli stimulus, hypotheses hypothesis, analyses analysis, theses thesis, axes axis, appendices appendix, vortices vortex,"
    " algae alga, vertebrae vertebra, formulae formula, nebulae nebula, supernovae supernova, antennae antenna, atria atrium,"
    " ganglia ganglion, automata automaton, polyhedra polyhedron, quanta quantum, villi villus, alveoli alveolus, bronchi bronchus,"
    " stomata stoma, protozoa protozoan, hooves hoof, loaves loaf, thieves thief, halves half, shelves shelf, elves elf, dwarves dwarf,"
    " calves calf, wives wife, lice louse, dice die, corpora corpus, sulci sulcus, gyri gyrus, maxima maximum, minima minimum"
)
_SINGULAR = {pair.split()[0]: pair.split()[1] for pair in _IRREGULAR.split(",")}


def _plural(word: str) -> str:
    if word in _SINGULAR:
        return _SINGULAR[word]
    return re.sub(r"ies$", "y", word) if word.endswith("ies") else re.sub(r"(?<=[sxz])es$|(?<=[cs]h)es$|(?<!s)s$", "", word)


def _other_ending(one: str, other: str) -> bool:
    for endings in _PAIRS:
        for a in endings:
            for b in endings:
                if a != b and one.removesuffix("s").endswith(a) and other.removesuffix("s").endswith(b):
                    first, second = one.removesuffix("s").removesuffix(a), other.removesuffix("s").removesuffix(b)
                    if first == second or (len(first) > 3 and OSA.distance(first, second) <= 1):
                        return True
    return False
