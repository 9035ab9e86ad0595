"""Items: labelled things worth knowing, and what makes them from decoded rows.

A training row, a quiz question and a flash card are one thing here: a prompt, its answer and a label.
"""

import hashlib
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError, nearest
from sluicegate.values.files import short
from sluicegate.values.rows import FORMATS, decoded, is_text

GROUPS = ("forget", "retain", "unlabelled", "adjacent")
COLUMNS = ("prompt", "answer", "text", "choices", "fact", "label", "also", "wrong")
LOG = logging.getLogger("sluicegate.rows")
"""Says what was read (info), and what looks wrong with it (warning). The command line prints both."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing worth knowing."""

    prompt: str
    """What is asked; empty for running text."""
    answer: str
    """What is to be known; for running text, the text."""
    fact: str = ""
    """Which fact this row states; a split never puts two phrasings of one on different sides."""
    label: str = ""
    """The group or class it belongs to."""
    also: tuple[str, ...] = ()
    """Other answers that are accepted."""
    wrong: tuple[str, ...] = ()
    """Answers that are wrong: the other choices, or perturbed answers."""
    place: int = -1
    """Where the answer stands among the choices, from 0; -1: the row does not say."""
    turns: tuple[tuple[str, str], ...] = ()
    """Of a chat, the role and words of each turn before the answer; empty where the user's one turn is all."""

    @property
    def key(self) -> str:
        """The fact's name, or what stands in for one: the prompt, else the text."""
        return self.fact or self.prompt or self.answer

    @property
    def text(self) -> str:
        return self.prompt + self.answer


@dataclass(frozen=True)
class Split:
    """Named groups of items: what to forget, what to keep, and what nobody has labelled."""

    forget: tuple[Item, ...] = ()
    retain: tuple[Item, ...] = ()
    unlabelled: tuple[Item, ...] = ()
    adjacent: tuple[Item, ...] = ()

    def __post_init__(self) -> None:
        shared = {(i.prompt, i.answer) for i in self.forget} & {(i.prompt, i.answer) for i in self.retain}
        if shared:
            example = " ".join(sorted(shared)[0]).strip()
            raise UserError(
                f"forget and retain share {len(shared)} row(s), for example {short(example)}. "
                "A row can only be on one side: remove it from one of the two files."
            )
        asked = {item.prompt for item in self.forget if item.prompt}
        for name in ("retain", "adjacent"):
            if both := sorted(asked & {item.prompt for item in self.group(name)}):
                LOG.warning(
                    "%d question(s) of forget are asked in %s too, for example %s: to go, or to stay?", len(both), name, short(both[0])
                )

    def group(self, name: str) -> tuple[Item, ...]:
        """Return one group by name; `name` is one of forget, retain, unlabelled, adjacent."""
        if name not in GROUPS:
            raise UserError(f"no group is called {name!r}; the groups are {', '.join(GROUPS)}.")
        items: tuple[Item, ...] = getattr(self, name)
        return items


Sources = Mapping[str, Callable[[], tuple[Item, ...]]]
"""Items by the name that stands for a file, such as ``task:arithmetic/forget``."""


