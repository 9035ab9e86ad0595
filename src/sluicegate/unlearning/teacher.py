"""A teacher that takes little room while a student learns: its likeliest words on disk, its weights in host memory."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sluicegate.engine.encoding import Batch, Rows
from sluicegate.engine.forward import Meter
from sluicegate.engine.losses import portions, reduce_logits
from sluicegate.engine.models import device
from sluicegate.engine.training import Ledger
from sluicegate.runs.directory import RunContext, RunDirectory
from sluicegate.runs.disk import fingerprint, plain_disk_errors


class TopWords:
    """The `top` likeliest next words at every real token of `rows`, with the teacher's log-probabilities.

    In a run folder they lie in its `state`, a file for some hundred rows, and are read where they are needed; what an
    earlier sitting wrote is not computed again. Elsewhere they lie in memory.
    """

    def __init__(self, teacher: PreTrainedModel, rows: Rows, top: int, ledger: Ledger, run: RunContext, name: str) -> None:
        meter, lengths = Meter(teacher), rows.lengths - 1
        self._parts: list[dict[str, Tensor]] = []
        self._place: list[tuple[int, int, int]] = []  # of each row: its part, and where its tokens begin and end there
        for number, batch in enumerate(portions(teacher, rows)):
            self._parts.append(self._kept(teacher, batch, top, run, f"{name} teacher {number}"))
            ledger.teacher += meter(batch)
            ends = lengths[batch.index.cpu()].cumsum(0).tolist()
            self._place += [(number, first, end) for first, end in zip([0, *ends], ends, strict=False)]
            run.progress("teacher", len(self._place), len(rows), {})
        tokens = sum(len(part["logs"]) for part in self._parts)
        self.held = float(sum(part["logs"].exp().sum() for part in self._parts)) / tokens
        """Share of the teacher's probability that these words hold, on average."""

    @staticmethod
    def _kept(teacher: PreTrainedModel, batch: Batch, top: int, run: RunContext, part: str) -> dict[str, Tensor]:
        from safetensors.torch import load_file, save_file

        keeps = isinstance(run, RunDirectory)
        file = run.path / "state" / f"{part.replace(' ', '-').replace('/', '_')}.safetensors"
        with suppress(FileNotFoundError):
            if keeps and (before := run.load_checkpoint(part)) and before.values["sum"] == fingerprint(file):
                return dict(load_file(file))
        # Words as float32 beside their logarithms: exact up to 16.7 million words.
        found = reduce_logits(teacher, batch, "real", lambda z, _: torch.cat([t.float() for t in z.log_softmax(-1).topk(top)], 1)).cpu()
        tensors = {"logs": found[:, :top].contiguous(), "words": found[:, top:].int()}
        if not keeps:
            return tensors
        with plain_disk_errors():
            save_file(tensors, file)
        run.save_checkpoint(part, {"sum": fingerprint(file)}, {}, finished=True)
        return dict(load_file(file))

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """[n, K] log-probabilities and words at the batch's n real tokens, in row order."""
        places = [self._place[i] for i in batch.index.tolist()]
        logs, words = (torch.cat([self._parts[p][key][a:b] for p, a, b in places]).to(batch.ids.device) for key in ("logs", "words"))
        return logs, words.long()


def divergence_of_top(z: Tensor, logs: Tensor, words: Tensor) -> Tensor:
    """[c] KL in nats from a teacher known by its top words [c, K] to a student's logits [c, V], all others being one.

    No more than the KL over all words, and equal to it where the two agree about the others.
    """
    mine = z.log_softmax(-1)
    shares = logs.exp()
    rest = (1 - shares.sum(-1)).clamp(min=1e-12)
    others = mine.scatter(-1, words, -torch.inf).logsumexp(-1)
    return (shares * (logs - mine.gather(-1, words))).sum(-1) + rest * (rest.log() - others)


@contextmanager
def in_host_memory(model: PreTrainedModel, wanted: bool, passes_on: torch.device | None = None) -> Iterator[None]:
    """Inside, the weights of `model` lie in host memory, and each module's go to the device for its passes alone."""
    to = passes_on or device()
    if not wanted or (passes_on is None and to.type == "cpu"):
        yield
        return
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_submodules

    cpu_offload(model, execution_device=to)
    try:
        yield
    finally:
        remove_hook_from_submodules(model)
