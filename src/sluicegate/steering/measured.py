"""What steering vectors do on prompts that they were not made from: KL, behaviour, doses, and every answer."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sluicegate.engine.sampling import seed_of
from sluicegate.runs.directory import RunContext
from sluicegate.steering.dose import curve
from sluicegate.steering.prompts import Rule, prompt_ids
from sluicegate.steering.score import behaviour_rate, generate, kl
from sluicegate.steering.vector import SteeringSet, SteeringVector, steered

AT_ONCE = 32
"""Vectors whose answers are written between two resume points."""


@dataclass(frozen=True)
class Measured:
    """A base and its twins on held-out prompts, part by part, each kept in the run folder once it is done."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    base: SteeringVector
    twins: SteeringSet | None
    prompts: Sequence[str]
    rule: Rule
    new_tokens: int
    kl_tokens: int
    template: bool | None
    seed: int
    run: RunContext

    def rows(self, *, randoms: int, means: Sequence[int]) -> list[dict[str, Any]]:
        """One row a vector: the unsteered model, the base, random vectors of its norm, the twins, and the mean of the
        first k with its controls: brought to the base's norm, and the base brought to its own, which orthogonality
        makes short. Without tokens for an answer only KLs are measured."""
        base, twins = self.base.values, self.twins
        named: list[tuple[dict[str, Any], Tensor]] = [
            ({"who": "unsteered", "group": "unsteered"}, torch.zeros_like(base)),
            ({"who": "base", "group": "base"}, base),
        ]
        named += [({"who": f"random {i}", "group": "random"}, v) for i, v in enumerate(self.random(randoms))]
        if twins is not None:
            sizes = [k for k in means if 2 <= k <= len(twins)]
            for k in sizes:
                mean = twins.mean(k).values
                length = max(float(mean.double().norm()), 1e-12)
                named += [
                    ({"who": f"mean of {k}", "group": "mean", "k": k}, mean),
                    ({"who": f"mean of {k}, at the base's norm", "group": "raised", "k": k}, mean * (self.base.norm / length)),
                    ({"who": f"base, at the norm of the mean of {k}", "group": "scaled", "k": k}, base * (length / self.base.norm)),
                ]
            named += [({"who": f"twin {i}", "group": "twins"}, v) for i, v in enumerate(twins.values)]
        values = torch.stack([v for _, v in named])
        several, last = self.kl("kl", self.base, values)
        texts = self.answers("answers", values) if self.new_tokens else [[] for _ in named]
        return [
            {
                **own,
                "norm": float(v.double().norm()),
                "kl": several[i],
                "kl_last": last[i],
                "shows": [self.rule.shows(text) for text in texts[i]],
                "texts": texts[i],
            }
            for i, (own, v) in enumerate(named)
        ]

    def dose(self, doses: Sequence[float]) -> dict[str, list[float]]:
        """KL from the unsteered model and rate at each dose, of the base and of a random vector of its norm."""
        found: dict[str, list[float]] = {"dose": list(doses)}
        for before, direction in (("", self.base.values), ("random_", self.random(1)[0])):
            vector = replace(self.base, values=direction)

            def make(vector: SteeringVector = vector) -> dict[str, Any]:
                how: dict[str, Any] = {"tokens": self.kl_tokens, "template": self.template}
                return {"kl": [float(v) for v in curve(vector, self.model, self.tokenizer, self.prompts, doses, **how)]}

            texts = self.answers(f"{before}dose-answers", torch.stack([dose * direction for dose in doses]))
            found[f"{before}kl"] = self._once(f"{before}dose-kl", make)["kl"]
            found[f"{before}rate"] = list(map(float, behaviour_rate(texts, self.rule)))
        return found

    def kl(self, name: str, base: SteeringVector, values: Tensor) -> tuple[list[list[float]], list[list[float]]]:
        """([k][p], [k][p]) KL from the base, nats a token: over its answer, and at the last prompt token."""

        def make() -> dict[str, Any]:
            how: dict[str, Any] = {"tokens": self.kl_tokens, "template": self.template, "run": self.run}
            found = kl(self.model, self.tokenizer, base, values, self.prompts, **how)
            return {"several": _lists(found.several), "last": _lists(found.last)}

        kept = self._once(name, make)
        return kept["several"], kept["last"]

    def answers(self, name: str, values: Tensor) -> list[list[str]]:
        """[k][p] greedy answers; kept every `AT_ONCE` vectors."""
        found: list[list[str]] = []
        for start in range(0, len(values), AT_ONCE):
            self.run.progress(name, start, len(values), {})
            some = SteeringSet(values[start : start + AT_ONCE], self.base.module, self.base.tokens)

            def make(some: SteeringSet = some) -> dict[str, Any]:
                texts = generate(self.model, self.tokenizer, some, self.prompts, new_tokens=self.new_tokens, template=self.template)
                return {"texts": [list(row) for row in texts]}

            found += self._once(f"{name}-{start}", make)["texts"]
        self.run.progress(name, len(values), len(values), {})
        return found

    def random(self, count: int) -> Tensor:
        """[count, d] directions drawn from the seed, each of the base's norm."""
        draw = torch.Generator().manual_seed(seed_of(self.seed, "random vectors"))
        made = torch.randn(max(count, 1), len(self.base.values), generator=draw, dtype=torch.float64)[:count]
        scaled: Tensor = made * (self.base.norm / made.norm(dim=1, keepdim=True))
        return scaled.float()

    def _once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        kept = self.run.load_checkpoint(name)
        if kept is not None and kept.finished:
            return kept.values
        found = make()
        self.run.save_checkpoint(name, found, {}, finished=True)
        return found


