"""How many bytes of a device's memory a stage holds at once, worked out from a configuration before a weight is read.

Parameters are counted on a model of torch's device "meta", which has shapes and no numbers. What the backward pass
needs is counted for a Llama-like layer; of another model the MLP is taken to be as wide as its matrices allow. Set
beside measured runs by ``sluicegate bench scaling --measure``.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import combinations
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from sluicegate.engine.encoding import Batch, encode
from sluicegate.engine.forward import Meter, matrices
from sluicegate.engine.losses import PIECE, STATES
from sluicegate.engine.models import device, load_tokenizer, read_config
from sluicegate.engine.optimizers import UPDATED
from sluicegate.errors import UserError, nearest
from sluicegate.values.edits import match_parameters

DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""
ABOUT = 1.1
"""An estimate may be off by a tenth: up to so much more than there is, a stage is warned of and not refused."""
_SIZES = {"1B": (2048, 8192, 16, 32), "8B": (4096, 14336, 32, 32), "70B": (8192, 28672, 80, 64)}


@dataclass(frozen=True)
class Shape:
    """What of a model its cost depends on."""

    parameters: int
    trained: int
    """Numbers that are trained, where not all are."""
    largest: int
    """Numbers of the largest trained parameter."""
    factors: int
    """Rows and columns of the trained matrices: one number each is all that Adafactor keeps."""
    targets: int
    """Inputs and outputs of all matrices that get an adapter: of rank r it has r times as many parameters."""
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
    """Units of an MLP, or of the experts that a token is sent to."""
    heads: int
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding, whose gradient is then held until the end of the backward pass."""
    quantised: bool
    """Whether the weights are packed in few bits, so that their bytes are not known here."""
    forward: Callable[[int, int], float]
    """FLOPs of one forward pass over (rows, tokens a row), by the ledger's meter."""


