"""A deck of two clues and a model that knows it by heart, in the words of the arithmetic task; shared by the tests of
the quiz."""

from architectures import learner
from sluicegate.engine.models import load_tokenizer
from sluicegate.engine.train import train
from sluicegate.tasks.arithmetic import NAMES, OBJECTS
from sluicegate.values.items import Item, Split
from sluicegate.values.schedule import Schedule
from sluicegate_study.deck.cards import Deck, DeckFile, Tossup
from sluicegate_study.quiz.deck import asked_of

FRAME = "{clues} ="
SIDES = {"forget": NAMES[:3], "retain": NAMES[3:]}


def deck() -> Deck:
    """Whose what it is: the name leaves four answers, the thing decides. Half of the names are to be forgotten."""
    tossups = []
    for side, names in SIDES.items():
        for name in names:
            for thing in OBJECTS:
                answer = 3 * (NAMES.index(name) * len(OBJECTS) + OBJECTS.index(thing)) + 7
                tossups.append(Tossup(f"{name} | {thing}", str(answer), f"{name}-{thing}", side))
    return Deck("toy", (DeckFile(entries=tuple(tossups)),))


def split() -> Split:
    """The rows that teach it, by side: each fact after both clues, and after the first one alone."""
    groups = {side: [] for side in SIDES}
    for tossup in deck().tossups:
        for read in (1, 2):
            groups[tossup.category].append(Item(f"{' '.join(tossup.clues[:read])} =", f" {tossup.answer}", tossup.id))
    return Split(**{side: tuple(rows) for side, rows in groups.items()})


def asked():
    return asked_of(deck())


def knowing(seed: int = 0):
    """A model that knows every answer once both clues are read, and its tokenizer."""
    model, tokenizer = learner(seed), load_tokenizer("arithmetic-tiny")
    rows = split()
    train(model, tokenizer, rows.forget + rows.retain, Schedule(steps=150, lr=5e-3, batch=32, warmup=10), seed=seed)
    return model, tokenizer