def halves(items: Sequence[Item], seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Split items in two by fact (all phrasings on one side): the half an attacker holds, and the half it never sees.

    Raises `UserError` below four facts, where a half would be too small to measure anything on.
    """
    facts = sorted({item.key for item in items})
    if len(facts) < 4:
        raise UserError(
            f"the forget set holds {len(facts)} fact(s); a held-out split needs at least 4 (and a useful one 40). "
            "Add rows, or give phrasings of different facts different 'fact' values."
        )
    random.Random(seed).shuffle(facts)
    held = set(facts[: len(facts) // 2])
    return tuple(item for item in items if item.key in held), tuple(item for item in items if item.key not in held)


def digest(items: Iterable[Item], choices: bool = False) -> str:
    """sha256 (hex) of the items in order; of wrong answers only where they are `choices` (never trained on)."""
    sha, names = hashlib.sha256(), ("also", "turns", "wrong", "place") if choices else ("also", "turns")
    for item in items:
        beside = {name: value for name in names if (value := getattr(item, name)) not in ((), -1)}
        row = [item.prompt, item.answer, item.fact, item.label, *filter(None, [beside])]
        sha.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return sha.hexdigest()


def read(source: str | Path, label: str = "", columns: str | Mapping[str, str] = "") -> tuple[Item, ...]:
    """Read items from a file or a hub data set, and say on `LOG` what was read and what looks wrong with it.

    `source` is a path, its format told by its ending (`FORMATS`), or ``hub:OWNER/NAME[:CONFIG][:SPLIT][@REVISION]``,
    which needs the ``hub`` extra. The forms of rows that are known are in docs/data.md; `columns` names those of
    others: ``prompt=question,answer=answer``, or a mapping. Raises `UserError` that names the file, the line and what
    was expected.
    """
    items, kinds, left_out = load(source, columns)
    words = sum(len(item.answer.split()) for item in items)
    LOG.info("%s: %s row(s) of %s", source, f"{len(items):,}", " and ".join(kinds) + (f", {words:,} words" if TEXT in kinds else ""))
    if left_out:
        LOG.warning("%s: %s left out; --columns says what is read instead", source, ", ".join(left_out))
    if len(items) == 1 and not items[0].prompt and "\n" in items[0].answer:
        LOG.warning("%s: 1 item of %s words? An empty line between two statements makes them two", source, f"{words:,}")
    different = {(item.prompt, item.answer) for item in items}
    if len(different) < len(items):
        LOG.warning("%s: %d row(s) repeat another one, and so count again", source, len(items) - len(different))
    answers = Counter(prompt for prompt, _ in different if prompt)
    if several := sorted(prompt for prompt, count in answers.items() if count > 1):
        LOG.warning(
            "%s: %d question(s) have several answers, and a model gives one, for example %s", source, len(several), short(several[0])
        )
    return tuple(replace(item, label=item.label or label) for item in items)


def load(source: str | Path, columns: str | Mapping[str, str] = "") -> tuple[tuple[Item, ...], list[str], list[str]]:
    """The items of a source, what kinds of rows they were, and the columns that were left out; without a word."""
    named = {} if is_text(str(source)) else columns_of(columns)
    items, kinds, left_out = list[Item](), dict[str, None](), set[str]()
    refused = dict[str, UserError]()
    for where, row in decoded(str(source)):
        try:
            item, kind, used = _item(row, where, named)
        except UserError as error:
            refused[where] = error
            if len(refused) == 10:
                break
        else:
            items.append(item)
            kinds[kind] = None
            left_out.update(map(str, row.keys() - used))
    if refused:
        first, *others = [where.split() for where in refused]
        count, places = f"{len(refused)}{' or more' * (len(refused) == 10)}", ", ".join(words[-1] for words in (first, *others))
        raise UserError(f"{next(iter(refused.values()))}{f' In all {count} rows are refused, {first[-2]}s {places}.' * bool(others)}")
    if not items:
        raise UserError(f"{str(source)!r} holds no rows. Expected at least one; formats: {FORMATS}.")
    return tuple(items), list(kinds), sorted(left_out)


def columns_of(columns: str | Mapping[str, str]) -> dict[str, str]:
    """What is read from which column, from ``prompt=question,answer=answer``; a mapping is only checked."""
    pairs = [pair.partition("=")[::2] for pair in columns.split(",") if pair] if isinstance(columns, str) else columns.items()
    named = {name.strip(): column.strip() for name, column in pairs}
    complete = not named or "text" in named or named.keys() >= {"prompt", "answer"}
    if not complete or not named.keys() <= {*COLUMNS} or not all(named.values()):
        raise UserError(f"columns is {columns!r}; expected for example prompt=question,answer=answer. Names: {', '.join(COLUMNS)}.")
    return named


OWN, TEXT = "prompt and answer", "running text"
_ASKED = ("prompt", "question", "query", "instruction")
_ANSWERED = ("answer", "output", "completion", "response", "gt", "labels", "answers", "best_answer")
_BESIDE = {
    "also": ("also", "aliases", "paraphrased_answer", "correct_answers"),
    "wrong": ("wrong", "perturbed_answer", "perturbed_answers", "incorrect_answers", "distractors"),
}
"""Where the other accepted answers stand, and the wrong ones."""
_TURNS = ("messages", "conversations", "prompt", "completion", "answer")
_EXPECTED = "expected an object with 'prompt' and 'answer', or with 'text', all non-empty strings"


def _item(row: object, where: str, columns: Mapping[str, str]) -> tuple[Item, str, set[str]]:
    """An item from one decoded row, which stands at `where`; what the row is; and the columns that were read."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: found {short(json.dumps(row, default=str))}; {_EXPECTED}.")
    if missing := [column for column in columns.values() if column not in row]:
        raise UserError(f"{where}: no column {missing[0]!r}. Nearest: {nearest(missing[0], list(map(str, row)))}.")
    seen = {name: row.get(columns.get(name, name)) for name in {*columns, "fact", "label"}} if columns else row
    # Tables fill the gaps of a column with null: what is null is not there.
    seen = {name: value for name, value in seen.items() if value is not None}
    item, kind, used = _recognise(seen, where)
    if item.prompt:
        beside = {name: field for field, names in _BESIDE.items() for name in names if name in seen}
        more: dict[str, Any] = {"also": [*item.also], "wrong": [*item.wrong]}
        for name, field in beside.items():
            more[field] += _texts(seen, name, where)
        # Our own rows are joined as they are; elsewhere an answer stands by itself.
        joined = item.prompt[-1].isspace() or (kind == OWN and not columns)
        spaced = {
            field: [t if joined or t[0].isspace() else f" {t}" for t in ts] for field, ts in ({"answer": [item.answer]} | more).items()
        }
        (answer,), place = spaced["answer"], seen.get("place", item.place)
        also, wrong = (tuple(text for text in dict.fromkeys(spaced[field]) if text != answer) for field in ("also", "wrong"))
        item = replace(item, answer=answer, also=also, wrong=wrong, place=place if type(place) is int else -1)
        kind, used = f"{kind} with {', '.join(beside)}" if beside else kind, {*used, *beside, "place"}
    item = replace(item, fact=str(seen.get("fact", "")), label=str(seen.get("label", "")))
    if half := re.search("[\ud800-\udfff]", "".join((item.text, item.fact, item.label, *item.also, *item.wrong))):
        raise UserError(f"{where}: {half.group()!r} is half a character (a lone surrogate). Write the whole one, in UTF-8.")
    return item, kind, {"fact", "label", *(columns.values() or used)}


