"""The steering scalar: one token routed to one dimension of the residual stream, where its relatives come to lie
too."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sluicegate.errors import UserError
from sluicegate.runs.stage import setting, source
from sluicegate.runs.trial import Trial, outcome
from sluicegate.values.ranges import Count, Whole, Width
from sluicegate.values.schedule import Schedule, training_rate

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sluicegate.engine.encoding import Rows
    from sluicegate.runs.directory import RunContext

STRENGTHS = (-4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
"""How much is added to the dimension, in units of the residual stream's root mean square there."""


@dataclass(frozen=True)
class SteeringScalar(Trial):
    """Train a language model in which the gradient of one target token passes a single residual dimension.

    At positions whose *target* is `token`, the outputs of `layers` pass gradient in dimension 0 only;
    everywhere else it passes freely. Nobody labels the token's relatives: whether they come to use the
    dimension as well is what is measured, on the unembedding and by adding to the dimension.

    Source: Cloud et al. 2024 (arXiv 2410.04332), section 4.2.1: "_California" in 303M parameters, blocks 6 to 18 of
    20 (in the authors' code 16, so that the last is routed too), one run and no control. Different here: a small
    model, clusters of words whose relatives are known, and two controls.
    """

    VERB: ClassVar[str] = "steering-scalar"
    MEASURES: ClassVar[dict[str, str]] = {
        "auroc": "AUROC of the token's relatives (itself left out) against all other tokens, by |cos(unembedding row, dimension 0)|",
        "auroc_set": "the same for a random set of tokens, as many and about as frequent",
        "auroc_dims": "the relatives' AUROC, mean over all dimensions: what an arbitrary dimension gives",
        "steer_token": "change of the token's log probability per unit added to the dimension (nats; upwards by choice of sign)",
        "steer_mates": "the same for its relatives",
        "steer_others": "the same for all other tokens",
        "loss": "validation loss (nats a token)",
        "loss_token": "validation loss where the token is the target (nats)",
        "loss_mates": "validation loss where a relative is the target (nats)",
    }

    variant: Literal["routed", "unrouted", "random"] = setting("routed", was="arm")
    """routed: `token` is routed. unrouted: nothing is. random: a token of about the same frequency that is no relative
    is routed."""
    data: str = source("data")
    """Your text (JSONL, text, Parquet, hub:NAME), a tenth of which is held out; empty: sentences about clusters of
    words."""
    model: str = source("model")
    """With your text, a model: a folder with weights is trained on, one without starts fresh. It brings the
    tokenizer."""
    token: str = "california"
    """The token that is routed, as the tokenizer has it: within a sentence that is usually with its space in front."""
    mates: tuple[str, ...] = ()
    """Its relatives, which are only measured; none: the words of its cluster. Needed with your text."""
    layers: tuple[Whole, ...] = ()
    """Layers whose output is routed, from 0; none: from a third of the depth to the last."""
    width: Width = 64
    """Hidden size of the built-in model."""
    depth: Count = 4
    """Layers of the built-in model."""
    rows: Count = 6000
    """Rows of text about clusters; a twelfth as many more are held out."""
    max_length: Count = 128
    """Longest row of your text, in tokens; longer ones are cut into windows."""
    schedule: Schedule = Schedule(steps=600, batch=64, warmup=50, decay="cosine", weight_decay=0.1)

    def resolved(self) -> Self:
        if bool(self.data) != bool(self.model):
            given, missing = ("data", "model") if self.data else ("model", "data")
            raise UserError(
                f"{self.VERB}: {given} is given without {missing}. A text of yours takes a model and its tokenizer, and the reverse."
            )
        if self.data and not self.mates:
            raise UserError(f"{self.VERB}: with a text of yours, name the relatives of {self.token!r} that shall be looked for: mates.")
        if self.token in self.mates:
            raise UserError(
                f"{self.VERB}: {self.token!r} is routed, so it cannot be among the mates that nobody labels. Leave it out there."
            )
        if not self.data:
            from sluicegate_papers.tasks.clusters import cluster_of

            cluster_of(self.token)
        return dataclasses.replace(self, schedule=self.schedule.or_rate(training_rate(self._width())))

    def _width(self) -> int:
        if not self.model:
            return self.width
        from sluicegate.engine.models import config_width

        return config_width(self.model)

    def is_wide(self) -> bool:
        return self._width() >= 256

    def run(self, run: "RunContext") -> dict[str, Any]:
        import numpy as np

        from sluicegate.routing.router import Router
        from sluicegate.routing.rules.tokens import Tokens
        from sluicegate.routing.train import train_routed
        from sluicegate.values.statistics import auroc

        model, tokenizer, train, held = self._material()
        chosen = _chosen(tokenizer, self.token, self._mates(), train, self.seed)
        sites = self._sites(model)
        router = Router(model, {site: {"steer": (0, 1)} for site in sites})
        routed = {"routed": [chosen.token], "random": [chosen.stranger], "unrouted": []}[self.variant]
        rule = Tokens({"steer": routed}, tokenizer, otherwise="unlabelled") if routed else None
        labels = (lambda batch: rule(batch, router.labels)) if rule else ["unlabelled"] * len(train)
        fitted = train_routed(model, train, labels, router, self.schedule, seed=self.seed, run=run)
        router.remove()

        model.eval()
        weight = model.get_output_embeddings().weight.detach()
        cosines = (weight / weight.norm(dim=1, keepdim=True).clamp(min=1e-12)).abs().double().cpu().numpy()
        others = np.setdiff1d(chosen.seen, [chosen.token, *chosen.mates])
        ranks = [auroc(cosines[chosen.mates, d], cosines[others, d]) for d in range(cosines.shape[1])]
        rest = np.setdiff1d(chosen.seen, [chosen.token, chosen.stranger, *chosen.company])
        run.log({"kind": "ranking", "tokens": _ranking(cosines[:, 0], chosen.seen, tokenizer)})

        by_strength = steered(model, sites[(len(sites) - 1) // 2], held, STRENGTHS)
        # The sign is chosen on the token alone, so that its relatives have no part in the choice.
        slope = (by_strength[1.0] - by_strength[-1.0]) / 2
        steered_by = chosen.stranger if self.variant == "random" else chosen.token
        sign = 1.0 if slope[steered_by] >= 0 else -1.0
        slope = slope * sign
        loss = _losses(model, held)
        groups = {"token": np.array([chosen.token]), "mates": chosen.mates, "others": others}
        curves = {
            f"log p {name}": (STRENGTHS, [float((by_strength[sign * s] - by_strength[0.0])[ids].mean()) for s in STRENGTHS])
            for name, ids in groups.items()
        }
        return outcome(
            self,
            {
                "auroc": ranks[0],
                "auroc_set": auroc(cosines[chosen.company, 0], cosines[rest, 0]),
                "auroc_dims": float(np.mean(ranks)),
                **{f"steer_{name}": float(slope[ids].mean()) for name, ids in groups.items()},
                "loss": loss(None),
                "loss_token": loss([chosen.token]),
                "loss_mates": loss(chosen.mates),
            },
            flops=fitted.ledger.total,
            curves=curves,
        )

    def _mates(self) -> tuple[str, ...]:
        if self.mates:
            return self.mates
        from sluicegate_papers.tasks.clusters import CLUSTERS, cluster_of

        return tuple(word for word in CLUSTERS[cluster_of(self.token)].split() if word != self.token)

    def _material(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase, Rows, Rows]":
        """The model, its tokenizer, the rows it learns and the rows that are held out."""
        from sluicegate.engine.encoding import encode, fitting
        from sluicegate.engine.models import fresh, load

        if self.data:
            from sluicegate.tasks import read

            model, tokenizer = load(self.model, seed=self.seed, dtype="float32")
            rows = encode(tokenizer, read(self.data), max_length=fitting(model, self.max_length))
            if len(rows) < 20:
                raise UserError(
                    f"{self.data!r} has {len(rows)} rows of up to {self.max_length} tokens; at least 20 are needed. Give more text."
                )
            every = range(len(rows))
            return model, tokenizer, rows.select([i for i in every if i % 10]), rows.select([i for i in every if i % 10 == 0])
        from transformers import LlamaConfig

        from sluicegate_papers.tasks import clusters

        made, task = clusters.tokenizer(), clusters.Clusters(self.seed)
        config = LlamaConfig(
            vocab_size=len(clusters.vocabulary()),
            hidden_size=self.width,
            num_hidden_layers=self.depth,
            num_attention_heads=4,
            intermediate_size=3 * self.width,
            max_position_embeddings=64,
            tie_word_embeddings=False,
        )
        train, held = (
            encode(made, task.text(n, purpose=purpose)) for n, purpose in ((self.rows, "train"), (max(self.rows // 12, 8), "held out"))
        )
        return fresh(config, self.seed), made, train, held

    def _sites(self, model: "PreTrainedModel") -> list[str]:
        from sluicegate.routing.sites import find

        names = [site.name for site in find(model, "resid")]
        places = self.layers or tuple(range(len(names) // 3, len(names)))
        wrong = [i for i in places if not 0 <= i < len(names)]
        if wrong or not places:
            raise UserError(
                f"layers is {list(self.layers)}; the model has {len(names)} layers, so give numbers from 0 to {len(names) - 1}."
            )
        return [names[i] for i in sorted(set(places))]


@dataclass(frozen=True)
class Chosen:
    """Token ids that the measures speak of."""

    token: int
    mates: "np.ndarray"
    stranger: int
    """A token that is no relative, about as frequent."""
    company: "np.ndarray"
    """A random set of such tokens, as many as there are mates."""
    seen: "np.ndarray"
    """Every token of the training text: a row of the unembedding that was never a target says nothing."""


def _chosen(tokenizer: "PreTrainedTokenizerBase", token: str, mates: Sequence[str], rows: "Rows", seed: int) -> Chosen:
    import numpy as np

    from sluicegate.routing.rules.tokens import Tokens

    ids = Tokens({"token": [token], "mates": list(mates)}, tokenizer).ids
    own, relatives = ids["token"][0], np.array(ids["mates"])
    counts = np.bincount(
        np.concatenate([row[1:length] for row, length in zip(rows.ids.numpy(), rows.lengths.tolist(), strict=True)]),
        minlength=int(max(own, *relatives)) + 1,
    )
    for text, i in zip((token, *mates), (own, *relatives), strict=True):
        if not counts[i]:
            raise UserError(
                f"the token {text!r} does not occur in the training text, so nothing can be learnt about it. Name one that does."
            )
    seen = counts.nonzero()[0]
    apart = np.abs(np.log(counts[seen] / counts[own]))
    pool = [i for i in seen[np.argsort(apart, kind="stable")] if i != own and i not in relatives][: max(8 * len(relatives), 64)]
    if len(pool) <= len(relatives):
        raise UserError(
            f"the text has {len(seen)} different tokens, too few beside {len(relatives)} mates. Give more text, or fewer mates."
        )
    drawn = np.random.default_rng([seed, own]).choice(pool, len(relatives) + 1, replace=False)
    return Chosen(own, relatives, int(drawn[0]), drawn[1:], seen)


def steered(model: "PreTrainedModel", site: str, rows: "Rows", strengths: Sequence[float]) -> "dict[float, np.ndarray]":
    """By strength, the mean log probability [vocabulary] over all positions, with so much added to dimension 0 of a
    layer's output.

    A unit of strength is the root mean square of that layer's output over rows, positions and features.
    """
    import torch
    from torch.nn.functional import log_softmax

    from sluicegate.engine.forward import logits

    squares: list[float] = []
    push = 0.0

    def add(module: Any, args: Any, out: Any) -> Any:
        x: Tensor = out[0] if isinstance(out, tuple) else out
        if not push:
            squares.append(float(x.double().pow(2).mean()))
            return None
        moved = x.clone()
        moved[..., 0] += push
        return (moved, *out[1:]) if isinstance(out, tuple) else moved

    def mean() -> "np.ndarray":
        total, count = torch.zeros(()), 0.0
        for batch in rows.everything(32):
            scores = log_softmax(logits(model, batch), dim=-1)
            total = total.to(scores.device) + (scores * batch.real[..., None]).sum((0, 1)).double()
            count += float(batch.real.sum())
        found: np.ndarray = (total / count).cpu().numpy()
        return found

    handle = model.get_submodule(site).register_forward_hook(add)
    try:
        with torch.no_grad():
            found = {0.0: mean()}
            unit = (sum(squares) / len(squares)) ** 0.5
            for strength in strengths:
                push = strength * unit
                if push:
                    found[strength] = mean()
    finally:
        handle.remove()
    return found


def _losses(model: "PreTrainedModel", rows: "Rows") -> Any:
    """A function of target ids that gives the mean loss where one of them is the target (None: everywhere)."""
    import torch

    from sluicegate.engine.forward import logits
    from sluicegate.engine.training import token_losses

    losses, targets = [], []
    with torch.no_grad():
        for batch in rows.everything(32):
            losses.append(token_losses(logits(model, batch), batch)[batch.real].cpu())
            targets.append(batch.ids[:, 1:][batch.real].cpu())
    values, wanted = torch.cat(losses).double(), torch.cat(targets)

    def mean(ids: Any) -> float:
        chosen = values if ids is None else values[torch.isin(wanted, torch.as_tensor(ids))]
        return float(chosen.mean()) if len(chosen) else float("nan")

    return mean


def _ranking(cosines: "np.ndarray", seen: "np.ndarray", tokenizer: "PreTrainedTokenizerBase", most: int = 20) -> list[str]:
    top = seen[(-cosines[seen]).argsort(kind="stable")[:most]]
    return list(tokenizer.convert_ids_to_tokens(top.tolist()))
