"""Views: what a rule can see of a batch, whatever kind of batch it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sluicegate.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from sluicegate.engine.encoding import Rows

Of = Literal["input", "target"]
"""What a token's label is read from: the token that stands at its position, or the one to be predicted there (the
next)."""


@dataclass(frozen=True, eq=False)
class View:
    """A batch as a rule sees it; what the batch does not have is None."""

    raw: Any
    """The batch itself."""
    rows: int
    """b: how many rows it has."""
    ids: "Tensor | None" = None
    """[b, t] token ids."""
    attention: "Tensor | None" = None
    """[b, t] True where there is a token; None: everywhere."""
    index: "Tensor | None" = None
    """[b] each row's number among the rows that training draws from."""

    def tokens(self, who: str) -> "tuple[Tensor, Tensor]":
        """Token ids and where they are real, both [b, t]; raises `UserError` for a batch without tokens."""
        import torch

        if self.ids is None:
            raise UserError(
                f"the rule {who!r} reads tokens, and this batch has none ({_kind(self.raw)}). Give encoded rows, a mapping with "
                "'input_ids', or a tensor of ids (batch, tokens)."
            )
        return self.ids, torch.ones_like(self.ids, dtype=torch.bool) if self.attention is None else self.attention

    def column(self, name: str | int, values: Any, who: str) -> Any:
        """One value a row (or a token): from `values` by row number, else from the batch's own column `name`."""
        if values is not None:
            if self.index is None:
                raise UserError(
                    f"the rule {who!r} has one value a row, but this batch does not say which rows it holds. Draw it with rows.batch(...), "
                    "or add a column 'index'; or leave values out and give the batch the column itself."
                )
            own, most = self.index.cpu(), len(values)
            if int(own.max()) >= most or int(own.min()) < 0:
                raise UserError(f"the rule {who!r} has values for rows 0 to {most - 1}, and the batch holds row {int(own.max())}.")
            return values[own] if hasattr(values, "index_select") else [values[i] for i in own.tolist()]
        if isinstance(self.raw, Mapping):
            if name not in self.raw:
                known = [str(key) for key in self.raw]
                raise UserError(
                    f"the rule {who!r} reads the column {name!r}, which the batch has not. It has: {nearest(str(name), known)}."
                )
            return self.raw[name]
        if isinstance(name, int) and isinstance(self.raw, Sequence):
            if not -len(self.raw) <= name < len(self.raw):
                raise UserError(f"the rule {who!r} reads place {name} of a batch that has {len(self.raw)}.")
            return self.raw[name]
        raise UserError(
            f"the rule {who!r} finds no column {name!r} in this batch ({_kind(self.raw)}). Give the rule rows= (encoded rows) or values= "
            "(one a row); or batches that are mappings, or tuples and the column's place in them."
        )


def view(batch: Any) -> View:
    """Look at a batch: encoded rows (`encoding.Batch`), a mapping (``input_ids``, ``attention_mask``, ``index``,
    columns), a tensor of ids (b, t), or, for rules that read no tokens, any tensor or tuple whose first entry has one
    row a row.
    """
    if isinstance(batch, View):
        return batch
    if hasattr(batch, "ids") and hasattr(batch, "attention"):
        return View(batch, len(batch.ids), batch.ids, batch.attention.bool(), getattr(batch, "index", None))
    if isinstance(batch, Mapping):
        ids, attention, index = (batch.get(key) for key in ("input_ids", "attention_mask", "index"))
        first = ids if ids is not None else next((value for value in batch.values() if hasattr(value, "__len__")), None)
        if first is None:
            raise UserError("the batch is a mapping without columns; there is nothing to label.")
        return View(batch, len(first), _ids(ids), None if attention is None else attention.bool(), index)
    if hasattr(batch, "is_floating_point"):
        words = batch.dim() == 2 and not batch.is_floating_point() and not batch.is_complex()
        return View(batch, len(batch), batch if words else None)
    if isinstance(batch, Sequence) and not isinstance(batch, str) and batch and hasattr(batch[0], "__len__"):
        return View(batch, len(batch[0]))
    raise UserError(
        f"cannot label this batch ({_kind(batch)}). Give encoded rows, a mapping with 'input_ids', a tensor, or a tuple of them."
    )


def whole(rows: "Rows") -> View:
    """All encoded rows as one view."""
    import torch

    attention = torch.arange(rows.ids.shape[1]) < rows.lengths[:, None]
    return View(rows, len(rows), rows.ids, attention, torch.arange(len(rows)))


def corpus(rows: Any) -> View:
    """Encoded rows, or any batch, as one view."""
    return whole(rows) if hasattr(rows, "lengths") and hasattr(rows, "ids") else view(rows)


