"""What audit and UNDO cost at a size that nobody trained here: FLOPs, memory, and time on devices of a stated speed.

FLOPs are the ledger's: a model of the wanted shape is made without weights (torch's device "meta") and handed to the
`Meter` that every run is charged by; a step of training is charged three forward passes a batch, as `fit` does, and a
frozen model's passes one. Memory is counted from the same model's parameters and from the tensors that a Llama-like
layer keeps for the backward pass. Both are compared with measured runs by ``sluicegate bench scaling --measure``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from sluicegate.audit.attack import Attack
from sluicegate.engine.encoding import Batch
from sluicegate.engine.forward import Meter
from sluicegate.engine.models import read_config
from sluicegate.engine.training import Ledger
from sluicegate.errors import UserError

FLOAT = 4
"""Bytes of a number: everything is trained in float32 here."""
DAY = 86400 * 1e15
"""FLOPs of a PFLOP/s-day."""


@dataclass(frozen=True)
class Shape:
    """What of a model its cost depends on."""

    parameters: int
    """Numbers that are trained."""
    layers: int
    layer: int
    """Parameters of the largest layer, which FSDP gathers as one."""
    apart: int
    """Parameters outside of the layers (embedding, head, last norm), which FSDP gathers together."""
    width: int
    queries: int
    """Width of all heads' queries together."""
    keys: int
    """Width of all heads' keys together, fewer with grouped queries."""
    inner: int
    """Units of an MLP."""
    heads: int
    vocabulary: int
    forward: Callable[[int, int], float]
    """FLOPs of one forward pass over (rows, tokens a row), by the ledger's meter."""


@dataclass(frozen=True)
class Work:
    """One stage: how many steps of what size, and the passes that the ledger charges for each."""

    name: str
    steps: int
    rows: int
    """Rows of a batch."""
    length: int
    """Tokens of a row."""
    batches: int = 1
    """Batches of a step on which the model is trained: two for suppression, forget and retain."""
    frozen: int = 0
    """Forward passes of a frozen model over a batch in every step: a teacher's."""
    times: int = 1
    """How often all of it is done: learning rates, seeds, models."""
    scored: int = 0
    """Rows that are scored each time in all, which the ledger keeps apart."""

    def __post_init__(self) -> None:
        for name in ("steps", "rows", "length", "batches", "times"):
            if (value := getattr(self, name)) < 1:
                raise UserError(f"{self.name}: {name} is {value}; it must be at least 1.")

    @property
    def tokens(self) -> int:
        """Tokens that are trained on, all times together."""
        return self.times * self.steps * self.batches * self.rows * self.length


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, at the moment of a training step when most are held."""

    weights: float
    others: float
    """Other whole models: a teacher, or what an attack goes back to."""
    gradients: float
    moments: float
    """AdamW's two numbers a parameter."""
    activations: float
    """What the backward pass needs, with the outputs over the vocabulary."""
    gathered: float
    """With sharding: layers that are whole for the moment."""
    aside: float
    """With sharding: weights and moments put together for a resume point, on every device."""

    @property
    def step(self) -> float:
        """The most that a step holds. Activations go as gradients come, so the larger of the two counts."""
        return self.weights + self.others + self.moments + self.gathered + max(self.gradients, self.activations)

    @property
    def keeping(self) -> float:
        """What a resume point holds, between two steps."""
        return self.weights + self.others + self.moments + self.aside