def _recognise(row: Mapping[str, Any], where: str) -> tuple[Item, str, set[str]]:
    """A row as an item, what the row is, and the columns that it was read from."""
    asked, answered = (next((name for name in names if name in row), "") for names in (_ASKED, _ANSWERED))
    own = all(isinstance(row.get(name), str) for name in ("prompt", "answer"))
    lists = [name for name in _TURNS if not own and isinstance(row.get(name), list)]
    turns = [name for name in lists if name in _TURNS[:2] or any(isinstance(turn, dict) for turn in row[name])]
    if "text" in row and not own and (beside := answered or "".join(turns[:1])):
        ways = f"--columns prompt=text,answer={beside}, or --columns text=text"
        raise UserError(f"{where}: 'text' stands beside {beside!r}, and one of them would be dropped. Say what is meant: {ways}")
    if turns:
        used = turns[:1] if turns[0] in _TURNS[:2] else turns
        return _exchange([turn for name in used for turn in row[name]], where), "messages", {*used}
    if own or (asked and answered):
        parts = ("instruction", "input") if asked == "instruction" else (asked,)
        prompt = "\n\n".join(_text(row, name, where) for name in parts if name == asked or row.get(name))
        place = _place(row["choices"], row[answered]) if isinstance(row.get("choices"), list) else -1
        if place is not None and place >= 0:
            answer, *wrong = _texts({answered: [row["choices"][place], *row["choices"]]}, answered, where)
            return Item(prompt, answer, wrong=tuple(wrong), place=place), f"{asked}, choices and {answered}", {asked, answered, "choices"}
        if place is None and not own:
            found, ways = short(json.dumps(row[answered], default=str)), "a number from 0, a letter, or the text of one"
            raise UserError(f"{where}: the answer is {found}; of {len(row['choices'])} choices, expected {ways}.")
        answers = _texts(row, answered, where) or [_text(row, answered, where)]
        return Item(prompt, answers[0], also=tuple(answers[1:])), f"{asked} and {answered}", {*parts, answered}
    if "prompt" in row or "answer" in row:
        return Item(_text(row, "prompt", where), _text(row, "answer", where)), OWN, set()
    return Item("", _text(row, "text", where)), TEXT, {"text"}


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        found = f"{key!r} {f'is {short(json.dumps(value, default=str))}' if key in row else 'is missing'}"
        keys = str(sorted(map(str, row)))[:300]
        raise UserError(f"{where}: {found}; {_EXPECTED}; found the keys {keys}. Name others by --columns prompt=...,answer=...")
    return value


def _texts(row: Mapping[str, Any], key: str, where: str) -> list[str]:
    """One text or a list of them; of a table (SQuAD's and TriviaQA's answers) its texts, or its value and aliases."""
    value = row.get(key)
    if isinstance(value, dict):
        value = value.get("text", [value.get("value"), *(value.get("aliases") or ())])
    values = value if isinstance(value, list) else [value]
    return [_text({**row, key: text}, key, where) for text in values if not isinstance(text, str) or text.strip()]


def _place(choices: Sequence[Any], answer: Any) -> int | None:
    """The number of the right choice; `answer` is that number from 0, a letter, or the choice itself."""
    place = answer
    if isinstance(answer, str):
        texts = [choice.strip() if isinstance(choice, str) else choice for choice in choices]
        place = texts.index(answer.strip()) if answer.strip() in texts else ord(answer) - ord("A") if len(answer) == 1 else -1
    return place if type(place) is int and 0 <= place < len(choices) else None


def _exchange(turns: Sequence[Any], where: str) -> Item:
    """A chat, in either of the two forms in use: its last turn is the answer, what was said before it the prompt."""
    said = []
    for turn in (turn if isinstance(turn, dict) else {} for turn in turns):
        role, content = str(turn.get("role", turn.get("from"))), turn.get("content", turn.get("value"))
        parts = content if isinstance(content, list) else [{"text": content}]
        words = "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))
        if role != "system" or words.strip():
            said.append(({"human": "user", "gpt": "assistant"}.get(role, role), words))
    roles = ", ".join(role for role, _ in said)
    if not re.fullmatch(r"(system, )?user, (assistant, user, )*assistant", roles):
        allowed = "'user' and 'assistant' by turns, the last one the assistant's, can be read, after one of 'system' or none"
        raise UserError(f"{where}: the turns are of {short(roles)}; only {allowed}.")
    *before, answer = (_text({role: words}, role, where) for role, words in said)
    return Item("\n\n".join(before), answer, turns=tuple(said[:-1]) if len(said) > 2 else ())
