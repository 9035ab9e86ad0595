"""Cards from claims: those of the arm that gets cards, and those for the claims that were not rebuilt."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sluicegate_study.deck.cards import Card, Head
from sluicegate_study.deck.collection import add_cards
from sluicegate_study.lecture.blank import Blank, choose_blank, find_blanks, find_stems, shuffle
from sluicegate_study.lecture.lecture import Claim
from sluicegate_study.lecture.record import Record


def choose_blanks(records: Sequence[Record], seed: int) -> dict[str, Blank]:
    """What the cold test hides in each claim, by name: preferably what no claim before it and no title says.

    Of a claim that was tested already, what was hidden then."""
    found, said = {}, frozenset[str]()
    for record in records:
        claim = record.claim
        said |= find_stems(claim.section)
        tested = [blank for blank in find_blanks(claim) if blank.answer == record.hidden]
        found[claim.name] = tested[0] if tested else choose_blank(claim, seed, said)
        said |= find_stems(claim.text)
    return found


def make_cards(records: Sequence[Record], slug: str, hidden: dict[str, Blank]) -> list[Card]:
    """One cloze card for each claim with cards, of up to two deletions: others than the tested one where the claim has
    others, so that the test asks for the step and not for a card's word."""
    chosen = {record.claim.name for record in records if record.arm == "cards"}
    made = []
    for record in records:
        claim, tested = record.claim, hidden[record.claim.name]
        if claim.name in chosen:
            others = _apart(shuffle(find_blanks(replace(claim, blank="")), f"card/{claim.rev}"), tested)
            needs = _nearest(claim, {r.claim.name: r.claim for r in records}, chosen)
            made.append(_card(claim, others or [tested], f"{slug}-{claim.name}", tuple(f"{slug}-{name}" for name in needs), "step"))
    return made


def make_repair_cards(records: Sequence[Record], slug: str, hidden: dict[str, Blank]) -> list[Card]:
    """Cloze cards for the claims that were not rebuilt, in their order: the step that was hidden, each after the broken
    ones it needs.

    A claim whose card of the first round asks for that very step needs no other."""
    broken = {record.claim.name for record in records if record.right is False and not record.void}
    claims = {record.claim.name: record.claim for record in records}
    there = {card.question: card.id for card in make_cards(records, slug, hidden)}
    made: list[Card] = []
    ids: dict[str, str] = {}
    for name in claims:
        if name in broken:
            needs = tuple(ids[need] for need in _nearest(claims[name], claims, broken))
            card = _card(claims[name], [hidden[name]], f"{slug}-{name}-mend", needs, "mend")
            ids[name] = there.get(card.question, card.id)
            made += [] if card.question in there else [card]
    return made


def write_cards(path: Path, cards: Sequence[Card], head: Head) -> int:
    """Write a deck file, or add to one the cards whose ids it does not have. Returns how many were new."""
    if not cards:
        return 0
    return add_cards(path, head, lambda there: [card for card in cards if card.id not in {entry.id for entry in there}])


def make_slug(path: Path) -> str:
    """The notes' name as the beginning of ids."""
    made = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).strip("-._")
    return made or "notes"


def _card(claim: Claim, spans: Sequence[Blank], name: str, needs: tuple[str, ...], angle: str) -> Card:
    text, place, parts = claim.text, 0, []
    for blank in sorted(spans, key=lambda blank: blank.start):
        parts += [_escaped(text[place : blank.start]), "[", _escaped(text[blank.start : blank.end]), "]"]
        place = blank.end
    return Card("".join([*parts, _escaped(text[place:])]), kind="cloze", id=name, needs=needs, topic=claim.section, angle=angle)


def _apart(found: Sequence[Blank], tested: Blank) -> list[Blank]:
    """The first two that overlap neither the tested one nor each other."""
    kept = [tested]
    for blank in found:
        if len(kept) < 3 and all(blank.end <= other.start or blank.start >= other.end for other in kept):
            kept.append(blank)
    return kept[1:]


def _escaped(text: str) -> str:
    """Text of a cloze card in which brackets are brackets."""
    return re.sub(r"\\(?=[\[\]\\])|[\[\]]", lambda found: "\\" + found[0], text)


def _nearest(claim: Claim, claims: dict[str, Claim], among: set[str]) -> list[str]:
    """The nearest claims of a set that a claim builds on, directly or through others."""
    found: dict[str, None] = {}
    queue, seen = list(claim.needs), set(claim.needs)
    for name in queue:
        if name in among:
            found[name] = None
        elif name in claims:
            fresh = [need for need in claims[name].needs if need not in seen]
            seen |= set(fresh)
            queue += fresh
    return list(found)
