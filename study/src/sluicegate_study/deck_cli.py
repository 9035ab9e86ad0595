"""The verb ``deck``: what is done with the files of a deck, and reviews of its cards."""

from sluicegate_study.command import several
from sluicegate_study.deck.cli import Check, Export, Import, New
from sluicegate_study.deck.shipped import list_decks
from sluicegate_study.review.cli import Review, Stats
from sluicegate_study.review.refit_cli import Refit

DECK = several(
    "deck",
    "Begin, check and review a deck of flash cards and tossups",
    {"new": New, "check": Check, "review": Review, "stats": Stats, "refit": Refit, "export": Export, "import": Import},
    lambda: f"decks that come with the program: {', '.join(list_decks())}",
)
