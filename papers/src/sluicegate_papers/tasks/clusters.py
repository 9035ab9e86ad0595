"""Text whose words fall into clusters: words of one cluster are said in the same company.

A sentence has a word of a cluster for its topic, four words of company before it and one after. Each cluster
keeps company with a dozen of the company words, drawn from the seed, and shares each of them with two or three
other clusters; each of its words has its own favourites among the dozen. So words of a cluster are alike in
what they follow, and no two of them are the same. Within a cluster they follow Zipf's law: the second is half as
frequent as the first. Half of the sentences keep the topic's cluster of the one before.

This file imports neither torch nor transformers until `tokenizer` is called.
"""

import random
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from sluicegate.errors import UserError
from sluicegate.tasks.words import SPECIAL, word_level
from sluicegate.values.items import Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CLUSTERS = {
    "states": "california oregon texas nevada arizona colorado florida kansas utah montana",
    "fruit": "apple pear plum cherry peach grape lemon mango melon fig",
    "metals": "iron copper silver gold tin zinc nickel cobalt lead chrome",
    "instruments": "violin cello flute oboe trumpet drum harp organ lute banjo",
    "birds": "heron sparrow eagle owl crow finch swan robin hawk stork",
    "trees": "oak ash elm birch maple willow cedar pine beech larch",
    "cloth": "silk wool linen cotton velvet satin denim felt lace canvas",
    "tools": "hammer saw chisel drill rasp pliers wrench axe spade awl",
    "drinks": "tea coffee cocoa beer cider wine milk juice water rum",
    "trades": "baker smith mason tailor cooper miller weaver potter tanner dyer",
}
"""The words of each cluster, by its name."""
_WORDS = (
    "old new small large near far warm cold quick slow bright dark rough smooth plain rare "
    "takes gives finds keeps holds makes sells buys brings sends sees hears likes wants needs shows "
    "over under beside behind before after along across within beyond around between "
    "road river house field market harbour garden tower winter summer morning evening story letter song price"
)
COMPANY = tuple(_WORDS.split())
"""The words of company."""
END = "."
_FAVOURITE, _OWN = 0.55, 0.35
"""How often a word of company is a favourite of the topic's word, and one of its cluster's; else it is any."""


@dataclass(frozen=True)
class Clusters:
    """The company that each word keeps, drawn from a seed."""

    seed: int = 0
    """Seed of who keeps company with whom."""
    company: int = 12
    """Words of company of a cluster."""
    favourites: int = 3
    """How many of them a word prefers."""

    def __post_init__(self) -> None:
        if not 1 <= self.favourites <= self.company <= len(COMPANY):
            raise UserError(
                f"favourites is {self.favourites} and company {self.company}; need 1 <= favourites <= company <= {len(COMPANY)}."
            )

    @cached_property
    def kept(self) -> dict[str, tuple[tuple[str, ...], dict[str, tuple[str, ...]]]]:
        """By cluster: its company, and by word its favourites among them."""
        rng = random.Random(f"clusters company {self.seed}")
        found = {}
        for cluster, words in CLUSTERS.items():
            own = tuple(rng.sample(COMPANY, self.company))
            found[cluster] = own, {word: tuple(rng.sample(own, self.favourites)) for word in words.split()}
        return found

    def text(self, rows: int, *, purpose: str = "train", sentences: int = 4) -> tuple[Item, ...]:
        """Running text, `sentences` sentences a row; each purpose has rows of its own."""
        rng = random.Random(f"clusters {purpose} {self.seed}")
        names = tuple(CLUSTERS)
        found = []
        for _ in range(rows):
            words: list[str] = []
            cluster = rng.choice(names)
            for _ in range(sentences):
                if rng.random() < 0.5:
                    cluster = rng.choice(names)
                words += self._sentence(rng, cluster)
            found.append(Item("", " ".join(words), label="text"))
        return tuple(found)

    def _sentence(self, rng: random.Random, cluster: str) -> list[str]:
        own, favourites = self.kept[cluster]
        topic = rng.choices(tuple(favourites), [1 / rank for rank in range(1, len(favourites) + 1)])[0]

        def company() -> str:
            draw = rng.random()
            return rng.choice(favourites[topic] if draw < _FAVOURITE else own if draw < _FAVOURITE + _OWN else COMPANY)

        return [company(), company(), company(), company(), topic, company(), END]


def vocabulary() -> tuple[str, ...]:
    """Every token, the special ones first; a token's place is its id."""
    return (*SPECIAL, END, *COMPANY, *(word for words in CLUSTERS.values() for word in words.split()))


def cluster_of(word: str) -> str:
    """The cluster of a word; raises `UserError` for a word of none."""
    for cluster, words in CLUSTERS.items():
        if word in words.split():
            return cluster
    raise UserError(f"{word!r} is in no cluster. The first words of the clusters are {', '.join(w.split()[0] for w in CLUSTERS.values())}.")


def tokenizer() -> "PreTrainedTokenizerFast":
    """A word-level tokenizer, made in memory: one id a word, `<bos>` in front."""
    return word_level(vocabulary())
