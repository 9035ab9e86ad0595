from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluicegate.audit.attackers import CannotAttack
from sluicegate.audit.attackers.tuned import Tuned
from sluicegate.values.ranges import Count

if TYPE_CHECKING:
    from torch import Tensor

    from sluicegate.audit.target import Target, Trace
    from sluicegate.engine.encoding import Rows


@dataclass(frozen=True)
class Soft(Tuned):
    """Train input embeddings that stand in front of every question (a soft prompt)."""

    NAME = "soft"
    SOURCE = "2402.09063"

    tokens: tuple[Count, ...] = (1, 5, 20)
    """How many embeddings are trained; fewer where the model has no more positions left."""

    def traces(self, target: "Target") -> "Iterator[Trace]":
        plain = target.read()
        for trace in super().traces(target):
            trace.readings[0] = plain  # no effort: nothing stands in front
            yield trace

    def trained(self, target: "Target") -> "Iterator[tuple[str, dict[str, Any], Target]]":
        import torch

        from sluicegate.engine.sampling import seed_of

        weight: Any = target.model.get_input_embeddings().weight
        for n in sorted({min(n, room(target)) for n in self.tokens}):
            drawn = torch.randn(n, weight.shape[1], generator=torch.Generator().manual_seed(seed_of(target.seed, "soft"))).to(weight)
            prompt = torch.nn.Parameter((weight.float().mean(0) + weight.float().std() * drawn).to(weight.device))
            target.model.register_parameter("attack_prompt", prompt)
            with prompted(target, prompt):
                yield f"{n} tokens", {"attack_prompt": prompt}, behind(target, torch.zeros(n, dtype=torch.long))

    def capacity(self, model: Any) -> int:
        return max(self.tokens) * int(model.get_input_embeddings().weight.shape[1])

    def passes(self, owned: int, held_out: int) -> float:
        return len(self.tokens) * super().passes(owned, held_out)


def room(target: "Target") -> int:
    """How many tokens may stand in front of the longest row; `CannotAttack` where there is no room for any."""
    longest, positions = max(rows.ids.shape[1] for rows in (target.owned, target.held_out)), _positions(target)
    if positions <= longest:
        raise CannotAttack(f"the longest row has {longest} tokens, which are all the positions that the model has: nothing fits in front.")
    return positions - longest


def _positions(target: "Target") -> int:
    from sluicegate.engine.encoding import fitting

    return fitting(target.model, 10**6)


def behind_bos(target: "Target") -> int:
    """Where what is put in front of a row begins: behind the token that opens every row, where there is one."""
    bos = target.tokenizer.bos_token_id
    return int(bos is not None and bool((target.owned.ids[:, 0] == bos).all()))


def placed(target: "Target", rows: "Rows", ids: "Tensor") -> "Rows":
    """The rows with the tokens `ids` [n] in front, or each row with its own of [rows, n]."""
    from dataclasses import replace

    import torch

    at, n = behind_bos(target), ids.shape[-1]
    longer = torch.cat([rows.ids[:, :at], ids.expand(len(rows), n), rows.ids[:, at:]], 1)
    return replace(rows, ids=longer, lengths=rows.lengths + n, starts=rows.starts + n)


def behind(target: "Target", ids: "Tensor") -> "Target":
    """The target with the tokens `ids` [n] in front of every row that is read, other accepted answers' too; retain rows
    that they leave no room for are left out."""
    from dataclasses import replace

    retain = target.retain
    fits = [] if retain is None else (retain.lengths + len(ids) <= _positions(target)).nonzero()[:, 0].tolist()
    return replace(
        target,
        owned=placed(target, target.owned, ids),
        held_out=placed(target, target.held_out, ids),
        retain=placed(target, retain.select(fits), ids) if retain is not None and fits else None,
        encoded=lambda items: placed(target, target.encoded(items), ids),
    )


@contextmanager
def prompted(target: "Target", prompt: "Tensor") -> "Iterator[None]":
    """Have the embeddings `prompt` [n, d] in place of those of the tokens that `placed` put, for a block."""
    import torch

    from sluicegate.engine.forward import hooked

    at = behind_bos(target)

    def put(module: Any, args: Any, out: "Tensor") -> "Tensor":
        return torch.cat([out[:, :at], prompt.to(out).expand(len(out), -1, -1), out[:, at + len(prompt) :]], 1)

    with hooked(target.model.get_input_embeddings(), put):
        yield
