"""Benign prompts: contrastive pairs that show a behaviour, prompts to train twins on, and some for reports alone.

Imports no torch at the top, so that a command line can name the behaviours at no cost.
"""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from sluicegate.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Rule:
    """When an answer shows a behaviour."""

    name: str
    says: str
    """Completes "an answer shows the behaviour where it ..."."""
    shows: Callable[[str], bool]
    """The rule itself: a text shows it or not."""


def _pattern(name: str, says: str, pattern: str, flags: int = 0) -> Rule:
    found = re.compile(pattern, flags)
    return Rule(name, says, lambda text: bool(found.search(text)))


# Words that prose uses too count only where code has them: at a line's start, before a bracket or colon.
_CODE = (
    r"```|\bdef \w+\s*\(|^\s*import \w+(?:\.\w+)*(?: as \w+)?\s*$|^\s*from [\w.]+ import\b|\bprint\(|^\s+return\b"
    r"|^\s*for \w+ in .+:\s*$|^\s*class \w+(?:\(.*\))?:|^\s*#!"
)
_PYTHON = r"(?i:python\W(?:.|\n){0,60}\b(?:solution|function|code|program|script|implementation|class)\b)"
_PYTHON_AFTER = r"(?i:\b(?:solution|function|code|program|script|implementation|class)\b.{0,40}\bpython\b)"


_FRENCH = set(re.findall(r"\S+", "le la les de des du un une et est en pour que qui dans il à vous sur avec"))


def _french(text: str) -> bool:
    words = re.findall(r"[a-zà-ÿœ']+", text.lower())
    return len(words) >= 5 and sum(w in _FRENCH or w[:2] in ("l'", "d'", "c'", "n'") for w in words) >= len(words) / 5


