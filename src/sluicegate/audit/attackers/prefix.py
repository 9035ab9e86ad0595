from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from sluicegate.audit.attackers import Attacker
from sluicegate.values.ranges import Count, Rows, Whole

if TYPE_CHECKING:
    from torch import Tensor

    from sluicegate.audit.target import Target, Trace
    from sluicegate.engine import encoding
    from sluicegate.engine.training import Ledger


@dataclass(frozen=True)
class Prefix(Attacker):
    """Look for tokens in front of every question that bring the answers back (greedy coordinate gradient).

    The loss is that of owned answers. A step takes the gradient at the prefix's embeddings, draws single replacements
    among the tokens that it favours, and keeps the best one if it lowers the loss. In a small vocabulary prefixes of
    one and two tokens are all tried. Effort is the number of tokens; each prefix goes on from the shorter one.
    """

    NAME = "prefix"
    UNIT = "tokens in front"
    SUITE = "full"
    SOURCE = "2307.15043"
    BY = "owned"

    tokens: tuple[Count, ...] = (1, 2, 5, 10, 20)
    """Lengths of the prefix; those that the model has positions for."""
    steps: Count = 50
    """Replacements tried for each length, at most one a step."""
    candidates: Count = 64
    """Replacements compared in a step."""
    top: Count = 64
    """Tokens that the gradient favours at a position, among which they are drawn."""
    batch: Rows = 32
    """Owned rows that the loss is measured on, the same throughout."""
    enumerate_to: Whole = 256
    """Largest vocabulary of which prefixes of one and two tokens are all tried."""

    def traces(self, target: "Target") -> "Iterator[Trace]":
        import torch

        from sluicegate.audit.attackers.soft import behind, room
        from sluicegate.audit.target import Trace
        from sluicegate.engine.sampling import Order, seed_of

        trace, free = Trace(""), room(target)
        trace.add(0.0, target.read())
        shown = target.owned.select(Order(len(target.owned), seed_of(target.seed, "rows")).draw(0, min(self.batch, len(target.owned))))
        words = self._words(target)
        ids = torch.zeros(0, dtype=torch.long)
        for n in sorted({min(n, free) for n in self.tokens}):
            draw = torch.Generator().manual_seed(seed_of(target.seed, "prefix", n))
            ids = torch.cat([ids, words[torch.randint(len(words), (n - len(ids),), generator=draw)]])
            ids = self._found(target, shown, words, ids)
            trace.add(float(n), behind(target, ids).read())
            target.notes.append(f"{n} tokens: {target.tokenizer.decode(ids.tolist())!r}")
        yield trace

    def _words(self, target: "Target") -> "Tensor":
        """The tokens that a prefix is made of: all but special ones."""
        import torch

        rows = min(len(target.tokenizer), int(target.model.get_input_embeddings().weight.shape[0]))  # type: ignore[index]
        return torch.tensor(sorted(set(range(rows)) - set(target.tokenizer.all_special_ids)))

    def _found(self, target: "Target", shown: "encoding.Rows", words: "Tensor", ids: "Tensor") -> "Tensor":
        """The best prefix found, going on from `ids`; resumed from where the run stopped."""
        import torch

        from sluicegate.engine.sampling import seed_of
        from sluicegate.engine.training import Ledger

        n, name = len(ids), f"{len(ids)} tokens"
        exact = n <= 2 and target.model.config.get_text_config().vocab_size <= self.enumerate_to
        every = torch.tensor(list(product(words.tolist(), repeat=n))).split(4096) if exact else ()
        steps = len(every) or self.steps
        state = target.run.load_checkpoint(name)
        done, loss, spent = 0, float("inf"), Ledger()
        if state:
            done, loss, ids = state.values["steps"], state.values["loss"], torch.tensor(state.values["ids"])
            spent.student = state.values["flops"]
        elif not exact:
            loss = float(self._losses(target, shown, ids[None], spent)[0])
        while done < steps:
            draw = torch.Generator().manual_seed(seed_of(target.seed, "replace", n, done))
            tried = every[done] if exact else self._replaced(target, shown, words, ids, draw, spent)
            losses = self._losses(target, shown, tried, spent)
            if float(losses.min()) < loss:
                ids, loss = tried[int(losses.argmin())], float(losses.min())
            done += 1
            target.run.log({"part": name, "step": done, "loss": loss})
            target.run.progress(name, done, steps, {"loss": loss})
            if done == steps or target.run.checkpoint_due():
                values = {"steps": done, "loss": loss, "ids": ids.tolist(), "flops": spent.student}
                target.run.save_checkpoint(name, values, {}, finished=done == steps)
        target.ledger.add(spent)
        return ids

    def _replaced(self, target: "Target", shown: "encoding.Rows", words: "Tensor", ids: "Tensor", draw: Any, spent: "Ledger") -> "Tensor":
        """[candidates, n] the prefix with one token replaced, among those by which the loss falls fastest."""
        import torch

        from sluicegate.audit.attackers.soft import behind_bos, placed, prompted
        from sluicegate.engine.forward import Meter
        from sluicegate.engine.losses import token_losses

        embed: Any = target.model.get_input_embeddings()
        with torch.no_grad():
            table = embed(words.to(embed.weight.device))
        rows = placed(target, shown, ids)
        batch = rows.batch(range(len(rows)))
        prompt = embed(batch.ids[0, behind_bos(target) :][: len(ids)]).detach().requires_grad_()
        with torch.enable_grad(), prompted(target, prompt):
            loss = token_losses(target.model, batch, "answer").sum()
        (slope,) = torch.autograd.grad(loss, prompt)
        spent.student += 3 * Meter(target.model)(batch)
        best = (-slope.float() @ table.float().T).topk(min(self.top, len(words)), dim=1).indices.cpu()  # [n, top] places in words
        tried = ids.repeat(self.candidates, 1)
        at = torch.randint(len(ids), (self.candidates,), generator=draw)
        tried[torch.arange(self.candidates), at] = words[best[at, torch.randint(best.shape[1], (self.candidates,), generator=draw)]]
        return tried

    def _losses(self, target: "Target", shown: "encoding.Rows", prefixes: "Tensor", spent: "Ledger") -> "Tensor":
        """[c] mean loss of the rows' answers behind each of the prefixes [c, n], in nats a token."""
        import torch

        from sluicegate.audit.attackers.soft import placed
        from sluicegate.engine.scoring import score
        from sluicegate.engine.training import Ledger

        found, ledger = [], Ledger()
        for some in prefixes.split(max(2048 // len(shown), 1)):
            index = torch.arange(len(shown)).repeat(len(some))
            rows = placed(target, shown.select(index.tolist()), some.repeat_interleave(len(shown), 0))
            found.append(score(target.model, rows, ledger, 2048).loss.view(len(some), -1).mean(1))
        spent.student += ledger.evaluation  # the search is no evaluation
        return torch.cat(found)

    def passes(self, owned: int, held_out: int) -> float:
        return len(self.tokens) * (self.steps * (3.0 + self.candidates) * min(self.batch, owned) + owned + held_out)
