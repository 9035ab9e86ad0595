from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sluicegate.audit.attackers import Attacker
from sluicegate.values.ranges import PositiveShare

if TYPE_CHECKING:
    from torch import Tensor

    from sluicegate.audit.target import Target, Trace
    from sluicegate.engine.encoding import Rows


@dataclass(frozen=True)
class Prune(Attacker):
    """Take out weights: the smallest, or those that matter to the forget questions and not to retain rows.

    A weight matters to rows by ``|weight| * norm of what it is multiplied by`` over their tokens (Wanda, 2306.11695).
    """

    NAME = "prune"
    UNIT = "share of weights"
    SUITE = "full"
    SOURCE = "2409.18025"
    NEEDS: ClassVar[tuple[str, ...]] = ("retain",)

    shares: tuple[PositiveShare, ...] = (0.005, 0.02, 0.05, 0.1, 0.3)
    """Shares of each matrix that are set to zero."""

    def traces(self, target: "Target") -> "Iterator[Trace]":
        import torch

        from sluicegate.audit.target import Trace
        from sluicegate.engine.forward import matrices

        head = target.model.get_output_embeddings()
        weights = {f"{name}.{key}": w for name, m, key, w in matrices(target.model) if w.dim() == 2 and m is not head}
        original, plain = target.keep(list(weights)), target.read()
        forget, retain = self._importance(target, target.owned), self._importance(target, target.retain)  # type: ignore[arg-type]
        for label in ("smallest", "of the forget set"):
            trace = Trace(label)
            trace.add(0.0, plain)
            for share in sorted(self.shares):
                for name, weight in weights.items():
                    if name not in forget:  # its layer is never called
                        continue
                    count = max(int(share * weight.numel()), 1)
                    least = weight.abs() if label == "smallest" else retain[name] / (forget[name] + 1e-9)
                    with torch.no_grad():
                        weight.view(-1)[least.flatten().topk(count, largest=False).indices] = 0
                trace.add(share, target.read())
                original.put_back()
            yield trace

    def _importance(self, target: "Target", rows: "Rows") -> "dict[str, Tensor]":
        import torch

        from sluicegate.engine.forward import forward, matrices
        from sluicegate.engine.losses import portions

        squares: dict[str, Any] = {}
        handles = []
        for name, module, key, weight in matrices(target.model):
            if weight.dim() == 2:
                conv = type(module).__name__ == "Conv1D"

                def look(m: object, args: Any, name: str = f"{name}.{key}") -> None:
                    own = args[0].detach().flatten(0, -2).float().square().sum(0)
                    squares[name] = squares.get(name, torch.zeros_like(own)) + own

                handles.append((module.register_forward_pre_hook(look), f"{name}.{key}", weight, conv))
        try:
            with torch.no_grad():
                for batch in portions(target.model, rows):
                    forward(target.model, batch)
        finally:
            for handle, *_ in handles:
                handle.remove()
        return {
            name: weight.abs() * (squares[name].sqrt()[:, None] if conv else squares[name].sqrt())
            for _, name, weight, conv in handles
            if name in squares
        }

    def passes(self, owned: int, held_out: int) -> float:
        return (owned + held_out) * (3.0 + 2 * len(self.shares))
