"""Items: labelled things worth knowing, and the readers that make them from files.

A training row, a quiz question and a flash card are the same thing here: a prompt, its answer and
a label. Running text is an item with an empty prompt whose answer is the text.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sluicegate.errors import UserError

GROUPS = ("forget", "retain", "unlabelled", "adjacent")
FORMATS = "*.jsonl (rows with prompt and answer, or with text), *.txt or *.md, *.parquet, or hub:NAME"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing worth knowing."""

    prompt: str
    """What is asked; empty for running text."""
    answer: str
    """What is to be known; for running text, the text."""
    fact: str = ""
    """Which fact this row states. Rows that state one fact in several phrasings share it, so that
    a split never puts one phrasing on each side."""
    label: str = ""
    """The group or class it belongs to."""

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
                f"forget and retain share {len(shared)} row(s), for example {_short(example)}. "
                "A row can only be on one side: remove it from one of the two files."
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
    """Split items in two by fact: the half an attacker holds, and the half it never sees.

    Every phrasing of a fact lands on the same side. Raises `UserError` below four facts, where a
    half would be too small to measure anything on.
    """
    facts = sorted({item.key for item in items})
    if len(facts) < 4:
        raise UserError(
            f"the forget set holds {len(facts)} fact(s); a held-out split needs at least 4 (and a useful one 40). "
            "Add rows, or give phrasings of different facts different 'fact' values."
        )
    random.Random(seed).shuffle(facts)
    held = set(facts[: len(facts) // 2])
    return (
        tuple(item for item in items if item.key in held),
        tuple(item for item in items if item.key not in held),
    )


def digest(items: Iterable[Item]) -> str:
    """Return the sha256 of the items' content, in order (hex)."""
    sha = hashlib.sha256()
    for item in items:
        row = [item.prompt, item.answer, item.fact, item.label]
        sha.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return sha.hexdigest()


def read(source: str | Path, label: str = "") -> tuple[Item, ...]:
    """Read items from a file or a hub data set.

    `source` is a path to JSONL, plain text (one item a paragraph) or Parquet, or
    ``hub:NAME[:SPLIT]``, which needs the ``hub`` extra. Raises `UserError` that names the file,
    the line and what was expected.
    """
    name = str(source)
    if name.startswith("hub:"):
        items = list(_hub(name))
    else:
        path = Path(name).expanduser()
        if not path.exists():
            raise UserError(f"no file {name!r}. Expected {FORMATS}.")
        if path.is_dir():
            raise UserError(f"{name!r} is a folder. Expected a file: {FORMATS}.")
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise UserError(f"cannot read {name!r}: unknown ending {path.suffix!r}. Expected {FORMATS}.")
        items = list(reader(path))
    if not items:
        raise UserError(f"{name!r} holds no rows. Expected at least one; formats: {FORMATS}.")
    return tuple(replace(item, label=item.label or label) for item in items)


def write_jsonl(items: Iterable[Item], path: Path) -> None:
    """Write items as JSONL that `read` takes back unchanged."""
    with path.open("w", encoding="utf-8") as file:
        for item in items:
            row = {"prompt": item.prompt, "answer": item.answer} if item.prompt else {"text": item.answer}
            row |= {key: value for key in ("fact", "label") if (value := getattr(item, key))}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _short(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def _item(row: object, where: str) -> Item:
    """Make an item from one decoded row; `where` names the file and line for the error."""
    expected = "expected an object with 'prompt' and 'answer', or with 'text', all non-empty strings"
    if not isinstance(row, dict):
        raise UserError(f"{where}: found {_short(json.dumps(row, default=str))}; {expected}.")
    fact, label = (str(row[k]) if row.get(k) is not None else "" for k in ("fact", "label"))
    if "prompt" in row or "answer" in row:
        wanted = ["prompt", "answer"]
    elif "text" in row:
        wanted = ["text"]
    else:
        raise UserError(f"{where}: found the keys {sorted(map(str, row))}; {expected}.")
    for key in wanted:
        value = row.get(key)
        if not isinstance(value, str) or not value.strip():
            found = f"is {_short(json.dumps(value, default=str))}" if key in row else "is missing"
            raise UserError(f"{where}: {key!r} {found}; {expected}.")
    if wanted == ["text"]:
        return Item("", row["text"], fact, label)
    return Item(row["prompt"], row["answer"], fact, label)


def _utf8(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8 and try again.") from None


def _jsonl(path: Path) -> Iterator[Item]:
    for number, line in enumerate(_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}: not JSON ({error.msg} at column {error.colno}): {_short(line)}. Expected one JSON object a line."
            ) from None
        yield _item(row, where)


def _text(path: Path) -> Iterator[Item]:
    for paragraph in _utf8(path).split("\n\n"):
        if paragraph.strip():
            yield Item("", paragraph.strip())


def _parquet(path: Path) -> Iterator[Item]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]}).") from None
    for number, row in enumerate(rows, start=1):
        yield _item(row, f"{path}, row {number}")


def _hub(name: str) -> Iterator[Item]:
    try:
        import datasets
    except ImportError:
        raise UserError(f"{name!r} is a hub data set, which needs the 'datasets' package: pip install 'sluicegate[hub]'.") from None
    _, repository, *rest = name.split(":")
    split = rest[0] if rest else "train"
    try:
        datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False  # versions before 4 can run a script of the data set's
        rows = datasets.load_dataset(repository, split=split)
    except Exception as error:
        raise UserError(f"could not load split {split!r} of {repository!r} from the hub: {error}") from None
    for number, row in enumerate(rows, start=1):
        yield _item(row, f"{name}, row {number}")


_READERS: dict[str, Callable[[Path], Iterator[Item]]] = {
    ".jsonl": _jsonl,
    ".txt": _text,
    ".md": _text,
    ".parquet": _parquet,
}