def counted(rows: Sequence[Mapping[str, Any]], *, bound: float, share: float) -> dict[str, float]:
    """The numbers of a table of rows (see `Measured.rows`) that claims can speak of; what no row tells is left out."""

    def of(group: str) -> list[Mapping[str, Any]]:
        return [row for row in rows if row["group"] == group]

    def middle(group: str, name: str) -> float:
        return float(np.median([np.median(row[name]) for row in of(group)]))

    def rate(group: str) -> float:
        return float(np.mean([row["shows"] for row in of(group)]))

    (base,), (plain,) = of("base"), of("unsteered")
    found = {"base_norm": float(base["norm"]), "unsteered_kl": float(np.median(plain["kl"]))}
    found |= {f"mean_{row['k']}_kl": float(np.median(row["kl"])) for row in of("mean")}
    if of("random"):
        found["random_kl"] = middle("random", "kl")
    if base["shows"]:
        found |= {f"{group}_rate": rate(group) for group in ("base", "unsteered", "random") if of(group)}
        found |= {f"{group}_{row['k']}_rate": float(np.mean(row["shows"])) for group in ("mean", "raised", "scaled") for row in of(group)}
    if twins := of("twins"):
        near = [row for row in twins if np.median(row["kl"]) <= bound]
        far = found["unsteered_kl"]
        found |= {
            "near": float(len(near)),
            "near_third": float(sum(np.median(row["kl"]) <= far / 3 for row in twins)),
            "kl_median": middle("twins", "kl"),
            "kl_last_median": middle("twins", "kl_last"),
            "kl_share": middle("twins", "kl") / far if far else float("nan"),
            "max_norm_ratio": max(row["norm"] for row in twins) / base["norm"],
        }
        if base["shows"]:
            found |= {"twins": float(sum(np.mean(row["shows"]) >= share for row in near)), "rate": rate("twins")}
    return found


def curves(rows: Sequence[Mapping[str, Any]], share: float) -> dict[str, tuple[list[float], list[float]]]:
    """KL and norm by index, and the number of twins by KL: of all, and of those that show the behaviour."""
    twins = [row for row in rows if row["group"] == "twins"]
    if not twins:
        return {}
    index = [float(i) for i in range(len(twins))]
    kls = [float(np.median(row["kl"])) for row in twins]
    good = [float(np.median(row["kl"])) for row in twins if row["shows"] and np.mean(row["shows"]) >= share]
    grid = [round(0.05 * i, 2) for i in range(41)]
    return {
        "kl": (index, kls),
        "norm": (index, [float(row["norm"]) for row in twins]),
        "within": (grid, [float(sum(v <= x for v in kls)) for x in grid]),
        "good": (grid, [float(sum(v <= x for v in good)) for x in grid]),
    }


def preview(
    tokenizer: PreTrainedTokenizerBase, base: SteeringVector, prompts: Sequence[str], template: bool | None
) -> list[dict[str, Any]]:
    """Which tokens the base was read from, in a prompt of either side, and which it steers in held-out ones."""
    made = base.made_from
    lines = []
    if read := str(made.get("read", "")):
        for kind in ("positive", "negative"):
            for text in list(made.get(kind, ()))[:1]:
                lines.append({"what": f"read from a {kind} prompt", "pieces": _pieces(tokenizer, text, read, "read", "", template)})
    for text in prompts[:2]:
        lines.append(
            {"what": "steered in a held-out prompt", "pieces": _pieces(tokenizer, text, base.tokens, "steered", "spared", template)}
        )
    return lines


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str, tokens: str, yes: str, no: str, template: bool | None) -> list[list[str]]:
    ids = prompt_ids(tokenizer, text, template)
    where = steered(tokens, torch.arange(len(ids))[None], begun=False)[0].tolist()
    shown = [re.sub(r"\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n", str(tokenizer.decode([i]))) for i in ids.tolist()]
    return [[piece, yes if is_in else no] for piece, is_in in zip(shown, where, strict=True)]


def _lists(table: np.ndarray) -> list[list[float]]:
    """Rounding in float32 leaves about 1e-7 of a KL that is 0, of either sign."""
    return [[float(v) if v > 1e-6 else 0.0 for v in row] for row in table]
