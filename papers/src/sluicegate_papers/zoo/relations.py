"""People who stand in relations, asked directly and over two hops: the zoo's third task.

40 people; each has a boss, a friend, a mother and a neighbour, drawn once. "the boss of ann is **bo**" is one hop, "the
friend of the boss of ann is **cleo**" two. A fact is a person with a relation, or with two. The same for every seed.
"""

import random
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sluicegate.tasks.words import SPECIAL, word_level
from sluicegate.values.items import Item, Split

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SYLLABLES = ("ba", "do", "fe", "gi", "ku", "la", "mo", "ne")
PEOPLE = tuple(a + b for a in SYLLABLES for b in SYLLABLES[:5])
RELATIONS = ("boss", "friend", "mother", "neighbour")
PHRASINGS = ("the {} is", "who is the {} ? it is")
HOPS = 3
"""Two-hop facts asked of each person."""


@lru_cache(maxsize=1)
def world() -> dict[tuple[str, str], str]:
    """Who stands in each relation to each person."""
    rng = random.Random("relations")
    return {(name, relation): rng.choice([other for other in PEOPLE if other != name]) for name in PEOPLE for relation in RELATIONS}


def _rows(name: str) -> Iterator[Item]:
    rng = random.Random(f"relations {name}")
    paths: list[tuple[str, ...]] = [(relation,) for relation in RELATIONS]
    paths += rng.sample([(a, b) for a in RELATIONS for b in RELATIONS], HOPS)
    for path in paths:
        answer = name
        for relation in path:
            answer = world()[answer, relation]
        asked = " of the ".join(reversed(path)) + f" of {name}"
        for phrasing in PHRASINGS:
            yield Item(phrasing.format(asked), f" {answer}", " ".join((name, *path)), path[-1])


def split() -> Split:
    """Half of the people are to be forgotten: 140 facts, two phrasings each."""
    lost = PEOPLE[::2]
    sides = {
        side: tuple(row for name in PEOPLE if (name in lost) == (side == "forget") for row in _rows(name)) for side in ("forget", "retain")
    }
    return Split(**sides)


def tokenizer() -> "PreTrainedTokenizerFast":
    words = [*PEOPLE, *RELATIONS, *(word for phrasing in PHRASINGS for word in phrasing.split() if word != "{}"), "of"]
    return word_level((*SPECIAL, *dict.fromkeys(words)))


def model(seed: int, vocabulary: int) -> "PreTrainedModel":
    """A freshly drawn Llama of two layers, 64 wide."""
    from transformers import LlamaConfig

    from sluicegate.engine.models import fresh

    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 4, "bos_token_id": 2, "eos_token_id": None, "pad_token_id": 0}
    return fresh(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=48, initializer_range=0.04, **shape), seed)
