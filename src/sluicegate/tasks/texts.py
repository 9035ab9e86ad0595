"""Two texts, one to keep and one to forget: the user's own files, or two small made-up languages in their place.

``texts:FILE`` reads a file of yours as passages of about `PASSAGE` characters, however its paragraphs lie: what an
attacker holds half of has to come in pieces. ``task:texts/forget`` and ``task:texts/retain`` are the languages: each
has words of its own, made from the same letters, and an order in which they follow one another. Imports neither torch
nor transformers until `tokenizer` is called.
"""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sluicegate.errors import UserError
from sluicegate.values import items
from sluicegate.values.items import Item, Sources, Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PASSAGE = 64
"""Characters of a passage, at most."""
PREFIX = "texts:"
"""Before a file's name: read it as running text, in passages."""
SPECIAL = ("<pad>", "<unk>", "<bos>")
_WORDS = 48
_FOLLOWERS = 3
_SYLLABLES = tuple(a + b for a in "bdfgklmnprst" for b in "aeiou")


def read(source: str, label: str = "") -> tuple[Item, ...]:
    """Read ``texts:FILE`` (running text in any format) as passages; `UserError` for prompts and answers."""
    path = source.removeprefix(PREFIX).strip()
    rows = items.load(path)[0]
    if any(row.prompt for row in rows):
        raise UserError(f"{path!r} holds prompts and answers, not running text. Hand it in without {PREFIX!r}.")
    return tuple(passages("\n\n".join(row.answer for row in rows), label))


def passages(text: str, label: str = "", size: int = PASSAGE) -> Iterator[Item]:
    """Cut a text into passages of at most `size` characters, between words where there is a space to cut at."""
    text = text.strip()
    while text:
        end = len(text) if len(text) <= size else max(text.rfind(" ", 0, size + 1), text.rfind("\n", 0, size + 1))
        end = end if end > 0 else size
        yield Item("", text[:end].strip(), label=label)
        text = text[end:].lstrip()


def texts(rows: int = 240, seed: int = 0) -> Split:
    """The two made-up languages, `rows` passages of each; what nobody has labelled are both, in turn."""
    found = {name: tuple(_language(name, rows, seed)) for name in ("forget", "retain")}
    both = tuple(item for pair in zip(found["retain"], found["forget"], strict=True) for item in pair)
    return Split(found["forget"], found["retain"], tuple(Item("", item.answer) for item in both))


def _language(name: str, rows: int, seed: int) -> Iterator[Item]:
    # A language's syllables do not depend on the rows: a longer text is a longer one of the same language.
    rng = random.Random(f"texts {seed}")
    syllables = rng.sample(_SYLLABLES, len(_SYLLABLES))
    half = len(syllables) // 2
    own = syllables[:half] if name == "forget" else syllables[half:]
    rng = random.Random(f"texts {name} {seed}")
    words = sorted({"".join(rng.choices(own, k=rng.choice((1, 2, 2, 3)))) for _ in range(2 * _WORDS)})[:_WORDS]
    follow = {word: rng.sample(words, _FOLLOWERS) for word in words}
    rng = random.Random(f"texts {name} rows {seed}")
    for _ in range(rows):
        line = [rng.choice(words)]
        while len(" ".join(line)) < PASSAGE - 8:
            line.append(rng.choice(follow[line[-1]]))
        yield Item("", " ".join(line), label=name)


def sources() -> Sources:
    """``task:texts/GROUP``: the made-up languages."""
    return {f"task:texts/{group}": lambda group=group: texts().group(group) for group in ("forget", "retain", "unlabelled")}  # type: ignore[misc]


def tokenizer() -> "PreTrainedTokenizerFast":
    """A tokenizer over bytes, made in memory: every text is its UTF-8 bytes, one token each, with `<bos>` in front."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate((*SPECIAL, *alphabet))}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    bos = SPECIAL.index("<bos>")
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", bos)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=SPECIAL[2], pad_token=SPECIAL[0], unk_token=SPECIAL[1], padding_side="right"
    )
