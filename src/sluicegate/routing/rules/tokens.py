from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sluicegate.errors import UserError, check_choices
from sluicegate.routing.views import Of, aligned, number, view

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tokens:
    """Labels by a list of tokens: ``Tokens({"steer": [" California"]}, tokenizer)``.

    Source: Cloud et al. 2024 (arXiv 2410.04332), the steering scalar, where positions whose target is
    one token are routed; with ``per="row"`` the TinyStories runs, where a story is a forget story if it
    has one of a few words. Different here: any number of labels.

    Indexed: with `of` "target" (default, the paper's) a label lies where its token is to be predicted,
    one to the left of where it stands; with "input", where it stands. The last position has no target
    and gets `otherwise`, as does padding.
    """

    NAME: ClassVar[str] = "tokens"

    tokens: Mapping[str, Sequence[str | int]]
    """The tokens of each label: texts that are one token each, the tokenizer's own spelling of a token, or ids."""
    tokenizer: Any = None
    """Turns texts into ids; not needed for ids."""
    of: Of = "target"
    """Whether a position's label is that of the token to be predicted there (target) or of the one that stands there
    (input)."""
    per: Literal["token", "row"] = "token"
    """Label tokens, or whole rows: those that hold a token of the list at all, that of the first label where there are
    several."""
    otherwise: str = "retain"
    """Label of everything else."""

    def __post_init__(self) -> None:
        check_choices(type(self), {"of": self.of, "per": self.per})
        if not isinstance(self.tokens, Mapping) or not self.tokens or any(isinstance(own, (str, int)) for own in self.tokens.values()):
            raise UserError(f"tokens is {self.tokens!r}; give a list for each label, for example {{'forget': [' tree', ' trees']}}.")
        for label, own in self.tokens.items():
            if not own:
                raise UserError(f"the list of tokens of the label {label!r} is empty.")
        _ = self.ids  # a token that is none is reported now, and not in the middle of training

    @cached_property
    def ids(self) -> dict[str, tuple[int, ...]]:
        """The token ids of each label."""
        found: dict[str, tuple[int, ...]] = {}
        split: list[str] = []
        for label, own in self.tokens.items():
            found[label] = tuple(i for token in own if (i := _id(self.tokenizer, token, split)) is not None)
        if split:
            raise UserError(
                f"not one token each: {', '.join(split)}. Within a sentence a word usually starts with its space (' tree'). Name the piece "
                "you mean, give ids, or use the rule 'span', which labels words of any length."
            )
        seen: dict[int, str] = {}
        for label, own_ids in found.items():
            for i in own_ids:
                if seen.setdefault(i, label) != label:
                    raise UserError(f"the token {i} is in the lists of two labels, {seen[i]!r} and {label!r}. Leave it in one.")
        return found

    def __call__(self, batch: Any, labels: Sequence[str]) -> "Tensor":
        import torch

        ids, real = view(batch).tokens(self.NAME)
        rest = number(self.otherwise, labels)
        found = torch.full_like(ids, rest, dtype=torch.long)
        rows = torch.full((len(ids),), rest, device=ids.device)
        for label, own in reversed(list(self.ids.items())):
            where = torch.isin(ids, torch.tensor(own, device=ids.device)) & real
            found[where] = rows[where.any(1)] = number(label, labels)
        return rows if self.per == "row" else aligned(found, self.of, rest)


def _id(tokenizer: Any, token: str | int, split: list[str]) -> int | None:
    """The id of one token; what is not one token is added to `split`, with its pieces."""
    if isinstance(token, int) and not isinstance(token, bool):
        size = len(tokenizer) if tokenizer is not None else None
        if token < 0 or (size is not None and token >= size):
            raise UserError(f"the token id {token} is not in the vocabulary{f' (0 to {size - 1})' if size else ''}.")
        return token
    if not isinstance(token, str):
        raise UserError(f"{token!r} is no token; give a text or an id.")
    if tokenizer is None:
        raise UserError(f"the token {token!r} is a text, which takes a tokenizer to read: Tokens({{...}}, tokenizer).")
    ids = list(tokenizer(token, add_special_tokens=False)["input_ids"])
    if len(ids) != 1:  # perhaps it is the vocabulary's own spelling, such as "Ġtree"
        own = tokenizer.get_vocab().get(token)
        if own is not None:
            return int(own)
        split.append(f"{token!r} ({' | '.join(tokenizer.convert_ids_to_tokens(ids)) or 'nothing'})")
        return None
    if ids[0] == tokenizer.unk_token_id:
        raise UserError(f"the tokenizer does not know {token!r}: it is nothing but its token for unknown words.")
    return int(ids[0])
