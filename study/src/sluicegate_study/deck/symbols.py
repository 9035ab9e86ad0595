"""Which symbols and terms a text uses: the names in its formulas, and the terms of a glossary."""

import re
from collections.abc import Iterable

_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.S)
_INDEX = re.compile(r"([_^])\s*(\{(?:[^{}]|\{[^{}]*\})*\}|\\?[A-Za-z]+|\w)")
_TEXT = re.compile(r"\\(?:text|mathrm|operatorname\*?|mathbf|mathsf|mathit)\s*\{([^{}]*)\}")
_LETTER = re.compile(r"\\[A-Za-z]+|[A-Za-z]+'*|[^\W\d_]")
_BINDERS = frozenset(["\\sum", "\\prod", "\\int", "\\lim", "\\max", "\\min", "\\argmax", "\\argmin"])
"""What stands below and above these is bound: a running index, no symbol of its own."""
_MARKUP = r"""\frac \dfrac \tfrac \sqrt \left \right \cdot \times \in \to \mapsto \le \leq \ge \geq \ne \neq \approx \quad \qquad \ldots
\dots \cdots \begin \end \bar \hat \tilde \vec \mathbb \mathcal \mathbf \big \Big \bigl \bigr \langle \rangle \lVert \rVert \lvert \rvert
\infty \partial \nabla \forall \exists \top \mid \displaystyle \limits \pm \mp \equiv \propto \sim \circ \log \ln \exp \sin \cos \tan
\pmatrix"""
_NO_NAMES = frozenset(_MARKUP.split()) | _BINDERS
_INDICES = frozenset("ijklmntT")
"""Letters that count nothing new where they are subscripts or superscripts: indices, and the transpose."""


def find_names(text: str, glossary: Iterable[str] = ()) -> list[str]:
    """The names in a text in the order of their first use: letters, Greek letters and named functions within ``$...$``,
    and the glossary's terms anywhere. Operators, indices and numbers are no names; ``d_k`` is one name, ``x_i`` is
    ``x``."""
    found: dict[str, None] = {}
    for formula in _FORMULA.finditer(text):
        for name in _names(formula[1] or formula[2]):
            found[name] = None
    plain = _FORMULA.sub(" ", text)
    for term in glossary:
        if re.search(rf"(?<!\w){re.escape(term)}(?:e?s)?(?!\w)", plain, re.I):
            found[term] = None
    return list(found)


def _names(formula: str) -> list[str]:
    words = [word.strip() for word in _TEXT.findall(formula)]
    rest = _TEXT.sub(" ", formula)
    rest = re.sub(r"\\(?:begin|end)\s*\{[^{}]*\}", " ", rest)
    names = [word for word in words if word]
    place = 0
    while found := _LETTER.search(rest, place):
        place = found.end()
        if found[0] in _NO_NAMES:
            while found[0] in _BINDERS and (index := _INDEX.match(rest, place)):
                place = index.end()
            continue
        # Letters side by side are a product, as in TeX: $ab$ is a times b.
        letters = [found[0]] if found[0].startswith("\\") else re.findall(r"[^\W\d_]'*", found[0])
        names += letters[:-1]
        last = letters[-1]
        while index := _INDEX.match(rest, place):
            place = index.end()
            inside = index[2].strip("{}")
            if index[1] == "_" and re.fullmatch(r"[A-Za-z]+", inside) and inside not in _INDICES | {"ij", "ik", "jk", "mn"}:
                last = f"{last}_{inside}"
            elif index[1] == "_" and inside in ("k", "m") and last == "d":
                last = f"d_{inside}"  # the size of the keys, of the model: a name, not a running index
            elif index[1] == "^" or not re.fullmatch(r"[\w\s,+\-]*", inside):
                names += [name for name in _names(inside) if name not in _INDICES]
        names.append(last)
    return list(dict.fromkeys(names))