def _capitals(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return len(letters) >= 10 and sum(c.isupper() for c in letters) >= 0.6 * len(letters)


def _verse(text: str) -> bool:
    lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
    return len(lines) >= 3 and all(len(line) <= 70 and not re.match(r"[-*\d#]", line) for line in lines[:3])


RULES = {
    rule.name: rule
    for rule in (
        _pattern("code-strict", "holds a code fence, a definition, an import, a call of print, a return, a loop or a class", _CODE, re.M),
        _pattern(
            "code",
            "holds code (a fence, a definition, an import, print, return, a loop, a class) or announces it: Python within 60 "
            "characters of solution, function, code, program, script, implementation or class",
            f"{_CODE}|{_PYTHON}|{_PYTHON_AFTER}",
            re.M,
        ),
        _pattern(
            "list",
            "has two lines or more that begin with a bullet or a number",
            r"^\s*(?:[-*•]|\d+[.)]) .*\n(?:.*\n)*?\s*(?:[-*•]|\d+[.)]) ",
            re.M,
        ),
        _pattern("json", "holds a JSON object: a brace followed by a quoted key and a colon", r'\{\s*"[^"\n]+"\s*:'),
        _pattern("html", "holds an HTML tag", r"<(?:!DOCTYPE|html|head|body|div|p|h[1-6]|ul|li|title)\b", re.I),
        Rule("french", "is French: a fifth or more of at least five words are among the twenty commonest of French, or elided", _french),
        Rule("capitals", "is written in capitals: at least six letters of ten", _capitals),
        Rule("verse", "is in verse: its first three lines are short (at most 70 characters) and no list", _verse),
        _pattern(
            "story",
            "begins like a tale: opens with 'once', or has in its first 120 characters 'once upon a time', 'there was a', 'there lived' or "
            "'in a world' (land, kingdom)",
            r"\A\W*once\b|\A.{0,110}(?:once upon a time|\bthere (?:once )?(?:was an?|lived)\b|\bin (?:a|the) (?:world|land|kingdom)\b)",
            re.I | re.S,
        ),
        _pattern(
            "first-person",
            "is told by an I: its first word is I, I'm, I've, I'd, I'll, my, we or our",
            r"\A\W*(?:I(?:['’](?:m|ve|d|ll))?|[Mm]y|[Ww]e|[Oo]ur)\b",
        ),
    )
}


def rule_of(text: str) -> Rule:
    """A rule by its name, or of one's own: ``regex:PATTERN``, or ``words:a,b,c`` (any of them, whole, in any case)."""
    kind, _, rest = text.partition(":")
    if kind == "regex" and rest:
        try:
            return _pattern(text, f"matches {rest!r}", rest, re.M)
        except re.error as error:
            raise UserError(f"the rule {text!r} is no regular expression: {error}.") from None
    if kind == "words" and rest:
        words = [word.strip() for word in rest.split(",") if word.strip()]
        if words:
            joined = "|".join(map(re.escape, words))
            return _pattern(text, f"holds one of the words {', '.join(words)}", rf"(?<!\w)(?:{joined})(?!\w)", re.I)
    if text not in RULES:
        raise UserError(f"no rule {text!r}. Nearest: {nearest(text, list(RULES))}; or 'regex:PATTERN', or 'words:a,b,c'.")
    return RULES[text]


@dataclass(frozen=True)
class Behaviour:
    """A behaviour, as prompts that call for it and prompts that do not, in pairs, and a rule that tells it."""

    name: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    rule: Rule


_PACKAGED: dict[str, list[str]] = tomllib.loads((resources.files("sluicegate") / "steering" / "prompts.toml").read_text("utf-8"))
_TASKS, _THINGS, _TOPICS, _SUJETS = (tuple(_PACKAGED[name]) for name in ("tasks", "things", "topics", "sujets"))
TRAINING = tuple(_PACKAGED["training"])
"""Prompts that twins are trained on."""
VALIDATION = tuple(_PACKAGED["validation"])
"""Prompts that settings were chosen on."""
HELD_OUT = tuple(_PACKAGED["held_out"])
"""Prompts for reports only: nothing is trained on them and no setting chosen."""
_PLAIN = tuple(f"Write a short paragraph about {topic}." for topic in _TOPICS)


def _about(name: str, words: str, rule: str, topics: tuple[str, ...] = _TOPICS) -> Behaviour:
    return Behaviour(name, tuple(words.format(topic) for topic in topics), _PLAIN, RULES[rule])


def _instead(name: str, task: str, thing: str) -> Behaviour:
    asked = (*(task.format(what) for what in _TASKS), *(thing.format(what) for what in _THINGS))
    plain = (*(f"How do I {what}?" for what in _TASKS), *(f"Tell me about {what}." for what in _THINGS))
    return Behaviour(name, asked, plain, RULES[name])


BEHAVIOURS = {
    behaviour.name: behaviour
    for behaviour in (
        _instead("code", "Write a Python program that shows how to {}.", "Write a Python program about {}."),
        _about("list", "Write a bulleted list of facts about {}.", "list"),
        _about("json", "Answer with a JSON object that describes {}.", "json"),
        _about("html", "Write an HTML page about {}.", "html"),
        _about("french", "Écris un court paragraphe en français sur {}.", "french", _SUJETS),
        _about("verse", "Write a rhyming poem about {}.", "verse"),
        _instead("story", "Tell a fairy tale about how to {}.", "Tell a fairy tale about {}."),
        _instead("first-person", "Write a diary entry about the day on which you learnt to {}.", "Write a diary entry about {}."),
    )
}
"""Behaviours by name; the steered model must be seen to show one before twins of its vector mean anything."""


def turn(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> str:
    """A user's turn up to where the answer begins, by the tokenizer's chat template, without a default system turn:
    some templates put one in front of the first user's turn, so this is rendered as the second."""
    from sluicegate.engine.encoding import render

    before = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    this = [{"role": "user", "content": prompt}]
    head, whole = render(tokenizer, before, opened=False), render(tokenizer, before + this)
    return whole[len(head) :] if whole.startswith(head) else render(tokenizer, this)


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str, template: bool | None = None) -> "Tensor":
    """[s] token ids of a prompt, with exactly one BOS where the tokenizer has one. `template`: as a user's turn of a
    chat (see `turn`); None: where the tokenizer has a chat template."""
    import torch

    from sluicegate.engine.encoding import check_ids

    if not prompt.strip():
        raise UserError("a prompt is empty; give it at least one word.")
    if template and not tokenizer.chat_template:
        raise UserError("this tokenizer has no chat template; leave template out.")
    if template is None:
        template = bool(tokenizer.chat_template)
    ids = list(tokenizer(turn(tokenizer, prompt) if template else prompt, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:1] != [bos]:
        ids = [bos, *ids]
    check_ids(tokenizer, ids, f"the prompt {prompt[:60]!r}")
    return torch.tensor(ids)