def shape(of: Any, params: str = "*", base: str = "") -> Shape:
    """The shape of a model, a configuration, a model's name (see `engine.models.load`), or of 1B, 8B and 70B: those of
    Llama 3.2 1B, Llama 3.1 8B and 70B. No weights are made or read.

    `params` are those that are trained (globs over full names), `base` is an adapter's. Raises `UserError` for a model
    whose FLOPs are unknown.
    """
    if isinstance(of, str) and of in _SIZES:
        width, inner, layers, heads = _SIZES[of]
        of = LlamaConfig(
            hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=8,
            head_dim=width // heads, vocab_size=128256, tie_word_embeddings=of == "1B",
        )  # fmt: skip
    config = of.config if isinstance(of, PreTrainedModel) else read_config(of, base) if isinstance(of, str) else of
    text = config.get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    trained = list(match_parameters(model, params).values())
    blocks = [sum(p.numel() for p in layer.parameters()) for m in model.modules() if isinstance(m, torch.nn.ModuleList) for layer in m]
    total, layers = sum(p.numel() for p in model.parameters()), int(text.num_hidden_layers)
    heads = getattr(text, "num_attention_heads", None) or 0
    size = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else 0)
    queries, keys = heads * size, (getattr(text, "num_key_value_heads", None) or heads) * size
    meter, head = Meter(model), model.get_output_embeddings()
    weights = [weight for *_, weight in matrices(model) if head is None or weight is not head.weight]

    def forward(rows: int, length: int) -> float:
        nothing = torch.empty(rows, length, device="meta")
        return meter(Batch(nothing, nothing, nothing, nothing))

    # A token passes 2 width (queries + keys) weights of attention and 3 width inner of a gated MLP in every layer.
    passed = (forward(1, 2) - forward(2, 1)) / 2  # the pairs of tokens: attention without any weight
    used = (forward(1, 1) - passed) / 2 - text.vocab_size * text.hidden_size
    inner = used / (3 * layers * text.hidden_size) - 2 * (queries + keys) / 3
    return Shape(
        parameters=total,
        trained=sum(p.numel() for p in trained),
        largest=max((p.numel() for p in trained), default=0),
        factors=sum(p.numel() // p.shape[-1] + p.numel() // p.shape[-2] if p.dim() > 1 else p.numel() for p in trained),
        targets=sum(len(w) * sum(w.shape[1:]) if w.dim() == 3 else sum(w.shape) for w in weights),
        layers=layers,
        layer=max(blocks, default=0),
        apart=total - sum(blocks),
        width=text.hidden_size,
        queries=queries,
        keys=keys,
        inner=round(max(inner, 0)),
        heads=heads,
        vocabulary=text.vocab_size,
        tied=head is not None and head.weight is model.get_input_embeddings().weight,
        quantised=any(getattr(part, "quantization_config", None) for part in (config, text)),
        forward=forward,
    )


_shape = cache(shape)

KINDS: Mapping[str, int] = {"score": 0, "train": 1, "unlearn": 2, "distill": 1, "undo": 1, "relearn": 1, "audit": 1}
"""The stages, and how many batches each trains on at once: suppression on forget and retain rows."""


@dataclass(frozen=True)
class Plan:
    """What of a stage's settings its memory depends on."""

    kind: str
    dtype: str = "float32"
    optimizer: str = "adamw"
    rounding: str = "auto"
    """Of 16-bit weights; master: a copy of them in float32 is trained."""
    rows: int = 32
    """Rows of a step's batch on all devices."""
    length: int = 256
    """Tokens of a row."""
    accumulate: int = 1
    part_tokens: int = 0
    """Most tokens of a part of a batch, at least a row of each group; 0: as `accumulate` says."""
    checkpointing: bool = False
    step_in_backward: bool = False
    lora_rank: int = 0
    teacher: str = "device"
    """Where a distillation's teacher lies: device or host."""
    copies: int = 0
    """Further copies of the weights, as a sharpness-aware step keeps one."""
    devices: int = 1
    shard: bool = False

    def __post_init__(self) -> None:
        for name in ("rows", "length", "accumulate", "devices"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name, known in (("kind", list(KINDS)), ("dtype", list(DTYPES)), ("optimizer", ["adamw", "adamw-bf16", "adafactor"])):
            if getattr(self, name) not in known:
                raise UserError(f"{name} is {getattr(self, name)!r}; it is one of {nearest(getattr(self, name), known, most=9)}.")

    def parts(self) -> tuple[int, int]:
        """How many parts a device's share of a batch is cut into, and the tokens of one."""
        rows = math.ceil(self.rows / self.devices)
        one = self.length * KINDS[self.kind]
        most = min(max(self.part_tokens // one, 1), rows) if self.part_tokens else math.ceil(rows / self.accumulate)
        return math.ceil(rows / most), most * one


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, at the moment when most are held."""

    weights: float
    others: float
    """Other whole models, a teacher or a sharpness-aware step's copy; an adapter's beginning."""
    gradients: float
    """Those that are held at once: with the step inside the backward pass, of one parameter."""
    moments: float
    """What the optimiser keeps, master weights included."""
    activations: float
    """What the backward pass needs of the layers."""
    logits: float
    """Outputs over the vocabulary, or a piece of them, and what is computed from them."""
    gathered: float
    """With sharding: layers that are whole for the moment."""
    most: float
    host: float = 0.0
    """In host memory: a teacher. What an attack goes back to is read from the model's files."""

    def parts(self) -> Iterator[tuple[str, float]]:
        yield from ((field.name, getattr(self, field.name)) for field in fields(self)[:-2])


def estimate(of: Any, kind: "str | Plan", **settings: Any) -> Memory:
    """The bytes that a stage holds on each device, by what they are; `settings` are those of a `Plan`.

    Weights and gradients take the bytes of their dtype. The optimiser keeps two float32 numbers for each weight
    (AdamW), two bfloat16 ones (adamw-bf16), or one for each row and column (Adafactor); master weights are float32.
    An attack with an adapter trains and keeps these for the adapter alone, in float32. Without `shard` each device
    holds all of that; with it, its part, and of the layers what is gathered for the moment: embedding and head
    throughout, two layers and one layer's gradients. A teacher stays whole.
    """
    plan = kind if isinstance(kind, Plan) else Plan(kind, **settings)
    model = of if isinstance(of, Shape) else shape(of)
    if model.quantised:
        raise UserError("the weights are quantised, and how many bytes they take is not worked out. Ask for the model they were made from.")
    size, divided = DTYPES[plan.dtype], plan.devices if plan.shard else 1
    weights = size * model.parameters
    positions = min(plan.rows * plan.length, max(STATES // model.width, 1)) if plan.kind == "score" else plan.parts()[1]
    distils = plan.kind in ("distill", "undo")
    # Of the outputs: logits, log-softmax and the gradients of both, and for a KL the teacher's too.
    logits = 4.0 * min(positions * model.vocabulary, PIECE) * (2 if plan.kind == "score" else 6 if distils else 4)
    if plan.kind == "score":
        activations = float(size * positions * (3 * model.inner + 4 * model.width))
        return Memory(weights, 0, 0, 0, activations, logits, 0, weights + max(activations, logits))
    rank = plan.lora_rank if plan.kind in ("relearn", "audit") else 0
    trained, largest, factors = (
        (rank * model.targets, rank * max(model.inner, model.width), model.targets)
        if rank
        else (model.trained, model.largest, model.factors)
    )
    head = 0 if rank else model.vocabulary * model.width
    gradients = (largest + head * (model.tied and head != largest) if plan.step_in_backward else trained) * (4 if rank else size) / divided
    kept = {"adamw": 8 * trained, "adamw-bf16": 4 * trained, "adafactor": 4 * factors}[plan.optimizer]
    moments = (kept + (4 * trained if plan.rounding == "master" and size < 4 else 0)) / divided
    teacher = distils * (size * model.layer if plan.teacher == "host" else weights)  # the host lends a layer at a time
    others = weights * plan.copies + teacher + 4 * rank * model.targets  # what an adapter begins as, float32
    # A layer keeps its two norms' inputs in float32 and outputs before and after the gain (a frozen gain needs none),
    # queries, keys and values, attention's output and a float32 number a head, and the MLP's gate, its activation, the
    # other factor and the product. Recomputing keeps one width a layer, and one layer.
    norms = 2 * (4 + (1 if rank else 2) * size) * model.width + 4 * (model.heads + 2)
    layer = norms + size * (2 * model.queries + 2 * model.keys + 4 * model.inner + 7 * rank)
    if rank and size < 4:  # each of seven matrices hands its adapter a float32 copy of what it is given, and keeps no other
        layer += 4 * (5 * model.width + model.queries + model.inner) - size * (2 * model.width + model.queries + model.inner)
        layer += (4 - size) * 7 * rank
    layers = model.layers * size * model.width + layer if plan.checkpointing else model.layers * layer
    activations = float(positions * (layers + norms / 2))
    passing = float(size * positions * (2 * model.inner + model.width))
    gathered = size * (model.apart + 3 * model.layer) if divided > 1 else 0
    # Activations go as gradients come, so the larger counts; of a batch in parts, the first part's gradients are there
    # when the second is computed. The output layer's gradient comes while all activations are held.
    busy = activations + max(logits, passing, size * head / divided)
    work = 20 * min(largest, UPDATED) if plan.optimizer != "adamw" or size < 4 else 0
    if plan.step_in_backward:
        held = max(gradients, busy) + work
    else:
        held = max(gradients + work, busy + (gradients if plan.parts()[0] > 1 else 0))
    own = weights / divided
    ending = weights + others + moments if divided > 1 else 0  # the model is put together
    most = max(own + others + moments + gathered + held, ending)
    host = weights * (distils and plan.teacher == "host")
    return Memory(own, others, gradients, moments, activations, max(logits, passing), gathered, most, host)


Change = tuple[str, Mapping[str, Any]]


def changes(plan: Plan) -> Iterator[Change]:
    """Settings that take memory down, as words of the command line and of a plan: those first that leave the result as
    it is, up to rounding."""
    distils, trains, one = plan.kind in ("distill", "undo"), plan.kind != "score", plan.length * KINDS[plan.kind]
    attacks = plan.kind in ("relearn", "audit")
    known: list[tuple[bool, str, Mapping[str, Any]]] = [
        (trains and plan.parts()[1] > one, f"--part-tokens {one}", {"part_tokens": one}),
        (trains and not plan.checkpointing, "--checkpointing", {"checkpointing": True}),
        (distils and plan.teacher == "device", "--teacher-on host", {"teacher": "host"}),
        (plan.dtype == "float32", "--dtype bfloat16", {"dtype": "bfloat16"}),
        (trains and plan.optimizer == "adamw", "--optimizer adamw-bf16", {"optimizer": "adamw-bf16"}),
        (
            trains and plan.devices == 1 and not plan.step_in_backward,
            "--step-in-backward" + " --clip 0" * (not attacks),
            {"step_in_backward": True, "accumulate": 1, "part_tokens": 0},
        ),
        (trains and plan.optimizer != "adafactor" and not plan.shard, "--optimizer adafactor", {"optimizer": "adafactor"}),
        (attacks and not plan.lora_rank, "--lora-rank 16", {"lora_rank": 16}),
    ]
    yield from ((words, change) for makes_sense, words, change in known if makes_sense)


def advice(model: Shape, plan: Plan, free: float, together: bool = True) -> str:
    """The fewest devices, and on them the fewest settings, with which a stage fits into `free` bytes; "" where none do.

    Several devices are thought of where the stage can be done `together` and is not yet.
    """
    spreads = together and plan.devices == 1 and plan.kind != "score" and plan.optimizer != "adafactor"
    for devices in (1, 2, 4, 8, 16, 64) if spreads else (plan.devices,):
        spread = replace(plan, devices=devices, shard=devices > 1, step_in_backward=plan.step_in_backward and devices == 1)
        known = list(changes(spread))
        for chosen in (chosen for count in range(5) for chosen in combinations(known, count)):
            names = [name for _, change in chosen for name in change]
            changed = {name: value for _, change in chosen for name, value in change.items()}
            if len(set(names)) == len(names) and estimate(model, replace(spread, **changed)).most <= free:
                return " ".join([f"--procs {devices} --shard"] * (devices > 1 and plan.devices == 1) + [words for words, _ in chosen])
    return ""


def available(free: bool = True) -> float:
    """Bytes of a device's memory that are free (with what this process holds of it), or all of them: as
    SLUICEGATE_MEMORY says in GB, the accelerator, or on a CPU the system."""
    if told := os.environ.get("SLUICEGATE_MEMORY"):
        try:
            size = float(told)
        except ValueError:
            size = math.nan
        if not 0 < size < math.inf:
            raise UserError(
                f"SLUICEGATE_MEMORY is {told!r}; it is the memory of a device in GB, for example 80. Unset it to ask the device."
            )
        return size * 1e9
    if device().type == "cpu":
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES" if free else "SC_PHYS_PAGES"))
    left, total = torch.accelerator.get_memory_info()
    return float(left + torch.accelerator.memory_reserved() if free else total)


def plan_of(stage: Any, devices: int = 1, shard: bool = False) -> Plan:
    """The plan of a stage: what its settings say, and the same names on its schedule or its attack."""
    how = getattr(stage, "schedule", None) or getattr(stage, "attack", None)
    dtype = getattr(stage, "dtype", "auto").replace("auto", "float32")  # a resolved stage names any other
    names = {f.name for f in fields(Plan)} - {"kind", "dtype", "rows", "length", "devices", "shard", "copies", "teacher"}
    told = {name: getattr(how, name) for name in names if hasattr(how, name)}
    return Plan(
        stage.VERB, dtype, rows=getattr(how, "batch", 1), length=stage.max_length, copies=int(bool(getattr(stage, "sam", 0))),
        teacher=getattr(stage, "teacher_on", "device"), devices=devices, shard=shard, **told,
    )  # fmt: skip


def check_fits(stage: Any, devices: int = 1, shard: bool = False) -> None:
    """Raise `UserError` for a stage that the device's free memory will not hold, and warn of one that it may not.

    Asked of an accelerator, or where SLUICEGATE_MEMORY says what there is; a CPU swaps, and other stages are not known.
    """
    if stage.VERB not in KINDS or not getattr(stage, "model", "") or (device().type == "cpu" and "SLUICEGATE_MEMORY" not in os.environ):
        return
    model, free = _shape(stage.model, getattr(stage, "params", "*"), getattr(stage, "base", "")), available()
    plan = plan_of(stage, devices, shard)
    if model.quantised or estimate(model, plan).most <= free:
        return
    rows = [item for group in ("forget", "retain", "adjacent", "unlabelled") for item in getattr(stage.split(), group, ())]
    longest = encode(
        stage.tell(load_tokenizer(stage.model, stage.base)), rows, max_length=stage.max_length, template=stage.template
    ).ids.shape[1]
    plan = replace(plan, length=longest)  # most rows are shorter than the longest that is allowed
    most = estimate(model, plan).most
    if most <= free:
        return
    way = advice(model, plan, free, stage.TOGETHER)
    said = (
        f"{stage.VERB} of {stage.model!r} would hold about {most / 1e9:.3g} GB at once, and {free / 1e9:.3g} GB are free on the device. "
        + (f"It would fit with: {way}" if way else "None of the settings makes it fit: take a larger device or a smaller model.")
    )
    if most > ABOUT * free:
        raise UserError(f"{said} (all of them: sluicegate doctor {stage.model} --for {stage.VERB}; SLUICEGATE_MEMORY=GB says otherwise)")
    sys.stderr.write(f"warning: {said}\n")


def table(model: Shape, kinds: tuple[str, ...], free: float, plans: Mapping[str, Any], dtype: str, optimizer: str) -> list[dict[str, Any]]:
    """What of these stages fits into `free` bytes: a row for each dtype and optimiser, with the bytes by part.

    `plans` are settings of a `Plan` that hold for all; "all" stands for every dtype or optimiser.
    """
    rows = []
    for kind in kinds:
        for size in ("float32", "bfloat16") if dtype == "all" else (dtype,):
            ways = ("none",) if kind == "score" else ("adamw", "adamw-bf16", "adafactor") if optimizer == "all" else (optimizer,)
            ranks = (0,) if kind not in ("relearn", "audit") else (plans["lora_rank"],) if plans["lora_rank"] else (16, 0)
            for rank, way in ((r, w) for r in ranks for w in (ways[:1] if r else ways)):  # an adapter's moments are small
                own = {"lora_rank": rank, "shard": plans["devices"] > 1} | ({} if way == "none" else {"optimizer": way})
                plan = Plan(kind, size, **{**plans, **own})
                found = estimate(model, plan)
                fits = found.most <= free
                rows.append(
                    {"stage": kind + (f" (LoRA {rank})" if rank else ""), "dtype": size, "optimizer": way}
                    | dict(found.parts())
                    | {"most": found.most, "host": found.host, "fits": fits, "with": "" if fits else advice(model, plan, free)}
                )
    return rows