def aligned(values: "Tensor", of: Of, fill: float) -> "Tensor":
    """Put what is said of tokens [b, t, ...] onto positions: as it is, or for targets one to the left, the last getting
    `fill`.

    In a causal language model nothing is learnt at the last position: it has no target, and nothing later looks at it.
    """
    import torch

    if of == "input":
        return values
    if of != "target":
        raise UserError(f"of is {of!r}; it must be input (the token at a position) or target (the one to be predicted there).")
    last = torch.full_like(values[:, :1], fill)
    return torch.cat([values[:, 1:], last], 1)


def number(name: str, labels: Sequence[str]) -> int:
    """A label's number; raises `UserError` with the nearest names for one that the router has not."""
    if name not in labels:
        raise UserError(f"no label {name!r} on this router. There are: {nearest(name, list(labels), most=20)}.")
    return list(labels).index(name)


def shares(p: "Tensor", label: str, otherwise: str, labels: Sequence[str]) -> "Tensor":
    """Soft labels [..., labels] from p [...]: a share p of `label`, and 1 - p of `otherwise`."""
    import torch

    first, second = number(label, labels), number(otherwise, labels)
    if first == second:
        raise UserError(f"label and otherwise are both {label!r}; shares between one label and itself say nothing.")
    found = torch.zeros(*p.shape, len(labels), device=p.device)
    found[..., first], found[..., second] = p.float(), 1 - p.float()
    return found


def probabilities(p: "Tensor", who: str) -> "Tensor":
    """p, if it lies between 0 and 1 throughout."""
    wrong = ~((p >= 0) & (p <= 1))
    if bool(wrong.any()):
        where = tuple(int(i) for i in wrong.nonzero()[0])
        place = f"row {where[0]}" + (f", token {where[1]}" if len(where) > 1 else "")
        raise UserError(
            f"the rule {who!r}: {place} has {float(p[where]):g}, which is no number between 0 and 1. Scores that are not probabilities "
            "need a sigmoid (or a softmax) first."
        )
    return p


def checked(found: Any, seen: View, labels: Sequence[str], who: str) -> "Tensor":
    """Labels as a tensor that fits the batch; raises `UserError` that names the rule for any that do not."""
    import torch

    if isinstance(found, Sequence) and not isinstance(found, str) and found and all(isinstance(name, str) for name in found):
        found = torch.tensor([number(name, labels) for name in found])
    if not isinstance(found, torch.Tensor):
        raise UserError(f"the rule {who!r} gave a {type(found).__name__}; it must give a tensor, or one label name a row.")
    if found.dtype == torch.bool or found.is_complex():
        raise UserError(f"the rule {who!r} gave {found.dtype} labels; give numbers of {', '.join(labels)}, or floating shares.")
    count = len(labels)
    lead = found.shape[:-1] if found.is_floating_point() else found.shape
    wanted = [(seen.rows,)] + ([tuple(seen.ids.shape)] if seen.ids is not None else [])
    fits = tuple(lead) in wanted if seen.ids is not None else len(lead) in (1, 2) and lead[0] == seen.rows
    if not fits or (found.is_floating_point() and found.shape[-1] != count):
        soft = f", with {count} shares last," if found.is_floating_point() else ""
        expected = " or ".join(str(shape) for shape in wanted) + (" or one a token" if seen.ids is None else "")
        raise UserError(
            f"the rule {who!r} gave labels of shape {tuple(found.shape)} for a batch of {expected}{soft}: one a row or a token."
        )
    if found.is_floating_point():
        total = found.sum(-1)
        if not bool(torch.isfinite(found).all()) or bool((found < 0).any()) or bool(((total - 1).abs() > 1e-3).any()):
            raise UserError(f"the rule {who!r} gave shares that are not 0 or more and 1 in sum.")
    elif found.numel() and not -1 <= int(found.min()) <= int(found.max()) < count:
        raise UserError(
            f"the rule {who!r} gave labels from {int(found.min())} to {int(found.max())}; they must be 0 to {count - 1} (or -1): "
            f"{', '.join(labels)}."
        )
    return found


def _ids(ids: Any) -> Any:
    if ids is not None and (not hasattr(ids, "dim") or ids.dim() != 2):
        raise UserError(f"'input_ids' is {_kind(ids)}; it must be a tensor (batch, tokens).")
    return ids


def _kind(thing: Any) -> str:
    return f"a {type(thing).__name__} of shape {tuple(thing.shape)}" if hasattr(thing, "shape") else f"a {type(thing).__name__}"