def shape(config: Any) -> Shape:
    """Read a shape from a configuration, a model's folder or the name of a packaged one; no weights are made or read.

    Memory is worked out for Llama-like layers: attention with rotary positions and a gated MLP. Raises `UserError`
    for a configuration without the fields that this takes.
    """
    if isinstance(config, str):
        config = read_config(config)
    text = config.get_text_config()
    missing = [name for name in ("intermediate_size", "num_attention_heads", "num_hidden_layers") if not getattr(text, name, None)]
    if missing:
        raise UserError(f"a configuration of type {text.model_type!r} has no {missing[0]}; costs are worked out for Llama-like models.")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    inside = [sum(p.numel() for p in layer.parameters()) for m in model.modules() if isinstance(m, torch.nn.ModuleList) for layer in m]
    total = sum(p.numel() for p in model.parameters())
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    meter = Meter(model)

    def forward(rows: int, length: int) -> float:
        nothing = torch.empty(rows, length, device="meta")
        return meter(Batch(nothing, nothing, nothing, nothing))

    return Shape(
        parameters=total,
        layers=text.num_hidden_layers,
        layer=max(inside, default=0),
        apart=total - sum(inside),
        width=text.hidden_size,
        queries=text.num_attention_heads * head,
        keys=(getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head,
        inner=text.intermediate_size,
        heads=text.num_attention_heads,
        vocabulary=text.vocab_size,
        forward=forward,
    )


def spent(model: Shape, work: Work) -> Ledger:
    """What the ledger will say after `work`, in FLOPs: exact where all rows have the stated length."""
    one = model.forward(work.rows, work.length)
    steps = work.times * work.steps
    evaluation = work.times * model.forward(work.scored, work.length) if work.scored else 0.0
    return Ledger(student=3 * steps * work.batches * one, teacher=steps * work.frozen * one, evaluation=evaluation)


def attacked(attack: Attack, width: int, length: int, *, scored: int, models: int = 1, seeds: int = 1) -> Work:
    """The work of a relearning attack on so many models and seeds; `scored` rows are looked at after each checkpoint.

    Every learning rate trains anew, and every checkpoint scores. An audit attacks the model, its reference, and the
    model again with retain rows: three.
    """
    looks = len(attack.checkpoints_within()) * scored
    return Work("attack", attack.steps, attack.batch, length, times=len(attack.rates(width)) * models * seeds, scored=looks)


def kept(model: Shape, distils: bool = False) -> tuple[float, float]:
    """Numbers a token that are held when most are: those of the layers, and those over the vocabulary and in passing.

    A Llama layer keeps, in float32: two residual streams and both normed copies of each, before and after the gain (6
    widths), queries, keys and values, the attention's output and one number a head, and the MLP's gate, its activation,
    the other factor and the product (4 inner). Cross-entropy holds four numbers a word of the vocabulary at the start
    of its backward pass (outputs, their log-softmax, and the gradients of both); a distillation's KL six, with the
    teacher's. Where the vocabulary is small, what the last MLP's backward pass holds in passing is more.
    """
    layer = 6 * model.width + 2 * model.queries + 2 * model.keys + 4 * model.inner + model.heads + 2
    layers = model.layers * layer + 3 * model.width
    return layers, max((6 if distils else 4) * model.vocabulary, 2 * model.inner + model.width + (2 * model.vocabulary if distils else 0))


def memory(
    model: Shape,
    tokens: int,
    *,
    others: int = 0,
    distils: bool = False,
    devices: int = 1,
    shard: bool = False,
) -> Memory:
    """Bytes on each of `devices`, which share `tokens` tokens of a step (of one of the parts that --accumulate makes).

    Without `shard` each device holds all of the model; with it, its part of weights, gradients and moments, and what
    of the layers is gathered for the moment: embedding and head throughout, a layer and the next one, and one layer's
    gradients. Other models stay whole. Suppression holds forget and retain rows at once, so its tokens are those of
    both.
    """
    if devices < 1 or tokens < 1:
        raise UserError(f"{tokens} tokens on {devices} devices: both must be at least 1.")
    parts = devices if shard else 1
    own = FLOAT * model.parameters / parts
    layers, over = kept(model, distils)
    return Memory(
        weights=own,
        others=FLOAT * model.parameters * others,
        gradients=own,
        moments=2 * own,
        activations=FLOAT * tokens * (layers + over) / devices,
        gathered=FLOAT * (model.apart + 3 * model.layer) if parts > 1 else 0.0,
        aside=3 * FLOAT * model.parameters if parts > 1 else 0.0,
    )


def device_hours(flops: float, throughput: float) -> float:
    """Hours of one device that sustains `throughput` FLOP/s; of N devices, in all, as many."""
    if not throughput > 0:
        raise UserError(f"the throughput is {throughput:g}; it is what a device sustains in FLOP/s, for example 1e14.")
    return flops / throughput / 3600


def _llama(width: int, inner: int, layers: int, heads: int, groups: int, tied: bool) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=width // heads,
        vocab_size=128256,
        tie_word_embeddings=tied,
    )


def sizes() -> Mapping[str, Shape]:
    """The three sizes of the documentation: the shapes of Llama 3.2 1B, Llama 3.1 8B and 70B."""
    return {
        "1B": shape(_llama(2048, 8192, 16, 32, 8, tied=True)),
        "8B": shape(_llama(4096, 14336, 32, 32, 8, tied=False)),
        "70B": shape(_llama(8192, 28672, 80, 64, 8, tied=False)),
    }


def paper(pretraining: float) -> tuple[Work, ...]:
    """The stages of Lee et al. 2025 (arXiv 2506.06278) on two languages, for `pretraining` tokens, half of them of the
    forget set.

    From the authors' settings: 400 rows of 2048 tokens a step for pretraining, 240 for distilling, 4 and 100 steps for
    MaxEnt, and for the attack ten learning rates of 500 steps of 8 rows, scored every 5. Ours: distilling takes one
    pass over the mixture, UNDO .7 of the filtered model's tokens (the paper says 60 to 80 %), and 100 rows are scored
    at a time.
    """
    rates = tuple(float(f"{m}e{e}") for e, ms in ((-3, (1,)), (-4, (7, 4, 1)), (-5, (7, 5, 1)), (-6, (7, 4, 1))) for m in ms)
    attack = Attack(lrs=rates, steps=500, batch=8, checkpoints=tuple(range(0, 501, 5)))

    def steps(tokens: float, rows: int) -> int:
        return max(round(tokens / (rows * 2048)), 1)

    return (
        Work("base", steps(pretraining, 400), 400, 2048),
        Work("never knew (gold)", steps(pretraining / 2, 400), 400, 2048),
        Work("suppress (MaxEnt)", 100, 4, 2048, batches=2),
        Work("distil, fresh", steps(pretraining, 240), 240, 2048, frozen=1),
        Work("UNDO", steps(0.7 * pretraining / 2, 240), 240, 2048, frozen=1),
        attacked(attack, 64, 2048, scored=100),
    )


def audit() -> Work:
    """`sluicegate audit` as it comes: three seeds, three attacks, rows of 256 tokens, 300 of them scored at each
    checkpoint."""
    return attacked(Attack(), 64, 256, scored=300, models=3, seeds=3)
